"""JPEG as a defense: at one quality, or at a quality drawn for every block (SHIELD)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import (
    Candidates,
    Deterministic,
    LevelBounds,
    Quantizer,
    Sample,
    Stratified,
)
from rainjax.defenses._levels import jpeg_bounds
from rainjax.defenses._rounding import colour_candidates
from rainjax.keys import choices
from rainjax.transforms import Rounding, Subsampling
from rainjax.typing import Image, Params, PRNGKey, Stratum


@dataclasses.dataclass(frozen=True)
class JPEG(Deterministic, Quantizer):
    """Compresses an image as libjpeg does at `quality`, and reads it back.

    The oldest of purifiers (Dziugaite et al., 2016); the quality is that of Guo et al. (2018).
    Its true gradient is zero; `rounding` is the attacker's choice, as `FeatureDistillation` has
    it.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax import JPEG
    >>> image = jax.random.uniform(jax.random.key(1), (16, 16, 3))
    >>> better, worse = (JPEG(quality).apply((), jax.random.key(0), image) for quality in (90, 10))
    >>> bool(jnp.abs(better - image).mean() < jnp.abs(worse - image).mean())
    True

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

    @property
    def quantizes(self) -> bool:
        """Whether it returns rounded coefficients; soft rounding does not."""
        return self.rounding in ("true", "straight_through")

    def reachable(
        self, image: Image, radius: float, norm: str, *, sample: Sample | None = None
    ) -> tuple[Candidates, ...]:
        """Returns the moves of every coefficient, and of pairs of low ones, over a boundary."""
        return _candidates(image, radius, norm, self.quality, self.subsampling, sample)

    def level_bounds(self, image: Image, radius: float, norm: str) -> LevelBounds | None:
        """Returns bounds on the multiple of its step that every coefficient is rounded to.

        They pass through the grey levels and colours that JPEG rounds first, and so are wide.
        """
        if not self.quantizes:
            return None
        steps, colour_steps = transforms.quality_tables(self.quality)
        return jpeg_bounds(
            image, radius, norm,
            steps=steps, colour_steps=colour_steps, subsampling=self.subsampling,
        )  # fmt: skip

    def from_levels(self, levels: tuple[Array, ...], shape: tuple[int, ...]) -> Image:
        """Returns the image whose coefficients are these multiples of their steps."""
        tables = transforms.quality_tables(self.quality)[: len(levels)]
        kept = tuple(
            found * table[None, None, ..., None]
            for found, table in zip(levels, tables, strict=True)
        )
        return transforms.jpeg_decoded(kept, shape, self.subsampling)

    def smooth(self) -> "JPEG":
        """Returns the same with soft rounding."""
        return dataclasses.replace(self, rounding="cubic")


@dataclasses.dataclass(frozen=True)
class SHIELD(Stratified, Quantizer):
    """Takes every 8x8 block from JPEG at a quality drawn for it (Das et al., 2018, section 3.2).

    Stochastic local quantisation: the image is compressed at each of `qualities`, and each block
    is that of one of the results, all equally likely. Four draws that are stratified take each of
    four qualities once. `rounding` is the attacker's choice of a gradient; the true one is zero.

    >>> import jax
    >>> from rainjax import SHIELD
    >>> image = jax.random.uniform(jax.random.key(1), (16, 16, 3))
    >>> one, other = (SHIELD().apply((), jax.random.key(draw), image) for draw in (0, 1))
    >>> bool((one == other).all())
    False

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

    @property
    def quantizes(self) -> bool:
        """Whether it returns rounded coefficients; soft rounding does not."""
        return self.rounding in ("true", "straight_through")

    def reachable(
        self, image: Image, radius: float, norm: str, *, sample: Sample | None = None
    ) -> tuple[Candidates, ...]:
        """Returns such moves at each quality; in L-inf they are those of any."""
        qualities = self.qualities[:1] if norm == "linf" else self.qualities
        each = [_candidates(image, radius, norm, q, self.subsampling, sample) for q in qualities]
        return tuple(
            Candidates(jnp.concatenate([found.inputs for found in same]), same[0].cell)
            for same in zip(*each, strict=True)
        )

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


def _candidates(
    image: Image, radius: float, norm: str, quality: int, subsampling: Subsampling,
    sample: Sample | None,
) -> tuple[Candidates, ...]:  # fmt: skip
    steps, colour_steps = transforms.quality_tables(quality)
    return colour_candidates(
        image, radius, norm,
        steps=steps, colour_steps=colour_steps, subsampling=subsampling, sample=sample,
    )  # fmt: skip


def _check_qualities(qualities: tuple[int, ...]) -> None:
    if not qualities or not all(1 <= quality <= 100 for quality in qualities):
        raise ValueError(f"A quality is a whole number in 1..100, and {qualities} holds another.")
