"""How well a score tells suspicious images from clean ones, and how far a number may be trusted.

Scores are as `rainjax.detectors` gives them: the higher, the more suspicious. All in NumPy, on
the host, in float64.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from rainjax._checks import as_plain

Scores = Float[np.ndarray, "n"]
Others = Float[np.ndarray, "m"]  # of other images, so of another number


def auroc(clean_scores: Any, suspicious_scores: Any) -> float:
    """Returns the area under the ROC curve, in 0..1: 0.5 says that the score tells nothing.

    It is the chance that a suspicious image, taken at random, scores above a clean one; a tie
    counts half (Mann and Whitney, 1947).

    >>> from rainjax.metrics import auroc
    >>> auroc([0, 1], [1, 2])
    0.875

    Raises:
        ValueError: scores are not finite numbers, one an image, of at least one image.
    """
    clean, suspicious = _both(clean_scores, suspicious_scores)
    return _auroc(clean, suspicious)


def average_precision(clean_scores: Any, suspicious_scores: Any) -> float:
    """Returns the mean precision over the suspicious images, as the threshold falls past each.

    Precision is the share of suspicious images among those at or above a threshold; images with
    one score are met together. Unlike `auroc` it depends on how many clean images there are: a
    score that tells nothing has the share of suspicious images.

    Raises:
        ValueError: as `auroc`.
    """
    clean, suspicious = _both(clean_scores, suspicious_scores)
    return _average_precision(clean, suspicious)


def roc_curve(clean_scores: Any, suspicious_scores: Any) -> tuple[Scores, Scores]:
    """Returns false positive rates and detection rates, from (0, 0) to (1, 1).

    One point for each threshold that makes a difference: an image is detected where its score is
    above the threshold, so images with one score are detected together. `auroc` is the area under
    straight lines between the points.

    Raises:
        ValueError: as `auroc`.
    """
    clean, suspicious = _both(clean_scores, suspicious_scores)
    thresholds = np.unique(np.concatenate([clean, suspicious]))[::-1]
    above = lambda scores: 1 - np.searchsorted(np.sort(scores), thresholds, "right") / len(scores)
    return np.append(above(clean), 1.0), np.append(above(suspicious), 1.0)


def threshold_at(clean_scores: Any, false_positive_rate: float | int) -> float:
    """Returns the least of the clean scores that at most this share of them is above.

    Of n scores that is number floor(n * rate) + 1 from the top. So with fewer than 1 / rate
    scores it is the largest, and none of them is above it. This describes the scores given;
    `rainjax.detectors.calibrate` takes one that holds for new images.

    Raises:
        ValueError: as `auroc`, or the rate does not lie in [0, 1).
    """
    return _threshold_at(_scores("clean_scores", clean_scores), _rate(false_positive_rate))


def detection_rate(
    clean_scores: Any, suspicious_scores: Any, false_positive_rate: float | int
) -> float:
    """Returns the share of suspicious images strictly above `threshold_at` of the clean ones.

    A suspicious image level with the threshold is not detected, as a clean one is not.

    Raises:
        ValueError: as `threshold_at`.
    """
    clean, suspicious = _both(clean_scores, suspicious_scores)
    return _detection_rate(clean, suspicious, _rate(false_positive_rate))


@dataclasses.dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The risk among the k least suspicious images, for k = 1..n, over their share `coverage`.

    `area` is the mean of `risk` (AURC: Geifman, Uziel and El-Yaniv, 2019), and `excess` how far
    that is above the area of the best order of the same images, in which the wrong come last.
    """

    coverage: Scores
    risk: Scores
    area: float
    excess: float


def risk_coverage(scores: Any, wrong: Any) -> RiskCoverage:
    """Returns the share of errors among the images that are answered, as ever more of them are.

    `wrong` says of each image whether it is classified wrong, or under which share of draws. Of
    images with one score, which are in no order, the risk is the mean over all their orders.

    Raises:
        ValueError: `scores` are not finite, `wrong` does not lie in [0, 1], or their lengths
            differ.
    """
    scores, wrong = _scores("scores", scores), _scores("wrong", wrong)
    if len(scores) != len(wrong):
        raise ValueError(f"There are {len(scores)} scores and {len(wrong)} in wrong: one each.")
    if wrong.min() < 0 or wrong.max() > 1:
        raise ValueError(f"wrong reaches from {wrong.min():g} to {wrong.max():g}: give 0 or 1.")
    _, group = np.unique(scores, return_inverse=True)
    mean = np.bincount(group, wrong) / np.bincount(group)
    answered = np.arange(1, len(scores) + 1)
    risk = np.cumsum(mean[np.sort(group)]) / answered
    best = np.cumsum(np.sort(wrong)) / answered
    area = float(risk.mean())
    return RiskCoverage(answered / len(scores), risk, area, max(area - float(best.mean()), 0.0))


def bootstrap_interval(
    statistic: Callable[..., Any],
    *samples: Any,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    paired: bool = True,
) -> tuple[Any, Any]:
    """Returns the ends of the percentile bootstrap interval of a statistic, for choosing images.

    Images are drawn with replacement, as many as there are, and `statistic(*samples)` is taken of
    every such choice. Samples that are `paired` are of the same images in the same order, and an
    image is drawn with all that belongs to it: what varied when the images were chosen is the
    image, and its clean and its attacked score came and went together. They are correlated (a
    busy photograph scores high before and after an attack), and drawing them apart would count a
    variation that choosing other images does not have. Unpaired samples are of different images
    and are drawn each by itself.

    The statistic may be an array, of which each entry gets an interval. It may be NaN where a
    choice does not define it; such choices are left out. Where hardly any image decides it, at
    the ends of its range or as a threshold in the far tail, the interval is too short: of an
    AUROC of 1 it has no width.

    Args:
        statistic: A function of as many arrays as there are samples.
        *samples: Arrays with an axis of images first.
        num_resamples: How many choices of images are drawn.
        level: The share of choices between the ends.
        seed: The root of the draws.
        paired: Whether the samples are of the same images.

    Raises:
        ValueError: an option is out of range, there are no images, paired samples differ in
            length, or no choice defines the statistic.
    """
    arrays = [np.asarray(sample) for sample in samples]
    if not arrays or any(not array.ndim or not len(array) for array in arrays):
        raise ValueError("bootstrap_interval needs samples of at least one image each.")
    lengths = [len(array) for array in arrays]
    if paired and len(set(lengths)) > 1:
        raise ValueError(
            f"Paired samples have one entry for each image, but their lengths are {lengths}: "
            "give paired=False where they are of different images."
        )
    num, level = as_plain("num_resamples", num_resamples, int), as_plain("level", level)
    if num < 1:
        raise ValueError(f"num_resamples={num} must be at least 1.")
    if not 0 < level < 1:
        raise ValueError(f"{level=} does not lie between 0 and 1; 95 % is 0.95.")
    rng, found = np.random.default_rng(seed), []
    for _ in range(num):
        if paired:
            rows = [rng.integers(lengths[0], size=lengths[0])] * len(arrays)
        else:
            rows = [rng.integers(length, size=length) for length in lengths]
        found.append(statistic(*(array[i] for array, i in zip(arrays, rows, strict=True))))
    values = np.asarray(found, float)
    if np.isnan(values).all(0).any():
        raise ValueError(
            f"None of {num} choices of {lengths[0]} images defines the statistic: give more of "
            "them."
        )
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail], axis=0)
    return (low, high) if values.ndim > 1 else (float(low), float(high))


def _auroc(clean: Scores, suspicious: Others) -> float:
    ordered = np.sort(clean)
    below = np.searchsorted(ordered, suspicious, "left").sum()
    not_above = np.searchsorted(ordered, suspicious, "right").sum()
    return float(below + not_above) / (2 * len(clean) * len(suspicious))


def _average_precision(clean: Scores, suspicious: Others) -> float:
    thresholds, num = np.unique(suspicious, return_counts=True)
    detected = np.cumsum(num[::-1])[::-1]
    false = len(clean) - np.searchsorted(np.sort(clean), thresholds, "left")
    return float((num * detected / (detected + false)).sum() / len(suspicious))


def _threshold_at(clean: Scores, rate: float) -> float:
    # What rounding takes off 0.29 * 100 must not lower the count.
    above = math.floor(len(clean) * rate + 1e-9)
    return float(np.partition(clean, len(clean) - 1 - above)[len(clean) - 1 - above])


def _detection_rate(clean: Scores, suspicious: Others, rate: float) -> float:
    return float((suspicious > _threshold_at(clean, rate)).mean())


def _both(clean: Any, suspicious: Any) -> tuple[Scores, Others]:
    return _scores("clean_scores", clean), _scores("suspicious_scores", suspicious)


def _scores(name: str, given: Any) -> Scores:
    scores = np.asarray(given)
    if scores.ndim != 1 or not len(scores) or scores.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must be numbers, one for each image and at least one, not {scores.dtype} of "
            f"shape {scores.shape}."
        )
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        first = int((~np.isfinite(scores)).argmax())
        raise ValueError(f"{name}[{first}] is {scores[first]}: every score must be finite.")
    return scores


def _rate(given: Any) -> float:
    rate = as_plain("false_positive_rate", given)
    if not 0 <= rate < 1:
        raise ValueError(f"false_positive_rate={rate} must lie in [0, 1); 5 % is 0.05.")
    return float(rate)
