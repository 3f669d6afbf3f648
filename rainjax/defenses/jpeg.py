"""JPEG as a defense: at one quality, or at a quality drawn for every block (SHIELD)."""

import dataclasses

import jax
import jax.numpy as jnp

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Deterministic, Stratified
from rainjax.keys import choices
from rainjax.transforms import Rounding, Subsampling
from rainjax.typing import Image, Params, PRNGKey, Stratum


@dataclasses.dataclass(frozen=True)
class JPEG(Deterministic):
    """Compresses an image as libjpeg does at `quality`, and reads it back.

    The oldest of purifiers (Dziugaite et al., 2016); the quality is that of Guo et al. (2018).
    Its true gradient is zero; `rounding` is the attacker's choice, as `FeatureDistillation` has
    it.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    quality: int = 75
    subsampling: Subsampling = "4:2:0"
    rounding: Rounding = "true"

    def __post_init__(self):
        super().__post_init__()
        _check_qualities((self.quality,))

    def purify(self, image: Image) -> Image:
        """Returns what JPEG leaves."""
        return transforms.jpeg(
            image, self.quality, subsampling=self.subsampling, rounding=self.rounding
        )

    def smooth(self) -> "JPEG":
        """Returns the same with soft rounding."""
        return dataclasses.replace(self, rounding="cubic")


@dataclasses.dataclass(frozen=True)
class SHIELD(Stratified):
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
        super().__post_init__()
        _check_qualities(self.qualities)

    @property
    def is_random(self) -> bool:
        """False with a single quality."""
        return len(self.qualities) > 1

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the image put together from blocks of different qualities."""
        del params
        return self._apply(key, image)

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns such an image; every block's qualities are taken in turn."""
        del params
        return self._apply(stratum, image)

    def smooth(self) -> "SHIELD":
        """Returns the same with soft rounding."""
        return dataclasses.replace(self, rounding="cubic")

    def _apply(self, draw: PRNGKey | Stratum, image: Image) -> Image:
        check_image(image, type(self).__name__)
        results = [
            transforms.jpeg(image, quality, subsampling=self.subsampling, rounding=self.rounding)
            for quality in self.qualities
        ]
        height, width, _ = image.shape
        blocks = -(-height // 8), -(-width // 8)
        pick = jax.nn.one_hot(choices(draw, blocks, len(results)), len(results))
        wide = jnp.repeat(jnp.repeat(pick, 8, axis=0), 8, axis=1)[:height, :width]
        # Accelerators would round grey levels, unless told not to.
        return jnp.einsum("hwq,qhwc->hwc", wide, jnp.stack(results), precision="highest")


def _check_qualities(qualities: tuple[int, ...]) -> None:
    if not qualities or not all(1 <= quality <= 100 for quality in qualities):
        raise ValueError(f"A quality is a whole number in 1..100, and {qualities} holds another.")
