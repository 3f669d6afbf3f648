"""JPEG's way to lose detail: colours, tables, and a compression that can be differentiated.

Written to do what libjpeg does (Pillow's encoder and decoder, both at their defaults), except
that cosines are exact where it has integers, and that nothing is coded.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rainjax._checks import check_option
from rainjax.transforms.blocks import (
    BLOCK,
    Blocks,
    Rounding,
    block_dct,
    inverse_block_dct,
    pad_to_blocks,
    rounded,
)
from rainjax.typing import Image

Subsampling = Literal["4:4:4", "4:2:0"]
Coefficients = tuple[Float[Array, "_ _ 8 8 _"], ...]

# ITU-T T.81 (the JPEG standard), annex K: rows are vertical frequencies.
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMINANCE = np.full((8, 8), 99)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

# JFIF: luminance in 0..255, the colour differences around 128.
TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)
TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136286, -0.714136286], [1.0, 1.772, 0.0]])
_GREY = np.array([0.0, 128.0, 128.0])


def rgb_to_ycbcr(image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Returns JFIF's YCbCr of an RGB image, both in grey levels, 0 to 255; affine."""
    return _colours(image, TO_YCBCR) + jnp.asarray(_GREY, image.dtype)[None, None]


def ycbcr_to_rgb(image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Returns the RGB image, in grey levels, whose YCbCr is `image`; it may leave 0..255."""
    return _colours(image - jnp.asarray(_GREY, image.dtype)[None, None], TO_RGB)


def quality_tables(
    quality: int | Float[Array, ""],
) -> tuple[Float[Array, "8 8"], Float[Array, "8 8"]]:
    """Returns the steps for luminance and for the colours at `quality`, 1 to 100, as libjpeg's.

    `quality` may be traced: then it is not checked.

    Raises:
        ValueError: a quality outside 1 to 100.
    """
    if isinstance(quality, int) and not 1 <= quality <= 100:
        raise ValueError(f"{quality=} must lie in 1..100.")
    quality = jnp.asarray(quality, jnp.float32)
    percent = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    scaled = lambda table: jnp.clip(jnp.floor((jnp.asarray(table) * percent + 50) / 100), 1, 255)
    return scaled(LUMINANCE), scaled(CHROMINANCE)


def jpeg(
    image: Image,
    quality: int | Float[Array, ""] = 75,
    *,
    subsampling: Subsampling = "4:2:0",
    rounding: Rounding = "true",
) -> Image:
    """Returns what is left of an image, in [0, 1], after JPEG at `quality`, 1 to 100.

    RGB, or one grey channel. With `subsampling="4:2:0"` the colours are kept at half the
    resolution, and brought back by libjpeg's triangle filter. `rounding` says what the gradient
    of every rounding is; with `"sine"` and `"cubic"` the coefficients are not quite rounded in
    the forward pass either (Shin and Song, 2017), and grey levels not at all.

    Raises:
        ValueError: the image has neither one channel nor three, or an option is unknown.
    """
    steps, colour_steps = quality_tables(quality)
    return jpeg_with_steps(image, steps, colour_steps, subsampling=subsampling, rounding=rounding)


def jpeg_with_steps(
    image: Image,
    steps: Float[Array, "8 8"],
    colour_steps: Float[Array, "8 8"],
    *,
    subsampling: Subsampling = "4:2:0",
    rounding: Rounding = "true",
) -> Image:
    """Returns `jpeg` of an image with any steps for luminance and for the colours.

    Raises:
        ValueError: as `jpeg`.
    """
    kept = jpeg_coefficients(image, steps, colour_steps, subsampling, rounding)
    return jpeg_decoded(kept, image.shape, subsampling, rounding)


def jpeg_coefficients(
    image: Image, steps: Float[Array, "8 8"], colour_steps: Float[Array, "8 8"],
    subsampling: Subsampling, rounding: Rounding = "true",
) -> Coefficients:  # fmt: skip
    """Returns what JPEG stores of an image, in grey levels: of luminance and of two colours.

    Of a grey image there is one array, of RGB there are two, the second with both colours.

    Raises:
        ValueError: as `jpeg`.
    """
    channels = image.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"JPEG takes one channel or three (RGB), not {channels}.")
    check_option("subsampling", subsampling, Subsampling)
    grey = _to_grey_levels(image * 255, rounding)
    if channels == 1:
        return (_encoded(grey, steps, rounding),)
    planes = _to_grey_levels(rgb_to_ycbcr(grey), rounding)
    y, colours = planes[..., :1], planes[..., 1:]
    if subsampling == "4:2:0":
        colours = _halved(pad_to_blocks(colours, (2, 2 * BLOCK)), rounding)
    return _encoded(y, steps, rounding), _encoded(colours, colour_steps, rounding)


def jpeg_decoded(
    kept: Coefficients, shape: tuple[int, ...], subsampling: Subsampling,
    rounding: Rounding = "true",
) -> Image:  # fmt: skip
    """Returns the image, of `shape` and in [0, 1], that `jpeg_coefficients` stand for."""
    height, width, channels = shape
    y = _decoded(kept[0], rounding)[:height, :width]
    if channels == 1:
        return y / 255
    colours = _decoded(kept[1], rounding)
    if subsampling == "4:2:0":
        colours = _in_full_size(colours, (height, width), rounding)
    rgb = ycbcr_to_rgb(jnp.concatenate([y, colours[:height, :width]], axis=-1))
    return _to_grey_levels(rgb, rounding) / 255


def quantized(
    coefficients: Float[Array, "rows cols 8 8 c"],
    steps: Float[Array, "8 8"] | Float[Array, "8 8 c"],
    rounding: Rounding = "true",
) -> Float[Array, "rows cols 8 8 c"]:
    """Returns DCT coefficients rounded to multiples of the step of their frequency."""
    steps = jnp.asarray(steps, coefficients.dtype)
    steps = (steps[..., None] if steps.ndim == 2 else steps)[None, None]
    return rounded(coefficients / steps, rounding) * steps


def _encoded(plane: Float[Array, "h w c"], steps, rounding: Rounding) -> Blocks:
    """Returns the quantised coefficients of planes in grey levels, padded to whole blocks."""
    return _kept(block_dct(pad_to_blocks(plane) - 128.0), steps, rounding)


def _decoded(kept: Blocks, rounding: Rounding) -> Float[Array, "h w c"]:
    """Returns planes in grey levels, of whole blocks."""
    return _to_grey_levels(inverse_block_dct(kept) + 128.0, rounding)


def _in_full_size(
    kept: Float[Array, "h w c"], size: tuple[int, int], rounding: Rounding
) -> Float[Array, "h2 w2 c"]:
    """Returns colours of half the resolution in an image's own size.

    libjpeg repeats the last column up to the edge of a block of halved colours, and halves then;
    rows it halves first, and repeats the last of the halves.
    """
    height, width = size
    low_height, low_width = -(-height // 2), -(-width // 2)
    kept = kept[:low_height, :low_width]
    if low_width > 2:
        return _doubled(kept, rounding)[:height, :width]
    # So narrow a picture has its values repeated: libjpeg's filter wants three columns.
    return jnp.repeat(jnp.repeat(kept, 2, axis=0), 2, axis=1)[:height, :width]


def _kept(coefficients: Blocks, steps, rounding: Rounding) -> Blocks:
    """Returns `quantized`, to the ties that libjpeg meets: eighths, rounded away from zero."""
    if rounding not in ("true", "straight_through"):
        return quantized(coefficients, steps, rounding)
    eighths = jnp.round(jax.lax.stop_gradient(coefficients) * 8) / 8
    steps = steps[None, None, ..., None]
    whole = jnp.sign(eighths) * jnp.floor(jnp.abs(eighths) / steps + 0.5) * steps
    if rounding == "true":
        return whole
    return coefficients + jax.lax.stop_gradient(whole - coefficients)


def _to_grey_levels(values: Float[Array, "..."], rounding: Rounding) -> Float[Array, "..."]:
    """Clips to 0..255, and rounds half up where rounding is not softened."""
    if rounding in ("true", "straight_through"):
        values = rounded(values, rounding)
    return jnp.clip(values, 0.0, 255.0)


def halved_colours(colours: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Returns colours in grey levels at half the resolution, as JPEG in 4:2:0 stores them."""
    return _halved(pad_to_blocks(colours, (2, 2 * BLOCK)), "true")


def kept_levels(coefficients: Blocks, steps: Float[Array, "8 8"]) -> Int[Array, "rows cols 8 8 c"]:
    """Returns the whole multiples of their steps that JPEG rounds coefficients to; monotone."""
    steps = jnp.asarray(steps)
    multiples = _kept(coefficients, steps, "true") / steps[None, None, ..., None]
    return jnp.round(multiples).astype(jnp.int32)


def _halved(colours: Float[Array, "h w c"], rounding: Rounding) -> Float[Array, "h//2 w//2 c"]:
    """Averages 2x2 cells; libjpeg rounds halves down and up in turn from column to column."""
    height, width, channels = colours.shape
    mean = colours.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))
    bias = jnp.where(jnp.arange(width // 2) % 2 == 0, -0.25, 0.0)[None, :, None]
    if rounding in ("true", "straight_through"):
        whole = jnp.floor(jax.lax.stop_gradient(mean) + bias + 0.5)
        mean = whole if rounding == "true" else mean + jax.lax.stop_gradient(whole - mean)
    return mean


def _doubled(colours: Float[Array, "h w c"], rounding: Rounding) -> Float[Array, "h2 w2 c"]:
    """Doubles both sides: three parts of the nearer value and one of the next, along each."""
    for axis in (0, 1):
        wide = jnp.pad(colours, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        size = colours.shape[axis]
        before, after = (jax.lax.slice_in_dim(wide, s, s + size, axis=axis) for s in (0, 2))
        pair = jnp.stack([0.75 * colours + 0.25 * before, 0.75 * colours + 0.25 * after], axis + 1)
        shape = list(colours.shape)
        shape[axis] *= 2
        colours = pair.reshape(shape)
    return _to_grey_levels(colours, rounding)


def _colours(image: Float[Array, "h w 3"], matrix: np.ndarray) -> Float[Array, "h w 3"]:
    rows = [sum(float(w) * image[..., i] for i, w in enumerate(row)) for row in matrix]
    return jnp.stack(rows, axis=-1)
