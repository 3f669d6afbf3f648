"""Which devices a program runs on, and how a batch is spread over them."""

import itertools
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

_WEEK = 7 * 24 * 3600 * 1000  # milliseconds
_meetings = itertools.count()  # no two barriers may have one name; all processes count alike


def use_all_cores() -> None:
    """Gives JAX one CPU device per core; call it before anything touches a device.

    XLA's CPU convolutions hardly use a second core, so a batch that is sharded over one device
    per core runs about as many times faster. Accelerators are not affected.

    Raises:
      RuntimeError: JAX has already started its devices.
    """
    cores = num_cores()
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError as error:
        raise RuntimeError(
            f"JAX has already started its devices, so it cannot be given {cores} CPU devices: "
            "call use_all_cores() first thing in the program."
        ) from error


def join_processes() -> None:
    """Makes this process one of several that work together, as the surroundings say.

    Call it before anything touches a device.

    Raises:
      ValueError: they do not say it, or the others are not found.
    """
    number = lambda name: int(os.environ[name]) if name in os.environ else None
    try:
        jax.distributed.initialize(
            num_processes=number("JAX_NUM_PROCESSES"), process_id=number("JAX_PROCESS_ID")
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed: the processes did not find each other ({error}). Outside Slurm, "
            "Kubernetes and TPU pods set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES "
            "and JAX_PROCESS_ID in each."
        ) from error


def wait_for_all(point: str) -> None:
    """Returns when every process that JAX joined has come to this `point`, however much later.

    What Orbax waits with as well. `multihost_utils.sync_global_devices` is a computation on all
    devices, and gives up when one process comes half a minute after another.
    """
    if jax.process_count() == 1:
        return
    client = distributed.global_state.client
    assert client is not None
    client.wait_at_barrier(f"rainjax {point} {next(_meetings)}", _WEEK)


def data_mesh(num_devices: int | None = None, *, batch_size: int = 0) -> Mesh:
    """Returns a mesh whose one axis, `"data"`, runs over `num_devices` local devices.

    `None` takes as many as divide `batch_size`: of 6 devices, 4 for a batch of 128.

    Raises:
      ValueError: `num_devices` are not there, or do not divide the batch.
    """
    devices = jax.local_devices()
    if num_devices is None:
        num_devices = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if not 1 <= num_devices <= len(devices):
        raise ValueError(f"{num_devices=} must lie in 1..{len(devices)}, the devices there are.")
    if batch_size % num_devices:
        raise ValueError(f"{num_devices=} does not divide {batch_size=}.")
    # Explicit axis types, the default, make `vmap` over a sharded batch an error.
    return jax.make_mesh(
        (num_devices,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:num_devices]
    )


def full_batches(
    rows: Int[np.ndarray, "n"], batch_size: int
) -> Iterator[tuple[Int[np.ndarray, "m"], Int[np.ndarray, "batch_size"]]]:
    """Yields `rows` batch by batch, and each batch as `padded` returns it."""
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        yield batch, padded(batch, batch_size)


def padded(rows: Int[np.ndarray, "m"], batch_size: int) -> Int[np.ndarray, "batch_size"]:
    """Returns `rows` and copies of the first one, `batch_size` in all: one size to compile."""
    return np.pad(rows, (0, batch_size - len(rows)), constant_values=rows[0])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis of an array over the mesh."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole copy of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def num_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # the cores this process may use, where that is known
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
