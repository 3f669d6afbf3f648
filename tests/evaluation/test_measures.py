"""A measure of one's own: evaluated, recorded, read back and shown."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.defenses import GaussianNoise, Identity
from rainjax.evaluation import Measure, Robustness, TopK, evaluate, load_records
from rainjax.report import DrawsTable, Leaderboard, report, write_report
from tests.small_studies import linear, study_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True)
class Confidence(Measure):
    """How sure the pipeline is of whatever it answers."""

    result: object = None

    def unit(self, scorer, images, attacked, attack):
        logits = scorer(attacked)
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        return {"top": (shifted / shifted.sum(-1, keepdims=True)).max(-1)}

    def reduce(self, kept, labels):
        if self.result is not None:
            return self.result
        return {
            "confidence": kept["top"].mean(),
            "of_images": {"least": jnp.float32(0.25), "number": len(labels)},
            "each": kept["top"].mean(1),
        }


@dataclasses.dataclass(frozen=True)
class InPerCent(Confidence):
    def shown(self, result):
        return {"mean confidence": f"{100 * result['confidence']:.1f} %"}


def measured(measure, out):
    study = study_of(linear(Identity(), "bare"), linear(GaussianNoise(0.1)), measure=measure)
    return evaluate(study, out, progress=False)


def test_a_measure_of_ones_own_is_recorded_read_back_and_shown(tmp_path):
    records = measured(Confidence(), tmp_path)
    read = load_records(tmp_path / "small")
    assert [record.id for record in read] == [record.id for record in records]
    first = read[0]
    assert (first.content["kind"], first.measure, first.scored) == (
        "measure", "Confidence", False,
    )  # fmt: skip
    assert len(first.result["each"]) == first.num_examples == 12
    assert first.result["confidence"] == pytest.approx(np.mean(first.result["each"]))
    share = f"{first.result['confidence']:.4g}"
    assert first.shown == {"confidence": share, "of images, least": "0.25",
                           "of images, number": "12"}  # fmt: skip
    assert repr(first) == (
        f"<Record {first.id}: confidence {share}, of images, least 0.25, of images, number 12>"
    )
    with pytest.raises(ValueError, match="is of the measure 'Confidence', which gives no accura"):
        first.score()

    for made in (report(records), report(tmp_path / "small")):
        (table,) = made.tables
        assert [str(cell) for cell in table.rows[0]][:2] == [
            "bare", f"{share} of images, least 0.25, of images, number 12",
        ]  # fmt: skip
        assert "strongest attack" not in map(str, table.header)
        assert table.notes[0].startswith("**confidence**, as Confidence measures it, on arrays")
        assert "Accuracy" not in made.markdown().partition("## Threat models")[0]
        (finding,) = made.findings
        assert "what Confidence measured" in finding.text
    assert report(records, [DrawsTable(), Leaderboard()]).tables == []
    write_report(tmp_path / "small")


def test_a_measure_says_how_its_result_is_shown(tmp_path):
    records = measured(InPerCent(), tmp_path)
    (table,) = report(records).tables
    assert str(table.rows[0][1]) == f"{100 * records[0].result['confidence']:.1f} %"
    assert table.notes[0].startswith("**mean confidence**, as InPerCent measures it")


def test_top_k_accuracy_is_that_of_numpy():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (50, 3, 7)).astype(np.float32)  # many are equal
    labels = rng.integers(0, 7, 50)
    for k in (1, 2, 6):
        first = np.argsort(-logits, axis=-1, kind="stable")[..., :k]  # of equal ones the first
        right = (first == labels[:, None, None]).any(-1)
        result = TopK(k).reduce({"logits": logits}, labels)
        assert result["mean"]["accuracy"] == pytest.approx(right.mean())
        assert result["worst"]["accuracy"] == pytest.approx(right.all(1).mean())
        assert result["mean"]["low"] < result["mean"]["accuracy"] < result["mean"]["high"]
    first = TopK(1).reduce({"logits": logits}, labels)["mean"]["accuracy"]
    assert first == pytest.approx((logits.argmax(-1) == labels[:, None]).mean())


def test_top_k_accuracy_is_recorded_and_shown(tmp_path):
    records = measured(TopK(3), tmp_path)
    accuracies = {record.id: record.result["mean"]["accuracy"] for record in records}
    for record in measured(Robustness(), tmp_path / "one"):
        assert record.score().accuracy <= accuracies[record.id] + 1e-9
    (table,) = report(records).tables
    assert str(table.rows[0][1]).startswith("100.0 % [")  # the labels are its own answers
    assert table.notes[0].startswith("**top-3 accuracy**, as TopK measures it, on arrays")
    with pytest.raises(ValueError, match=r"TopK\(k=10\) of 10 classes is always right"):
        measured(TopK(10), tmp_path)


@dataclasses.dataclass(frozen=True)
class WithMargin(Robustness):
    def reduce(self, kept, labels):
        return super().reduce(kept, labels) | {"margin": np.sort(kept["logits"])[..., -1].mean()}


@dataclasses.dataclass(frozen=True)
class WithoutDraws(Robustness):
    def reduce(self, kept, labels):
        return {"num_examples": len(labels)}


def test_what_extends_robustness_has_its_tables(tmp_path):
    records = measured(WithMargin(), tmp_path)
    assert records[0].scored
    assert records[0].result["margin"] > 0
    assert "strongest attack" in map(str, report(records).tables[0].header)


@dataclasses.dataclass(frozen=True)
class ShowsNumbers(Confidence):
    def shown(self, result):
        return {"confidence": result["confidence"]}


@pytest.mark.parametrize(
    ("measure", "sentence"),
    [
        (Confidence(result=0.5), r"Confidence.reduce returns 0.5: return a dict"),
        (Confidence(result=(("a", 1),)), r"Confidence.reduce returns \(\('a', 1\),\): return"),
        (ShowsNumbers(), r"ShowsNumbers.shown returns .*: return a dict of titles and texts"),
        (WithoutDraws(), r"WithoutDraws.reduce returns makes no usable record of .* lacks"),
    ],
)
def test_an_unusable_result_is_refused_at_the_first_record(tmp_path, measure, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        measured(measure, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("small/records/*"))


@dataclasses.dataclass(frozen=True)
class Nothing(Confidence):
    def reduce(self, kept, labels):
        return {"ratio": {"mean": float("nan")}}


def test_what_is_no_json_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"Nothing.reduce's result\['ratio'\]\['mean'\] is nan"):
        measured(Nothing(), tmp_path)


def test_another_measure_takes_the_place_of_the_old_one(tmp_path):
    measured(Robustness(), tmp_path)
    assert not any(record.scored for record in measured(Confidence(), tmp_path))
    assert all(record.scored for record in measured(Robustness(), tmp_path))
    content = json.loads(next(tmp_path.glob("small/records/*")).read_text())
    assert content["measure"]["class"] == "Robustness"


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (np.zeros(12), r"Keeps.unit returned a ndarray: return a dict"),
        ({"top": np.float32(1)}, r"Keeps.unit returned 'top' of shape \(\) for 8 images"),
        ({"top": np.zeros(3)}, r"Keeps.unit returned 'top' of shape \(3,\) for 8 images"),
        ({"seconds": np.zeros(12)}, "Keeps.unit returned an array 'seconds': that name is taken"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_it_is(tmp_path, kept, message):
    @dataclasses.dataclass(frozen=True)
    class Keeps(Confidence):
        def unit(self, scorer, images, attacked, attack):
            return kept

    with pytest.raises(ValueError, match=message):
        measured(Keeps(), tmp_path)
    assert not list((tmp_path / "small").glob("work/s-*"))
