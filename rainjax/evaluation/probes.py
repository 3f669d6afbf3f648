"""What a few images tell of a pipeline: what its defense returns, and how random it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rainjax._checks import check_kind
from rainjax.pipeline import RANGE_TOLERANCE, Defended, Pipeline
from rainjax.typing import Params


def check_purified(
    pipeline: Pipeline,
    params: Params,
    images: Float[Array | np.ndarray, "n h w c"],
    draws: Key[Array, "n"] | None = None,
) -> None:
    """Refuses a pipeline whose defense returns NaN or leaves [0, 1] for images within it.

    It looks at one draw for each of the first four images, so that a broken defense is named
    before any work, or at every image under `draws`. Other images are not forgotten: what a score
    asks for, `checked_logits`, is NaN where a defense breaks, and it then asks here which it was.
    What is no image of the same shape and type is refused when the pipeline is traced. Randomized
    smoothing asks for no such promise: its noise leaves [0, 1], and any function may follow it.

    Raises:
        ValueError: naming the defense, what it returned, and for which image.
    """
    if draws is None:
        images = images[:4]
        draws = jax.random.split(jax.random.key(0), len(images))
    purified = _purify(pipeline, params, draws, np.asarray(images))
    if purified is None:
        return
    values = np.asarray(purified).reshape(len(images), -1)
    low, high = values.min(1), values.max(1)  # of NumPy: XLA's pass over NaN on CPU
    fine = (low >= -RANGE_TOLERANCE) & (high <= 1 + RANGE_TOLERANCE)  # NaN compares false
    if fine.all():
        return
    first = int(np.isnan(low).argmax() if np.isnan(low).any() else fine.argmin())
    which = f"for an image in [0, 1], number {first} of the batch"
    if np.isnan(low[first]):
        raise ValueError(
            f"{_name(pipeline)} returned NaN {which}: a classifier sees nothing in that, so mend "
            "the defense, or its parameters."
        )
    raise ValueError(
        f"{_name(pipeline)} returned values in [{low[first]:.7g}, {high[first]:.7g}] {which}: a "
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
                "The same key gives another result at another call, or when the pipeline is "
                "compiled anew: its randomness is not its key's (np.random is drawn once, when it "
                "is compiled), so let the defense draw with jax.random from the key that `apply` "
                "is given, and the classifier not at all."
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

    Every image is purified and classified under `num_keys` keys, by two programs compiled apart,
    and twice by one of them: the purified images, where there are any, and the logits must be the
    same. A few images are enough, but they must be such that the draws can show: nothing moves in
    a plain grey one.

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
    results = first(params, keys, images)
    repeated = [program(params, keys, images) for program in (first, anew)]
    return Randomness(
        says_random=bool(pipeline.is_random),
        varies=not _same(results, jax.tree.map(lambda x: x[:1], results)),
        repeats=all(_same(results, other) for other in repeated),
    )


def _compiled(pipeline: Pipeline):
    """Returns a program of its own: `jax.jit` knows a function by its identity."""

    def run(params, key, image):
        return pipeline.purify(params, key, image), pipeline.logits(params, key, image)

    return jax.jit(jax.vmap(jax.vmap(run, (None, None, 0)), (None, 0, None)))


def _same(results, others) -> bool:
    """Returns whether purified images and logits are those of another run, but for rounding.

    On some devices two runs of one program differ in that. Logits have any size, and a network
    makes more of it: their measure is how far they lie apart.
    """
    (images, logits), (other_images, other_logits) = jax.tree.map(np.asarray, (results, others))
    finite = logits[np.isfinite(logits)]
    spread = float(np.ptp(finite)) if finite.size else 0.0
    return (images is None or _close(images, other_images, 1e-6)) and _close(
        logits, other_logits, max(1e-5 * spread, 1e-6)
    )


def _close(values: np.ndarray, others: np.ndarray, tolerance: float) -> bool:
    return np.allclose(values, others, rtol=1e-5, atol=tolerance, equal_nan=True)


@functools.partial(jax.jit, static_argnums=0)
def _purify(pipeline: Pipeline, params, keys, images):
    one = lambda key, image: pipeline.purify(params, key, image)
    return jax.vmap(one)(keys, jnp.asarray(images))


def _name(pipeline: Pipeline) -> str:
    return type(pipeline.defense if isinstance(pipeline, Defended) else pipeline).__name__
