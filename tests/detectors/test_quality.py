"""The student of the image-quality detector, the detector itself, and what its teacher says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial.distance
import scipy.special
import scipy.stats
import skimage.metrics

import rainjax
from rainjax import data, nets, zoo
from rainjax.attacks import PGD
from rainjax.defenses import Identity
from rainjax.detectors import (
    ImageQuality,
    full_reference_quality,
    score_images,
    teacher_signals,
)
from rainjax.evaluation import run_attack
from rainjax.keys import Purpose, example_keys
from rainjax.nets.quality import residuals
from rainjax.pipeline import Defended
from tests.tiny import RESNET_TINY, resnet_params, unchecked

TINY = nets.QualityNet(num_classes=4, width=4, num_stages=2, hidden=8)


def _random_params(network, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), jnp.float32), network.shapes()
    )


def _image(seed=0, size=16):
    return jnp.asarray(np.random.default_rng(seed).random((size, size, 3)), jnp.float32)


def test_the_output_is_quality_risk_change_and_then_the_classes():
    outputs = TINY.apply(_random_params(TINY), _image())
    told = TINY.split(outputs)
    assert outputs.shape == (7,)
    assert [float(x) for x in told[:3]] == [float(x) for x in outputs[:3]]
    assert np.array_equal(told.class_logits, outputs[3:])
    batch = TINY.split(jnp.stack([outputs, 2 * outputs]))
    assert batch.risk.shape == (2,)
    assert batch.class_logits.shape == (2, 4)
    with pytest.raises(ValueError, match=r"returns 7 numbers an image, not an array .*\(6,\)"):
        TINY.split(outputs[:6])


def test_the_network_is_the_one_that_its_description_says():
    """One stage without blocks that count, against scipy's correlation and NumPy's moments."""
    network = nets.QualityNet(num_classes=1, width=2, num_stages=1, hidden=3, residual_gain=7.0)
    params, image = _random_params(network), _image(size=9)
    params["stages"][0][0]["factor"] = jnp.zeros(1)
    pixels = np.asarray(image, np.float64)
    blur = lambda x, axis: scipy.ndimage.convolve1d(x, [0.25, 0.5, 0.25], axis, mode="nearest")
    fine = [pixels - blur(pixels, 0), pixels - blur(pixels, 1), pixels - blur(blur(pixels, 0), 1)]
    colours = (pixels - network.mean) / network.std
    planes = np.concatenate([colours, *(np.arcsinh(7 * f) for f in fine)], axis=-1)
    down = params["downs"][0]
    kernel = np.asarray(down["kernel"], np.float64)
    maps = [
        sum(
            scipy.ndimage.correlate(planes[..., i], kernel[..., i, o], mode="constant")
            for i in range(12)
        )
        + float(down["bias"][o])
        for o in range(2)
    ]
    maps = np.maximum(np.stack(maps, -1), 0)
    x = np.concatenate([maps.mean((0, 1)), np.sqrt(maps.var((0, 1)) + 1e-6)])
    for name in ("hidden", "linear"):
        x = x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])
        x = np.maximum(x, 0) if name == "hidden" else x
    assert np.allclose(network.apply(params, image), x, rtol=1e-4, atol=1e-4)


def test_the_residual_of_a_slope_is_zero_inside():
    ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (8, 8, 1))[None]
    down, across, both = np.moveaxis(np.asarray(residuals(ramp))[0], -1, 0)
    assert np.abs(down).max() == 0
    for found in (across, both):
        assert np.abs(found[:, 1:-1]).max() == 0
        assert np.allclose(found[:, 0], -0.25)  # beyond the border pixels repeat


def test_it_costs_less_than_the_network_that_it_protects():
    def operations(network, size):
        image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
        lowered = jax.jit(network.apply).lower(network.shapes(), image)
        return lowered.cost_analysis()["flops"]

    assert operations(nets.QualityNet(), 32) < 0.5 * operations(nets.ResNet(), 32)
    photographs = nets.QualityNet(stem_stride=2)
    assert operations(photographs, 224) < operations(nets.MobileNetV2(), 224)


def test_gradients_are_finite_where_an_image_is_flat():
    params = _random_params(TINY)
    risk = lambda image: TINY.split(TINY.apply(params, image)).risk
    for image in (jnp.zeros((16, 16, 3)), jnp.full((16, 16, 3), 0.5)):
        assert np.isfinite(jax.grad(risk)(image)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "width=0 must be at least 1"),
        ({"num_features": -1}, "num_features=-1 must be at least 0"),
        ({"residual_gain": 0.0}, "residual_gain=0.0 must be positive"),
        ({"std": (1.0,)}, "differ in length"),
    ],
)
def test_bad_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_a_side_input_is_asked_for_and_matters():
    sees = dataclasses.replace(TINY, num_features=5)
    params = _random_params(sees)
    first, second = (jnp.full((1, 1, 5), v) for v in (0.0, 1.0))
    told = [sees.apply(params, _image(), f) for f in (first, second)]
    assert not np.allclose(*told)
    with pytest.raises(ValueError, match="num_features=5, and takes an image and arrays"):
        sees.apply(params, _image())
    with pytest.raises(ValueError, match="num_features=0, and takes an image and nothing"):
        TINY.apply(_random_params(TINY), _image(), first)


def test_the_detector_scores_by_the_risk_and_keeps_its_promises():
    detector = ImageQuality(TINY)
    params = {"student": _random_params(TINY)}
    told = TINY.apply(params["student"], _image())
    assert detector.score(params, jax.random.key(0), _image()) == told[1]
    assert detector.quality(params, _image()) == told[0]
    rainjax.check_detector(detector)


def test_the_detector_that_sees_features_takes_them_from_the_protected_network():
    images, labels = data.load("builtin", "train").get(np.arange(40))
    images = jnp.asarray(images, jnp.float32) / 255
    features = nets.Features(RESNET_TINY)
    student = dataclasses.replace(TINY, num_features=features.num_features)
    detector = ImageQuality(student, features)
    params = {"student": _random_params(student), "network": resnet_params(images, labels)}
    seen = features.apply(params["network"], images[0])[None, None]
    wanted = student.apply(params["student"], images[0], seen)
    found = detector.judge(params, images[0])
    assert np.allclose(found.risk, wanted[1], rtol=1e-5)
    assert jax.tree.structure(detector.init(jax.random.key(0))) == jax.tree.structure(params)
    with pytest.raises(ValueError, match="sees the protected network's features: give network"):
        ImageQuality(student)
    with pytest.raises(ValueError, match="num_features=0 sees the image alone: leave network out"):
        ImageQuality(TINY, features)


def test_the_teacher_says_what_other_libraries_say():
    images, labels = data.load("builtin", "train").get(np.arange(60))
    images = images.astype(np.float32) / 255
    params = resnet_params(images, labels)
    reference = images[3]
    noise = np.random.default_rng(0).normal(0, 0.1, reference.shape)
    noisy = np.clip(reference + noise, 0, 1).astype(np.float32)
    answer = int(jnp.argmax(RESNET_TINY.apply(params, jnp.asarray(noisy))))
    told = {
        label: teacher_signals(
            RESNET_TINY, params, jnp.asarray(reference), jnp.asarray(noisy), label, temperature=3.0
        )
        for label in (answer, (answer + 1) % 10)
    }
    assert [bool(signals.errs) for signals in told.values()] == [False, True]
    found = told[answer]
    similarity = skimage.metrics.structural_similarity(
        reference, noisy, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert float(found.quality) == pytest.approx(similarity, abs=1e-4)
    logits = np.asarray(RESNET_TINY.apply(params, jnp.asarray(reference)), np.float64)
    assert np.allclose(found.probs, scipy.special.softmax(logits / 3.0), atol=1e-5)
    features = [
        np.asarray(nets.Features(RESNET_TINY).apply(params, jnp.asarray(x)), np.float64)
        for x in (reference, noisy)
    ]
    assert float(found.change) == pytest.approx(scipy.spatial.distance.cosine(*features), abs=1e-5)


def test_nothing_has_changed_where_the_image_is_the_reference():
    images, labels = data.load("builtin", "train").get(np.arange(60))
    images = jnp.asarray(images, jnp.float32) / 255
    params = resnet_params(images, labels)
    found = teacher_signals(RESNET_TINY, params, images[0], images[0], 0)
    assert float(found.quality) == pytest.approx(1.0, abs=1e-6)
    assert float(found.change) == pytest.approx(0.0, abs=1e-5)


def test_quality_falls_with_noise_by_every_measure():
    image = np.asarray(data.load("builtin", "train").get(np.arange(1))[0][0], np.float32) / 255
    image = jnp.asarray(np.kron(image, np.ones((6, 6, 1), np.float32)))
    noise = jnp.asarray(np.random.default_rng(0).normal(0, 1, image.shape), jnp.float32)
    for measure in ("ssim", "ms_ssim", "gmsd"):
        found = [
            float(full_reference_quality(jnp.clip(image + s * noise, 0, 1), image, measure))
            for s in (0, 0.02, 0.1, 0.5)
        ]
        assert found == sorted(found, reverse=True)
        assert found[0] == pytest.approx(1, abs=1e-6)
        assert 0 <= found[-1] < 0.6
    with unchecked(), pytest.raises(ValueError, match="measure='psnr'"):
        full_reference_quality(image, image, "psnr")


@pytest.mark.parametrize("temperature", [0.0, float("inf")])
def test_a_temperature_without_meaning_is_refused(temperature):
    image = jnp.zeros((16, 16, 3))
    with pytest.raises(ValueError, match=f"temperature={temperature} must be positive"):
        teacher_signals(RESNET_TINY, {}, image, image, 0, temperature=temperature)


def test_what_ships_names_what_it_never_learned_from_and_tells_attacks_that_it_never_saw():
    """On the test split, under PGD of another length and step than any of the training."""
    entry, classifier = zoo.load("builtin_quality"), zoo.load("builtin_resnet")
    options = entry.card["options"]
    for kind in ("attacks", "distortions"):
        assert options[f"mix.held_out_{kind}"]
        assert not set(options[f"mix.held_out_{kind}"]) & set(options[f"mix.{kind}"])
    assert entry.card["classifier_sha256"] == classifier.sha256
    images, labels = data.load("builtin", "test").get(np.arange(40))
    images = jnp.asarray(images, jnp.float32) / 255
    attacked = run_attack(
        Defended(Identity(), classifier.network),
        PGD(radius=8 / 255, step_size=2 / 255, num_steps=12),
        {"defense": (), "classifier": classifier.params},
        example_keys(0, Purpose.ATTACK, np.arange(40)),
        images,
        jnp.asarray(labels),
    )
    detector, params = ImageQuality(entry.network), {"student": entry.params}
    clean, found = (score_images(detector, params, x) for x in (images, attacked))
    wins = scipy.stats.mannwhitneyu(found, clean).statistic / (40 * 40)
    assert wins > 0.75  # half would be chance
