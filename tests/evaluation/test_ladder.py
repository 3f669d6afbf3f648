"""The strength ladder: when it goes on, when it ends, and that nothing else changes it."""

import dataclasses
import itertools
import math
from typing import Literal

import numpy as np
import pytest

from rainjax.attacks import APGD, EOT, PGD, CarliniWagner, Square
from rainjax.defenses import BitDepth, Chain, GaussianNoise, Identity
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    IdentityGradient,
    Itself,
    Knowledge,
    Ladder,
    Shard,
    SoftRounding,
    Subject,
    ThreatModel,
    adaptive,
    evaluate,
    ladders,
    merge,
    score,
)
from rainjax.evaluation.batteries import climbable
from rainjax.evaluation.climbing import climb
from rainjax.evaluation.describe import describe, digest
from rainjax.evaluation.ensemble import attacked_by
from rainjax.evaluation.ladder import is_flat, paired_change
from rainjax.evaluation.study import cells
from rainjax.evaluation.suspects import find_suspect
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import wilson_interval
from rainjax.pipeline import Defended
from tests import measured
from tests.small_studies import KERNEL, RIGHT, SIZE, SMALL, Stopped, linear, study_of
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

# From the image itself, so that steps are all there is to double; few of them reach nothing.
SLOW = PGD(radius=0.035, step_size=0.01, num_steps=1, random_start=False)
NOISY = PGD(radius=0.05, step_size=0.02, num_steps=1, eot=EOT(1))


def slow_by_hand(num_steps, num=12):
    """Right answers after so many steps, by a loop of NumPy."""
    image = SMALL[:num].astype(np.float32).reshape(num, -1) / 255
    moved = image
    for _ in range(num_steps):
        logits = moved @ np.asarray(KERNEL)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        shares[np.arange(num), RIGHT[:num]] -= 1
        moved = moved + 0.01 * np.sign(shares @ np.asarray(KERNEL).T)
        moved = np.clip(np.clip(moved, image - 0.035, image + 0.035), 0, 1)
    return (moved @ np.asarray(KERNEL)).argmax(1) == RIGHT[:num]


def climbed(attack, folder, subject=None, **options):
    ladder = Ladder(attack, **options)
    study = study_of(subject or linear(Identity(), "bare"), threats=[ThreatModel("up", ladder)])
    (record,) = evaluate(study, folder, progress=False)
    return record


def test_steps_are_doubled_until_that_changes_nothing(tmp_path):
    record = climbed(SLOW, tmp_path, max_gradients=100)
    ladder = record.ladder
    assert [rung["steps"] for rung in ladder["rungs"]] == [1, 2, 4, 8, 16]
    assert [rung["doubled"] for rung in ladder["rungs"]] == [None, *["steps"] * 4]
    # An image that is broken stays broken, whatever more steps would have made of it.
    standing = np.ones(12, bool)
    for rung in ladder["rungs"]:
        assert rung["num_attacked"] == standing.sum()
        standing &= slow_by_hand(rung["steps"])
        assert rung["accuracy"] == pytest.approx(standing.mean())
        assert rung["correct_draws"] == "".join(map(str, standing.astype(int)))
        assert (rung["low"], rung["high"]) == pytest.approx(
            wilson_interval(float(standing.sum()), 12)
        )
    accuracies = [rung["accuracy"] for rung in ladder["rungs"]]
    assert accuracies[0] > accuracies[1] > accuracies[2] == accuracies[4] > 0
    assert record.score().accuracy == accuracies[-1]
    assert (ladder["flat"], ladder["ended"]) == (True, "flat")
    assert not record.still_falling
    # What it costs if nothing breaks, and what it did: at most twice its last rung on all images.
    spent = sum(rung["num_attacked"] * rung["num_gradients"] for rung in ladder["rungs"])
    assert spent <= 12 * sum([1, 2, 4, 8, 16]) <= 2 * 12 * 16


def test_a_small_budget_ends_a_ladder_that_was_still_falling(tmp_path):
    record = climbed(SLOW, tmp_path, max_gradients=1 + 2 + 4 + 7)
    assert [rung["steps"] for rung in record.ladder["rungs"]] == [1, 2, 4]
    assert (record.ladder["flat"], record.ladder["ended"]) == (False, "budget")
    assert record.still_falling
    change, error = paired_change(slow_by_hand(1).astype(float), slow_by_hand(2).astype(float))
    assert record.ladder["rungs"][1]["change"] == pytest.approx(change)
    assert record.ladder["rungs"][1]["error"] == pytest.approx(error)
    broken = climbed(dataclasses.replace(SLOW, radius=0.5, step_size=0.2), tmp_path / "broken")
    assert broken.ladder["ended"] == "nothing stands"
    assert broken.ladder["flat"]
    assert broken.score().accuracy == 0


def test_what_counts_as_a_change():
    right = lambda *numbers: np.array([np.arange(100) < n for n in numbers], float).T
    steps = [None, "steps", "steps"]
    assert not is_flat(("steps",), steps[:2], right(50, 50))
    assert is_flat(("steps",), steps, right(50, 50, 50))
    # One image of a hundred is 1.0 points, with a standard error of 1.0: two are 2.0 ± 1.4.
    change, error = paired_change(*right(50, 49).T)
    assert (change, error) == pytest.approx((-0.01, 0.01))
    change, error = paired_change(*right(50, 48).T)
    by_hand = math.sqrt((2 / 100) * (98 / 100) / 99)
    assert (change, error) == pytest.approx((-0.02, by_hand))
    assert is_flat(("steps",), steps, right(50, 50, 49))
    assert not is_flat(("steps",), steps, right(50, 50, 48))
    assert not is_flat(("steps",), steps, right(50, 49, 48))  # nor do two by one look flat
    # What can be doubled and never was may change something.
    kinds = ("steps", "draws", "restarts")
    doubled = [None, "steps", "draws", "restarts"]
    assert not is_flat(kinds, doubled[:3], right(50, 50, 50))
    assert is_flat(kinds, doubled, right(50, 50, 50, 50))
    assert is_flat(("steps",), steps, right(50, 50, 50)[:1])


def test_what_is_doubled_is_what_makes_a_difference():
    ladder = Ladder(APGD(num_steps=4, eot=EOT(2)), max_gradients=1000, kinds=None)
    kinds = lambda random, given=ladder: given.on(is_random=random).kinds
    assert kinds(True) == ("steps", "draws", "restarts")
    assert kinds(False) == ("steps", "restarts")
    assert kinds(False, Ladder(SLOW)) == ("steps",)
    assert kinds(True, Ladder(Square(num_queries=9))) == ("queries", "draws", "restarts")
    rungs = list(ladder.on(is_random=True).rungs())
    of = lambda attack: (attack.num_steps, attack.num_draws, attack.num_restarts)
    assert [of(rung.attack) for rung in rungs[:5]] == [
        (4, 2, 1), (8, 2, 1), (8, 4, 1), (8, 4, 2), (16, 4, 2)
    ]  # fmt: skip
    costs = [rung.attack.num_gradients for rung in rungs]
    assert costs[:4] == [10, 18, 36, 72]
    assert sum(costs) <= 1000 < sum(costs) + 2 * costs[-1]
    assert sum(costs) <= 2 * costs[-1]


def test_a_random_pipeline_is_judged_and_compared_on_draws_of_their_own(tmp_path):
    subject = linear(GaussianNoise(0.1))
    keys = example_keys(7, Purpose.SELECT, np.arange(12))
    ladder = Ladder(NOISY, max_gradients=20, stability=None, num_select_draws=3)
    images = SMALL[:12].astype(np.float32) / 255
    found = climb(
        subject.pipeline, subject.pipeline, ladder, subject.params, 7,
        np.arange(12), images, RIGHT[:12], batch_size=8,
    )  # fmt: skip
    logits = score(subject.pipeline, subject.params, keys, found.images, num_draws=6)
    right = np.asarray(logits).argmax(-1) == RIGHT[:12, None]
    np.testing.assert_array_equal(found.correct[:, -1], right[:, 3:].sum(1))
    assert found.num_draws == 3
    standing = right[:, :3].any(1)
    assert found.num_attacked[-1] >= standing.sum()
    assert (np.abs(found.images - images) <= 0.05 + 1e-6).all()
    assert (found.best[~standing] < len(found.rungs)).all()
    kinds = [rung.doubled for rung in found.rungs[1:]]
    assert kinds == [
        *itertools.islice(itertools.cycle(["steps", "draws", "restarts"]), len(kinds))
    ]


def records_of(folder, **options):
    threats = [CLEAN, ThreatModel("up", Ladder(NOISY, max_gradients=12), num_examples=8)]
    study = study_of(linear(GaussianNoise(0.1)), threats=threats, num_examples=10, **options)
    found = evaluate(study, folder, progress=False)
    varies = ("run", "decides", "batch_size")
    return [{k: v for k, v in r.content.items() if k not in varies} for r in found], study


def test_batches_change_nothing(tmp_path):
    one, _ = records_of(tmp_path / "one", batch_size=8)
    other, _ = records_of(tmp_path / "other", batch_size=3)
    assert one[-1]["ladder"]["rungs"] == other[-1]["ladder"]["rungs"]
    assert one[-1]["result"]["correct_draws"] == other[-1]["result"]["correct_draws"]
    assert one[-1]["ladder"]["noise"]["pairwise_cosine"] == pytest.approx(
        other[-1]["ladder"]["noise"]["pairwise_cosine"], abs=1e-6
    )


def test_a_killed_ladder_goes_on_with_the_batch_it_was_at(tmp_path, monkeypatch):
    undisturbed, study = records_of(tmp_path / "undisturbed", batch_size=3)
    calls, real = [], attacked_by

    def attacked(*args, **options):
        calls.append(args[2])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr("rainjax.evaluation.climbing.attacked_by", attacked)
    with pytest.raises(KeyboardInterrupt):
        records_of(tmp_path / "killed", batch_size=3)
    work = tmp_path / "killed" / study.name / "work"
    assert len(list(work.glob("r-*.npz"))) == 5  # the noise of the gradients, and four batches
    assert set(calls) == {0, 1}  # between two rungs
    found, _ = records_of(tmp_path / "killed", batch_size=3)
    assert found == undisturbed
    whole = sum(-(-r["num_attacked"] // 3) for r in found[-1]["ladder"]["rungs"])
    assert len(calls) == whole + 1
    assert not list(work.glob("r-*.npz"))


def test_shares_come_to_the_records_of_one_process(tmp_path):
    threats = (CLEAN, ThreatModel("up", Ladder(NOISY, max_gradients=8)))
    made = lambda: measured.study(threats=threats)
    for index in range(2):
        evaluate(made(), tmp_path / str(index), shard=Shard(index, 2), progress=False)
    merge([tmp_path / "0" / measured.NAME, tmp_path / "1" / measured.NAME], tmp_path / "merged")
    evaluate(made(), tmp_path / "alone", progress=False)
    assert measured.content(tmp_path / "merged") == measured.content(tmp_path / "alone")
    assert any("ladder" in content for content in measured.content(tmp_path / "alone").values())


def test_a_mask_is_flat_under_its_own_gradient_and_falls_under_another(tmp_path):
    attack = PGD(radius=0.5, step_size=0.2, num_steps=1, random_start=False)
    threats = [
        ThreatModel("own", Ladder(attack, max_gradients=10)),
        ThreatModel("identity", Ladder(attack, max_gradients=10), IdentityGradient()),
        ThreatModel("transfer", Ladder(attack, max_gradients=10), ClassifierAlone()),
    ]
    study = study_of(linear(Stopped()), threats=threats)
    found = {record.threat: record for record in evaluate(study, tmp_path, progress=False)}
    assert [found["own"].score().accuracy, found["own"].ladder["ended"]] == [1.0, "flat"]
    for name in ("identity", "transfer"):
        assert found[name].score().accuracy == 0
        assert found[name].ladder["ended"] == "nothing stands"


def test_a_ladder_is_judged_by_the_pipeline_that_is_scored(tmp_path):
    """Images that fool the classifier alone still stand, where its defense undoes that."""
    soft = PGD(radius=0.02, step_size=0.01, num_steps=2, random_start=False)
    subject = linear(BitDepth(2))
    threat = ThreatModel("transfer", Ladder(soft, max_gradients=14), ClassifierAlone())
    (record,) = evaluate(study_of(subject, threats=[threat]), tmp_path, progress=False)
    assert record.ladder["rungs"][-1]["accuracy"] == record.score().accuracy
    assert record.ladder["rungs"][-1]["num_attacked"] >= 12 * record.score().accuracy > 0
    # What else should be climbed is said, by what it differentiates, though nobody tried it.
    told = record.content["subject"]["surrogates"]
    assert told.keys() == climbable(subject.pipeline).keys() > {"transfer", "own gradient"}
    assert told["transfer"] == ["gradient", digest(record.content["threat"]["differentiates"])]
    assert told["Square"] == ["scores", digest(record.content["subject"]["target"])]


def test_a_record_says_what_a_ladder_was_told_not_to_double(tmp_path):
    narrow = Ladder(NOISY, max_gradients=1000, kinds=("restarts",))
    threats = [
        ThreatModel("narrow", narrow),
        ThreatModel("whole", dataclasses.replace(narrow, kinds=None)),
    ]
    made = evaluate(study_of(linear(BitDepth(2)), threats=threats), tmp_path, progress=False)
    said = {record.threat: record.content["threat"].get("left_out") for record in made}
    # Nothing is random, so draws would make no difference.
    assert said == {"narrow": ["steps"], "whole": None}


def test_the_battery_has_a_ladder_for_every_surrogate_that_applies():
    rounded = Chain((BitDepth(3), GaussianNoise(0.1)))
    params = {"defense": ((), ()), "classifier": {"kernel": KERNEL}}
    subjects = (
        linear(Identity(), "bare"), linear(BitDepth(3)), linear(GaussianNoise(0.1)),
        Subject("both", Defended(rounded, Linear(SIZE, 10)), params),
    )  # fmt: skip
    battery = ladders(0.05, num_steps=3, num_queries=9, eot=EOT(2), max_gradients=1000)
    found = {}
    for cell in cells(study_of(*subjects, threats=battery)):
        assert isinstance(cell.attack, Ladder)
        assert ("draws" in cell.attack.kinds) == cell.surrogate.is_random
        found.setdefault(cell.subject.name, set()).add(cell.threat.name.removesuffix(", ladder"))
    blind = {"transfer", "BPDA, identity", "BPDA, low-pass"}
    assert found == {
        "bare": {"own gradient", "Square"},
        "BitDepth": {"own gradient", "sharper rounding", "reachable outputs", "Square", *blind},
        "GaussianNoise": {"own gradient", "Square", *blind},
        "both": {"own gradient", "sharper rounding", "Square", *blind},
    }
    # What a record says of its subject is what the battery then climbs.
    for subject in subjects:
        told = {
            cell.threat.name.removesuffix(", ladder"): digest(describe(cell.surrogate))
            for cell in cells(study_of(subject, threats=battery))
        }
        applying = climbable(subject.pipeline)
        assert told == {name: of for name, (_, of) in applying.items()}
        # No ladder stands for another.
        assert len(set(applying.values())) == len(applying)
    # What `adaptive` tries has a ladder each: none is wanting in a study of both.
    seen = lambda threats: {
        (cell.subject.name, cell.threat.knowledge > Knowledge.SCORES, cell.surrogate)
        for cell in cells(study_of(*subjects, threats=threats))
        if cell.attack is not None
    }
    assert seen(adaptive(0.05, num_steps=3, eot=EOT(2))) <= seen(battery)
    soft = SoftRounding("sine").of(subjects[-1].pipeline).defense
    assert soft.forward == rounded
    assert soft.backward == Chain((BitDepth(3, rounding="sine"), GaussianNoise(0.1)))
    study = study_of(subjects[2], threats=battery)
    assert find_suspect(study, subjects[2]).attack.num_steps == 3


@dataclasses.dataclass(frozen=True)
class Odd(BitDepth):
    """A defense of somebody's own, with a word of this library's and a method that fails."""

    rounding: Literal["true", "floor"] = "true"
    made: int = dataclasses.field(default=0, init=False)

    def mean_field(self):
        raise ValueError("nobody has worked it out")


def test_what_a_defense_does_not_allow_ends_no_study_and_stays_wanting(tmp_path):
    pipeline = linear(Odd(3)).pipeline
    found = climbable(pipeline)
    assert found["mean field"] == ("gradient", "")
    assert "sharper rounding" not in found  # its `rounding` is another one
    (record,) = evaluate(study_of(linear(Odd(3)), threats=[CLEAN]), tmp_path, progress=False)
    assert record.content["subject"]["surrogates"]["mean field"] == ["gradient", ""]


def test_bad_ladders_are_refused():
    up = Ladder(NOISY)
    for knowledge in (Knowledge.CLASSIFIER, Knowledge.LABELS):
        with pytest.raises(ValueError, match=f"knowledge={knowledge.name} does not allow"):
            ThreatModel("up", up, ClassifierAlone(), knowledge)
    with pytest.raises(ValueError, match="is targeted"):
        ThreatModel("up", Ladder(PGD(targeted=True)))
    with pytest.raises(ValueError, match="CarliniWagner looks for the nearest success"):
        Ladder(CarliniWagner())
    with pytest.raises(ValueError, match="max_gradients=39 does not pay for the first rung"):
        Ladder(PGD(), max_gradients=39)
    with pytest.raises(ValueError, match="doubles nothing on this surrogate"):
        cells(study_of(linear(Identity()), threats=[
            ThreatModel("up", Ladder(NOISY, kinds=("draws",)), Itself())
        ]))  # fmt: skip
