"""Pure functions of one image: no parameters, no batch axis; distortions are listed by name."""

from rainjax.transforms.blocks import (
    Rounding,
    block_dct,
    inverse_block_dct,
    pad_to_blocks,
    rounded,
)
from rainjax.transforms.distortions import (
    DISTORTIONS,
    SEVERITIES,
    Distortion,
    DistortionName,
    Scale,
    distort,
)
from rainjax.transforms.geometry import (
    circular_shift,
    numbered_shift,
    random_circular_shift,
    separable,
)
from rainjax.transforms.jpeg import (
    Subsampling,
    jpeg,
    jpeg_coefficients,
    jpeg_decoded,
    jpeg_with_steps,
    quality_tables,
    quantized,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)
from rainjax.transforms.resampling import (
    average_downsample,
    clip_rounding,
    halve_bicubic,
    random_pixel_downsample,
    resize_bicubic,
)
from rainjax.transforms.smoothing import Border, gaussian_kernel, gaussian_smooth
from rainjax.transforms.wavelets import (
    SigmaScale,
    Wavelet,
    WaveletColours,
    inverse_wavelet_transform,
    max_wavelet_levels,
    wavelet_shrinkage,
    wavelet_transform,
)

__all__ = [
    "DISTORTIONS",
    "SEVERITIES",
    "Border",
    "Distortion",
    "DistortionName",
    "Rounding",
    "Scale",
    "SigmaScale",
    "Subsampling",
    "Wavelet",
    "WaveletColours",
    "average_downsample",
    "block_dct",
    "circular_shift",
    "clip_rounding",
    "distort",
    "gaussian_kernel",
    "gaussian_smooth",
    "halve_bicubic",
    "inverse_block_dct",
    "inverse_wavelet_transform",
    "jpeg",
    "jpeg_coefficients",
    "jpeg_decoded",
    "jpeg_with_steps",
    "max_wavelet_levels",
    "numbered_shift",
    "pad_to_blocks",
    "quality_tables",
    "quantized",
    "random_circular_shift",
    "random_pixel_downsample",
    "resize_bicubic",
    "rgb_to_ycbcr",
    "rounded",
    "separable",
    "wavelet_shrinkage",
    "wavelet_transform",
    "ycbcr_to_rgb",
]
