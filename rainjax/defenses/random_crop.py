"""Random cropping and rescaling (Guo et al., ICLR 2018; arXiv 1711.00117)."""

import dataclasses

import jax
import jax.numpy as jnp

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Stratified
from rainjax.keys import choice, split_stratum
from rainjax.typing import Image, Params, PRNGKey, Stratum


@dataclasses.dataclass(frozen=True)
class RandomCrop(Stratified):
    """Shows a part of the image at a random place, enlarged to the image's size.

    The part is `share` of each side, rounded to whole pixels: the paper's 90 of 224. Every place
    is equally likely, and stratified draws repeat no row and no column before all were taken. It
    is enlarged bilinearly, from pixel centres. The paper averages the predictions of thirty
    crops: many draws are `Defended.vote`'s.

    Linear in the image for a fixed key, with its exact gradient, which is zero outside the part.

    Raises:
        ValueError: `share` is not in (0, 1].
    """

    share: float = 90 / 224

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must lie in (0, 1].")

    @property
    def is_random(self) -> bool:
        """False for the whole image."""
        return self.share < 1

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the enlarged part."""
        return self._apply(jax.random.split(key), image)

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns the enlarged part; rows and columns are taken in turn."""
        return self._apply(split_stratum(stratum, 2), image)

    def _apply(self, draws, image: Image) -> Image:
        check_image(image, type(self).__name__)
        rows, columns = (
            _part(draw, side, max(round(self.share * side), 1), image.dtype)
            for draw, side in zip(draws, image.shape[:2], strict=True)
        )
        part = transforms.separable(image, rows, columns)
        exact = jax.lax.Precision.HIGHEST
        whole = jax.image.resize(part, image.shape, "linear", antialias=False, precision=exact)
        return transforms.clip_rounding(whole)


def _part(draw: PRNGKey | Stratum, size: int, length: int, dtype):
    """Returns the rows of the identity that take `length` of `size` values from a random start."""
    start = choice(draw, size - length + 1)
    return jax.nn.one_hot(start + jnp.arange(length), size, dtype=dtype)
