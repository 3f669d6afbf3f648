"""The bilateral filter (Tomasi and Manduchi, ICCV 1998): a blur that stops at edges."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from rainjax import transforms
from rainjax.defenses._base import Deterministic
from rainjax.typing import Image


@dataclasses.dataclass(frozen=True)
class BilateralFilter(Deterministic):
    """Replaces every pixel by a mean of those in a square of `size` around it, odd.

    A pixel's weight is `exp(-d^2 / (2 sigma_spatial^2) - e^2 / (2 sigma_color^2))`: `d` pixels
    away, and `e` in colour, the Euclidean distance over all channels together. Borders are
    mirrored. The gradient is exact, through the weights as well.

    A purifier since Ratzlaff and Li (arXiv 1804.01635). The defaults are ours: a square of two
    standard deviations to each side, and a `sigma_color` about twice the colour distance of a
    perturbation by 8/255 in each of three channels. OpenCV adds the channels' differences up,
    and takes a disc for the square; scikit-image (0.26) divides the distance by the number of
    channels, and its weights in space are not those of the distance.

    Raises:
        ValueError: the size is even or below 1, or a sigma is not positive and finite.
    """

    size: int = 5
    sigma_color: float = 0.1
    sigma_spatial: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"size={self.size} must be odd and at least 1.")
        for name in ("sigma_color", "sigma_spatial"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite.")

    def purify(self, image: Image) -> Image:
        """Returns the filtered image."""
        height, width, _ = image.shape
        reach = self.size // 2
        wide = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="symmetric")
        total, weights = jnp.zeros_like(image), jnp.zeros_like(image[..., :1])
        for down, right in np.ndindex(self.size, self.size):
            near = wide[down : down + height, right : right + width]
            apart = (down - reach) ** 2 + (right - reach) ** 2
            colour = jnp.sum((near - image) ** 2, axis=-1, keepdims=True)
            weight = jnp.exp(
                -apart / (2 * self.sigma_spatial**2) - colour / (2 * self.sigma_color**2)
            )
            total, weights = total + weight * near, weights + weight
        return transforms.clip_rounding(total / weights)
