"""How a step is spread over devices and processes, and in which precision it computes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from rainjax.devices import num_cores

# The axes of a training mesh: a batch is split over both, parameters over the second alone.
DATA, SHARDS = "data", "shards"
# Smaller arrays stay whole on every device: to gather them costs more than they take.
_MIN_SHARDED = 1024


@dataclasses.dataclass(frozen=True)
class Compute:
    """Devices, processes and precision of a training run."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in; parameters, loss and validation stay float32."""
    accumulate: int = 1
    """Takes the batch in this many parts, one after the other, and adds up their gradients: the
    same step in less memory."""
    average: float | None = None
    """Keep an exponential moving average of the parameters with this decay, such as 0.999, and
    validate and save it in their place."""
    shards: int = 1
    """Devices that share one copy of parameters and optimizer state (fully sharded data
    parallel); 1 gives each device a copy of its own."""
    workers: int = 0
    """Processes that read and decode images beside this one; 0 uses threads."""
    distributed: bool = False
    """Train in several processes, of which this is one. Slurm, Kubernetes and TPU pods say by
    themselves which; elsewhere set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID."""

    def __post_init__(self):
        for field in ("accumulate", "shards"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        most = 4 * num_cores()  # a larger number is a mistake, and takes all of the memory
        if not 0 <= self.workers <= most:
            raise ValueError(f"workers={self.workers} must lie in 0..{most} on this machine.")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average={self.average} must lie between 0 and 1.")

    def mesh(self, batch_size: int) -> Mesh:
        """Returns the devices that a batch of this size is spread over.

        A single process takes as many of its devices as divide the batch, and says so where they
        are not all; several take all.

        Raises:
          ValueError: `shards` or the batch do not go with the devices.
        """
        devices = jax.devices()
        part, rest = divmod(batch_size, self.accumulate)
        if rest:
            raise ValueError(f"accumulate={self.accumulate} does not divide {batch_size=}.")
        fits = [n for n in range(1, len(devices) + 1) if n % self.shards == 0 and part % n == 0]
        several = jax.process_count() > 1
        if not fits or (several and fits[-1] != len(devices)):
            raise ValueError(
                f"{batch_size=} in accumulate={self.accumulate} parts cannot be spread over "
                f"{'all' if several else 'any'} of {len(devices)} devices in groups of "
                f"shards={self.shards}: choose a batch that they divide."
            )
        shape = (fits[-1] // self.shards, self.shards)
        # Explicit axis types, the default, make `vmap` over a sharded batch an error.
        return jax.make_mesh(
            shape, (DATA, SHARDS), axis_types=(AxisType.Auto,) * 2, devices=devices[: fits[-1]]
        )

    def lower(self, fn: Callable[..., Array]) -> Callable[..., Array]:
        """Returns `fn` as the loss runs it: in `precision`, from float32 and to float32."""
        if self.precision == "float32":
            return fn

        def lowered(*args):
            return fn(*jax.tree.map(_to_bfloat16, args)).astype(jnp.float32)

        return lowered


PLAIN = Compute()


def _to_bfloat16(leaf: Array) -> Array:
    return leaf.astype(jnp.bfloat16) if leaf.dtype == jnp.float32 else leaf


def partition(shape: tuple[int, ...], shards: int) -> PartitionSpec:
    """Returns how an array of this shape is split: along its longest axis that `shards` divide.

    Of two as long the later, which holds a convolution's outputs. Where there is none, or in a
    small array, the array stays whole.
    """
    axes = [axis for axis, size in enumerate(shape) if size % shards == 0]
    if shards == 1 or not axes or math.prod(shape) < _MIN_SHARDED:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*(SHARDS if axis == longest else None for axis in range(len(shape))))


def placement(tree: PyTree[Any], mesh: Mesh) -> PyTree[NamedSharding]:
    """Returns where each array of `tree` lies; a training state and its optimizer follow suit."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, partition(leaf.shape, mesh.shape[SHARDS])), tree
    )


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """Returns the batch of which this process holds its share, spread over all devices."""
    sharding = NamedSharding(mesh, PartitionSpec((DATA, SHARDS)))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def whole(tree: PyTree[Array]) -> PyTree[Any]:
    """Returns the arrays of `tree` in full, for this process to use by itself."""

    def gather(leaf):
        if leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(gather, tree)


def anywhere(flag: bool) -> bool:
    """Returns whether `flag` is set in any process; all of them have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())
