"""JPEG as a defense: at one quality, or at a quality drawn for every block (SHIELD)."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp

from rainjax import transforms
from rainjax._types import Draw, Image, Params
from rainjax.defenses._base import Defense, Deterministic
from rainjax.keys import choices
from rainjax.transforms import Rounding, Subsampling


@dataclasses.dataclass(frozen=True)
class JPEG(Deterministic):
    """Compresses an image as libjpeg does at `quality`, and reads it back.

    The oldest of purifiers (Dziugaite et al., 2016). Its true gradient is zero; `rounding` is the
    attacker's choice, as `FeatureDistillation` has it.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    quality: int = 75
    subsampling: Subsampling = "4:2:0"
    rounding: Rounding = "true"

    def __post_init__(self):
        _check(self, (self.quality,))

    def purify(self, image: Image) -> Image:
        """Returns what JPEG leaves."""
        return transforms.jpeg(
            image, self.quality, subsampling=self.subsampling, rounding=self.rounding
        )


@dataclasses.dataclass(frozen=True)
class SHIELD(Defense):
    """Takes every 8x8 block from JPEG at a quality drawn for it (Das et al., 2018, section 3.2).

    Stochastic local quantisation: the image is compressed at each of `qualities`, and each block
    is that of one of the results, all equally likely. Four draws that are stratified take each of
    four qualities once. `rounding` is the attacker's choice of a gradient; the true one is zero.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    qualities: tuple[int, ...] = (20, 40, 60, 80)
    subsampling: Subsampling = "4:2:0"
    rounding: Rounding = "true"

    def __post_init__(self):
        _check(self, self.qualities)
        count = len(self.qualities)
        if count & (count - 1):
            raise ValueError(f"{count} qualities cannot be drawn evenly: give 1, 2, 4, 8 ...")

    @property
    def stratifies(self) -> bool:
        """True: every block's qualities can be taken in turn."""
        return True

    def apply(self, params: Params, key: Draw, image: Image) -> Image:
        """Returns the image put together from blocks of different qualities."""
        del params
        results = [
            transforms.jpeg(image, quality, subsampling=self.subsampling, rounding=self.rounding)
            for quality in self.qualities
        ]
        height, width, _ = image.shape
        blocks = -(-height // 8), -(-width // 8)
        pick = jax.nn.one_hot(choices(key, blocks, len(results)), len(results))
        wide = jnp.repeat(jnp.repeat(pick, 8, axis=0), 8, axis=1)[:height, :width]
        return jnp.einsum("hwq,qhwc->hwc", wide, jnp.stack(results))


def _check(defense: JPEG | SHIELD, qualities: tuple[int, ...]) -> None:
    if not qualities or not all(isinstance(q, int) and 1 <= q <= 100 for q in qualities):
        raise ValueError(f"A quality is a whole number in 1..100, and {qualities} holds another.")
    if defense.subsampling not in get_args(Subsampling):
        raise ValueError(f"subsampling={defense.subsampling!r} is neither '4:4:4' nor '4:2:0'.")
    if defense.rounding not in get_args(Rounding):
        raise ValueError(f"rounding={defense.rounding!r} is none of {get_args(Rounding)}.")
