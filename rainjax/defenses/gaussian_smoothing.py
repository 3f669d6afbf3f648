"""Gaussian smoothing, once or again and again: the baseline of the NCIS paper (Cha et al., 2024).

The abstract of its first version (arXiv 2106.11644) says that to iterate it alone washes out the
perturbation of an attacker who does not know of it, and gives no numbers for it.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Deterministic, Iterative
from rainjax.transforms.smoothing import Border, check_gaussian
from rainjax.typing import Image, Params


@dataclasses.dataclass(frozen=True)
class GaussianSmoothing(Deterministic, Iterative):
    """Convolves an image with a Gaussian, `num_iterations` times.

    `sigma` and `kernel_size` are in pixels, `border` as in `transforms.gaussian_smooth`. The three
    numbers are redundant, since a Gaussian convolved with itself is another: `effective_sigma`
    says how strong the smoothing is. Their defaults are ours. Linear in the image, and its
    gradient is exact: it hides nothing from an attacker.

    >>> from rainjax.defenses import GaussianSmoothing
    >>> defense = GaussianSmoothing(num_iterations=4, sigma=1.0, kernel_size=9)
    >>> print(f"{defense.effective_sigma:.2f}")
    2.00

    Raises:
        ValueError: there are no iterations, `sigma` is not positive and finite, or `kernel_size`
            not odd and positive; at the call, the image is too small to be mirrored.
    """

    num_iterations: int = 1
    sigma: float = 1.0
    kernel_size: int = 5
    border: Border = "reflect"

    def __post_init__(self):
        super().__post_init__()
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations={self.num_iterations} must be at least 1.")
        check_gaussian(self.sigma, self.kernel_size)

    @property
    def effective_sigma(self) -> float:
        """Standard deviation of all iterations together, in pixels.

        Exact away from borders, where variances add up: the root of `num_iterations` times the
        variance of the kernel as it is cut off. Were it not, it would be
        `sigma * sqrt(num_iterations)`.
        """
        kernel = transforms.gaussian_kernel(self.sigma, self.kernel_size)
        distances = np.arange(self.kernel_size) - self.kernel_size // 2
        return math.sqrt(self.num_iterations * float(kernel @ distances**2))

    def purify(self, image: Image) -> Image:
        """Returns the smoothed image."""
        smooth = lambda x, _: (self._smooth(x), None)
        smoothed, _ = jax.lax.scan(smooth, image, length=self.num_iterations)
        return transforms.clip_rounding(smoothed)

    def iterates(self, params: Params, image: Image) -> Float[Array, "t h w c"]:
        """Returns the image and every iterate, `num_iterations + 1` of them in order."""
        del params
        check_image(image, type(self).__name__)
        found = [image]
        for _ in range(self.num_iterations):
            found.append(self._smooth(found[-1]))
        return jnp.stack([image, *map(transforms.clip_rounding, found[1:])])

    def _smooth(self, image: Image) -> Image:
        return transforms.gaussian_smooth(image, self.sigma, self.kernel_size, self.border)
