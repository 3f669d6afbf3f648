"""The distortions by name: what each does, and how strong it is at five severities and two scales.

Names, and constants unless said otherwise, are those of the common-corruptions benchmark
(Hendrycks and Dietterich, 2019), in its authors' code (hendrycks/robustness): ImageNet-C's for
photographs of 224 pixels, CIFAR-10-C's for images of 32. The constants of blur are in pixels of
such images, so which scale suits an image is for the caller to say.
"""

import dataclasses
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from rainjax._arrays import check_key, is_traced
from rainjax._checks import as_plain, check_image, check_option
from rainjax._values import Value
from rainjax.transforms.distortions import blur, colour, noise
from rainjax.transforms.distortions.strength import Severity, Strength
from rainjax.transforms.jpeg import jpeg
from rainjax.typing import Image, PRNGKey

Scale = Literal["imagenet_c", "cifar10_c"]
DistortionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "motion_blur",
    "defocus_blur",
    "jpeg_compression",
    "pixelate",
    "contrast",
    "brightness",
    "saturate",
    "colour_shift",
    "over_exposure",
    "under_exposure",
]
SEVERITIES = (1, 2, 3, 4, 5)
_ROUNDING = 1e-5  # what an image's own arithmetic may have added to a border of its range


@dataclasses.dataclass(frozen=True)
class Definition:
    """What is known of a distortion.

    `imagenet_c` and `cifar10_c` are the constants of severities 1 to 5. `gradient` is the
    derivative by the image: "exact" (zero where a value is clipped), or "zero" everywhere.
    `channels` are the numbers of channels it takes, or () for any. Families are this library's:
    what looks alike, so that a detector can be tried on one that it has not met.
    """

    transform: Callable[[PRNGKey, Image, Strength], Image]
    family: Literal["noise", "blur", "compression", "colour", "exposure"]
    imagenet_c: tuple[Any, ...]
    cifar10_c: tuple[Any, ...]
    is_random: bool = False
    gradient: Literal["exact", "zero"] = "exact"
    channels: tuple[int, ...] = ()
    in_benchmark: bool = True


def _jpeg_compression(key: PRNGKey, image: Image, strength: Strength) -> Image:
    """Returns `transforms.jpeg` at Pillow's defaults; the constant is the quality."""
    del key
    return jpeg(image, strength().astype(jnp.float32))


DISTORTIONS: MappingProxyType[str, Definition] = MappingProxyType(
    {
        "gaussian_noise": Definition(
            noise.gaussian_noise,
            "noise",
            imagenet_c=(0.08, 0.12, 0.18, 0.26, 0.38),
            cifar10_c=(0.04, 0.06, 0.08, 0.09, 0.10),
            is_random=True,
        ),
        "shot_noise": Definition(
            noise.shot_noise,
            "noise",
            imagenet_c=(60, 25, 12, 5, 3),
            cifar10_c=(500, 250, 100, 75, 50),
            is_random=True,
            gradient="zero",
        ),
        "impulse_noise": Definition(
            noise.impulse_noise,
            "noise",
            imagenet_c=(0.03, 0.06, 0.09, 0.17, 0.27),
            cifar10_c=(0.01, 0.02, 0.03, 0.05, 0.07),
            is_random=True,
        ),
        "gaussian_blur": Definition(
            blur.gaussian_blur,
            "blur",
            imagenet_c=(1, 2, 3, 4, 6),
            cifar10_c=(0.4, 0.6, 0.7, 0.8, 1),
        ),
        "motion_blur": Definition(
            blur.motion_blur,
            "blur",
            imagenet_c=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
            cifar10_c=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
            is_random=True,
        ),
        "defocus_blur": Definition(
            blur.defocus_blur,
            "blur",
            imagenet_c=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
            cifar10_c=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ),
        "jpeg_compression": Definition(
            _jpeg_compression,
            "compression",
            imagenet_c=(25, 18, 15, 10, 7),
            cifar10_c=(80, 65, 58, 50, 40),
            gradient="zero",
            channels=(1, 3),
        ),
        "pixelate": Definition(
            blur.pixelate,
            "compression",
            imagenet_c=(0.6, 0.5, 0.4, 0.3, 0.25),
            cifar10_c=(0.95, 0.9, 0.85, 0.75, 0.65),
        ),
        "contrast": Definition(
            colour.contrast,
            "exposure",
            imagenet_c=(0.4, 0.3, 0.2, 0.1, 0.05),
            cifar10_c=(0.75, 0.5, 0.4, 0.3, 0.15),
        ),
        "brightness": Definition(
            colour.brightness,
            "exposure",
            imagenet_c=(0.1, 0.2, 0.3, 0.4, 0.5),
            cifar10_c=(0.05, 0.1, 0.15, 0.2, 0.3),
        ),
        "saturate": Definition(
            colour.saturate,
            "colour",
            imagenet_c=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
            cifar10_c=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
            channels=(3,),
        ),
        # The benchmark has none of these three: their constants are this library's. Those for 32
        # pixels are half as large, about as its authors halved brightness.
        "colour_shift": Definition(
            colour.colour_shift,
            "colour",
            imagenet_c=(0.05, 0.1, 0.15, 0.2, 0.25),
            cifar10_c=(0.025, 0.05, 0.075, 0.1, 0.125),
            is_random=True,
            channels=(3,),
            in_benchmark=False,
        ),
        "over_exposure": Definition(
            colour.exposure,
            "exposure",
            imagenet_c=(0.5, 1, 1.5, 2, 2.5),
            cifar10_c=(0.25, 0.5, 0.75, 1, 1.25),
            in_benchmark=False,
        ),
        "under_exposure": Definition(
            colour.exposure,
            "exposure",
            imagenet_c=(-1, -2, -3, -4, -5),
            cifar10_c=(-0.5, -1, -1.5, -2, -2.5),
            in_benchmark=False,
        ),
    }
)


def distort(
    key: PRNGKey, image: Image, *, name: DistortionName, severity: Severity, scale: Scale
) -> Image:
    """Returns an image in [0, 1] distorted by `name`, at a severity of 1 to 5.

    The same key draws the same noise at every severity, the same direction or hue; a distortion
    that is not random ignores it. `DISTORTIONS[name]` says which are, what their gradients are,
    and how many channels they take. `severity` may be traced: then one outside counts as the
    nearest.

    Unlike the benchmark's files, results are not rounded to 8 bits, nor saved as JPEG at quality
    85, as all of ImageNet-C's were. Their motion blur is ImageMagick's, which rounds to 16 bits.

    >>> import jax
    >>> from rainjax.transforms import distort
    >>> image = jax.numpy.full((32, 32, 3), 0.5)
    >>> noisy = distort(
    ...     jax.random.key(0), image, name="gaussian_noise", severity=3, scale="cifar10_c"
    ... )
    >>> noisy.shape
    (32, 32, 3)

    Raises:
        ValueError: there is no such distortion, severity or scale, the key or the image is none,
            its values leave [0, 1] (where they are not traced), or it has too few channels.
    """
    check_key(key, "distort")
    check_image(image, "distort")
    check_option("name", name, DistortionName)
    check_option("scale", scale, Scale)
    definition = DISTORTIONS[name]
    _check_channels(name, definition.channels, image.shape)
    if not is_traced(image):
        _check_range(np.asarray(image, np.float32))
    constants = definition.imagenet_c if scale == "imagenet_c" else definition.cifar10_c
    strength = Strength(constants, _severity(severity))
    return definition.transform(key, jnp.asarray(image), strength).astype(image.dtype)


@dataclasses.dataclass(frozen=True)
class Distortion(Value):
    """A distortion at one severity and scale: `distort` as a value, which can be listed by name.

    >>> from rainjax.transforms import DISTORTIONS, SEVERITIES, Distortion
    >>> mix = [Distortion(name, s, "cifar10_c") for name in DISTORTIONS for s in SEVERITIES]
    >>> len(mix)
    70

    Raises:
        ValueError: there is no such distortion, severity or scale.
    """

    name: DistortionName
    severity: int
    scale: Scale

    def __post_init__(self):
        super().__post_init__()
        _severity(self.severity)

    @property
    def definition(self) -> Definition:
        """What is known of it: whether it is random, its gradient, its constants."""
        return DISTORTIONS[self.name]

    def apply(self, key: PRNGKey, image: Image) -> Image:
        """Returns the distorted image, as `distort` does."""
        return distort(key, image, name=self.name, severity=self.severity, scale=self.scale)


def _severity(given: Any) -> Severity:
    """Returns a severity as Python's number, or as it is where it is traced."""
    if is_traced(given) and given.shape == () and jnp.issubdtype(given.dtype, jnp.integer):
        return given
    severity = as_plain("severity", given, int)
    if severity not in SEVERITIES:
        raise ValueError(
            f"{severity=} must be 1, 2, 3, 4 or 5, from the mildest to the strongest."
        )
    return severity


def _check_channels(name: str, wanted: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if wanted and shape[-1] not in wanted:
        count = "3 channels (RGB)" if wanted == (3,) else "1 channel or 3 (RGB)"
        raise ValueError(
            f"{name} takes images of {count}, not of shape {shape}: a grey one becomes RGB by "
            "jnp.repeat(image, 3, axis=-1)."
        )


def _check_range(values: np.ndarray) -> None:
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:  # NaN compares false
        return
    mend = "divide it by 255" if low >= 0 and 2 < high <= 255 else "clip it"
    if np.isnan(low):
        mend = "replace its NaN"
    raise ValueError(
        f"distort takes an image in [0, 1], not one in [{low:.7g}, {high:.7g}]: {mend}."
    )
