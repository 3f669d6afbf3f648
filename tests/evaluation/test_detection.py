"""The measure of detection: against numbers worked out by hand, against loops, and in a study."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rainjax import metrics
from rainjax.attacks import PGD
from rainjax.defenses import Identity
from rainjax.evaluation import (
    CLEAN,
    Detection,
    Subject,
    ThreatModel,
    evaluate,
    extras,
    load_records,
)
from rainjax.evaluation.measures import outcome_of
from rainjax.pipeline import Pipeline
from rainjax.report import MostSuspicious, Results, report
from tests.small_studies import KERNEL, SIZE, linear, study_of
from tests.tiny import unchecked

SURE, UNSURE = 9.0, 0.5  # of two other logits at 0: probabilities of 0.9998 and 0.45


def raw(*images):
    """Logits of three classes and the rejection, from (class, its logit, score) of each draw."""
    found = np.zeros((len(images), len(images[0]), 4), np.float32)
    for i, draws in enumerate(images):
        for j, (answer, logit, score) in enumerate(draws):
            found[i, j, answer] = logit
            found[i, j, 3] = logit + score
    return found


# Seven images, all of class 0. Before the attack the last is wrong, the first a false alarm.
CLEAN_LOGITS = raw(
    [(0, SURE, 0.25)], [(0, SURE, -1)], [(0, SURE, -2)], [(0, UNSURE, -3)], [(0, SURE, -4)],
    [(0, SURE, -5)], [(1, UNSURE, -0.5)],
)  # fmt: skip
# After it: two wrong and rejected, one of them surely; four wrong and answered, one of them
# surely; one right, and rejected.
ATTACKED_LOGITS = raw(
    [(1, SURE, 2)], [(1, UNSURE, 0.125)], [(2, SURE, -0.25)], [(1, UNSURE, -1.5)],
    [(1, UNSURE, -0.75)], [(0, SURE, 3)], [(1, UNSURE, -6)],
)  # fmt: skip
LABELS = np.zeros(7, int)
QUICK = Detection(num_resamples=20)


def kept(clean, attacked):
    size = np.full(len(attacked), 0.5)
    return {"clean_logits": clean, "logits": attacked, "linf": size, "l2": 2 * size}


def values(result):
    return {name: part["value"] for name, part in result.items() if "value" in (part or ())}


def test_seven_images_by_hand():
    result = QUICK.reduce(kept(CLEAN_LOGITS, ATTACKED_LOGITS), LABELS)
    assert values({k: v for k, v in result.items() if isinstance(v, dict)}) == pytest.approx(
        {
            "coverage": 4 / 7,
            "accuracy_rejected_is_error": 0,
            "accuracy_of_answered": 0,
            "slips_through": 4 / 7,
            "rejected_though_right": 1 / 7,
            "accuracy_without_detector": 1 / 7,
            "egregious": 1 / 7,
            "egregious_without_detector": 2 / 7,
            "false_positive_rate": 1 / 7,
        }
    )
    assert result["scores"] == {
        "clean": [0.25, -1, -2, -3, -4, -5, -0.5],
        "attacked": [2, 0.125, -0.25, -1.5, -0.75, 3, -6],
    }
    assert result["wrong_draws"] == {"clean": "0000001", "attacked": "1111101"}
    assert (result["num_examples"], result["num_successful"]) == (7, 5)
    ranking = result["all_attacked"]
    # Above 0.25, the largest clean score, are 2 and 3.
    assert ranking["detection_rates"]["0.01"]["value"] == 2 / 7
    assert ranking["num_examples"] == 7
    # Clean scores below each: 7, 6, 6, 4, 5, 7, 0.
    assert ranking["auroc"]["value"] == pytest.approx(35 / 49)
    assert ranking["rejected"]["value"] == pytest.approx(3 / 7)
    # Successful are the first five; the last was wrong before.
    ranking = result["successful"]
    assert ranking["num_examples"] == 5
    assert ranking["auroc"]["value"] == pytest.approx(28 / 35)
    assert ranking["detection_rates"]["0.05"]["value"] == 1 / 5
    assert ranking["rejected"]["value"] == 2 / 5
    # Suspicious at or above each of five, and clean: 1/1, 2/3, 3/4, 4/6 and 5/8.
    precision = np.mean([1, 2 / 3, 3 / 4, 4 / 6, 5 / 8])
    assert ranking["average_precision"]["value"] == pytest.approx(precision)
    # Answered from the least suspicious on: wrong, wrong, ..., and the right one last.
    assert result["risk_coverage"]["area"] == pytest.approx((6 + 6 / 7) / 7)
    assert (result["linf_max"], result["l2_mean"]) == (0.5, 1.0)


def test_every_share_has_wilsons_interval():
    result = QUICK.reduce(kept(CLEAN_LOGITS, ATTACKED_LOGITS), LABELS)
    for name, count, total in (
        ("coverage", 4, 7),
        ("slips_through", 4, 7),
        ("accuracy_of_answered", 0, 4),
        ("egregious", 1, 7),
        ("false_positive_rate", 1, 7),
    ):
        expected = scipy.stats.binomtest(count, total).proportion_ci(method="wilson")
        found = result[name]
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    found = result["successful"]["rejected"]
    expected = scipy.stats.binomtest(2, 5).proportion_ci(method="wilson")
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_confidence_decides_which_wrong_answers_are_egregious():
    low = Detection(0.4, num_resamples=20).reduce(kept(CLEAN_LOGITS, ATTACKED_LOGITS), LABELS)
    assert low["egregious_without_detector"]["value"] == pytest.approx(6 / 7)
    assert low["egregious"]["value"] == pytest.approx(4 / 7)
    probability = np.exp(UNSURE) / (np.exp(UNSURE) + 2)
    for least, share in ((probability - 1e-6, 6 / 7), (probability + 1e-6, 2 / 7)):
        found = Detection(least, num_resamples=20).reduce(
            kept(CLEAN_LOGITS, ATTACKED_LOGITS), LABELS
        )
        assert found["egregious_without_detector"]["value"] == pytest.approx(share)


def test_clean_images_have_false_positives_and_no_ranking():
    result = QUICK.reduce({"logits": CLEAN_LOGITS}, LABELS)
    assert result["false_positive_rate"]["value"] == pytest.approx(1 / 7)
    assert result["accuracy_without_detector"]["value"] == pytest.approx(6 / 7)
    assert result["accuracy_rejected_is_error"]["value"] == pytest.approx(5 / 7)
    assert result["accuracy_of_answered"]["value"] == pytest.approx(5 / 6)
    assert result["all_attacked"] is None
    assert result["successful"] is None
    assert result["scores"]["attacked"] is None
    shown = Detection().shown(result)
    assert next(iter(shown.items())) == ("answered wrong", "14.3 % [2.6, 51.3]")
    assert shown["egregiously wrong"].endswith("of 0.0 % without the detector")
    assert not any("AUROC" in title for title in shown)


def test_where_everything_is_rejected_nothing_is_said_of_the_answered():
    everything = raw(*[[(1, SURE, 1.0)]] * 6)
    result = QUICK.reduce(kept(CLEAN_LOGITS[:6], everything), LABELS[:6])
    assert result["accuracy_of_answered"] is None
    assert Detection().shown(result)["right among answered"] == "none answered"
    assert result["successful"]["rejected"]["value"] == 1
    few = QUICK.reduce(kept(CLEAN_LOGITS[:4], everything[:4]), LABELS[:4])
    assert few["num_successful"] == 4
    assert few["successful"] is None


def test_draws_count_by_the_mean_score_and_the_mean_share():
    """Against loops over images and draws."""
    rng = np.random.default_rng(0)
    clean, attacked = (rng.normal(size=(40, 3, 6)).astype(np.float32) for _ in range(2))
    clean[..., 0] += 2
    labels = np.zeros(40, int)
    result = Detection(num_resamples=50).reduce(kept(clean, attacked), labels)
    wrong_answered = np.mean([
        [row[:5].argmax() != 0 and row[5] <= row[:5].max() for row in draws] for draws in attacked
    ])  # fmt: skip
    assert result["slips_through"]["value"] == pytest.approx(wrong_answered)
    right_of_answered = [
        row[:5].argmax() == 0 for draws in attacked for row in draws if row[5] <= row[:5].max()
    ]
    assert result["accuracy_of_answered"]["value"] == pytest.approx(np.mean(right_of_answered))
    scores = [
        [np.mean([row[5] - row[:5].max() for row in draws]) for draws in each]
        for each in (clean, attacked)
    ]
    expected = scipy.stats.mannwhitneyu(scores[1], scores[0]).statistic / 1600
    assert result["all_attacked"]["auroc"]["value"] == pytest.approx(expected)
    np.testing.assert_allclose(result["scores"]["clean"], scores[0], rtol=1e-3)
    succeeded = sum(
        sum(row[:5].argmax() != 0 for row in after) >= 2
        and sum(row[:5].argmax() != 0 for row in before) <= 1
        for before, after in zip(clean, attacked, strict=True)
    )
    assert result["num_successful"] == succeeded > 5


def test_intervals_of_rankings_are_of_images_drawn_with_both_their_scores():
    rng = np.random.default_rng(0)
    clean, attacked = (np.zeros((50, 1, 3), np.float32) for _ in range(2))
    clean[:, 0, 0], attacked[:, 0, 1] = 1, 1
    attacked[::2, 0, :2] = clean[::2, 0, :2]  # every other attack fails
    clean[:, 0, 2] = 1 + rng.normal(size=50)
    attacked[:, 0, 2] = clean[:, 0, 2] + rng.normal(1, 1, size=50)
    before, after = (each[:, 0, 2].astype(np.float64) - 1 for each in (clean, attacked))
    result = Detection(num_resamples=40).reduce(kept(clean, attacked), np.zeros(50, int))
    pair = lambda found: (found["low"], found["high"])
    expected = metrics.bootstrap_interval(metrics.auroc, before, after, num_resamples=40)
    assert pair(result["all_attacked"]["auroc"]) == pytest.approx(expected)
    odd = np.arange(50) % 2 == 1
    expected = metrics.bootstrap_interval(
        lambda clean, attacked, odd: metrics.detection_rate(clean, attacked[odd], 0.05),
        before, after, odd, num_resamples=40,
    )  # fmt: skip
    assert pair(result["successful"]["detection_rates"]["0.05"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"confidence": 90.0}, r"confidence=90.0 must lie in \(0, 1\)"),
        ({"confidence": "0.9"}, "confidence='0.9'"),
        ({"false_positive_rates": ()}, r"false_positive_rates=\(\) must be different rates"),
        ({"false_positive_rates": (0.05, 5.0)}, "false_positive_rates=.*0.05, 5.0"),
        ({"false_positive_rates": (0.05, 0.05)}, "different rates"),
        ({"false_positive_rates": 0.05}, "false_positive_rates=0.05"),
        ({"num_resamples": 0}, "num_resamples=0 must be at least 1"),
    ],
)
def test_bad_options_are_refused(options, words):
    with unchecked(), pytest.raises(ValueError, match=words):
        Detection(**options)


def test_a_subject_without_a_detector_is_refused():
    with pytest.raises(ValueError, match=r"of 3 logits none is left for the label 2.*Guarded"):
        QUICK.reduce({"logits": np.zeros((3, 1, 3), np.float32)}, np.arange(3))


@dataclasses.dataclass(frozen=True)
class Bright(Pipeline):
    """A linear classifier, and a rejection of what is brighter than a threshold."""

    def init(self, key):
        return {"kernel": jnp.zeros((SIZE, 10)), "threshold": jnp.zeros(())}

    def logits(self, params, key, image):
        logits = image.ravel() @ params["kernel"]
        score = 100 * (image.mean() - params["threshold"])
        return jnp.append(logits, logits.max() + score)

    @property
    def is_random(self):
        return False

    @property
    def rejection(self):
        return "safe"

    def num_classes(self, params, image):
        return 10


@pytest.mark.usefixtures("quick_compilation")
def test_a_study_is_measured_recorded_read_back_and_shown(tmp_path):
    subject = Subject("bright", Bright(), {"kernel": KERNEL, "threshold": jnp.float32(0.52)})
    attack = PGD(radius=0.05, step_size=0.02, num_steps=3)
    study = study_of(
        subject,
        threats=(CLEAN, ThreatModel("PGD", attack)),
        measure=Detection(num_resamples=50),
        num_examples=16,
        extras=(extras.MostSuspicious(num_images=2),),
    )
    assert Detection.takes_rejections
    evaluate(study, tmp_path, progress=False)
    clean, attacked = load_records(tmp_path / "small")
    assert (clean.measure, clean.scored) == ("Detection", False)
    images = study.images.get(np.arange(16))[0].astype(np.float32) / 255
    scores = 100 * (images.mean((1, 2, 3)) - 0.52)
    np.testing.assert_allclose(clean.result["scores"]["clean"], scores, rtol=2e-3, atol=1e-3)
    assert attacked.result["scores"]["clean"] == clean.result["scores"]["clean"]
    assert clean.result["false_positive_rate"]["value"] == (scores > 0).mean()
    assert attacked.result["linf_max"] == pytest.approx(0.05, abs=1e-6)
    assert list(attacked.result["all_attacked"]["detection_rates"]) == ["0.01", "0.05"]
    _check_suspicious(study, tmp_path / "small", clean, attacked)
    (table,) = report([clean, attacked]).tables
    assert str(table.rows[0][1]).startswith(clean.shown["answered wrong"])
    assert table.notes[0].startswith("**answered wrong**, as Detection measures it")


def _check_suspicious(study, folder, clean, attacked):
    """The extremes of all images, from several batches, as the record's scores order them."""
    for record, brighter in ((clean, False), (attacked, True)):
        kept = dict(np.load(folder / "suspicious" / f"{record.id}.npz"))
        scores = np.array(record.result["scores"]["attacked" if brighter else "clean"])
        most, least = np.argsort(-scores)[:2], np.argsort(scores)[:2]
        assert kept["positions"].tolist() == [*most, *least]
        np.testing.assert_allclose(kept["scores"], scores[[*most, *least]], rtol=1e-3)
        originals, labels = study.images.get(kept["positions"])
        np.testing.assert_array_equal(kept["labels"], labels)
        # The attack moves pixels by 0.05 at most, and clean images not at all.
        moved = np.abs(kept["images"].astype(int) - originals)
        assert (0 < moved.max() <= 13) if brighter else moved.max() == 0
    assert [name.name for name in MostSuspicious().drawings(Results.read(folder))] == [
        f"suspicious-{record.id}" for record in (clean, attacked)
    ]


def test_images_by_their_scores_need_a_detector(tmp_path):
    study = study_of(linear(Identity()), threats=(CLEAN,), extras=(extras.MostSuspicious(),))
    with pytest.raises(ValueError, match=r"which Robustness does not keep: .*measure=Detection"):
        evaluate(study, tmp_path, progress=False)


def test_a_result_is_plain_json():
    found = outcome_of(Detection(), QUICK.reduce(kept(CLEAN_LOGITS, ATTACKED_LOGITS), LABELS))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
