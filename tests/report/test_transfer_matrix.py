"""Hit rates are counted anew in a loop; rows, columns and frames follow from the records."""

import dataclasses
import io

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from rainjax import Defended, Identity
from rainjax.attacks import fgsm
from rainjax.defenses import GaussianNoise
from rainjax.evaluation import (
    CLEAN,
    Knowledge,
    Subject,
    ThreatModel,
    Transfer,
    When,
    evaluate,
    joined,
)
from rainjax.evaluation.records import Record
from rainjax.metrics import wilson_interval
from rainjax.report import Results, TransferMatrix, as_plain, default_displays
from rainjax.report.transfer_matrix import hit_rate
from tests.report.made_records import make_record, results_of
from tests.small_studies import KERNEL, SIZE, study_of
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

RADIUS = 0.05
OTHER = jnp.asarray(np.random.default_rng(5).normal(size=(SIZE, 10)), jnp.float32)
BLEND = 0.7 * KERNEL + 0.3 * OTHER


def subject(name, kernel, defense=None):
    params = {"defense": (), "classifier": {"kernel": kernel}}
    pipeline = Defended(defense or Identity(), Linear(SIZE, 10))
    return Subject(name, pipeline, params, {"classifier": f"weights of {name}"})


FIRST, SECOND = subject("first", KERNEL), subject("second", BLEND)
NOISY = subject("noisy", KERNEL, GaussianNoise(0.3))
BOTH = joined("both", [FIRST, SECOND], combine="gradient")


def transfer(source, attack=None, surrogate=Transfer):
    name = f"from {source.name}"
    attack = attack or fgsm(RADIUS)
    tags = ("table", "transfer")
    return ThreatModel(name, attack, surrogate(source), Knowledge.TRANSFER, tags=tags)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Three targets, under sources of which one is another target's and one all of them."""
    sources = [transfer(FIRST), transfer(BOTH), transfer(SECOND, surrogate=_always)]
    study = study_of(
        FIRST, SECOND, NOISY,
        threats=(CLEAN, *sources, dataclasses.replace(transfer(SECOND), name="untagged", tags=())),
        num_examples=16, num_score_draws=3, displays=(TransferMatrix(),),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("transfer")
    evaluate(study, folder, progress=False)
    return Results.read(folder / study.name)


def _always(source):
    return When(Transfer(source))


def test_a_row_for_each_source_and_a_column_for_each_target(measured):
    (table,) = TransferMatrix().tables(measured)
    assert [str(cell) for cell in table.header] == ["source", "first", "second", "noisy"]
    assert [row[0].value for row in table.rows] == ["first", "both", "second"]
    records = {(r.subject, r.threat): r for r in measured.records}
    for row in table.rows:
        for target, cell in zip(("first", "second", "noisy"), row[1:], strict=True):
            before = records[target, "clean"].correct_draws
            after = records[target, f"from {row[0].value}"].correct_draws
            draws = 3 if target == "noisy" else 1
            right = [number for number in range(16) if before[number] == draws]
            wrong = sum((draws - after[number]) / draws for number in right)
            assert 0 < len(right) <= 16
            assert cell.value == f"{100 * wrong / len(right):.1f} %"
            low, high = wilson_interval(wrong, len(right))
            assert f"[{100 * low:.1f}, {100 * high:.1f}] n={len(right)}" in cell.detail
    assert len({str(cell) for row in table.rows for cell in row[1:]}) > 3
    assert len([r for r in measured.records if r.subject == "noisy"]) == 5  # one without the tag
    assert "both: first, second, by the mean of their unit gradients." in table.notes


def test_who_meets_himself_is_told_from_who_does_not(measured):
    (table,) = TransferMatrix().tables(measured)
    own = {}
    for row in table.rows:
        for head, cell in zip(table.header[1:], row[1:], strict=True):
            own[row[0].value, head.value] = cell.detail.partition("n=")[2].split(" ", 1)[1:]
    assert own["first", "first"] == own["second", "second"] == ["itself"]
    assert own["both", "first"] == own["both", "second"] == ["a member"]
    assert own["both", "noisy"] == own["first", "second"] == own["first", "noisy"] == []


def test_a_record_names_all_sources(measured):
    (record,) = [r for r in measured.records if (r.subject, r.threat) == ("noisy", "from both")]
    source = record.content["threat"]["surrogate"]["source"]
    assert source["sources"] == {"first": "weights of first", "second": "weights of second"}
    assert source["pipeline"]["combine"] == "gradient"
    assert (record.attack["eot"]["num_parts"], record.num_draws) == (2, 1)
    assert record.attack["eot"]["direction"]["class"] == "UnitGradients"


def test_the_figure_says_the_same(measured):
    (drawing,) = TransferMatrix().drawings(measured)
    assert drawing.name == "transfer-linf-12.75-pgd"
    (table,) = TransferMatrix().tables(measured)
    for row in table.rows:
        cells = zip(("first", "second", "noisy"), row[1:], strict=True)
        said = ", ".join(f"{target} {cell.value}" for target, cell in cells)
        assert f"{row[0].value}: {said}." in drawing.alt
    assert "Framed: the target is the source itself, a white box." in drawing.caption
    assert "Framed by dashes" in drawing.caption
    picture = matplotlib.image.imread(io.BytesIO(drawing.png))
    assert picture.shape[0] > 300
    assert TransferMatrix() in default_displays(measured)


def test_attackers_who_are_told_apart_have_matrices_of_their_own():
    def made(row, source, right, **changes):
        content = make_record(row, "blind", right, tags=["transfer"], name=source, **changes)
        content["threat"] |= {
            "knowledge": "transfer",
            "surrogate": {
                "class": "Transfer",
                "source": {"name": source, "pipeline": {"class": "Defended"}, "sources": {}},
            },
        }
        content["id"] += f"{source}{changes.get('num_steps')}"
        return content

    clean = make_record("noise", "clean", [5, 5, 4, 5])
    records = [clean, made("noise", "a", [5, 0, 0, 3]), made("noise", "b", [0, 0, 0, 0])]
    records.append(made("noise", "a", [5, 5, 0, 3], num_steps=7))
    results = results_of(records)
    short, long = TransferMatrix().tables(results)[::-1]
    assert "num steps 7" in short.title
    assert "num steps 40" in long.title
    # Of the three that all draws got right a fails on one, and on two draws of five of another.
    wrong = 0 + 1 + 2 / 5
    assert long.rows[0][1].value == f"{100 * wrong / 3:.1f} %"
    assert long.rows[1][1].value == "100.0 %"
    names = [drawing.name for drawing in TransferMatrix().drawings(results)]
    assert len(set(names)) == 2
    assert as_plain(short).count("n=3") == 1
    again = made("noise", "a", [5, 0, 0, 3])
    again["id"] += "again"
    with pytest.raises(ValueError, match="are both of 'a' against 'noise'"):
        TransferMatrix().tables(results_of([*records, again]))


def test_there_is_no_rate_without_images_that_were_right():
    attacked = Record(make_record("noise", "blind", [0, 0, 5]))
    assert hit_rate(attacked, None) is None
    assert hit_rate(attacked, Record(make_record("noise", "clean", [5, 5]))) is None
    assert hit_rate(attacked, Record(make_record("noise", "clean", [4, 0, 4]))) is None
    rate = hit_rate(attacked, Record(make_record("noise", "clean", [5, 4, 5, 5])))
    assert rate is not None
    assert (rate.num, rate.score.accuracy) == (2, 0.5)


def test_nothing_is_shown_where_nothing_transfers():
    results = results_of([make_record("noise", "clean", [5]), make_record("noise", "blind", [5])])
    assert TransferMatrix(None).tables(results) == []
    assert TransferMatrix(None).drawings(results) == []
    assert TransferMatrix("transfer") not in default_displays(results)
