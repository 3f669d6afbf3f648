"""A study over several seeds: how far its accuracies spread."""

import dataclasses
import shutil

import numpy as np
import pytest

from rainjax.attacks import PGD
from rainjax.defenses import GaussianNoise, Identity
from rainjax.evaluation import CLEAN, Measure, ThreatModel, evaluate, load_records, over_seeds
from tests.small_studies import linear, study_of
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

SEEDS = (3, 0, 2**32 - 1)
PGD_ONE = PGD(radius=0.02, step_size=0.01, num_steps=1)


def small(**options):
    threats = (CLEAN, ThreatModel("PGD", PGD_ONE))
    subjects = linear(GaussianNoise(0.3), "noise"), linear(Identity(), "bare")
    return study_of(*subjects, threats=threats, **options)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("seeds")


@pytest.fixture(scope="module")
def found(out):
    return over_seeds(small(), SEEDS, out, progress=False)


def test_every_seed_is_a_study_of_its_own(found, out, tmp_path):
    assert list(found.records) == list(SEEDS)
    alone = evaluate(dataclasses.replace(small(), seed=0), tmp_path, progress=False)
    wanted = {record.id: record.result for record in alone}
    assert {record.id: record.result for record in found.records[0]} == wanted
    kept = load_records(out / "seed-0" / "small")
    assert {record.id: record.result for record in kept} == wanted


def test_the_spread_is_that_of_the_records(found):
    assert {spread.subject for spread in found.spreads.values()} == {"noise", "bare"}
    assert {spread.threat for spread in found.spreads.values()} == {"clean", "PGD"}
    for name, spread in found.spreads.items():
        accuracies = {
            seed: next(r for r in records if r.id == name).score().accuracy
            for seed, records in found.records.items()
        }
        assert spread.accuracies == accuracies
        values = list(accuracies.values())
        assert spread.mean == pytest.approx(np.mean(values))
        assert spread.std == pytest.approx(np.std(values, ddof=1))
        assert (spread.min, spread.max) == (min(values), max(values))
        assert str(spread) in str(found)
    by_name = {(s.subject, s.threat): s for s in found.spreads.values()}
    assert by_name["noise", "clean"].std > 0
    assert by_name["bare", "clean"].std == 0  # nothing is drawn


def test_it_goes_on_where_it_was(found, out, monkeypatch):
    shutil.rmtree(out / "seed-3")
    made = []

    def spy(study, *args, **options):
        before = (out / f"seed-{study.seed}").exists()
        made.append((study.seed, before))
        return evaluate(study, *args, **options)

    monkeypatch.setattr("rainjax.evaluation.seeds.evaluate", spy)
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("seed-0/small/records/*.json")}
    again = over_seeds(small(seed=5), SEEDS, out, progress=False)  # its own seed has no say
    assert made == [(3, False), (0, True), (2**32 - 1, True)]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert {n: s.accuracies for n, s in again.spreads.items()} == {
        n: s.accuracies for n, s in found.spreads.items()
    }


@dataclasses.dataclass(frozen=True)
class Logits(Measure):
    """The logits themselves."""

    def unit(self, scorer, images, attacked, attack):
        return {"logits": scorer(attacked)}

    def reduce(self, kept, labels):
        return {"mean": float(kept["logits"].mean())}


@pytest.mark.parametrize(
    ("study", "seeds", "sentence"),
    [
        (small(), [1], r"seeds=\[1\] must be two different ones at least"),
        (small(), [1, 1], r"seeds=\[1, 1\] must be two different ones"),
        (small(), [], r"seeds=\[\] must be two"),
        (small(), 3, r"seeds=3 must be a list of them, such as range\(5\)"),
        (small(), ["1", "2"], "seeds='1' must be a whole number"),
        (small(), [0, 1.5], "seeds=1.5 must be a whole number"),
        (small(), [0, -1], "seed=-1 must lie in 0"),
        (small(measure=Logits()), [0, 1], "which the measure Logits does not give: call evaluate"),
        (small, [0, 1], "takes a Study, not the function small: call it"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(study, seeds, sentence, tmp_path):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        over_seeds(study, seeds, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
