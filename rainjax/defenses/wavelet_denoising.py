"""Wavelet denoising: the step after pixel deflection and before super-resolution."""

import dataclasses
import math

import jax.numpy as jnp

from rainjax import transforms
from rainjax.defenses._base import Deterministic
from rainjax.transforms import SigmaScale, Wavelet, WaveletColours
from rainjax.typing import Image


@dataclasses.dataclass(frozen=True)
class WaveletDenoising(Deterministic):
    """Soft-thresholds wavelet details, each band by BayesShrink (Chang et al., 2000).

    The options are those of `transforms.wavelet_shrinkage`, and the defaults those of pixel
    deflection's code (Prakash et al., 2018): noise of 0.04 in YCbCr, Haar wavelets, the levels
    that scikit-image takes. That code was written for a scikit-image that stretched each plane
    to [0, 1] first, hence `sigma_scale="range"`; with today's it means `"image"`.
    `sigma=None` estimates the noise. The result is clipped to [0, 1], and differentiable where
    no detail is at its threshold.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    sigma: float | None = 0.04
    colours: WaveletColours = "ycbcr"
    sigma_scale: SigmaScale = "range"
    wavelet: Wavelet = "db1"
    num_levels: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.sigma is not None and not 0 <= self.sigma < math.inf:
            raise ValueError(f"sigma={self.sigma} must be finite and not negative, or None.")
        if self.num_levels is not None and self.num_levels < 1:
            raise ValueError(f"num_levels={self.num_levels} must be at least 1, or None.")

    def purify(self, image: Image) -> Image:
        """Returns the denoised image."""
        shrunk = transforms.wavelet_shrinkage(image, **dataclasses.asdict(self))
        return jnp.clip(shrunk, 0.0, 1.0)
