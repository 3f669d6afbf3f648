"""Arrays and keys that a function is given, refused in one sentence where they are none."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from rainjax._checks import is_whole, shown


def as_array(name: str, given: Any) -> jax.Array | np.ndarray:
    """Returns what is an array of NumPy or JAX, or becomes one.

    Raises:
        ValueError: it becomes none; says what it is.
    """
    if isinstance(given, jax.Array | np.ndarray):
        return given
    try:
        array = np.asarray(given)
    except Exception as error:  # a ragged list, or an array of another library on its device
        why = " ".join(str(error).split())
        raise ValueError(f"{name}={shown(given)} is no array of numbers: {why}") from error
    if array.dtype == object:
        raise ValueError(f"{name}={shown(given)} is no array of numbers.")
    return array


def is_traced(*given: Any) -> bool:
    """Returns whether `jax.jit`, `jax.vmap` or `jax.grad` is tracing a part of it."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))


def is_staged() -> bool:
    """Returns whether `jax.jit` is tracing what is computed now, be it of constants alone."""
    return is_traced(jnp.negative(1.0))


def check_key(key: Any, whose: str) -> None:
    """Refuses what is not one key of `jax.random.key`.

    Raises:
        ValueError: naming what it is, and how to make a key of it.
    """
    if not _is_key(key):
        raise ValueError(f"{whose} takes a key, not {shown(key)}: {_to_key(key)}.")
    if key.shape:
        raise ValueError(
            f"{whose} takes one key, not an array of shape {key.shape} of them: use jax.vmap for "
            "a batch."
        )


def check_keys(keys: Any, what: str = "Keys") -> None:
    """Refuses what is not an array of keys, one for each image.

    Raises:
        ValueError: naming what it is, and how to make keys.
    """
    if _is_key(keys) and keys.ndim == 1:
        return
    mend = "example_keys(seed, purpose, indices) makes them"
    given = shown(keys)
    if _is_key(keys):
        given = f"an array of shape {keys.shape}" if keys.ndim else "a single key"
    elif _is_old_key(keys) and keys.ndim == 2:
        given, mend = "old ones of jax.random.PRNGKey", "give jax.random.wrap_key_data(keys)"
    raise ValueError(f"{what} must be an array of one key per image, not {given}: {mend}.")


def _is_key(given: Any) -> bool:
    return isinstance(given, jax.Array) and jnp.issubdtype(given.dtype, jax.dtypes.prng_key)


def _is_old_key(given: Any) -> bool:
    return (
        isinstance(given, jax.Array | np.ndarray)
        and given.dtype == np.uint32
        and given.shape[-1:] == (2,)
    )


def _to_key(given: Any) -> str:
    if _is_old_key(given):
        return "one of jax.random.PRNGKey becomes one by jax.random.wrap_key_data(key)"
    seed = given if is_whole(given) else 0
    return f"jax.random.key({seed}) makes one"
