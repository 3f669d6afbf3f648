"""Pictures as services take them: whole grey levels, in a file that loses none."""

import dataclasses
import functools
import hashlib
import io

import numpy as np
import PIL.Image
from jaxtyping import Float, UInt8


class Picture:
    """An image `h w c` of whole grey levels, one channel or three; the same if its pixels are.

    Raises:
        ValueError: it has another shape.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "h w c"]):
        if pixels.shape[-1] not in (1, 3):
            raise ValueError(
                f"A service takes pictures of one channel or three, not {pixels.shape[-1]}: "
                "choose the channels to show it."
            )
        self.pixels = np.ascontiguousarray(pixels)

    @classmethod
    def of(cls, image: Float[np.ndarray, "h w c"]) -> "Picture":
        """Returns an image in [0, 1] as the nearest whole grey levels, of 255.

        A file holds no more: what is left of a perturbation is what is sent.

        Raises:
            ValueError: a value is not finite or lies outside [0, 1].
        """
        if not (np.isfinite(image).all() and image.min() >= -1e-5 and image.max() <= 1 + 1e-5):
            raise ValueError("An image that is sent to a service must lie in [0, 1].")
        return cls(np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8))

    @functools.cached_property
    def digest(self) -> str:
        """What names the picture: a digest of its shape and its pixels.

        Not of a file's bytes, which depend on who compressed it.
        """
        shape = "x".join(map(str, self.pixels.shape))
        return hashlib.sha256(f"{shape} ".encode() + self.pixels.tobytes()).hexdigest()

    @functools.cached_property
    def png(self) -> bytes:
        """The picture as a PNG file, without loss."""
        pixels = self.pixels[:, :, 0] if self.pixels.shape[-1] == 1 else self.pixels
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class PictureLimits:
    """What pictures a service takes: bytes of the file, pixels of a side and of the whole."""

    max_bytes: int
    min_side: int = 1
    max_side: int | None = None
    max_pixels: int | None = None

    def check(self, picture: Picture, title: str) -> None:
        """Refuses a picture that the service would refuse, before it is sent.

        Raises:
            ValueError: with its size, and the limit.
        """
        height, width, _ = picture.pixels.shape
        size, mend = f"{title} takes pictures of", f"and one has {height} x {width} pixels"
        if min(height, width) < self.min_side:
            raise ValueError(f"{size} {self.min_side} pixels a side or more, {mend}: enlarge it.")
        if self.max_side is not None and max(height, width) > self.max_side:
            raise ValueError(f"{size} {self.max_side} pixels a side at most, {mend}: shrink it.")
        if self.max_pixels is not None and height * width > self.max_pixels:
            raise ValueError(f"{size} {self.max_pixels:,} pixels at most, {mend}: shrink it.")
        if len(picture.png) > self.max_bytes:
            raise ValueError(
                f"{size} {self.max_bytes:,} bytes at most, {mend} in a PNG file of "
                f"{len(picture.png):,} bytes: shrink it."
            )
