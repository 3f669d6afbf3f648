"""How results are measured: counted successes, detectors' scores, and the quality of images.

    intervals       wilson_interval
    detection       auroc, average_precision, roc_curve, detection_rate, risk_coverage,
                    bootstrap_interval: how well a score tells suspicious images from clean ones
    full_reference  psnr, ssim, ms_ssim, gmsd: how far an image is from another
    no_reference    mscn, brisque_features, gradient_statistics: what one looks like by itself
    spectra         radial_spectrum, spectral_slope, high_frequency_share

Those of images take one, `h w c`; `jax.vmap` is the batch.
"""

from rainjax.metrics.detection import (
    RiskCoverage,
    auroc,
    average_precision,
    bootstrap_interval,
    detection_rate,
    risk_coverage,
    roc_curve,
    threshold_at,
)
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
    "RiskCoverage",
    "auroc",
    "average_precision",
    "bootstrap_interval",
    "brisque_features",
    "detection_rate",
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
    "risk_coverage",
    "roc_curve",
    "spectral_slope",
    "ssim",
    "threshold_at",
    "wilson_interval",
]
