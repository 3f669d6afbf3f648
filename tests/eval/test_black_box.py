"""The study of black boxes from end to end, on tiny networks and a few pictures."""

import dataclasses

import numpy as np
import pytest

from eval.pages import studies
from eval.studies.black_box import BlackBoxStudy
from rainjax.attacks import LabelAttack, Square
from rainjax.attacks.scores import ScoreBallAttack
from rainjax.evaluation import Knowledge, evaluate
from rainjax.evaluation.study import cells
from rainjax.report import QueryCurve, Results, summary
from tests import saved_networks

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    place = tmp_path_factory.mktemp("networks")
    saved_networks.save(place)
    return BlackBoxStudy(
        name="tiny",
        rows=("noise",),
        classifier=str(place / "classifier"),
        radii=(8 / 255,),
        num_queries=24,
        num_query_draws=2,
        num_examples=4,
        num_eot_examples=4,
        num_query_examples=4,
        num_random_query_examples=3,
        num_steps=2,
        num_eot=2,
        batch_size=4,
        out=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def records(config, quick_compilation):
    return evaluate(config.study(), config.out, progress=False)


def test_every_subject_meets_white_boxes_and_every_black_box_once(config):
    found = cells(config.study())
    for subject in ("no defense", "Gaussian noise"):
        own = [cell for cell in found if cell.subject.name == subject]
        names = [cell.threat.name for cell in own]
        assert len(names) == len(set(names))
        assert {"clean", "PGD", "own gradient"} < set(names)
        assert {"Square", "NES", "SimBA-DCT", "RayS", "HopSkipJump"} < set(names)
        assert ("EOT" in names) == (subject == "Gaussian noise")
        assert ("BPDA, identity" in names) == (subject == "Gaussian noise")


def test_no_black_box_asks_for_more_than_its_budget_and_all_for_nearly_as_much(config):
    black = (Knowledge.LABELS, Knowledge.SCORES)
    for cell in cells(config.study()):
        if cell.threat.knowledge not in black:
            continue
        assert config.num_queries - 4 <= cell.num_gradients <= config.num_queries
        random = cell.subject.pipeline.is_random
        if isinstance(cell.attack, ScoreBallAttack | Square):
            assert cell.attack.num_draws == (2 if random else 1)
            assert cell.attack.early_stop != random
            assert cell.attack.paired or not random
        else:
            assert isinstance(cell.attack, LabelAttack)
            assert (cell.attack.test is not None) == random


def test_the_report_has_curves_and_a_table_of_all_black_boxes(config, records):
    black = [record for record in records if record.query_budget is not None]
    assert len(black) == 2 * 5
    for record in black:
        assert record.queries_to_success is not None
        assert len(record.queries_to_success) == (4 if record.subject == "no defense" else 3)
    assert "Queries to success within L∞ radius 8/255" in summary(config.out / "tiny")
    (drawing,) = QueryCurve("queries").drawings(Results.of(records))
    assert drawing.name == "queries"
    assert "Gaussian noise, RayS: " in drawing.alt


def test_where_nothing_is_random_the_attacker_saw_what_is_scored(records):
    for record in records:
        if record.query_budget is None or record.subject != "no defense":
            continue
        assert record.queries_to_success is not None
        seen, wrong = record.queries_to_success > 0, record.correct_draws == 0
        # What is brought back to the ball may be a success that nobody asked about.
        assert np.array_equal(seen, wrong & seen)
        if record.knowledge is Knowledge.SCORES:
            assert np.array_equal(seen, wrong)


@pytest.mark.parametrize("name", ["black_box", "cifar10_black_box", "photographs_black_box"])
def test_the_studies_are_words_of_the_command_line(name):
    options, text = studies()[name]
    assert isinstance(options, BlackBoxStudy)
    assert options.name == name
    assert "beside white boxes" in text or "The same" in text
    threats = list(options.threats())
    assert {QueryCurve("queries").tag} <= {tag for threat in threats for tag in threat.tags}
    assert options.num_query_examples <= options.num_examples


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"boxes": ()}, r"boxes=\(\) must name each black box once"),
        ({"boxes": ("nes", "nes")}, "must name each black box once"),
        ({"num_queries": 15}, "num_queries=15 must be at least 24"),
        ({"num_query_draws": 0}, "num_query_draws=0"),
        ({"num_random_query_examples": 0}, "num_random_query_examples=0"),
        ({"radii": (2.0,)}, r"8/255 is 0\.03137"),
    ],
)
def test_options_that_make_no_study_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(studies()["black_box"][0], **options)
