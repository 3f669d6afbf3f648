"""A pipeline that answers or rejects, and how attacks, scores and studies take it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rainjax
from rainjax import Defended, Guarded, Identity
from rainjax.adapters._batched import Batched
from rainjax.attacks import APGD, PGD, SelectivePGD, Square
from rainjax.defenses import GaussianNoise
from rainjax.detectors import Detector, calibrate, score_images
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    Detection,
    IdentityGradient,
    Itself,
    Knowledge,
    Ladder,
    OwnGradient,
    Subject,
    ThreatModel,
    WantsRejection,
    adaptive,
    attack_batch,
    evaluate,
    keep_worst,
    ladders,
    run_attack,
    score,
)
from rainjax.evaluation.batteries import climbable
from rainjax.evaluation.ensemble import Member, run_ensemble
from rainjax.evaluation.study import cells
from rainjax.evaluation.universal import universal_perturbation
from rainjax.evaluation.work import Work
from rainjax.pipeline import fold_rejection
from tests.small_studies import KERNEL, RIGHT, SIZE, SMALL, study_of
from tests.tiny import Linear, unchecked

IMAGES = SMALL.astype(np.float32) / 255
KEYS = jax.random.split(jax.random.key(5), len(IMAGES))
PLAIN = Defended(Identity(), Linear(SIZE, 10))
PARAMS = {"defense": (), "classifier": {"kernel": KERNEL}}


@dataclasses.dataclass(frozen=True)
class Linearly(Detector):
    """Scores an image by its values' weighted sum, which leaves nothing to guess."""

    noise: float = 0.0

    def init(self, key):
        return {"weights": jnp.zeros((6, 6, 3))}

    def score(self, params, key, image):
        noise = self.noise * jax.random.normal(key) if self.noise else 0.0
        return jnp.sum(params["weights"] * image) + noise

    @property
    def is_random(self):
        return self.noise > 0


WEIGHTS = {"weights": jnp.asarray(np.random.default_rng(4).normal(size=(6, 6, 3)), jnp.float32)}


def guarded(rate=0.25, pipeline=PLAIN, params=PARAMS, **options):
    noise = options.pop("noise", 0.0)
    detector = Linearly(noise)
    fitted = calibrate(detector, WEIGHTS, IMAGES, false_positive_rate=rate)
    return Guarded(pipeline, detector, **options), {"pipeline": params, **fitted}


def raw(pipeline, params, images=IMAGES):
    return np.asarray(score(pipeline, params, KEYS[: len(images)], images, num_draws=1)[:, 0])


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


@pytest.mark.parametrize(
    "attack", [PGD(radius=0.3, step_size=0.05), APGD(radius=0.3, loss="margin", num_steps=20)]
)
def test_an_attacker_has_to_be_wrong_and_pass_unless_a_rejection_is_what_he_wants(attack):
    """Against a detector of any move in one direction; the score is NumPy's."""
    outcomes = {}
    for rejected in ("safe", "error"):
        pipeline, params = guarded(rejected=rejected)
        found = run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT)
        logits = raw(pipeline, params, np.asarray(found))
        outcomes[rejected] = logits.argmax(-1)
        folded = score(pipeline, params, KEYS, found, num_draws=1, labels=RIGHT)
        right = np.asarray(folded)[:, 0].argmax(-1) == RIGHT
        fine = (outcomes[rejected] == RIGHT) | ((outcomes[rejected] == 10) & (rejected == "safe"))
        np.testing.assert_array_equal(right, fine)
    wrong_and_passed = (outcomes["safe"] != RIGHT) & (outcomes["safe"] != 10)
    assert wrong_and_passed.mean() > 0.9  # a linear detector hides nothing
    assert (outcomes["error"] != RIGHT).all()


def test_a_detector_that_rejects_everything_is_worth_nothing(tmp_path):
    """To who attacks it, nothing is left to do: robust is never more than clean."""
    pipeline, params = guarded()
    params = {**params, "threshold": jnp.asarray(-1e3)}
    threats = (
        *adaptive(0.2, num_steps=3, num_queries=5),
        *ladders(0.2, num_steps=2, num_queries=4, max_gradients=40),
    )
    subject = Subject("closed", pipeline, params)
    found = evaluate(study_of(subject, threats=threats), tmp_path, progress=False)
    assert len(found) > 6
    assert {record.score().accuracy for record in found} == {0.0}


def test_robust_is_never_more_than_clean(tmp_path):
    """Of detectors with false positives as well, under attacks that hardly move anything."""
    pipeline, params = guarded(rate=0.5)
    weak = PGD(radius=0.001, step_size=0.001, num_steps=1)
    square = Square(radius=0.001, num_queries=2)
    threats = (
        CLEAN,
        ThreatModel("weak", weak),
        ThreatModel("scores", square, knowledge=Knowledge.SCORES),
    )
    study = study_of(Subject("guarded", pipeline, params), threats=threats, num_examples=16)
    clean, *attacked = evaluate(study, tmp_path, progress=False)
    assert 0 < clean.score().accuracy < 1
    assert all(record.score().accuracy <= clean.score().accuracy for record in attacked)


def test_a_saboteur_is_counted_by_what_he_wants(tmp_path):
    """Whatever the pipeline says of a rejection, and on a ladder too."""
    pipeline, params = guarded()
    attack = PGD(radius=0.1, step_size=0.02, num_steps=10, loss="rejection")
    climbing = APGD(radius=0.1, num_steps=4, loss="margin")
    threats = (
        ThreatModel("sabotage", attack, WantsRejection()),
        ThreatModel("sabotage, ladder", Ladder(climbing, max_gradients=60), WantsRejection()),
    )
    study = study_of(Subject("guarded", pipeline, params), threats=threats)
    found = {r.threat: r.score().accuracy for r in evaluate(study, tmp_path, progress=False)}
    reach = np.sum(np.asarray(WEIGHTS["weights"]) * IMAGES[:12], (1, 2, 3))
    reach += 0.1 * np.abs(WEIGHTS["weights"]).sum()
    assert found["sabotage"] <= np.mean(reach <= float(params["threshold"])) + 0.1
    assert found["sabotage, ladder"] <= 0.1


@pytest.mark.parametrize("loss", ["rejection", "acceptance"])
def test_what_an_attack_on_the_score_found_is_kept(loss):
    pipeline, params = guarded(rejected="error")
    attack = PGD(radius=0.1, step_size=0.02, num_steps=12, loss=loss)
    found = run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT)
    kept = keep_worst(pipeline, attack, params, KEYS, IMAGES, found, RIGHT, num_draws=1)
    rejected = lambda images: raw(pipeline, params, np.asarray(images)).argmax(-1) == 10
    before, after = rejected(IMAGES), rejected(kept)
    np.testing.assert_array_equal(after, rejected(found))
    assert after.mean() > before.mean() if loss == "rejection" else after.mean() < before.mean()


def test_a_rejected_image_has_not_reached_a_target():
    pipeline, params = guarded()
    params = {**params, "threshold": jnp.asarray(-1e3)}
    targets = (RIGHT + 1) % 10
    attack = PGD(radius=0.2, step_size=0.05, num_steps=3, targeted=True)
    _, reached = attack_batch(pipeline, pipeline, attack, params, KEYS, KEYS, IMAGES, targets)
    assert not np.asarray(reached).any()


def test_every_loss_finds_a_saboteurs_way():
    """A rejection counts as one other class: what compares several classes still has a slope."""
    pipeline, params = guarded(rejected="error")
    for attack in (
        APGD(radius=0.05, num_steps=20, loss="margin"),
        APGD(radius=0.05, num_steps=20, loss="dlr"),
        APGD(radius=0.05, num_steps=20, num_targets=3),
        PGD(radius=0.05, step_size=0.01, num_steps=20, loss="dlr"),
    ):
        found = run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT)
        seen = score(pipeline, params, KEYS, found, num_draws=1, labels=RIGHT)
        assert (np.asarray(seen)[:, 0].argmax(-1) != RIGHT).mean() > 0.9, attack


def test_where_answers_are_compared_no_attack_is_on_the_score_alone():
    pipeline, params = guarded()
    attack = PGD(radius=0.1, loss="rejection")
    with pytest.raises(ValueError, match="A ladder compares answers"):
        Ladder(attack)
    with pytest.raises(ValueError, match="An ensemble compares answers"):
        run_ensemble(
            pipeline, (Member("one", attack),), params, 0, np.arange(16), IMAGES, RIGHT,
            batch_size=16, num_select_draws=1,
        )  # fmt: skip
    with pytest.raises(ValueError, match="of a detector's score"):
        universal_perturbation(
            pipeline, params, 0, np.arange(16), IMAGES, RIGHT, loss="acceptance"
        )


def test_other_peoples_attacks_do_not_take_a_rejection_for_a_success():
    pipeline, params = guarded()
    with pytest.raises(ValueError, match="a wrong answer that passes"):
        Batched(pipeline, params, seed=0, fresh=True).num_classes((6, 6, 3))
    sabotaged = dataclasses.replace(pipeline, rejected="error")
    assert Batched(sabotaged, params, seed=0, fresh=True).num_classes((6, 6, 3)) == 11


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


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_selective_gradients_find_a_wrong_answer_that_passes(orthogonal, norm):
    """Of two linear functions and a ball that is wide enough for both."""
    pipeline, params = guarded()
    radius = 0.3 if norm == "linf" else 2.5
    attack = SelectivePGD(
        norm=norm, radius=radius, step_size=radius / 15, num_steps=60, orthogonal=orthogonal
    )
    found = np.asarray(run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT))
    answers = raw(pipeline, params, found).argmax(-1)
    assert ((answers != RIGHT) & (answers != 10)).all()


def test_orthogonal_steps_leave_the_other_half_alone():
    """In L2 and away from the borders of [0, 1], a step for one does not move the other."""
    pipeline, params = guarded()
    attack = SelectivePGD(norm="l2", radius=1.0, step_size=1e-2, num_steps=1)
    image, label = jnp.full((6, 6, 3), 0.5), jnp.asarray(int(RIGHT[0]))
    logits_fn = lambda draw, image: pipeline.logits_of_draw(params, draw, image)
    answer = attack.query(
        logits_fn, KEYS[0], image, attack.ask(attack.init(KEYS[0], image, label))[1]
    )
    moved = attack.update(KEYS[0], attack.init(KEYS[0], image, label), answer).image
    step = np.asarray(moved - image, np.float64).ravel()
    own, other = answer.gradient, answer.above_gradient
    if answer.value > 0:
        own, other = -other, own
    np.testing.assert_allclose(np.linalg.norm(step), 1e-2, rtol=1e-4)
    cosine = lambda a: (
        step @ np.asarray(a, np.float64).ravel() / np.linalg.norm(step) / np.linalg.norm(a)
    )
    assert abs(cosine(other)) < 1e-4
    assert cosine(own) > 0.1


@pytest.mark.parametrize("loss", ["rejection", "acceptance"])
def test_the_score_alone_can_be_attacked_both_ways(loss):
    pipeline, params = guarded(rejected="error")
    attack = PGD(radius=0.05, step_size=0.01, num_steps=12, loss=loss)
    found = np.asarray(run_attack(pipeline, attack, params, KEYS, IMAGES, RIGHT))
    moved = np.sum(np.asarray(WEIGHTS["weights"]) * (found - IMAGES), (1, 2, 3))
    reach = 0.05 * np.abs(WEIGHTS["weights"]).sum()  # what a linear score can be moved by
    np.testing.assert_allclose(np.abs(moved), reach, rtol=0.02)
    assert (np.sign(moved) == (1 if loss == "rejection" else -1)).all()


def test_attacks_on_a_detector_say_so_where_there_is_none():
    for attack in (SelectivePGD(), PGD(loss="rejection")):
        with pytest.raises(ValueError, match="attacks a detector, and Defended rejects nothing"):
            run_attack(PLAIN, attack, PARAMS, KEYS, IMAGES, RIGHT)


def test_the_blind_attack_is_shared_by_all_detectors(tmp_path):
    one, params = guarded()
    other = dataclasses.replace(one, detector=Linearly(0.1))
    threats = (ThreatModel("blind", PGD(num_steps=2), ClassifierAlone(), Knowledge.CLASSIFIER),)
    study = study_of(Subject("one", one, params), Subject("other", other, params), threats=threats)
    work = Work(study, tmp_path)
    files = {unit.attacked for cell in cells(study) for unit in work.units(cell)}
    assert len(cells(study)) == 2
    assert len(files) == len(work.units(cells(study)[0]))


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
