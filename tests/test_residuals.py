"""Statistics of residuals against SciPy, NumPy and distributions that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax import metrics, residuals
from tests.tiny import unchecked

KEY = jax.random.key(0)


def _dependent(rng, num, *, size=12, spread=1.0):
    """Residuals that are symmetric as a whole, each with a mean of its own: of 1/255 or so."""
    each = rng.normal(0, spread, (num, 1, 1, 1)) + rng.normal(0, 1, (num, size, size, 3))
    return np.round(each * 1000) / 255_000


def _batch(rng, shape=(5, 9, 8, 3)):
    originals = rng.integers(0, 256, shape).astype(np.float32) / 255
    change = rng.choice([-8, 8], shape) + rng.normal(0, 1e-4, shape)
    return originals, np.clip(originals + np.float32(change / 255), 0, 1).astype(np.float32)


def test_residuals_are_differences_without_the_rounding_of_float32():
    originals, attacked = _batch(np.random.default_rng(0))
    found = residuals.residuals(originals, attacked)
    exact = attacked.astype(np.float64) - originals.astype(np.float64)
    np.testing.assert_allclose(found, exact, atol=0.51e-3 / 255)
    inner = residuals.far_from_borders(originals, 8 / 255)
    assert len(np.unique(found[inner])) == 2  # plus and minus the radius
    assert len(np.unique(exact[inner])) > 2
    np.testing.assert_array_equal(residuals.residuals(attacked, originals), -found)


def test_far_from_borders_nothing_was_clipped():
    levels = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1) / 255
    inner = residuals.far_from_borders(levels, 8 / 255).ravel()
    np.testing.assert_array_equal(np.flatnonzero(inner), np.arange(9, 247))
    both = np.concatenate([levels, levels])
    each = residuals.far_from_borders(both, np.array([8 / 255, 20 / 255])).reshape(2, -1)
    np.testing.assert_array_equal(np.flatnonzero(each[1]), np.arange(21, 235))
    np.testing.assert_array_equal(each[0], inner)


def test_moments_are_scipys_of_each_image_and_of_all():
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 1.0, (4, 7, 6, 3)) * np.arange(1, 5)[:, None, None, None] / 255
    inside = rng.random(values.shape) < 0.4
    for where in (None, inside):
        found, pooled = (
            residuals.image_moments(values, where),
            residuals.pooled_moments(values, where),
        )
        parts = [v.ravel() if where is None else v[w] for v, w in zip(values, inside, strict=True)]
        for index, part in enumerate([*parts, np.concatenate(parts)]):
            moments, row = (found, index) if index < len(parts) else (pooled, 0)
            assert moments.count[row] == len(part)
            expected = part.mean(), part.std(), scipy.stats.skew(part), scipy.stats.kurtosis(part)
            names = "mean", "standard_deviation", "skewness", "excess_kurtosis"
            told = [getattr(moments, name)[row] for name in names]
            np.testing.assert_allclose(told, expected, rtol=1e-9)


def test_moments_of_two_values_are_those_of_the_formula():
    p = 0.25  # 1 with probability p, -1 otherwise
    values = np.where(np.arange(16) < 16 * p, 1.0, -1.0).reshape(1, 4, 4, 1)
    found = residuals.image_moments(values)
    spread = (p * (1 - p)) ** 0.5
    assert found.mean[0] == pytest.approx(2 * p - 1)
    assert found.standard_deviation[0] == pytest.approx(2 * spread)
    assert found.skewness[0] == pytest.approx((1 - 2 * p) / spread)
    assert found.excess_kurtosis[0] == pytest.approx((1 - 6 * p * (1 - p)) / spread**2)


def test_an_untouched_image_has_no_shape():
    found = residuals.image_moments(np.zeros((2, 4, 4, 3)))
    assert found.standard_deviation.tolist() == [0, 0]
    assert np.isnan(found.skewness).all()
    assert np.isnan(found.excess_kurtosis).all()


def test_distances_are_scipys_between_a_residual_and_its_negative():
    rng = np.random.default_rng(2)
    smooth = np.round(1000 * rng.gamma(2.0, 1.0, (4, 6, 5, 3)) - 1500) / 255_000
    rough = rng.choice([-8, -1, 0, 2, 8], smooth.shape, p=[0.3, 0.1, 0.2, 0.1, 0.3]) / 255
    inside = rng.random(smooth.shape) < 0.5
    for values in (smooth, rough):
        for where in (None, inside):
            found = residuals.asymmetry(values, where)
            parts = [v[w] for v, w in zip(values, inside, strict=True)]
            parts = list(values.reshape(4, -1)) if where is None else parts
            expected = [scipy.stats.ks_2samp(part, -part).statistic for part in parts]
            np.testing.assert_allclose(found.distances, expected, atol=1e-12)
            whole = np.concatenate(parts)
            expected = scipy.stats.ks_2samp(whole, -whole).statistic
            assert found.distance == pytest.approx(expected, abs=1e-12)
            assert found.thresholds[0] == 0


@pytest.mark.parametrize("most", [2, 10, 64])
def test_few_thresholds_lose_no_more_than_they_say(most):
    """Also where many values have one size, as those at the radius do."""
    rng = np.random.default_rng(most)
    values = np.round(1000 * rng.normal(0.3, 3, (3, 20, 20, 3))) / 255_000
    at_radius = rng.random(values.shape) < 0.5
    values[at_radius] = rng.choice([-8, 8], at_radius.sum(), p=[0.3, 0.7]) / 255
    exact = residuals.asymmetry(values, most_thresholds=10**6).distance
    found = residuals.asymmetry(values, most_thresholds=most)
    assert exact - 1 / most <= found.distance <= exact + 1e-12
    assert len(found.thresholds) <= 2 * most
    whole = values.ravel()
    assert exact == pytest.approx(scipy.stats.ks_2samp(whole, -whole).statistic, abs=1e-12)


def test_another_sign_is_another_sign_of_the_curve():
    values = _dependent(np.random.default_rng(3), 4)
    found, mirrored = residuals.asymmetry(values), residuals.asymmetry(-values)
    np.testing.assert_array_equal(found.curves, -mirrored.curves)
    assert found.distance == mirrored.distance


def test_tests_of_zero_are_scipys():
    values = np.random.default_rng(4).normal(0.3, 1, 40)
    values[:3] = 0
    found = residuals.zero_mean_test(values)
    student = scipy.stats.ttest_1samp(values, 0)
    ranks = scipy.stats.wilcoxon(values[3:])
    assert (found.t, found.t_p) == pytest.approx((student.statistic, student.pvalue))
    assert (found.signed_rank, found.signed_rank_p) == pytest.approx(
        (ranks.statistic, ranks.pvalue)
    )
    half = scipy.stats.t.ppf(0.975, 39) * values.std(ddof=1) / 40**0.5
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert found.effect_size == pytest.approx(found.t / 40**0.5)
    assert found.num_images == 40


def test_symmetric_residuals_are_rejected_as_often_as_the_level_says():
    """Values of one image depend on each other, and a test of single values would not hold."""
    rng = np.random.default_rng(5)
    num, flips = 400, 19  # with 19 flips, p <= 0.05 has a probability of 1/20 exactly
    flipped, student, by_value = 0, 0, 0
    for trial in range(num):
        values = _dependent(rng, 12, size=4)
        key = jax.random.fold_in(KEY, trial)
        found = residuals.sign_flip_test(key, residuals.asymmetry(values), num_flips=flips)
        flipped += found.p <= 0.05
        means = residuals.image_moments(values).mean
        student += residuals.zero_mean_test(means).t_p <= 0.05
        whole = values.ravel()
        by_value += scipy.stats.ks_2samp(whole, -whole).pvalue <= 0.05
    # The counts of that many trials, but for one in ten thousand.
    low, high = scipy.stats.binom.ppf([0.00005, 0.99995], num, 0.05)
    assert low <= flipped <= high
    assert low <= student <= high
    assert by_value > 0.5 * num


def test_skewed_residuals_are_rejected():
    rng = np.random.default_rng(6)
    values = np.round(1000 * (rng.exponential(1, (20, 6, 6, 3)) - 1)) / 255_000
    found = residuals.sign_flip_test(KEY, residuals.asymmetry(values))
    assert found.p == 1 / 10_000
    assert (found.num_images, found.num_flips) == (20, 9999)
    # That of exp(1) - 1: the largest of |P(r > t) - P(r < -t)|.
    t = np.linspace(0, 5, 10_001)
    expected = np.abs(np.exp(-1 - t) - np.maximum(1 - np.exp(-(1 - t)), 0)).max()
    assert found.distance == pytest.approx(expected, abs=0.03)
    assert found.by_chance < 0.6 * found.distance
    skewness = residuals.zero_mean_test(residuals.image_moments(values).skewness)
    assert skewness.t_p < 1e-6
    assert skewness.signed_rank_p < 1e-3
    means = residuals.zero_mean_test(residuals.image_moments(values).mean)
    assert means.t_p > 0.01  # its mean is zero


def test_a_shift_alone_is_no_symmetry_about_zero():
    rng = np.random.default_rng(7)
    values = np.round(1000 * rng.normal(0.4, 1, (20, 6, 6, 3))) / 255_000
    assert residuals.sign_flip_test(KEY, residuals.asymmetry(values)).p < 0.001
    assert residuals.zero_mean_test(residuals.image_moments(values).mean).t_p < 1e-6
    skewness = residuals.image_moments(values).skewness
    assert residuals.zero_mean_test(skewness).t_p > 0.01  # about its own mean it is symmetric


def test_p_counts_all_flips_where_these_are_few():
    """With three images there are eight sets of signs, of which two are as far as the true one."""
    values = np.ones((3, 4, 4, 1)) / 255
    found = residuals.sign_flip_test(KEY, residuals.asymmetry(values), num_flips=20_000)
    assert found.distance == 1
    assert found.p == pytest.approx(2 / 8, abs=0.01)


def test_flips_are_those_of_their_key():
    found = residuals.asymmetry(_dependent(np.random.default_rng(8), 9))
    one, same = (residuals.sign_flip_test(KEY, found, num_flips=1500) for _ in range(2))
    other = residuals.sign_flip_test(jax.random.key(1), found, num_flips=1500)
    assert one == same
    assert one.p != other.p


def test_spectra_are_means_of_the_library_s_and_shares_of_numpys():
    rng = np.random.default_rng(9)
    noise = rng.normal(0, 1, (64, 16, 12, 3)).astype(np.float32)
    expected = jax.vmap(metrics.radial_spectrum)(jnp.asarray(noise)).mean(0)
    np.testing.assert_allclose(residuals.mean_spectrum(noise), expected, rtol=1e-5)
    np.testing.assert_allclose(residuals.mean_spectrum(noise)[2:], 1, atol=0.15)

    shares = residuals.low_frequency_share(noise)
    for image, share in zip(noise[:3], shares, strict=False):
        low = np.zeros((16, 12, 3), complex)
        spectrum = np.fft.fft2(image - image.mean((0, 1)), axes=(0, 1))
        for i in range(16):
            for j in range(12):
                row, column = min(i, 16 - i) / 16, min(j, 12 - j) / 12
                if row**2 + column**2 <= 0.125**2:
                    low[i, j] = spectrum[i, j]
        kept = np.fft.ifft2(low, axes=(0, 1)).real
        assert share == pytest.approx(np.square(kept).sum() / (image.size * np.var(
            image - image.mean((0, 1))
        )), rel=1e-5)  # fmt: skip
    wave = np.cos(2 * np.pi * np.arange(16) / 16)[None, :, None, None] * np.ones((1, 1, 12, 1))
    assert residuals.low_frequency_share(wave)[0] == pytest.approx(1)
    assert residuals.low_frequency_share(wave, limit=0.05)[0] == pytest.approx(0)
    assert np.isnan(residuals.low_frequency_share(np.ones((1, 8, 8, 3)))[0])


GOOD = np.full((2, 6, 6, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: residuals.residuals(GOOD[0], GOOD[0]),
            r"originals must be a batch .*\(6, 6, 3\)",
        ),
        (lambda: residuals.residuals(GOOD, np.uint8(GOOD)), "attacked must be .* not uint8"),
        (lambda: residuals.residuals(GOOD, GOOD[:1]), r"\(2, 6, 6, 3\) and .*must be equal"),
        (lambda: residuals.residuals(GOOD, GOOD * np.nan), r"attacked must lie in \[0, 1\]"),
        (lambda: residuals.residuals(255 * GOOD, GOOD), r"lie in \[127.5, 127.5\]: divide"),
        (lambda: residuals.far_from_borders(GOOD, -0.1), "margin=-0.1 must be"),
        (lambda: residuals.far_from_borders(GOOD, np.ones(3)), "one for each of 2 images"),
        (lambda: residuals.image_moments(GOOD, GOOD > 1), "Image 0 has no value inside"),
        (lambda: residuals.pooled_moments(GOOD, GOOD[:1] > 1), "must be equal"),
        (lambda: residuals.asymmetry(GOOD, most_thresholds=1), "most_thresholds=1 must be"),
        (lambda: residuals.zero_mean_test(np.array([1.0])), "at least 2 finite numbers"),
        (lambda: residuals.zero_mean_test(np.array([1.0, np.nan])), "leave out images whose"),
        (lambda: residuals.zero_mean_test(np.ones(3)), "All 3 values are 1.0"),
        (
            lambda: residuals.sign_flip_test(KEY, residuals.asymmetry(GOOD), num_flips=0),
            "num_flips=0 must be at least 1",
        ),
        (lambda: residuals.sign_flip_test(0, residuals.asymmetry(GOOD)), "takes a key, not 0"),
        (lambda: residuals.low_frequency_share(GOOD, limit=0.7), r"limit=0.7 must lie in"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        call()
