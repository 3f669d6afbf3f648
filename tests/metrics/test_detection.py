"""Measures of detection against loops over pairs and orders, and against SciPy."""

import itertools
import time

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from rainjax import metrics
from tests.tiny import unchecked

RNG = np.random.default_rng(0)
# One set without ties, one where most scores are tied, one with a single image on a side.
PAIRS = {
    "no ties": (RNG.normal(size=41), RNG.normal(0.8, 1.5, size=29)),
    "ties": (RNG.integers(0, 6, size=41), RNG.integers(1, 8, size=29)),
    "one image": (np.array([1.0]), RNG.integers(0, 3, size=5)),
    "all level": (np.zeros(4), np.zeros(3)),
}
each = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


@each
def test_auroc_counts_pairs(pair):
    clean, suspicious = pair
    wins = [(s > c) + (s == c) / 2 for c in clean for s in suspicious]
    assert metrics.auroc(clean, suspicious) == pytest.approx(np.mean(wins), abs=1e-12)
    statistic = scipy.stats.mannwhitneyu(suspicious, clean, method="asymptotic").statistic
    expected = statistic / (len(clean) * len(suspicious))
    assert metrics.auroc(clean, suspicious) == pytest.approx(expected, abs=1e-12)


@each
def test_roc_curve_is_what_each_threshold_does_and_its_area_the_auroc(pair):
    clean, suspicious = pair
    thresholds = [*sorted({*clean.tolist(), *suspicious.tolist()}, reverse=True), -np.inf]
    rates = [[sum(s > t for s in side) / len(side) for t in thresholds] for side in pair]
    false, detected = metrics.roc_curve(clean, suspicious)
    np.testing.assert_allclose([false, detected], rates, atol=1e-12)
    assert (false[0], detected[0], false[-1], detected[-1]) == (0, 0, 1, 1)
    area = scipy.integrate.trapezoid(detected, false)
    assert area == pytest.approx(metrics.auroc(clean, suspicious), abs=1e-12)


@each
def test_average_precision_is_the_mean_precision_at_each_suspicious_image(pair):
    clean, suspicious = pair
    precisions = []
    for threshold in suspicious:
        found = sum(s >= threshold for s in suspicious)
        precisions.append(found / (found + sum(c >= threshold for c in clean)))
    expected = np.mean(precisions)
    assert metrics.average_precision(clean, suspicious) == pytest.approx(expected, abs=1e-12)


@each
@pytest.mark.parametrize("rate", [0, 0.01, 0.05, 0.29, 0.5, 0.99])
def test_the_threshold_is_the_least_score_that_few_enough_are_above(pair, rate):
    clean, suspicious = pair
    fits = [t for t in clean if (clean > t).sum() <= rate * len(clean) + 1e-9]
    assert metrics.threshold_at(clean, rate) == min(fits)
    expected = np.mean([s > min(fits) for s in suspicious])
    assert metrics.detection_rate(clean, suspicious, rate) == expected


def test_a_rate_that_rounding_spoils_keeps_its_count():
    assert 0.29 * 100 < 29
    assert metrics.threshold_at(np.arange(100), 0.29) == 70


def orders_mean(scores, wrong):
    """The risks at every coverage, mean over all orders of images with one score."""
    groups = [np.asarray(wrong)[np.asarray(scores) == s] for s in sorted(set(scores))]
    found = []
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        order = np.concatenate(parts)
        found.append([order[: k + 1].mean() for k in range(len(order))])
    return np.mean(found, 0)


@pytest.mark.parametrize(
    ("scores", "wrong"),
    [
        ([3, 1, 2, 5, 4], [1, 0, 0, 1, 0]),
        ([1, 1, 1, 0, 2, 2], [1, 0, 0, 1, 1, 0]),
        ([0, 0, 0, 0], [0.5, 1, 0, 0.25]),
        ([1, 2], [0, 0]),
    ],
)
def test_risk_is_the_error_of_the_answered_mean_over_orders_of_ties(scores, wrong):
    found = metrics.risk_coverage(scores, wrong)
    expected = orders_mean(scores, wrong)
    np.testing.assert_allclose(found.risk, expected, atol=1e-12)
    np.testing.assert_allclose(found.coverage, np.arange(1, len(wrong) + 1) / len(wrong))
    assert found.area == pytest.approx(expected.mean())
    areas = [
        np.mean([np.mean(order[: k + 1]) for k in range(len(order))])
        for order in itertools.permutations(wrong)
    ]
    assert found.excess == pytest.approx(found.area - min(areas), abs=1e-12)


def test_the_best_order_has_no_excess_and_the_worst_the_most():
    wrong = np.array([0, 0, 1, 0, 1])
    assert metrics.risk_coverage(wrong, wrong).excess == 0
    worst = metrics.risk_coverage(-wrong, wrong)
    assert worst.excess > metrics.risk_coverage(np.zeros(5), wrong).excess > 0
    np.testing.assert_allclose(worst.risk, [1, 1, 2 / 3, 2 / 4, 2 / 5])


def test_the_bootstrap_agrees_with_scipys():
    clean, suspicious = RNG.normal(size=60), RNG.normal(1, 1, size=60)
    suspicious = suspicious + clean  # what is paired is correlated
    for paired in (True, False):
        ours = metrics.bootstrap_interval(
            metrics.auroc, clean, suspicious, num_resamples=4000, paired=paired
        )
        theirs = scipy.stats.bootstrap(
            (clean, suspicious),
            metrics.auroc,
            paired=paired,
            vectorized=False,
            n_resamples=4000,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert ours == pytest.approx((theirs.low, theirs.high), abs=0.012)
        mean = metrics.bootstrap_interval(
            lambda a, b: a.mean() - b.mean(), clean, suspicious, num_resamples=4000, paired=paired
        )
        spread = np.var(clean - suspicious) if paired else np.var(clean) + np.var(suspicious)
        width = 2 * 1.96 * np.sqrt(spread / 60)  # the central limit theorem's
        assert mean[1] - mean[0] == pytest.approx(width, rel=0.08)


def test_paired_scores_are_drawn_together():
    clean = RNG.normal(size=30)
    shift = lambda a, b: (b - a).mean()
    low, high = metrics.bootstrap_interval(shift, clean, clean + 0.5)
    assert (low, high) == pytest.approx((0.5, 0.5))
    low, high = metrics.bootstrap_interval(shift, clean, clean + 0.5, paired=False)
    assert high - low > 0.5


def test_intervals_of_several_statistics_leave_out_choices_that_define_none():
    scores, flags = RNG.normal(size=8), np.array([1, 0, 0, 0, 0, 0, 0, 0])

    def statistics(scores, flags):
        of_flagged = scores[flags == 1].mean() if flags.any() else np.nan
        return np.array([scores.mean(), of_flagged])

    low, high = metrics.bootstrap_interval(statistics, scores, flags)
    assert low.shape == high.shape == (2,)
    assert low[0] < scores.mean() < high[0]
    assert low[1] == pytest.approx(scores[0]) == high[1]
    # Another seed is another choice; the same seed is the same.
    again = metrics.bootstrap_interval(statistics, scores, flags)
    other = metrics.bootstrap_interval(statistics, scores, flags, seed=1)
    np.testing.assert_array_equal(low, again[0])
    assert low[0] != other[0][0]


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Scores of two normal distributions, whose AUROC is known in closed form."""
    truth, hits = scipy.stats.norm.cdf(1 / np.sqrt(2)), 0
    for trial in range(100):
        clean, suspicious = RNG.normal(size=80), RNG.normal(1, 1, size=80)
        low, high = metrics.bootstrap_interval(
            metrics.auroc, clean, suspicious, num_resamples=100, seed=trial
        )
        hits += low <= truth <= high
    assert 86 <= hits <= 99


def test_a_thousand_choices_of_500_images_take_seconds():
    clean, suspicious = RNG.normal(size=500), RNG.normal(1, 1, size=500)
    began = time.perf_counter()
    metrics.bootstrap_interval(metrics.auroc, clean, suspicious)
    assert time.perf_counter() - began < 5  # 0.2 s on an idle core


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.auroc([], [1.0]), r"clean_scores must be numbers.*shape \(0,\)"),
        (lambda: metrics.auroc([1.0], [[1.0]]), r"suspicious_scores must .*shape \(1, 1\)"),
        (lambda: metrics.auroc([1.0], ["a"]), "suspicious_scores must be numbers"),
        (lambda: metrics.roc_curve([1.0, np.nan], [1]), r"clean_scores\[1\] is nan"),
        (lambda: metrics.average_precision([1.0], [np.inf]), r"suspicious_scores\[0\] is inf"),
        (lambda: metrics.detection_rate([1.0], [1.0], 1), r"false_positive_rate=1.* \[0, 1\)"),
        (lambda: metrics.detection_rate([1.0], [1.0], 5.0), "false_positive_rate=5.0"),
        (lambda: metrics.threshold_at([1.0], "5 %"), "false_positive_rate='5 %' must be a number"),
        (lambda: metrics.risk_coverage([1.0], [1, 0]), "There are 1 scores and 2 in wrong"),
        (lambda: metrics.risk_coverage([1.0, 2.0], [0, 2]), "wrong reaches from 0 to 2"),
        (lambda: metrics.bootstrap_interval(np.mean), "needs samples of at least one image"),
        (lambda: metrics.bootstrap_interval(np.mean, []), "needs samples of at least one image"),
        (lambda: metrics.bootstrap_interval(metrics.auroc, [1], [1, 2]), r"lengths are \[1, 2\]"),
        (lambda: metrics.bootstrap_interval(np.mean, [1], num_resamples=0), "num_resamples=0"),
        (lambda: metrics.bootstrap_interval(np.mean, [1], level=95.0), "level=95.0"),
        (lambda: metrics.bootstrap_interval(lambda a: np.nan, [1]), "None of 1000 choices of 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, words):
    with unchecked(), pytest.raises(ValueError, match=words):
        call()
