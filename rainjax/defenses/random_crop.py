"""Random cropping and rescaling (Guo et al., ICLR 2018; arXiv 1711.00117)."""

import dataclasses

import jax
import jax.numpy as jnp

from rainjax import transforms
from rainjax.defenses._base import Defense
from rainjax.keys import choice, split_draw
from rainjax.typing import Draw, Image, Params


@dataclasses.dataclass(frozen=True)
class RandomCrop(Defense):
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

    @property
    def stratifies(self) -> bool:
        """True: rows and columns can be taken in turn."""
        return True

    def apply(self, params: Params, key: Draw, image: Image) -> Image:
        """Returns the enlarged part."""
        del params
        rows, columns = (
            _part(k, side, max(round(self.share * side), 1), image.dtype)
            for k, side in zip(split_draw(key, 2), image.shape[:2], strict=True)
        )
        part = transforms.separable(image, rows, columns)
        exact = jax.lax.Precision.HIGHEST
        whole = jax.image.resize(part, image.shape, "linear", antialias=False, precision=exact)
        return transforms.clip_rounding(whole)


def _part(key, size: int, length: int, dtype):
    """Returns the rows of the identity that take `length` of `size` values from a random start."""
    start = choice(key, size - length + 1)
    return jax.nn.one_hot(start + jnp.arange(length), size, dtype=dtype)
