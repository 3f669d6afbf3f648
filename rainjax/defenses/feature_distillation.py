"""Feature Distillation: JPEG-like quantisation with steps chosen against perturbations.

Liu et al., CVPR 2019 (arXiv 1803.05787); where the paper leaves a detail open, the authors'
published code decides.
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rainjax import transforms
from rainjax._checks import check_option
from rainjax.defenses._base import Candidates, Deterministic, LevelBounds, Quantizer, Sample
from rainjax.defenses._levels import channel_bounds, channel_image, jpeg_bounds
from rainjax.defenses._rounding import colour_candidates, plane_candidates
from rainjax.transforms import Rounding, Subsampling
from rainjax.typing import Image

Steps = tuple[tuple[float, ...], ...]
Bands = Literal["corner4x4", "triangle15"]


def two_steps(
    bands: Bands | Sequence[int] = "corner4x4", accuracy: float = 25.0, defense: float = 30.0
) -> Steps:
    """Returns the 8x8 table with the step `accuracy` in one band and `defense` in the other.

    The first is the accuracy-sensitive band, the low frequencies that a network looks at:
    `"corner4x4"`, the sixteen of the authors' code; `"triangle15"`, the fifteen of the paper's
    figure, whose frequencies add up to four at most; or positions, `8 * vertical + horizontal`,
    such as the first `k` of `rainjax.distillation.ranking`. The rest is the malicious-defense
    band. Steps are in grey levels of the orthonormal DCT.

    Raises:
        ValueError: no band is called so, a position is none of 0..63, or a step is not positive.
    """
    if not all(
        isinstance(step, numbers.Real) and 0 < step < math.inf for step in (accuracy, defense)
    ):
        raise ValueError(f"{accuracy=} and {defense=} are steps: positive, and finite.")
    vertical, horizontal = np.indices((8, 8))
    if isinstance(bands, str):
        check_option("bands", bands, Bands)
        corner, triangle = (vertical < 4) & (horizontal < 4), vertical + horizontal <= 4
        sensitive = corner if bands == "corner4x4" else triangle
    else:
        positions = np.asarray(bands)
        if positions.ndim != 1:
            raise ValueError(f"{bands=} must be a sequence of positions in 0..63, or a name.")
        whole = positions.dtype.kind in "iu" and ((positions >= 0) & (positions < 64)).all()
        if positions.size and not whole:
            raise ValueError(f"{bands=} must be positions in 0..63.")
        sensitive = np.isin(8 * vertical + horizontal, positions)
    table = np.where(sensitive, accuracy, defense)
    return tuple(tuple(map(float, row)) for row in table)


@dataclasses.dataclass(frozen=True)
class FeatureDistillation(Deterministic, Quantizer):
    """Rounds the DCT coefficients of 8x8 blocks to multiples of `steps`, and comes back.

    With the defaults the authors' code, to the rounding of floats: channels apart, grey levels
    from 0 to 255 without a level shift, 25 in the 4x4 corner of low frequencies and 30 elsewhere.
    `colours="ycbcr"` quantises as JPEG does, with `subsampling` of the colours and the same
    steps for all three planes; there and with `level_shift` 128 is taken off first, which moves
    the grid of the mean value alone. Sides that are no multiples of 8 are padded with their
    edge, and cropped back.

    One pass is this defense before the classifier. The paper's two-pass process compresses the
    benign image as well, before the attacker sees it: attack `apply(x)` instead of `x`, in a
    ball around it. Where sides are multiples of 8 and colours are not halved, a second pass
    changes nothing but what clipping at 0 and 1 did; elsewhere the padding or the halving is done
    anew, of other pixels.

    Its true gradient is zero, and that is all the protection it has against one who does not
    mind: attack `dataclasses.replace(defense, rounding="straight_through")`, or `"sine"` or
    `"cubic"`. The first has the gradient of `BPDA(defense, Identity())` up to clipping, on whole
    blocks of colours that are not halved.

    >>> import dataclasses, jax, jax.numpy as jnp
    >>> from rainjax import FeatureDistillation
    >>> defense, key = FeatureDistillation(), jax.random.key(0)
    >>> image = jnp.full((8, 8, 3), 0.5)
    >>> slope = lambda defense: jax.grad(lambda x: defense.apply((), key, x).sum())(image)
    >>> float(jnp.abs(slope(defense)).max())
    0.0
    >>> soft = dataclasses.replace(defense, rounding="straight_through")
    >>> bool(jnp.abs(slope(soft)).max() > 0)
    True

    Raises:
        ValueError: `steps` is no 8x8 table of positive numbers, or an option is unknown.
    """

    steps: Steps = two_steps()
    colours: Literal["rgb", "ycbcr"] = "rgb"
    subsampling: Subsampling = "4:4:4"
    level_shift: bool = False
    rounding: Rounding = "true"

    def __post_init__(self):
        super().__post_init__()
        flat = [step for row in self.steps for step in row]
        if len(self.steps) != 8 or any(len(row) != 8 for row in self.steps):
            raise ValueError(f"steps must be 8 rows of 8, not {[len(r) for r in self.steps]}.")
        if not all(0 < step < math.inf for step in flat):
            raise ValueError(f"steps must be positive and finite: {self.steps}.")
        if self.colours == "rgb" and self.subsampling != "4:4:4":
            raise ValueError(
                f"subsampling={self.subsampling!r} needs colours='ycbcr': RGB has no such planes."
            )

    def purify(self, image: Image) -> Image:
        """Returns the quantised image."""
        steps = jnp.asarray(self.steps, image.dtype)
        if self.colours == "ycbcr":
            return transforms.jpeg_with_steps(
                image, steps, steps, subsampling=self.subsampling, rounding=self.rounding
            )
        grey = transforms.pad_to_blocks(image) * 255
        coefficients = transforms.block_dct(grey - self._shift)
        kept = transforms.quantized(coefficients, steps, self.rounding)
        whole = (transforms.inverse_block_dct(kept) + self._shift) / 255
        return jnp.clip(whole, 0.0, 1.0)[: image.shape[0], : image.shape[1]]

    def smooth(self) -> "FeatureDistillation":
        """Returns the same with soft rounding."""
        return dataclasses.replace(self, rounding="cubic")

    @property
    def quantizes(self) -> bool:
        """Whether it returns rounded coefficients; soft rounding does not."""
        return self.rounding in ("true", "straight_through")

    def reachable(
        self, image: Image, radius: float, norm: str, *, sample: Sample | None = None
    ) -> tuple[Candidates, ...]:
        """Returns the moves of every coefficient, and of pairs of low ones, over a boundary."""
        steps = jnp.asarray(self.steps, image.dtype)
        if self.colours == "rgb":
            return plane_candidates(
                image, radius, norm, steps=steps, shift=self._shift, sample=sample
            )
        return colour_candidates(
            image, radius, norm,
            steps=steps, colour_steps=steps, subsampling=self.subsampling, sample=sample,
        )  # fmt: skip

    def level_bounds(self, image: Image, radius: float, norm: str) -> LevelBounds | None:
        """Returns bounds on the multiple of its step that every coefficient is rounded to."""
        if not self.quantizes:
            return None
        steps = jnp.asarray(self.steps, image.dtype)
        if self.colours == "rgb":
            return channel_bounds(image, radius, norm, steps=steps, shift=self._shift)
        return jpeg_bounds(
            image, radius, norm, steps=steps, colour_steps=steps, subsampling=self.subsampling
        )

    def from_levels(self, levels: tuple[Array, ...], shape: tuple[int, ...]) -> Image:
        """Returns the image whose coefficients are these multiples of their steps."""
        steps = jnp.asarray(self.steps, jnp.float32)
        if self.colours == "rgb":
            return channel_image(levels[0], shape, steps=steps, shift=self._shift)
        kept = tuple(found * steps[None, None, ..., None] for found in levels)
        return transforms.jpeg_decoded(kept, shape, self.subsampling)

    @property
    def _shift(self) -> float:
        return 128.0 if self.level_shift else 0.0
