"""The key tree: seed -> purpose -> example index -> step -> sample.

Every random number of an experiment is reached from its seed by a path that names what the
number is for. Nothing on that path counts batches or devices, so example 1234 gets the same
draws in any batch, in any order, on any number of devices.
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, Key

from rainjax._arrays import as_array, is_traced
from rainjax._checks import as_plain, check_kind, is_whole
from rainjax.typing import PRNGKey, Stratum


class Purpose(enum.IntEnum):
    """What a key is for. Every recorded draw depends on the numbers: never renumber them."""

    INIT = 0
    ATTACK = 1
    SCORE = 2
    TRAIN = 3
    DATA = 4
    SELECT = 5
    ORDER = 6


def purpose_key(seed: int, purpose: Purpose) -> PRNGKey:
    """Returns the root of one purpose's branch of the tree grown from `seed`.

    Raises:
        ValueError: `seed` is no whole number in 0..2**32-1; JAX would wrap it into another one.
    """
    if is_traced(seed):
        raise ValueError(
            f"{seed=} must be a whole number, not one that jax.jit or jax.vmap traces: make each "
            "seed's keys outside of them, or measure a study by rainjax.evaluation.over_seeds."
        )
    seed = as_plain("seed", seed, int)
    if not 0 <= seed < 2**32:
        raise ValueError(f"{seed=} must be a whole number in 0..2**32-1.")
    check_kind(purpose, Purpose, "A key's path")
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def example_keys(
    seed: int, purpose: Purpose, indices: Integer[Array | np.ndarray, "n"]
) -> Key[Array, "n"]:
    """Returns one key per example, a function of `(seed, purpose, index)` alone.

    `indices` are positions in the data set, not in the batch.

    >>> import jax, numpy as np
    >>> from rainjax import Purpose, example_keys
    >>> keys = example_keys(0, Purpose.ATTACK, np.arange(4))
    >>> alone = example_keys(0, Purpose.ATTACK, np.array([2]))  # the third image, in another batch
    >>> bool((jax.random.key_data(keys[2]) == jax.random.key_data(alone[0])).all())
    True

    Raises:
        ValueError: `seed` or one of `indices` is no whole number in 0..2**32-1 (of traced
            `indices` only the type is known), or they are not of shape `n`.
    """
    root, positions = purpose_key(seed, purpose), _positions(indices)
    return jax.vmap(lambda index: jax.random.fold_in(root, index))(positions)


def split_stratum(stratum: Stratum, num: int) -> list[Stratum]:
    """Returns `num` strata, for the parts of a random transform: the same place in other sets."""
    _check_num(num)
    return [Stratum(key, stratum.number) for key in jax.random.split(stratum.key, num)]


def choices(draw: PRNGKey | Stratum, shape: tuple[int, ...], num: int) -> Integer[Array, "..."]:
    """Returns independent uniform numbers below `num`.

    `num` draws of one stratified set take every number once in every place.
    """
    _check_num(num)
    if not isinstance(draw, Stratum):
        return _below(draw, shape, num)
    first = _below(jax.random.fold_in(draw.key, draw.number // num), shape, num)
    return (first + (draw.number % num).astype(first.dtype)) % num


def choice(draw: PRNGKey | Stratum, num: int) -> Int[Array, ""]:
    """Returns one uniform number below `num`; `num` draws of one stratified set take them all."""
    _check_num(num)
    if not isinstance(draw, Stratum):
        return jax.random.randint(draw, (), 0, num)
    key = jax.random.fold_in(draw.key, draw.number // num)
    return jax.random.permutation(key, num)[draw.number % num]


def _positions(indices: Integer[Array | np.ndarray, "n"]) -> Integer[Array, "n"]:
    """Returns positions that `fold_in` tells apart: it takes 32 bits, and drops the others."""
    indices = as_array("indices", indices)
    if indices.ndim != 1 or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(
            "indices must be whole numbers in an array of shape (n,), such as np.arange(16), not "
            f"{indices.dtype} of shape {indices.shape}."
        )
    if is_traced(indices):
        return jnp.asarray(indices)
    values = np.asarray(indices)  # jax.jit would trace a minimum of JAX's
    for index in map(int, (values.min(), values.max()) if values.size else ()):
        if not 0 <= index < 2**32:
            raise ValueError(
                f"indices hold {index}, and must lie in 0..2**32-1, or two of them would share a "
                "key: give positions in the data set."
            )
    if isinstance(indices, np.ndarray):  # JAX would make int32 of them
        indices = indices.astype(np.uint32)
    return jnp.asarray(indices)


def _check_num(num: int) -> None:
    if not is_whole(num) or num < 1:
        raise ValueError(f"{num=} must be a whole number, and at least 1.")


def _below(key: PRNGKey, shape: tuple[int, ...], num: int) -> Integer[Array, "..."]:
    if num in (1, 2, 4, 8, 16, 32, 64, 128):  # a byte spreads evenly, and costs least
        return jax.random.bits(key, shape, jnp.uint8) % num
    return jax.random.randint(key, shape, 0, num)
