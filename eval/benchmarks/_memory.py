"""What a process holds in memory, as Linux tells, and what a program will, as XLA does."""

import ctypes
import gc
import pathlib

import jax
import jax.numpy as jnp

from rainjax.defenses import Defense


def resident_mib() -> tuple[float, float]:
    """Returns what this process holds now, and the most it has held.

    Raises:
        ValueError: this is no Linux.
    """
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        raise ValueError("Peak memory is measured on Linux or on an accelerator only.")
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, peak = (float(lines[name].split()[0]) / 2**10 for name in ("VmRSS", "VmHWM"))
    return now, peak


def hand_back() -> None:
    """Has the C library return unused memory to the system, where it is one that can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def forget_peak() -> bool:
    """Has Linux start its peak anew; returns whether it did."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not every container allows it
        return False
    return True


def gradient_mib(defense: Defense, size: int) -> float:
    """Returns what XLA sets aside for the gradient of a defense at one image `size` squared.

    That is the program's temporary memory: not the image, the parameters and the gradient itself.
    """
    total = lambda image, params: jnp.sum(defense.apply(params, jax.random.key(0), image) ** 2)
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    params = jax.eval_shape(defense.init, jax.random.key(0))
    analysis = jax.jit(jax.grad(total)).lower(image, params).compile().memory_analysis()
    assert analysis is not None  # no backend of JAX's own leaves it out
    return analysis.temp_size_in_bytes / 2**20
