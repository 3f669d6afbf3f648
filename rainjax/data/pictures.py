"""One picture file: how it is decoded, what an import stores of it, and what that changes."""

import io
import re

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
from jaxtyping import UInt8

# Pillow's names of pixels with 8 bits per channel or less.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_ORIENTATION = 0x112  # EXIF's tag
_UPRIGHT = 1


def decode(encoded: bytes) -> UInt8[np.ndarray, "h w c"]:
    """Returns the RGB pixels of an encoded picture of any format Pillow reads, as they are stored.

    Raises:
        ValueError: it cannot be decoded, or has more than 8 bits per channel.
    """
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            if image.mode not in MODES:
                raise ValueError(f"its pixels are of kind {image.mode!r}, not 8 bits per channel")
            pixels = np.asarray(_to_rgb(image))
    except Exception as error:
        raise ValueError(_reason(error, encoded)) from error
    pixels.flags.writeable = False
    return pixels


def to_store(encoded: bytes, size: int | None) -> tuple[bytes, list[str]]:
    """Returns the file to store, and what is no longer as it was, in phrases after "pictures".

    That is the same file if it is an 8-bit RGB PNG or JPEG file that stands upright; else a PNG
    file of its pixels, without loss. With `size`, the short side is resized to as many pixels,
    and the centre cut out.

    Raises:
        ValueError: says after the picture's name what is wrong with it.
    """
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            kind, turned = _kind(image), _orientation(image) != _UPRIGHT
            image.load()
            pixels = PIL.ImageOps.exif_transpose(image) if turned else image.copy()
            animated = getattr(image, "is_animated", False)
    except Exception as error:
        raise ValueError(f"cannot be decoded: {_reason(error, encoded)}") from error
    if kind not in MODES:
        raise ValueError(
            f"has pixels of kind {kind!r}; pictures must have 8 bits per channel: save it as 8-bit"
            " RGB."
        )
    changes = []
    if turned:
        changes.append("were turned upright, as their EXIF orientation says")
    if animated:
        changes.append("hold several frames, of which the first was taken")
    if pixels.mode in ("CMYK", "YCbCr"):
        changes.append(f"were converted from {pixels.mode} to RGB, without a colour profile")
    if pixels.has_transparency_data and np.asarray(pixels.convert("RGBA"))[..., 3].min() < 255:
        changes.append("lost their transparency, so that what it hid shows")
    if size is not None:
        return to_png(_fit(_to_rgb(pixels), size)), changes
    if pixels.mode == "RGB" and image.format in ("PNG", "JPEG") and not turned:
        return encoded, changes
    return to_png(_to_rgb(pixels)), changes


def to_png(image: PIL.Image.Image) -> bytes:
    """Returns `image` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _kind(image: PIL.ImageFile.ImageFile) -> str:
    """Returns Pillow's name of the pixels in the file; more than 8 bits are not in its mode."""
    if image.mode not in MODES or not image.tile:
        return image.mode
    options = image.tile[0][3]
    for option in options if isinstance(options, tuple) else (options,):
        if isinstance(option, str) and re.search(";16[BLN]", option):  # "BGR;16" is 5 + 6 + 5
            return option
    # A PPM file says which number is white.
    if image.format == "PPM" and isinstance(options, tuple) and max(options[1:2], default=0) > 255:
        return f"{image.mode};16"
    return image.mode


def _orientation(image: PIL.Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, _UPRIGHT)
    except Exception:  # damaged EXIF data say nothing, and viewers show such a picture as it is
        return _UPRIGHT
    return found if found in range(1, 9) else _UPRIGHT


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    # By way of RGBA: Pillow warns of palettes with transparency, and the pixels are the same.
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")


def _fit(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    """Resizes the short side to `size` and cuts the centre out, both in one resampling."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), PIL.Image.Resampling.BICUBIC, box=box)


def _reason(error: Exception, encoded: bytes) -> str:
    """Returns why Pillow failed, without the address of a Python object."""
    if not encoded:
        return "it is empty"
    if isinstance(error, PIL.UnidentifiedImageError):
        return f"it is no picture that Pillow can read, and starts with {encoded[:8]!r}"
    return str(error)
