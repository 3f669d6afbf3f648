"""Residuals of attacks, adversarial minus original image: their moments, symmetry and spectrum.

NCIS (Cha et al., 2024, arXiv 2106.11644, abstract) says that they have almost zero mean and a
symmetric distribution, which is why smoothing should remove them. The abstract names neither
statistics nor tests; those here are our reading.

Values inside one image depend on each other: an attack moves whole regions one way. So the unit
of every test is the image, one number or one curve of each, and never the single value. Nothing
here is differentiated; all is computed by NumPy and SciPy in float64.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # whose statistics are loaded when they are first asked for
from jaxtyping import Bool, Float, Int

from rainjax._arrays import as_array, check_key
from rainjax._checks import as_plain
from rainjax.metrics import radial_spectrum
from rainjax.typing import PRNGKey

# Finer differences than a thousandth of a grey level are the rounding of float32.
_STEP = 255_000
_MOST_THRESHOLDS = 1024
_CHUNK = 1000  # flips judged at once, which bounds the memory
_ROUNDING = 1e-5  # what the arithmetic of an attack may add to a border

Originals = Float[np.ndarray | jax.Array, "n h w c"]
Residuals = Float[np.ndarray, "n h w c"]
Inside = Bool[np.ndarray, "n h w c"]


def residuals(originals: Originals, attacked: Originals) -> Residuals:
    """Returns adversarial minus original images, to the nearest thousandth of a grey level.

    In units of the image's [0, 1] range. An L-inf attack ends at plus and minus its radius up to
    float32's rounding, which would tell the two apart if it were kept.

    Raises:
        ValueError: the arrays are not two batches `n h w c` of one shape, of finite floats in
            [0, 1].
    """
    first, second = _images("originals", originals), _images("attacked", attacked)
    if first.shape != second.shape:
        raise ValueError(f"{first.shape=} and {second.shape=} must be equal: give them in order.")
    return np.round((second - first) * _STEP) / _STEP


def far_from_borders(originals: Originals, margin: float | Float[np.ndarray, "n"]) -> Inside:
    """Returns which values lie further than `margin` from 0 and from 1.

    No change of at most `margin` was cut off there. `margin` is an attack's radius in L-inf, or
    for each image the largest change that it met. At the borders clipping leaves one sign alone.

    Raises:
        ValueError: as `residuals`, or `margin` is no number from 0 on, or one for each image.
    """
    images = _images("originals", originals)
    given = np.asarray(as_array("margin", margin), np.float64)
    if given.shape not in ((), images.shape[:1]) or not (given >= 0).all():
        raise ValueError(
            f"margin={margin} must be a number from 0 on, or one for each of {len(images)} images."
        )
    each = given[:, None, None, None] if given.ndim else given
    # Pixels are multiples of 1/255, and so are most radii: equal must not depend on rounding.
    return (images > each + _ROUNDING) & (images < 1 - each - _ROUNDING)


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """The moments of each image's residual, arrays of one number an image.

    `count` is how many values there are; `mean` and `standard_deviation` are in units of [0, 1].
    `skewness` and `excess_kurtosis` are of the distribution itself, without a correction for the
    sample's size, and zero for a normal one; NaN where all values are equal.
    """

    count: Int[np.ndarray, "n"]
    mean: Float[np.ndarray, "n"]
    standard_deviation: Float[np.ndarray, "n"]
    skewness: Float[np.ndarray, "n"]
    excess_kurtosis: Float[np.ndarray, "n"]


def image_moments(residuals: Residuals, inside: Inside | None = None) -> Moments:
    """Returns the moments of each image's residual, of the values `inside` alone where given.

    Raises:
        ValueError: an image has no value inside; says which. Leave it out.
    """
    rows = [_moments(values) for values in _values(residuals, inside)]
    count, *others = (np.array(column) for column in zip(*rows, strict=True))
    return Moments(count, *others)


def pooled_moments(residuals: Residuals, inside: Inside | None = None) -> Moments:
    """Returns the moments of all images' values together, as arrays of one number.

    They describe; no test can be made of them, because values of one image are not independent.

    Raises:
        ValueError: as `image_moments`.
    """
    row = _moments(np.concatenate(_values(residuals, inside)))
    count, *others = (np.array([number]) for number in row)
    return Moments(count, *others)


@dataclasses.dataclass(frozen=True, eq=False)
class Asymmetry:
    """How much more of each residual lies above `t` than below `-t`, for every threshold `t`.

    `curves` are these differences of shares, one curve an image; another sign of a residual is
    another sign of its curve. `thresholds` begin at 0, in units of [0, 1]; `count` is of each
    image's values. The largest height of a curve is the two-sample Kolmogorov-Smirnov distance
    between a residual `r` and `-r`.
    """

    thresholds: Float[np.ndarray, "t"]
    curves: Float[np.ndarray, "n t"]
    count: Int[np.ndarray, "n"]

    @property
    def distances(self) -> Float[np.ndarray, "n"]:
        """The distance between `r` and `-r` of each image."""
        return np.abs(self.curves).max(1)

    @property
    def distance(self) -> float:
        """The distance between `r` and `-r` of all images' values together."""
        return float(np.abs(self._weighted.sum(0)).max())

    @functools.cached_property
    def _weighted(self) -> Float[np.ndarray, "n t"]:
        return self.curves * (self.count / self.count.sum())[:, None]


def asymmetry(
    residuals: Residuals, inside: Inside | None = None, *, most_thresholds: int = _MOST_THRESHOLDS
) -> Asymmetry:
    """Returns the curves that say how far each residual is from symmetry about zero.

    Thresholds are 0 and all sizes that there are; where these are more than `most_thresholds`,
    as many steps of equal shares of the values are taken, and the distance of all images together
    is at most `1 / most_thresholds` below the exact one.

    Raises:
        ValueError: as `image_moments`, or `most_thresholds` is below 2.
    """
    most = as_plain("most_thresholds", most_thresholds, int)
    if most < 2:
        raise ValueError(f"most_thresholds={most} must be at least 2.")
    steps = [np.rint(values * _STEP).astype(np.int64) for values in _values(residuals, inside)]
    length = max(int(np.abs(each).max()) for each in steps) + 1
    above = [np.bincount(each[each > 0], minlength=length) for each in steps]
    below = [np.bincount(-each[each < 0], minlength=length) for each in steps]
    sizes = np.sum(above, axis=0) + np.sum(below, axis=0)
    chosen = _thresholds(sizes, most)
    count = np.array([len(each) for each in steps])
    # More than t above: what lies above 0, less what lies between.
    beyond = lambda counts: counts.sum() - counts.cumsum()[chosen]
    curves = [(beyond(up) - beyond(down)) for up, down in zip(above, below, strict=True)]
    return Asymmetry(chosen / _STEP, np.array(curves) / count[:, None], count)


@dataclasses.dataclass(frozen=True)
class ZeroMeanTest:
    """Whether numbers, one an image, have a mean of zero, and how large that mean is.

    `low` and `high` are the ends of the mean's 95 % interval, Student's; `effect_size` is
    Cohen's d, the mean in standard deviations among images. `t` and `t_p` are of Student's
    one-sample t test, `signed_rank` and `signed_rank_p` of Wilcoxon's, both two-sided.
    """

    num_images: int
    mean: float
    low: float
    high: float
    standard_deviation: float
    effect_size: float
    t: float
    t_p: float
    signed_rank: float
    signed_rank_p: float


def zero_mean_test(values: Float[np.ndarray, "n"]) -> ZeroMeanTest:
    """Tests whether one number an image, a mean or a skewness, is zero on average.

    The t test assumes that images are independent and that the mean of their numbers is normal:
    nearly so for some dozens of images without outliers. Wilcoxon's signed rank test assumes
    instead that the numbers are symmetric about their middle, and looks at the median; numbers
    that are exactly zero are left out of it. Neither assumes anything about the values inside an
    image. With many images both find a mean that is far too small to matter: read the interval.

    Raises:
        ValueError: there are fewer than 2 numbers, one is not finite, or all are equal.
    """
    numbers = np.asarray(as_array("values", values), np.float64)
    if numbers.ndim != 1 or len(numbers) < 2 or not np.isfinite(numbers).all():
        raise ValueError(
            f"zero_mean_test takes at least 2 finite numbers, one an image, not {values}: leave "
            "out images whose residual is constant."
        )
    spread = float(numbers.std(ddof=1))
    if spread == 0:
        raise ValueError(f"All {len(numbers)} values are {numbers[0]}: there is nothing to test.")
    student = scipy.stats.ttest_1samp(numbers, 0.0)
    low, high = student.confidence_interval(0.95)
    ranks = scipy.stats.wilcoxon(numbers[numbers != 0])
    mean = float(numbers.mean())
    return ZeroMeanTest(
        len(numbers), mean, float(low), float(high), spread, mean / spread,
        float(student.statistic), float(student.pvalue),
        float(ranks.statistic), float(ranks.pvalue),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SignFlipTest:
    """Whether residuals are as likely as their negatives, and how far from symmetry they are.

    `distance` is the Kolmogorov-Smirnov distance between all values and their negatives, the size
    of the effect: 0.02 says that at some size 2 % of the values more are on one side. `by_chance`
    is the distance that 95 % of the flips stay within.
    """

    num_images: int
    num_flips: int
    distance: float
    by_chance: float
    p: float


def sign_flip_test(key: PRNGKey, found: Asymmetry, *, num_flips: int = 9999) -> SignFlipTest:
    """Tests symmetry about zero by random signs, each for a whole image's residual.

    If the residual of an image, all of its values together, is as likely as its negative, any
    signs could have been observed as well as the true ones; `p` is the share of distances, the
    observed one included, that are not below it. Exact for any number of images, if these are
    independent; nothing is assumed about the values inside one. It is a test of the images
    together: residuals that lean one way in some images and as far the other way in others pass,
    for which see `Asymmetry.distances`.

    Raises:
        ValueError: `num_flips` is below 1.
    """
    check_key(key, "sign_flip_test")
    num_flips = as_plain("num_flips", num_flips, int)
    if num_flips < 1:
        raise ValueError(f"{num_flips=} must be at least 1.")
    weighted = found._weighted
    flipped: list[np.ndarray] = []
    for start in range(0, num_flips, _CHUNK):
        shape = min(_CHUNK, num_flips - start), len(weighted)
        signs = jax.random.rademacher(jax.random.fold_in(key, start), shape, jnp.int32)
        flipped.append(np.abs(np.asarray(signs, np.float64) @ weighted).max(1))
    distances = np.concatenate(flipped)
    # Equal ones differ by rounding, for sums are taken in another order.
    reached = int((distances >= found.distance - 1e-12).sum())
    return SignFlipTest(
        num_images=len(weighted),
        num_flips=num_flips,
        distance=found.distance,
        by_chance=float(np.quantile(distances, 0.95)),
        p=(1 + reached) / (1 + num_flips),
    )


def mean_spectrum(images: Originals) -> Float[np.ndarray, "bins"]:
    """Returns the mean of `metrics.radial_spectrum` over images or residuals.

    Raises:
        ValueError: as `radial_spectrum`.
    """
    rings = jax.vmap(radial_spectrum)(jnp.asarray(images, jnp.float32))
    return np.asarray(rings, np.float64).mean(0)


def low_frequency_share(images: Originals, *, limit: float = 0.125) -> Float[np.ndarray, "n"]:
    """Returns the share of each image's variance at frequencies of up to `limit` cycles a pixel.

    Each channel's mean is subtracted first; NaN where nothing else is left. That of white noise
    is the share of the frequencies, nearly `pi * limit**2`; smoothing leaves the low ones.

    Raises:
        ValueError: `limit` does not lie in (0, 0.5].
    """
    limit = as_plain("limit", limit)
    if not 0 < limit <= 0.5:
        raise ValueError(f"{limit=} must lie in (0, 0.5]: it is in cycles a pixel.")
    height, width = images.shape[1:3]
    distance = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    shares = []
    for image in np.asarray(images, np.float64):
        power = np.square(np.abs(np.fft.fft2(image, axes=(0, 1)))).sum(-1)
        power[0, 0] = 0.0
        total = power.sum()
        shares.append(power[distance <= limit].sum() / total if total > 0 else np.nan)
    return np.array(shares)


def _images(name: str, given: Originals) -> Float[np.ndarray, "n h w c"]:
    """Returns a batch of images in float64, or refuses it."""
    array = as_array(name, given)
    if array.ndim != 4 or not array.size or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be a batch `n h w c` of floats in [0, 1], not {array.dtype} of shape "
            f"{array.shape}: divide integers by 255, and give image[None] for a single image."
        )
    images = np.asarray(array, np.float64)
    low, high = images.min(), images.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # so that NaN is refused
        raise ValueError(
            f"{name} must lie in [0, 1], and its values lie in [{low:.6g}, {high:.6g}]: divide "
            "grey levels by 255, and leave NaN out."
        )
    return images


def _values(residuals: Residuals, inside: Inside | None) -> list[Float[np.ndarray, "m"]]:
    """Returns the values of each image, of those inside alone where that is given."""
    if inside is None:
        return list(np.asarray(residuals, np.float64).reshape(len(residuals), -1))
    if inside.shape != residuals.shape:
        raise ValueError(f"{inside.shape=} and {residuals.shape=} must be equal.")
    found = [each[where] for each, where in zip(residuals, inside, strict=True)]
    empty = [place for place, values in enumerate(found) if not len(values)]
    if empty:
        raise ValueError(f"Image {empty[0]} has no value inside: leave it out.")
    return found


def _moments(values: Float[np.ndarray, "m"]) -> tuple[int, float, float, float, float]:
    mean = float(values.mean())
    apart = values - mean
    variance = float(np.square(apart).mean())
    if np.ptp(values) == 0:
        return len(values), mean, 0.0, np.nan, np.nan
    skewness = float((apart**3).mean()) / variance**1.5
    kurtosis = float((apart**4).mean()) / variance**2 - 3
    return len(values), mean, variance**0.5, skewness, kurtosis


def _thresholds(sizes: Int[np.ndarray, "k"], most: int) -> Int[np.ndarray, "t"]:
    """Returns 0 and the sizes that there are or, of many, the ends of equal shares of them."""
    there = np.flatnonzero(sizes)
    if len(there) >= most:
        total = sizes.cumsum()
        wanted = total[-1] * np.arange(1, most) / most
        there = np.searchsorted(total, wanted)
        # A size that many values have is told apart from all below it.
        there = np.concatenate([np.maximum(there - 1, 0), there])
    return np.unique(np.concatenate([[0], there]))
