"""Pure functions of one image: no classes, no parameters, no batch axis."""

from rainjax.transforms.geometry import circular_shift, numbered_shift, random_circular_shift
from rainjax.transforms.resampling import (
    average_downsample,
    random_pixel_downsample,
    resize_bicubic,
)

__all__ = [
    "average_downsample",
    "circular_shift",
    "numbered_shift",
    "random_circular_shift",
    "random_pixel_downsample",
    "resize_bicubic",
]
