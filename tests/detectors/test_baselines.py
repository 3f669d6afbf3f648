"""Published detectors beside SciPy, NumPy loops and closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import scipy.special
import scipy.stats
import skimage.restoration

from rainjax.defenses import RAIN, Defense, FeatureDistillation, GaussianNoise, Identity
from rainjax.detectors import (
    Disagreement,
    DrawDisagreement,
    Energy,
    LocalIntrinsicDimensionality,
    Mahalanobis,
    MaxSoftmax,
    NaturalStatistics,
    feature_squeezing,
    score_images,
)
from rainjax.metrics import brisque_features
from rainjax.nets import Features, Network, from_function
from tests.golden import seeded
from tests.tiny import EDSR_TINY, RESNET_TINY, edsr_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)
IMAGES = np.stack([seeded.picture(16, 16, seed=s) for s in range(12)]).astype(np.float32)
LABELS = np.arange(12) % 3


@dataclasses.dataclass(frozen=True)
class Mean(Network):
    """Logits that are linear in the mean colour, with a kernel of `3 classes`."""

    gain: float = 1.0

    def init(self, key):
        return {"kernel": jax.random.normal(key, (3, 5))}

    def apply(self, params, *inputs):
        return self.gain * (inputs[0].mean((0, 1)) @ params["kernel"])


@pytest.fixture(scope="module")
def resnet():
    """A network with the features of every image."""
    params = RESNET_TINY.init(jax.random.key(2))
    features = jax.jit(jax.vmap(Features(RESNET_TINY).apply, (None, 0)))(params, IMAGES)
    return params, np.asarray(features, np.float64)


def _logits(kernel, images=IMAGES, gain=1.0):
    return gain * np.asarray(images, np.float64).mean((1, 2)) @ np.asarray(kernel, np.float64)


def test_max_softmax_is_the_logarithm_of_the_odds():
    network = Mean(gain=8.0)
    params = {"network": network.init(KEY)}
    given = score_images(MaxSoftmax(network), params, IMAGES)
    best = scipy.special.softmax(_logits(params["network"]["kernel"], gain=8.0), axis=1).max(1)
    np.testing.assert_allclose(given, np.log((1 - best) / best), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(np.argsort(given), np.argsort(1 - best))


def test_max_softmax_does_not_saturate_where_the_softmax_is_one():
    logits = jnp.array([300.0, 90.0, 100.0])
    model = from_function(lambda params, image: logits + image.mean((0, 1)))
    detector, params = MaxSoftmax(model.network), {"network": model.params}
    score = lambda image: detector.score(params, KEY, image)
    image = jnp.zeros((4, 4, 3))
    # The best of the others is 200 below, and the third adds exp(-10) of that.
    np.testing.assert_allclose(score(image), -200 + np.log1p(np.exp(-10)), rtol=1e-6)
    gradient = np.asarray(jax.grad(score)(image))
    np.testing.assert_allclose(gradient[..., 0], -1 / 16, rtol=1e-5)
    np.testing.assert_allclose(gradient[..., 2], scipy.special.expit(10) / 16, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy_is_scipys_logsumexp(temperature):
    params = {"network": Mean().init(KEY)}
    given = score_images(Energy(Mean(), temperature), params, IMAGES)
    scaled = _logits(params["network"]["kernel"]) / temperature
    wanted = -temperature * scipy.special.logsumexp(scaled, axis=1)
    np.testing.assert_allclose(given, wanted, rtol=1e-4)


def _xu(image, logits, window, strength):
    """The authors' joint detector, in NumPy and SciPy: the maximum of three L1 distances.

    Non-local means is scikit-image's in its slow mode, whose patches have our Gaussian weights.
    """
    bits = np.rint(image * 31) / 31
    median = scipy.ndimage.median_filter(image, size=(2, 2, 1), mode="reflect")
    means = skimage.restoration.denoise_nl_means(
        image, 3, window // 2, h=strength / 255, fast_mode=False, channel_axis=-1
    )
    softmax = lambda x: scipy.special.softmax(logits(x))
    return [np.abs(softmax(image) - softmax(x)).sum() for x in (bits, median, means)]


@pytest.mark.parametrize(("kind", "window", "strength"), [("small", 13, 2), ("large", 11, 4)])
def test_feature_squeezing_is_that_of_xu_et_al(kind, window, strength):
    """Each squeezer by itself, and the largest of the three distances."""
    noise = 0.004 * np.random.default_rng(0).normal(size=IMAGES[:3].shape)
    images = (0.4 + 0.05 * IMAGES[:3] + noise).astype(np.float32)  # flat enough to be averaged
    rng = np.random.default_rng(1)  # every pixel counts, so that no squeezer is averaged away
    kernel = jnp.asarray(rng.normal(0, 0.2, (IMAGES[0].size, 5)), jnp.float32)
    model = from_function(lambda kernel, image: image.reshape(-1) @ kernel, kernel)
    logits = lambda x: np.asarray(x, np.float64).reshape(-1) @ np.asarray(kernel, np.float64)
    wanted = np.array([_xu(image, logits, window, strength) for image in images])
    assert wanted.min() > 1e-3
    detector = feature_squeezing(model.network, kind)
    parts = [Disagreement(model.network, (defense,)) for defense in detector.defenses]
    for part, distances in zip(parts, wanted.T, strict=True):
        given = score_images(part, {"network": kernel, "defenses": ((),)}, images)
        np.testing.assert_allclose(given, distances, rtol=2e-2, atol=1e-4)
    given = score_images(detector, {"network": kernel, "defenses": ((),) * 3}, images)
    np.testing.assert_allclose(given, wanted.max(1), rtol=2e-2, atol=1e-4)


def test_disagreement_has_the_gradient_that_a_defense_names_and_its_own_value():
    network, defense = Mean(), FeatureDistillation()
    params = {"network": network.init(KEY), "defenses": ((),)}
    image = jnp.asarray(IMAGES[0])

    def by_hand(image, seen):
        softmax = lambda x: jax.nn.softmax(network.apply(params["network"], x))
        return jnp.abs(softmax(image) - softmax(seen)).sum()

    score = jax.jit(jax.value_and_grad(lambda x: Disagreement(network, (defense,)).score(
        params, KEY, x)))  # fmt: skip
    value, gradient = score(image)
    kept = defense.purify(image)
    np.testing.assert_allclose(value, by_hand(image, kept), rtol=1e-4)
    assert float(value) > 1e-4
    direct, outer = jax.grad(by_hand, (0, 1))(image, kept)
    soft = jax.vjp(defense.smooth().purify, image)[1](outer)[0]
    np.testing.assert_allclose(gradient, direct + soft, atol=1e-5 * np.abs(gradient).max())
    assert np.abs(soft).max() > 0.1 * np.abs(gradient).max()


def test_disagreement_is_at_most_two_and_nothing_for_a_defense_that_does_nothing():
    bright = lambda params, image: 1e6 * (image.mean() - 0.5) * jnp.array([1.0, -1.0])
    network = from_function(bright).network
    params = {"network": (), "defenses": ((),)}
    nothing = Disagreement(network, (Identity(),))
    np.testing.assert_array_equal(score_images(nothing, params, IMAGES), 0)

    @dataclasses.dataclass(frozen=True)
    class Negative(Defense):
        def apply(self, params, key, image):
            return 1 - image

    scores = score_images(Disagreement(network, (Negative(),)), params, IMAGES)
    np.testing.assert_allclose(scores, 2, rtol=1e-6)  # sure of one class, then of the other


@dataclasses.dataclass(frozen=True)
class OneOf(Defense):
    """Returns a constant picture, drawn from two."""

    def apply(self, params, key, image):
        level = jnp.where(jax.random.bernoulli(key), 0.9, 0.1)
        return level + 0 * image


def test_draw_disagreement_is_the_mutual_information():
    """Of entropies by SciPy, on the very draws; and in closed form where classes are sure."""
    kernel = 0.3 * jax.random.normal(jax.random.key(3), (IMAGES[0].size, 5))
    network = from_function(lambda kernel, image: image.reshape(-1) @ kernel, kernel).network
    defense, num, params = GaussianNoise(0.3), 6, {"network": kernel, "defense": ()}
    detector = DrawDisagreement(network, defense, num_draws=num)
    for number, image in enumerate(IMAGES[:3]):
        key = jax.random.key(number)
        seen = np.stack(
            [defense.apply((), k, jnp.asarray(image)) for k in jax.random.split(key, num)]
        )
        logits = seen.reshape(num, -1).astype(np.float64) @ np.asarray(kernel, np.float64)
        softmax = scipy.special.softmax(logits, axis=1)
        mean_entropy = np.mean([scipy.stats.entropy(p) for p in softmax])
        wanted = scipy.stats.entropy(softmax.mean(0)) - mean_entropy
        assert wanted > 0.01
        given = detector.score(params, key, jnp.asarray(image))
        np.testing.assert_allclose(given, wanted, rtol=1e-3)


def test_draw_disagreement_of_sure_answers_is_the_entropy_of_the_draw():
    """A million times the logits: each draw is sure of a class, of the two that there are."""
    model = from_function(lambda params, image: 1e6 * (image.mean((0, 1))[:2] - jnp.array([0.5,
        0.4])) * jnp.array([1.0, -1.0]))  # fmt: skip
    detector = DrawDisagreement(model.network, OneOf(), num_draws=16)
    params = {"network": (), "defense": ()}
    found = []
    for number in range(4):
        key = jax.random.key(number)
        share = np.mean([bool(jax.random.bernoulli(k)) for k in jax.random.split(key, 16)])
        found.append(share)
        given = detector.score(params, key, jnp.asarray(IMAGES[0]))
        np.testing.assert_allclose(given, scipy.stats.entropy([share, 1 - share]), rtol=1e-5)
    assert len(set(found)) > 1


def test_draws_of_rain_take_its_parameters():
    rain = RAIN(EDSR_TINY, shift_fraction=0.25)
    detector = DrawDisagreement(Mean(gain=20.0), rain, num_draws=4)
    params = {"network": Mean().init(KEY), "defense": edsr_params()}
    scores = score_images(detector, params, IMAGES[:3])
    others = score_images(detector, params, IMAGES[:3], seed=1)
    assert detector.is_random
    assert (scores > 0).all()
    assert (scores != others).all()


def _shrunk(centred, shrinkage):
    covariance = centred.T @ centred / len(centred)
    return (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance))


def _brisque(images, border):
    features = jax.jit(jax.vmap(lambda image: brisque_features(image, border=border)))
    return np.asarray(features(images), np.float64)


def test_natural_statistics_are_scipys_mahalanobis_distance():
    detector = NaturalStatistics(shrinkage=0.2)
    params = detector.fit({}, IMAGES)
    noise = 0.1 * np.random.default_rng(0).normal(size=IMAGES.shape)
    others = np.clip(IMAGES + noise, 0, 1).astype(np.float32)
    clean, noisy = _brisque(IMAGES, "edge"), _brisque(others, "edge")
    inverse = np.linalg.inv(_shrunk(clean - clean.mean(0), 0.2))
    for images, rows in ((IMAGES, clean), (others, noisy)):
        mean, distance = clean.mean(0), scipy.spatial.distance.mahalanobis
        wanted = [distance(row, mean, inverse) ** 2 / 36 for row in rows]
        np.testing.assert_allclose(score_images(detector, params, images), wanted, rtol=1e-2)


def test_natural_statistics_take_the_border_that_they_are_given():
    params = NaturalStatistics("zeros").fit({}, IMAGES[:3])
    wanted, other = (_brisque(IMAGES[:3], border).mean(0) for border in ("zeros", "edge"))
    np.testing.assert_allclose(params["mean"], wanted, rtol=1e-3, atol=1e-4)
    assert np.abs(wanted - other).max() > 0.01


def test_mahalanobis_is_scipys_distance_to_the_nearest_class(resnet):
    network_params, features = resnet
    detector = Mahalanobis(RESNET_TINY, num_classes=7, shrinkage=0.3)
    # Classes 0, 4 and 6 occur, the other four do not.
    labels = np.array([0, 4, 6])[LABELS]
    params = detector.fit({"network": network_params}, IMAGES[:9], labels[:9])
    np.testing.assert_array_equal(params["counts"], [3, 0, 0, 0, 3, 0, 3])
    means = {c: features[:9][labels[:9] == c].mean(0) for c in (0, 4, 6)}
    centred = np.stack([row - means[c] for row, c in zip(features[:9], labels[:9], strict=True)])
    shrunk = _shrunk(centred, 0.3)
    # A feature that no image moves has a millionth of the mean variance at least.
    variances = np.diag(centred.T @ centred / 9)
    assert variances.min() > 1e-6 * variances.mean()
    inverse, distance = np.linalg.inv(shrunk), scipy.spatial.distance.mahalanobis
    wanted = [
        min(distance(row, mean, inverse) ** 2 for mean in means.values()) for row in features
    ]
    np.testing.assert_allclose(score_images(detector, params, IMAGES), wanted, rtol=5e-3)
    assert min(wanted[9:]) > max(wanted[:9])


def test_dead_features_do_not_make_a_distance_infinite():
    """A network whose features no clean image moves: any other image is far, and finitely so."""
    params = jax.tree.map(jnp.zeros_like, RESNET_TINY.init(KEY))
    detector = Mahalanobis(RESNET_TINY, num_classes=3)
    fitted = detector.fit({"network": params}, IMAGES, LABELS)
    np.testing.assert_array_equal(score_images(detector, fitted, IMAGES), 0)
    alive = {**fitted, "network": RESNET_TINY.init(KEY)}
    scores = score_images(detector, alive, IMAGES)
    assert np.isfinite(scores).all()
    assert (scores > 0).all()


def _lid(row, references, num):
    """Amsaleg et al.'s maximum-likelihood estimate, from all distances that are not zero."""
    distances = sorted(float(np.linalg.norm(row - other)) for other in references)
    near = [r for r in distances if r > 1e-4 * np.linalg.norm(row)][:num]
    return -1 / np.mean([np.log(r / near[-1]) for r in near])


def test_local_dimensionality_is_the_papers_loop(resnet):
    network_params, features = resnet
    detector = LocalIntrinsicDimensionality(RESNET_TINY, num_neighbours=4, num_references=8)
    params = detector.fit({"network": network_params}, IMAGES[:8])
    np.testing.assert_allclose(params["references"], features[:8], rtol=1e-4, atol=1e-5)
    wanted = [_lid(row, features[:8], 4) for row in features]
    given = score_images(detector, params, IMAGES)  # the first eight are references themselves
    np.testing.assert_allclose(given, wanted, rtol=5e-3)


def test_local_dimensionality_of_uniform_noise_is_its_dimension(resnet):
    """Of the references around the image the distances are those in a ball of five dimensions."""
    network_params, features = resnet
    rng, num, size, k = np.random.default_rng(0), 2000, features.shape[1], 200
    directions = rng.normal(size=(num, 5))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inside = directions * rng.uniform(size=(num, 1)) ** (1 / 5)
    basis = np.linalg.qr(rng.normal(size=(size, 5)))[0]
    references = features[0] + np.linalg.norm(features[0]) * inside @ basis.T
    detector = LocalIntrinsicDimensionality(RESNET_TINY, k, num)
    params = {"network": network_params, "references": jnp.asarray(references, jnp.float32)}
    given = detector.score(params, KEY, jnp.asarray(IMAGES[0]))
    np.testing.assert_allclose(given, 5, rtol=4 / np.sqrt(k))  # four standard errors


def test_a_bank_of_copies_has_a_finite_score(resnet):
    network_params, features = resnet
    detector = LocalIntrinsicDimensionality(RESNET_TINY, num_neighbours=4, num_references=8)
    score = jax.jit(jax.value_and_grad(detector.score, 2))
    copies = np.repeat(features[:1], 8, axis=0)
    for bank in (copies, np.concatenate([copies[:7], features[1:2]]), copies + 0.5):
        params = {"network": network_params, "references": jnp.asarray(bank, jnp.float32)}
        value, gradient = score(params, KEY, jnp.asarray(IMAGES[0]))
        np.testing.assert_allclose(value, 1e6, rtol=1e-5)
        assert np.isfinite(gradient).all()


def test_references_are_spread_over_all_images(resnet):
    network_params, features = resnet
    detector = LocalIntrinsicDimensionality(RESNET_TINY, num_neighbours=2, num_references=3)
    found = detector.fit({"network": network_params}, IMAGES[:11])["references"]
    np.testing.assert_allclose(found, features[[0, 5, 10]], rtol=1e-4, atol=1e-5)
