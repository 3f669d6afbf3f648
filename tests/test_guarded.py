"""A pipeline that answers or rejects, and how attacks, scores and studies take it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rainjax
from rainjax import Defended, Guarded
from rainjax.attacks import PGD
from rainjax.defenses import GaussianNoise
from rainjax.detectors import calibrate, score_images
from rainjax.evaluation import (
    ClassifierAlone,
    Detection,
    IdentityGradient,
    Itself,
    OwnGradient,
    Subject,
    ThreatModel,
    adaptive,
    evaluate,
    ladders,
    score,
)
from rainjax.evaluation.batteries import climbable
from rainjax.evaluation.study import cells
from rainjax.pipeline import fold_rejection
from tests.guards import IMAGES, KEYS, PARAMS, PLAIN, WEIGHTS, Linearly, guarded, raw
from tests.small_studies import KERNEL, RIGHT, SIZE, study_of
from tests.tiny import Linear, unchecked


def test_the_last_logit_is_the_largest_exactly_where_the_score_is_above_the_threshold():
    pipeline, params = guarded()
    logits = raw(pipeline, params)
    scores = np.sum(np.asarray(WEIGHTS["weights"]) * IMAGES, (1, 2, 3), dtype=np.float64)
    above = scores > float(params["threshold"]) + 1e-4
    below = scores < float(params["threshold"]) - 1e-4
    assert above.sum() >= 2
    assert below.sum() >= 9
    rejected = logits.argmax(-1) == 10
    assert rejected[above].all()
    assert not rejected[below].any()
    np.testing.assert_allclose(
        logits[:, :10], IMAGES.reshape(16, -1) @ np.asarray(KERNEL), rtol=1e-4, atol=1e-4
    )
    lead = float(params["scale"]) * (scores - float(params["threshold"]))
    np.testing.assert_allclose(logits[:, 10] - logits[:, :10].max(-1), lead, atol=1e-3)


@pytest.mark.parametrize("is_label", [True, False])
def test_folding_says_who_is_right(is_label):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(500, 6)).astype(np.float32), rng.integers(0, 5, 500)
    logits[::4] *= 1000  # as a network's may be
    folded = jax.vmap(lambda row, label: fold_rejection(row, label, is_label=is_label))(
        logits, labels
    )
    right = [
        is_label if row.argmax() == 5 else row.argmax() == label
        for row, label in zip(logits, labels, strict=True)
    ]
    assert folded.shape == (500, 5)
    assert 50 < sum(right) < 450
    np.testing.assert_array_equal(np.asarray(folded).argmax(-1) == labels, right)


@pytest.mark.parametrize("kernel", [1.0, 1e5])
@pytest.mark.parametrize("rejected", ["safe", "error"])
def test_a_score_at_the_threshold_is_accepted_whatever_the_classes(kernel, rejected):
    """And one just above it is rejected, also where the sum of both rounds the rise away."""
    pipeline, params = guarded(rejected=rejected)
    params["pipeline"] = {**PARAMS, "classifier": {"kernel": kernel * KERNEL}}
    scores = score_images(pipeline.detector, params["detector"], IMAGES)
    for label, wrong in ((RIGHT, False), ((RIGHT + 1) % 10, True), ((RIGHT - 1) % 10, True)):
        for above in (False, True):
            for i in range(0, 16, 3):
                nearest = np.nextafter(scores[i], np.float32(-np.inf if above else np.inf))
                each = {**params, "threshold": jnp.asarray(nearest if above else scores[i])}
                image, its = IMAGES[i : i + 1], label[i : i + 1]
                answers = np.asarray(score(pipeline, each, KEYS[:1], image, num_draws=1))
                assert (answers.argmax() == 10) == above
                for moved in (False, True):
                    seen = score(
                        pipeline, each, KEYS[:1], image, num_draws=1, labels=its, attacked=moved
                    )
                    right = bool(np.asarray(seen).argmax() == its[0])
                    assert right == (moved and rejected == "safe" if above else not wrong)


def test_a_threshold_rejects_no_more_clean_images_than_it_says():
    """The split conformal quantile: of new images at most that share, on average."""
    rng = np.random.default_rng(1)
    detector, shares = Linearly(), []
    for _ in range(40):
        draws = rng.uniform(size=(39 + 200, 6, 6, 3)).astype(np.float32)
        threshold = calibrate(detector, WEIGHTS, draws[:39], false_positive_rate=0.1)["threshold"]
        shares.append(np.mean(score_images(detector, WEIGHTS, draws[39:]) > float(threshold)))
    error = np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) <= 0.1 + 3 * error
    assert np.mean(shares) >= 0.1 - 1 / 40 - 3 * error


def test_scores_do_not_depend_on_the_batch():
    alone = score_images(Linearly(0.5), WEIGHTS, IMAGES, batch_size=1)
    together = score_images(Linearly(0.5), WEIGHTS, IMAGES, batch_size=7)
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    others = score_images(Linearly(0.5), WEIGHTS, IMAGES, seed=1)
    assert (np.abs(alone - others) > 1e-3).all()


def test_the_defense_draws_as_it_does_without_a_detector():
    noisy = Defended(GaussianNoise(0.1), Linear(SIZE, 10))
    pipeline, params = guarded(pipeline=noisy, noise=0.3)
    np.testing.assert_allclose(
        raw(pipeline, params)[:, :10], raw(noisy, PARAMS), rtol=1e-5, atol=1e-5
    )
    assert pipeline.is_random
    assert guarded(noise=0.3)[0].is_random
    assert not guarded()[0].is_random
    other = pipeline.logits(params, jax.random.key(9), jnp.asarray(IMAGES[0]))
    assert float(other[-1] - other[:-1].max()) != pytest.approx(
        float(np.subtract(raw(pipeline, params)[0, -1], raw(pipeline, params)[0, :-1].max()))
    )


def test_only_what_rejects_is_measured_by_its_rejections():
    threats = (ThreatModel("blind", PGD(num_steps=2)),)
    study = study_of(Subject("bare", PLAIN, PARAMS), threats=threats, measure=Detection())
    with pytest.raises(ValueError, match="'bare' rejects nothing"):
        cells(study)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((255 * IMAGES).astype(np.uint8), "not uint8: divide by 255"),
        (2 * IMAGES, r"must lie in \[0, 1\]"),
        (IMAGES[0], "n h w c"),
        (np.where(IMAGES > 0.5, np.nan, IMAGES), r"must lie in \[0, 1\]"),
    ],
)
def test_images_that_no_detector_should_see_are_refused(given, sentence):
    for call in (score_images, calibrate):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            call(Linearly(), WEIGHTS, given)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("scale", -1.0, "must be finite and positive"),
        ("scale", 0.0, "must be finite and positive"),
        ("threshold", np.nan, "must be finite"),
        ("threshold", np.zeros(2, np.float32), r"one float, not float32 of shape \(2,\)"),
    ],
)
def test_a_threshold_that_says_nothing_is_refused(name, value, sentence):
    pipeline, params = guarded()
    with pytest.raises(ValueError, match=sentence):
        Subject("guarded", pipeline, {**params, name: jnp.asarray(value)})


@dataclasses.dataclass(frozen=True)
class Twice(Linearly):
    """Returns two numbers for an image."""

    def score(self, params, key, image):
        return jnp.zeros(2)


def test_a_score_is_one_number():
    with unchecked(), pytest.raises(ValueError, match=r"returns shape \(2,\) for one image"):
        score_images(Twice(), WEIGHTS, IMAGES)
    _, params = guarded()
    with unchecked(), pytest.raises(ValueError, match=r"Twice\.score returned shape"):
        raw(Guarded(PLAIN, Twice()), params)


def test_a_study_takes_it_under_every_attack_and_ladder(tmp_path):
    """Of an image that nobody attacked a rejection is never right."""
    pipeline, params = guarded()
    threats = (
        *adaptive(0.02, num_steps=3, num_queries=5),
        *ladders(0.02, num_steps=2, num_queries=4, max_gradients=40),
    )
    subjects = (Subject("guarded", pipeline, params), Subject("bare", PLAIN, PARAMS))
    found = evaluate(study_of(*subjects, threats=threats), tmp_path, progress=False)
    records = {(r.subject, r.threat): r for r in found}
    rejected = raw(pipeline, params)[:12].argmax(-1) == 10
    assert rejected.any()
    clean = records["guarded", "clean"].score().accuracy
    assert clean == pytest.approx(np.mean(~rejected))  # the classifier itself is right everywhere
    assert records["bare", "clean"].score().accuracy == 1
    assert {threat for subject, threat in records if subject == "guarded"} >= {
        "own gradient",
        "PGD-3, blind",
        "Square-5",
        "own gradient, ladder",
    }


def test_surrogates_look_inside():
    pipeline, params = guarded()
    assert ClassifierAlone().of(pipeline).used(params).keys() == {"pipeline"}
    assert IdentityGradient().of(pipeline) is None  # there is no defense to differentiate
    assert OwnGradient().of(pipeline) == pipeline
    assert Itself().of(pipeline) == pipeline
    defended, _ = guarded(pipeline=Defended(rainjax.JPEG(50), Linear(SIZE, 10)))
    twin = IdentityGradient().of(defended)
    assert isinstance(twin, Guarded)
    assert isinstance(twin.pipeline.defense, rainjax.BPDA)
    assert "transfer" in climbable(pipeline)


def test_bad_parts_are_refused_in_one_sentence():
    pipeline, params = guarded()
    with pytest.raises(ValueError, match="rejects images already"):
        Guarded(pipeline, Linearly())
    with unchecked(), pytest.raises(ValueError, match="rejected"):
        Guarded(PLAIN, Linearly(), rejected="maybe")
    with pytest.raises(ValueError, match=r"detectors\.calibrate"):
        Subject("guarded", pipeline, PARAMS)
    with pytest.raises(ValueError, match="at least 99"):
        calibrate(Linearly(), WEIGHTS, IMAGES, false_positive_rate=0.01)
    with pytest.raises(ValueError, match=r"false_positive_rate=1\.5"):
        calibrate(Linearly(), WEIGHTS, IMAGES, false_positive_rate=1.5)
    with pytest.raises(ValueError, match="image 0 a score of nan"):
        score_images(Linearly(), {"weights": jnp.full((6, 6, 3), jnp.nan)}, IMAGES)
    random = dataclasses.replace(pipeline, detector=Linearly(0.1))
    with pytest.raises(TypeError, match="lists no outcomes"):
        random.logits_of_draw(params, jnp.asarray(0), jnp.asarray(IMAGES[0]))


def test_a_broken_score_does_not_look_robust():
    pipeline, params = guarded()
    broken = {**params, "detector": {"weights": jnp.full((6, 6, 3), jnp.nan)}}
    with pytest.raises(ValueError, match="NaN"):
        score(pipeline, broken, KEYS, IMAGES, num_draws=1)
