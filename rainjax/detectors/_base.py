"""What a detector is: a score of one image, and a threshold that clean images decide."""

import abc
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rainjax._arrays import as_array
from rainjax._checks import as_plain, check_kind
from rainjax._values import Value
from rainjax.devices import padded
from rainjax.keys import Purpose, example_keys
from rainjax.typing import Image, Params, PRNGKey

# What resizing and the like add to a border of [0, 1].
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Detector(Value):
    """Says how suspicious an image is; a value, its numbers with the caller.

    Subclass it: `init` and `score`, and `fit` where clean images teach it something. A detector
    that looks at the protected network holds that network as a field, and its parameters among
    its own, under "network".
    """

    @abc.abstractmethod
    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters, all of the shapes that `fit` returns."""

    @abc.abstractmethod
    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns a finite number for an image in [0, 1]: the higher, the more suspicious."""

    def fit(
        self,
        params: Params,
        images: Float[np.ndarray, "n h w c"],
        labels: Int[np.ndarray, "n"] | None = None,
    ) -> Params:
        """Returns the parameters with what clean images teach; by default unchanged.

        Of `params` only parts that are no statistics need to be there: `{"network": ...}`.
        """
        del images, labels
        return params

    @property
    def differentiable(self) -> bool:
        """Whether `jax.grad` through `score` means anything; True unless a subclass says not."""
        return True

    @property
    def is_random(self) -> bool:
        """Whether another key may give another score; False unless a subclass says so."""
        return False


def score_images(
    detector: Detector,
    params: Params,
    images: Any,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> Float[np.ndarray, "n"]:
    """Returns the scores of images in [0, 1], each under a key of its own position and `seed`.

    The scores depend on neither `batch_size` nor what else is in a batch.

    Raises:
        ValueError: `detector` is none, the images are no floats in [0, 1], or a score is no finite
            number.
    """
    check_kind(detector, Detector, "score_images(detector=...)")
    images = _checked(images)
    if as_plain("batch_size", batch_size, int) < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    size, found = min(batch_size, len(images)), []
    for start in range(0, len(images), size):
        rows = np.arange(start, min(start + size, len(images)))
        full = padded(rows, size)
        keys = example_keys(seed, Purpose.SCORE, full)
        batch = jnp.asarray(np.asarray(images)[full], jnp.float32)
        found.append(np.asarray(_scores(detector, params, keys, batch))[: len(rows)])
    scores = np.concatenate(found)
    if scores.ndim != 1:
        raise ValueError(
            f"{type(detector).__name__}.score returns shape {scores.shape[1:]} for one image: "
            "return one number, of shape ()."
        )
    if not np.isfinite(scores).all():
        first = int((~np.isfinite(scores)).argmax())
        raise ValueError(
            f"{type(detector).__name__} gives image {first} a score of {scores[first]}: look at "
            "its parameters, or fit it on more images."
        )
    return scores


def calibrate(
    detector: Detector,
    params: Params,
    images: Any,
    *,
    false_positive_rate: float = 0.05,
    seed: int = 0,
    batch_size: int = 64,
) -> Params:
    """Returns the detector's part of `Guarded`'s parameters, with a threshold for clean images.

    The threshold is the smallest of their scores that keeps the expected share of rejected new
    clean images at `false_positive_rate` or less (the split conformal quantile): of the clean
    images given, fewer are above it. `scale` makes one unit of the distance between it and their
    median; it decides no answer, only what an attacker's gradient weighs.

    `{"pipeline": pipeline_params, **calibrate(...)}` is what `Guarded` takes. Take images that
    neither trained the detector nor will be reported on.

    Args:
        detector: The detector.
        params: Its parameters, fit already.
        images: Clean images `n h w c`, float32 in [0, 1].
        false_positive_rate: The share of new clean images that may be rejected, on average.
        seed: The root of the detector's draws, if it has any.
        batch_size: Images scored together; changes nothing but speed and memory.

    Raises:
        ValueError: as `score_images`, or there are too few images for so low a rate.
    """
    false_positive_rate = as_plain("false_positive_rate", false_positive_rate)
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate={false_positive_rate} must lie in (0, 1).")
    images = _checked(images)
    rank = math.ceil((len(images) + 1) * (1 - false_positive_rate) - 1e-9)
    if rank > len(images):
        least = math.ceil(1 / false_positive_rate - 1 - 1e-9)
        raise ValueError(
            f"{len(images)} clean images cannot tell a false_positive_rate of "
            f"{false_positive_rate}: give at least {least}."
        )
    scores = np.sort(score_images(detector, params, images, seed=seed, batch_size=batch_size))
    threshold, middle = scores[rank - 1], np.median(scores)
    spread = float(threshold - middle) or float(scores.std()) or 1.0
    return {
        "detector": params,
        "threshold": jnp.asarray(threshold, jnp.float32),
        "scale": jnp.asarray(1 / spread, jnp.float32),
    }


def _checked(images: Any) -> np.ndarray:
    """Returns images as an array, or refuses what no detector should be shown.

    Raises:
        ValueError: they are no batch of floats in [0, 1].
    """
    images = np.asarray(as_array("images", images))
    if images.ndim != 4 or not images.size:
        raise ValueError(f"images must be at least one, `n h w c`, not of shape {images.shape}.")
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must be floats in [0, 1], not {images.dtype}: divide by 255.")
    low, high = images.min(), images.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN compares false
        raise ValueError(
            f"images must lie in [0, 1], these in [{low:.7g}, {high:.7g}]: divide by 255, or undo "
            "what standardized them."
        )
    return images


@functools.partial(jax.jit, static_argnums=0)
def _scores(detector: Detector, params, keys, images):
    return jax.vmap(detector.score, (None, 0, 0))(params, keys, images)
