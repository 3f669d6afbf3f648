"""How results are measured: intervals for counted successes, and the quality of images.

    intervals       wilson_interval
    full_reference  psnr, ssim, ms_ssim, gmsd: how far an image is from another
    no_reference    mscn, brisque_features, gradient_statistics: what one looks like by itself
    spectra         radial_spectrum, spectral_slope, high_frequency_share

Those of images take one, `h w c`; `jax.vmap` is the batch.
"""

from rainjax.metrics.full_reference import MS_SSIM_WEIGHTS, gmsd, ms_ssim, psnr, ssim
from rainjax.metrics.intervals import wilson_interval
from rainjax.metrics.no_reference import (
    GradientStatistics,
    LocalBorder,
    brisque_features,
    fit_asymmetric_gaussian,
    fit_generalized_gaussian,
    gradient_statistics,
    mscn,
)
from rainjax.metrics.spectra import (
    high_frequency_share,
    radial_frequencies,
    radial_spectrum,
    spectral_slope,
)

__all__ = [
    "MS_SSIM_WEIGHTS",
    "GradientStatistics",
    "LocalBorder",
    "brisque_features",
    "fit_asymmetric_gaussian",
    "fit_generalized_gaussian",
    "gmsd",
    "gradient_statistics",
    "high_frequency_share",
    "ms_ssim",
    "mscn",
    "psnr",
    "radial_frequencies",
    "radial_spectrum",
    "spectral_slope",
    "ssim",
    "wilson_interval",
]
