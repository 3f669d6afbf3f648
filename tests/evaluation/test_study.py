"""What a study is made of is checked where it enters, and no two of its records are one."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import PGD
from rainjax.defenses import Identity
from rainjax.evaluation import (
    CLEAN,
    CertifyOptions,
    ClassifierAlone,
    Knowledge,
    Robustness,
    SanityOptions,
    Shard,
    Surrogate,
    ThreatModel,
    adaptive,
    check_study,
    evaluate,
    load_records,
    merge,
)
from rainjax.evaluation.extras import Gallery, Panels
from rainjax.evaluation.study import cells
from rainjax.report import ResultsTable
from tests.small_studies import KERNEL, Round, linear, study_of
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

BARE = linear(Identity(), "bare")
FEW = PGD(num_steps=1)


@dataclasses.dataclass(frozen=True)
class Inside(Surrogate):
    """Returns what is in a pipeline instead of one."""

    def of(self, pipeline):
        return pipeline.defense


def renamed(subject, name, kernel=KERNEL):
    params = {"defense": (), "classifier": {"kernel": kernel}}
    return dataclasses.replace(subject, name=name, params=params)


@pytest.mark.parametrize(
    ("one", "other"),
    [("ResNet", "ResNet+"), ("A b", "a-b"), ("mine", "mine*"), ("mine", "Mine"), ("a_b", "a b")],
)
def test_names_that_files_cannot_tell_apart_are_refused(one, other):
    with pytest.raises(ValueError, match="would both be recorded as"):
        study_of(renamed(BARE, one), renamed(BARE, other, -KERNEL))
    threats = (ThreatModel(one, FEW), ThreatModel(other, PGD(num_steps=2)))
    with pytest.raises(ValueError, match="would both be recorded as"):
        study_of(BARE, threats=threats)


def test_threats_of_one_name_are_one_only_if_tags_alone_differ():
    white = ThreatModel("PGD", FEW)
    for other in (
        dataclasses.replace(white, knowledge=Knowledge.CLASSIFIER),
        dataclasses.replace(white, description="another"),
    ):
        with pytest.raises(ValueError, match="would both be recorded as bare--pgd"):
            cells(study_of(BARE, threats=(white, other)))
    (cell,) = cells(study_of(BARE, threats=(white, dataclasses.replace(white, tags=("curve",)))))
    assert cell.threat.tags == ("table", "curve")


def test_another_subject_does_not_take_the_place_of_one_that_is_recorded(tmp_path):
    def measure(*subjects):
        evaluate(study_of(*subjects, threats=[CLEAN]), tmp_path, progress=False)

    measure(BARE)
    measure(renamed(BARE, "Bare"))  # the same under another name
    with pytest.raises(ValueError, match="'Bare', and 'bare!', which is another subject, would"):
        measure(renamed(BARE, "bare!", -KERNEL))
    measure(renamed(BARE, "Bare", -KERNEL))
    assert [record.subject for record in load_records(tmp_path / "small")] == ["Bare"]


@pytest.mark.parametrize("name", [3, None, "", " ", "a\nb", "!!!", "\ud800"])
def test_what_is_no_name_is_refused(name):
    for make in (
        lambda: renamed(BARE, name),
        lambda: ThreatModel(name, FEW),
        lambda: study_of(BARE, name=name),
    ):
        with unchecked(), pytest.raises(ValueError, match=r"name=.* must"):
            make()


def test_names_fit_files(tmp_path):
    for make in (lambda n: renamed(BARE, n), lambda n: ThreatModel(n, FEW)):
        with pytest.raises(ValueError, match="is of 300 letters"):
            make("x" * 300)
    study = study_of(renamed(BARE, "x" * 80), threats=[ThreatModel("y" * 80, FEW)])
    (record,) = evaluate(study, tmp_path, progress=False)
    assert record.subject == "x" * 80


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../a", "/a"])
def test_a_study_stays_in_its_folder(name):
    with pytest.raises(ValueError, match=r"name=.* must"):
        study_of(BARE, name=name)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_examples": "10"}, "num_examples='10' must be a whole number or None"),
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"num_score_draws": True}, "num_score_draws=True must be a whole number"),
        ({"batch_size": "8"}, "batch_size='8' must be a whole number"),
        ({"batch_size": 8.0}, "batch_size=8.0 must be a whole number"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"seed": "1"}, "seed='1' must be a whole number"),
        ({"seed": None}, "seed=None must be a whole number"),
        ({"seed": -1}, "seed=-1 must lie in"),
        ({"seed": 2**33}, "seed=8589934592 must lie in"),
        ({"measure": Robustness}, "takes a Measure, not the class Robustness: make a value of"),
        ({"measure": None}, "takes a Measure, not None: give a value such as Robustness"),
        ({"displays": ["table"]}, "takes a Display, not 'table': give a value such as"),
        ({"displays": [ResultsTable]}, "not the class ResultsTable: make a value of it"),
        ({"displays": "table"}, "displays='table' must be a list"),
        ({"extras": ["panels"]}, "takes an Extra, not 'panels': give a value such as"),
        ({"extras": [Panels]}, "not the class Panels: make a value of it"),
        ({"extras": Gallery()}, r"extras=Gallery\(\) must be a list"),
        ({"threats": FEW}, "threats=PGD.* must be a list"),
        ({"threats": iter([CLEAN])}, "threats=.* must be a list"),
        ({"threats": ["adaptive"]}, "takes a ThreatModel, not 'adaptive'"),
        ({"images": np.zeros((2, 8, 8, 3))}, r"takes an ImageSet, not an array of shape \(2, 8"),
    ],
)
def test_options_of_a_study_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence) as raised:
        dataclasses.replace(study_of(BARE), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"description": None}, "description=None must be text"),
        ({"tags": (1,)}, r"tags=\(1,\) must be a tuple, and each part of it text"),
        ({"tags": "table"}, "tags='table' must be a tuple, and each part"),
        ({"tags": ["table"]}, r"tags=\['table'\] must be a tuple"),
        ({"num_examples": 4.5}, "num_examples=4.5 must be a whole number or None"),
        ({"knowledge": 4}, "knowledge=4 must be one of Knowledge.NONE, Knowledge.TRANSFER"),
        ({"knowledge": "defense"}, "knowledge='defense' must be one of Knowledge.NONE"),
        ({"surrogate": ClassifierAlone}, "not the class ClassifierAlone: make a value of it"),
        ({"surrogate": "zoo"}, "takes a Surrogate, not 'zoo': give a value such as Itself"),
        ({"attack": "pgd"}, "takes an Attack, not 'pgd': give an attack with its options"),
    ],
)
def test_options_of_a_threat_model_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        ThreatModel(**{"name": "PGD", "attack": FEW} | options)


@pytest.mark.parametrize("sources", ["zoo", None, {"classifier": 3}])
def test_sources_of_a_subject_are_names(sources):
    with (
        unchecked(),
        pytest.raises(ValueError, match=r"sources=.* must be a dict of text to text"),
    ):
        dataclasses.replace(BARE, sources=sources)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"radius": None}, "radius=None must be a number"),
        ({"radius": 8}, r"radius=8 must lie in \[0, 1\]"),
        ({"num_steps": "40"}, "num_steps='40' must be a whole number"),
        ({"eot": 0}, "takes an EOT, not 0"),
        ({"tags": "table"}, "tags='table' must be a tuple"),
        ({"num_examples": "8"}, "num_examples='8' must be a whole number"),
    ],
)
def test_options_of_the_battery_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        adaptive(**{"radius": 0.05} | options)


def test_parts_that_do_not_fit_each_other_are_named():
    threat = ThreatModel("PGD", FEW, Inside())
    with unchecked(), pytest.raises(ValueError, match=r"Inside.of.*'PGD'.* returns a Pipeline, n"):
        cells(study_of(linear(Round()), threats=[threat]))
    wrong = dataclasses.replace(BARE, params={"defense": (), "classifier": {"w": jnp.zeros(3)}})
    with pytest.raises(ValueError, match=r"'bare' does not fit .* parameters have no 'kernel'"):
        cells(study_of(wrong))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda out: evaluate(study_of, out), "not the function study_of: call it, and give the"),
        (lambda out: evaluate(study_of(BARE), out, shard="0/3"), r"not '0/3': give Shard\(0, 3\)"),
        (lambda out: evaluate(study_of(BARE), out, mesh="cpu"), "takes a Mesh, not 'cpu'"),
        (lambda out: check_study(study_of, out), "not the function study_of: call it"),
        (lambda out: merge([], out), "folders is empty: name the study's folder"),
        (lambda out: merge(out, study=study_of), "not the function study_of: call it"),
        (lambda out: Shard("0", 3), "index='0' must be a whole number"),
        (lambda out: SanityOptions(num_examples="8"), "num_examples='8' must be a whole number"),
        (lambda out: CertifyOptions(sigmas=0.1), "sigmas=0.1 must be a tuple"),
    ],
)
def test_what_is_called_with_another_thing_says_so(call, sentence, tmp_path):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        call(tmp_path)


def test_numbers_of_numpy_are_recorded_as_pythons(tmp_path):
    numbers = {"num_examples": np.int64(4), "batch_size": np.int32(4), "seed": jnp.int32(3)}
    with unchecked():
        threat = ThreatModel("PGD", PGD(radius=np.float32(0.5), num_steps=np.int64(1)))
        study = study_of(BARE, threats=[threat], **numbers)
    (record,) = evaluate(study, tmp_path, progress=False)
    assert (record.content["seed"], record.radius, record.num_examples) == (3, 0.5, 4)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("study.json", {"subjects": 3}, r"study.json is damaged: 'subjects' must be a list"),
        ("study.json", {"threats": [1]}, r"study.json is damaged: 'threats' must be a list"),
        ("records/other.json", {"subject": 3}, r"other.json is no usable record: its kind is"),
        ("records/other.json", {}, r"other.json is no usable record: its kind is"),
    ],
)
def test_files_that_the_end_would_fail_at_are_met_at_the_beginning(
    tmp_path, monkeypatch, name, content, sentence
):
    study = study_of(BARE, threats=[CLEAN])
    path = tmp_path / "small" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    monkeypatch.setattr("rainjax.evaluation.work.Work.make", lambda *_: pytest.fail("measured"))
    with pytest.raises(ValueError, match=sentence):
        evaluate(study, tmp_path, progress=False)


@pytest.mark.parametrize("kind", ["a", "s"])
def test_a_unit_without_its_arrays_is_named(tmp_path, kind):
    study = study_of(BARE, threats=[ThreatModel("PGD", FEW)])
    evaluate(study, tmp_path, progress=False)
    for path in tmp_path.glob("small/records/*.json"):
        path.unlink()
    for path in tmp_path.glob(f"small/work/{kind}-*.npz"):
        np.savez(path, other=np.zeros(3))
    with pytest.raises(ValueError, match=rf"{kind}-\w+\.npz is damaged"):
        evaluate(study, tmp_path, progress=False)
