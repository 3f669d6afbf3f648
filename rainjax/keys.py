"""The key tree: seed -> purpose -> example index -> step -> sample.

Every random number of an experiment is reached from its seed by a path that names what the
number is for. Nothing on that path counts batches or devices, so example 1234 gets the same
draws in any batch, in any order, on any number of devices.
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from rainjax._types import PRNGKey


class Purpose(enum.IntEnum):
    """What a key is for. Every recorded draw depends on the numbers: never renumber them."""

    INIT = 0
    ATTACK = 1
    SCORE = 2
    TRAIN = 3
    DATA = 4


def purpose_key(seed: int, purpose: Purpose) -> PRNGKey:
    """Returns the root of one purpose's branch of the tree grown from `seed`.

    Raises:
        ValueError: `seed` is not in 0..2**32-1; JAX would wrap it into another one.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"{seed=} must lie in 0..2**32-1.")
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def example_keys(
    seed: int, purpose: Purpose, indices: Int[Array | np.ndarray, "n"]
) -> Key[Array, "n"]:
    """Returns one key per example, a function of `(seed, purpose, index)` alone.

    `indices` are positions in the data set, not in the batch.
    """
    root = purpose_key(seed, purpose)
    return jax.vmap(lambda index: jax.random.fold_in(root, index))(jnp.asarray(indices))
