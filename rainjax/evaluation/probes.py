"""What a few images tell of a pipeline: what its defense returns, and how random it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._checks import check_kind
from rainjax.pipeline import Defended, Pipeline
from rainjax.typing import Params

# What the rounding of a defense's arithmetic may add to a border of [0, 1].
_TOLERANCE = 1e-5


def check_purified(
    pipeline: Pipeline, params: Params, images: Float[Array | np.ndarray, "n h w c"]
) -> None:
    """Refuses a pipeline whose defense returns NaN or leaves [0, 1] for the first few images.

    It takes one draw for each of four images at most. What is no image of the same shape and
    type is refused when the pipeline is traced. Randomized smoothing asks for no such promise:
    its noise leaves [0, 1], and any function may follow it.

    Raises:
        ValueError: naming the defense, and what it returned.
    """
    images = np.asarray(images[:4])
    keys = jax.random.split(jax.random.key(0), len(images))
    purified = _purify(pipeline, params, keys, images)
    if purified is None:
        return
    low, high = np.min(purified), np.max(purified)  # of NumPy: XLA's pass over NaN on CPU
    if low >= -_TOLERANCE and high <= 1 + _TOLERANCE:  # NaN compares false
        return
    if np.isnan(low):
        raise ValueError(
            f"{_name(pipeline)} returned NaN for an image in [0, 1]: a classifier sees nothing in "
            "that, so mend the defense, or its parameters."
        )
    raise ValueError(
        f"{_name(pipeline)} returned values in [{low:.4g}, {high:.4g}] for an image in [0, 1]: a "
        "classifier takes images in [0, 1], so end `apply` with jnp.clip(image, 0.0, 1.0)."
    )


@dataclasses.dataclass(frozen=True)
class Randomness:
    """What a pipeline says of its randomness, and what was seen of it."""

    says_random: bool
    """Its `is_random`."""
    varies: bool
    """Whether other keys gave other results for an image, within one compiled program."""
    repeats: bool
    """Whether the same keys gave the same results again, also when compiled anew."""

    @property
    def problem(self) -> str | None:
        """What is wrong, in a sentence, and how to mend it; None if nothing is."""
        if not self.repeats:
            return (
                "The same key gives another result when the pipeline is compiled anew: its "
                "randomness is not its key's (np.random is drawn once, when it is compiled), so "
                "draw with jax.random from the key that `apply` is given."
            )
        if self.says_random and not self.varies:
            return (
                "is_random is True, but other keys give the same result: draw with jax.random "
                "from the key that `apply` is given, or let is_random return False."
            )
        if self.varies and not self.says_random:
            return (
                "is_random is False, but other keys give other results: let is_random return "
                "True, or a score takes one draw for the whole pipeline."
            )
        return None


def check_randomness(
    pipeline: Pipeline,
    params: Params,
    images: Float[Array | np.ndarray, "n h w c"],
    *,
    num_keys: int = 8,
    seed: int = 0,
) -> Randomness:
    """Returns whether a pipeline's randomness is what it says, and its key's alone.

    Every image is purified under `num_keys` keys, by two programs compiled apart, and twice by
    one of them; where a pipeline has no purified image, its logits are compared. A few images
    are enough, but they must be such that the draws can show: nothing moves in a plain grey one.

    Raises:
        ValueError: `pipeline` is none, there are no images, or fewer than two keys.
    """
    check_kind(pipeline, Pipeline, "check_randomness")
    if num_keys < 2:
        raise ValueError(f"{num_keys=} must be at least 2: keys are compared with each other.")
    if not len(images):
        raise ValueError("There are no images: give at least one.")
    keys = jax.random.split(jax.random.key(seed), num_keys)
    first, anew = (_compiled(pipeline) for _ in range(2))
    results = np.asarray(first(params, keys, images))
    repeated = [np.asarray(program(params, keys, images)) for program in (first, anew)]
    return Randomness(
        says_random=bool(pipeline.is_random),
        varies=not _same(results, results[:1]),
        repeats=all(_same(results, other) for other in repeated),
    )


def _compiled(pipeline: Pipeline):
    """Returns a program of its own: `jax.jit` knows a function by its identity."""

    def run(params, key, image):
        purified = pipeline.purify(params, key, image)
        return pipeline.logits(params, key, image) if purified is None else purified

    return jax.jit(jax.vmap(jax.vmap(run, (None, None, 0)), (None, 0, None)))


def _same(results: np.ndarray, others: np.ndarray) -> bool:
    # Not to the bit: on some devices two runs of one program differ in rounding.
    return np.allclose(results, others, rtol=1e-5, atol=1e-6, equal_nan=True)


@functools.partial(jax.jit, static_argnums=0)
def _purify(pipeline: Pipeline, params, keys, images):
    one = lambda key, image: pipeline.purify(params, key, image)
    return jax.vmap(one)(keys, jnp.asarray(images))


def _name(pipeline: Pipeline) -> str:
    return type(pipeline.defense if isinstance(pipeline, Defended) else pipeline).__name__
