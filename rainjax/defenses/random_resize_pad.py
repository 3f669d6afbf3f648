"""Random resizing and padding (Xie et al., ICLR 2018; arXiv 1711.01991)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Defense
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class RandomResizePad(Defense):
    """Shows the image at a random size and place on mid-grey.

    The paper enlarges an image of 299 to a random side of 310 to 330, and puts it at random on a
    field of 331; a defense here keeps the shape, so the field is the image's own and the image is
    shrunk. The longer side gets one of the whole numbers from `smallest` of it, rounded, up to
    one less than it, all equally likely, the other side keeps the ratio, and every place is
    equally likely. `smallest` is the paper's 310/331: 210 to 223 at 224, and 30 or 31 at 32.
    Sizes are nearest neighbours, as theirs, from pixel centres, as Pillow's; shrinking so leaves
    rows and columns out, where theirs repeats some. The surroundings are 0.5, the 0 of their
    range of -1 to 1. They average the predictions of thirty draws: that is `Defended.vote`'s, and
    the flips of their code are not here.

    Affine in the image for a fixed key, with its exact gradient: one or zero.

    Raises:
        ValueError: `smallest` is not between 0 and 1.
    """

    smallest: float = 310 / 331

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.smallest < 1:
            raise ValueError(f"smallest={self.smallest} must lie in (0, 1), both ends excluded.")

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the smaller copy on mid-grey."""
        del params
        check_image(image, type(self).__name__)
        side_key, top_key, left_key = jax.random.split(key, 3)
        height, width, _ = image.shape
        longer = max(height, width)
        least = min(max(round(self.smallest * longer), 1), max(longer - 1, 1))
        side = jax.random.randint(side_key, (), least, max(longer, least + 1))
        rows, in_rows = _place(top_key, height, side, longer, image.dtype)
        columns, in_columns = _place(left_key, width, side, longer, image.dtype)
        inside = in_rows[:, None, None] & in_columns[None, :, None]
        # The sum leaves a copied value as it was, to the bit: one of the two is zero.
        return transforms.separable(image, rows, columns) + 0.5 * ~inside


def _place(
    key, size: int, side: Int[Array, ""], longer: int, dtype
) -> tuple[Float[Array, "size size"], Bool[Array, "size"]]:
    """Returns which value each place of the field shows, one-hot, and whether it shows one.

    `side` of `longer` is the scale; in whole numbers, which no rounding moves by a pixel.
    """
    new = jnp.maximum((2 * side * size + longer) // (2 * longer), 1)
    start = jax.random.randint(key, (), 0, size - new + 1)
    number = jnp.arange(size) - start
    inside = (number >= 0) & (number < new)
    source = (2 * number + 1) * size // (2 * new)
    return jax.nn.one_hot(jnp.where(inside, source, -1), size, dtype=dtype), inside
