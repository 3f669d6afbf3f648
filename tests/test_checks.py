"""The sanity checks catch a defense that masks its gradient, and let an honest one pass."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import checks, report, sanity
from eval.checks import Options, num_gradients, run_checks
from eval.presets import STUDIES
from eval.sanity import Sanity
from rainjax.defenses import RAIN, Defense, Identity
from rainjax.pipeline import Defended
from tests.made_records import full_study, write_study
from tests.tiny import EDSR_TINY, RESNET_TINY, edsr_params, resnet_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, size=(12, 12, 12, 3)).astype(np.float32)
LABELS = np.arange(12, dtype=np.int64) % 10
OPTIONS = Options(
    radius=0.05, step_size=0.02, num_steps=4, num_eot=2, more=2, num_queries=12,
    num_surface=1, surface_points=3, num_score_draws=3, batch_size=8,
)  # fmt: skip
TARGET = Defended(Identity(), RESNET_TINY)
RAINED = Defended(RAIN(EDSR_TINY, 0.17), RESNET_TINY)
JUDGED = [
    "gradients are there",
    "more steps never helps the defense",
    "a larger radius never helps the defense",
    "an unbounded attack wins",
    "black box against white box",
    "random noise against the attack",
]


@dataclasses.dataclass(frozen=True)
class Round(Defense):
    """Rounds to sixteen levels and says that this has no gradient: which is true, and a mask."""

    def apply(self, params, key, image):
        return jnp.round(image * 15) / 15


@pytest.fixture(scope="module")
def classifier():
    more = RNG.uniform(0.2, 0.8, size=(40, 12, 12, 3)).astype(np.float32)
    more[:12] = IMAGES
    return resnet_params(more, np.concatenate([LABELS, np.arange(28) % 10]))


def run(defense, classifier, random, params=(), **options):
    target = Defended(defense, RESNET_TINY)
    params = {"defense": params, "classifier": classifier}
    return run_checks(target, params, IMAGES, LABELS, OPTIONS, random=random, **options)


def test_an_undefended_classifier_passes(classifier):
    ticks, told = [], []
    found, surfaces = run(
        Identity(), classifier, False, on_gradient=ticks.append, on_check=told.append
    )
    assert [check.name for check in found] == JUDGED
    assert all(check.passed for check in found), [c for c in found if not c.passed]
    assert told == found
    assert sum(ticks) == num_gradients(TARGET, OPTIONS, 12, random=False)
    levels = found[1].numbers
    assert levels["levels"] == ["2", "4", "8"]
    assert levels["num_examples"] == 12
    loss = np.array(surfaces[0]["loss"])
    assert loss.shape == (3, 3)
    assert loss[2, 1] > loss[1, 1] > loss[0, 1]  # uphill along the gradient
    assert json.loads(json.dumps([dataclasses.asdict(c) for c in found], allow_nan=False))


def test_a_masked_gradient_is_caught(classifier):
    found, _ = run(Round(), classifier, False)
    failed = {check.name for check in found if check.passed is False}
    assert {"gradients are there", "an unbounded attack wins", "blind against adaptive"} <= failed
    gradient = next(check for check in found if check.name == "gradients are there")
    assert gradient.numbers["images_without"] == 1.0
    assert gradient.found.startswith("100.0% of the images have no gradient at all")


def test_a_random_pipeline_is_checked_for_its_draws(classifier):
    ticks = []
    found, _ = run(
        RAINED.defense, classifier, True, params=edsr_params(), on_gradient=ticks.append
    )
    names = [check.name for check in found]
    assert set(JUDGED) < set(names)
    assert {"more EOT samples never helps the defense", "blind against adaptive"} < set(names)
    assert sum(ticks) == num_gradients(RAINED, OPTIONS, 12, random=True)
    draws = found[-1]
    assert (draws.name, draws.passed) == ("the draws matter", None)
    assert len(draws.numbers["spread"]) == 12
    assert min(draws.numbers["spread"]) > 0
    # One draw of the random pick shows a quarter of the pixels.
    assert found[0].numbers["zeros_one_draw"] == pytest.approx(0.75, abs=0.02)
    assert found[0].numbers["zeros"] < 0.65


def test_a_rise_counts_when_it_exceeds_chance():
    level = lambda *right: np.array(right, float)
    check = lambda before, after: checks._never_helps("x", "steps", {1: before, 2: after}, "eot")
    same = level(*[0, 1] * 20)
    assert check(same, same).passed
    assert check(same, 0 * same).passed  # a fall is what is wanted
    risen = same.copy()
    risen[0] = 1.0
    assert check(same, risen).passed  # one of forty images may be chance
    risen[:20] = 1.0
    assert not check(same, risen).passed
    assert check(same, risen).found == "50.0% -> 75.0% at steps 1, 2."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"radius": -1.0}, "radius=-1.0 must be finite"),
        ({"radius": 0.0}, "radius=0.0 leaves an attack nothing to do"),
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        ({"more": 1}, "more=1 must be at least 2"),
        ({"surface_points": 1}, "surface_points=1 at least 3"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        Options(**options)


# -- The command and the report -----------------------------------------------------------


def made_record(passed, key="rain_finetuned"):
    numbers = {"levels": ["1", "2"]}
    check = {
        "name": "more steps never helps the defense", "expected": "it does not rise",
        "found": "10.0% -> 30.0% at steps 10, 40.", "passed": passed, "doubts": "eot",
        "numbers": numbers,
    }  # fmt: skip
    reach = [-8.0, 0.0, 8.0]
    surface = {"image": 0, "reach": reach, "loss": [[0, 1, 2], [1, 2, 3], [2, 3, 5.0]]}
    study = next(record for record in full_study() if record["row"]["key"] == key)
    row = {
        "key": key, "title": "RAIN, fine-tuned", "checks": [check], "surfaces": [surface],
        "params": study["row"]["params"],
    }  # fmt: skip
    return {
        "schema": 1, "kind": "sanity", "study": "quick", "rows": [row],
        "options": {"radius": 8 / 255}, "data": study["data"] | {"num_examples": 16},
    }  # fmt: skip


def test_a_failed_check_stands_beside_the_accuracy_it_doubts(tmp_path):
    write_study(tmp_path, full_study())
    plain = report.summary(report.load_records(tmp_path))
    assert "†" not in plain
    (tmp_path / "sanity.json").write_text(json.dumps(made_record(False)))
    checked = sanity.load(tmp_path)
    assert sanity.doubts(checked) == {
        ("rain_finetuned", "eot"): ["more steps never helps the defense"],
        ("rain_finetuned", "autoattack"): ["more steps never helps the defense"],
    }
    paths = report.write_report(tmp_path)
    assert (tmp_path / "figures" / "surface-rain-finetuned.png").is_file()
    for path in paths[:2]:
        text = path.read_text()
        assert "FAILED" in text
        assert "10.0% -> 30.0% at steps 10, 40." in text.replace("&gt;", ">")
        assert "put in doubt by a sanity check" in text
    markdown = (tmp_path / "report.md").read_text()
    rows = [line for line in markdown.splitlines() if "†" in line and line.startswith("|")]
    assert len(rows) == 1
    assert rows[0].startswith("| RAIN, fine-tuned")
    assert rows[0].count("†") == 2  # the column it doubts, and the strongest attack
    assert 'the sanity check "more steps' in report.summary(report.load_records(tmp_path), checked)


def test_checks_that_pass_are_told(tmp_path):
    write_study(tmp_path, full_study())
    (tmp_path / "sanity.json").write_text(json.dumps(made_record(True)))
    report.write_report(tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "All 1 sanity checks of the attacks passed (RAIN, fine-tuned)." in markdown
    assert "†" not in markdown


def test_unusable_sanity_records_are_refused(tmp_path):
    write_study(tmp_path, full_study())
    assert sanity.load(tmp_path) is None
    for text, sentence in (
        ("{", "is damaged"),
        ('{"kind": "sanity", "schema": 1}', "is no usable record of sanity checks"),
        (json.dumps(made_record(True) | {"study": "other"}), "is of the study 'other'"),
        (json.dumps(made_record(True) | {"options": {"radius": 0.5}}), "was made of radius 0.5"),
        (
            json.dumps(made_record(True) | {"data": {"fingerprint": "x", "num_examples": 2}}),
            "was made of other images",
        ),
    ):
        (tmp_path / "sanity.json").write_text(text)
        with pytest.raises(ValueError, match=sentence):
            report.write_report(tmp_path)


def test_parameters_are_known_by_their_content_not_by_their_files_name():
    record, records = made_record(True), full_study()
    renamed = {"name": "of_another_name", "sha256": "ab"}
    record["rows"][0]["params"] = record["rows"][0]["params"] | {"classifier": renamed}
    assert sanity.stale(record, records) is None
    record["rows"][0]["params"]["classifier"] = {**renamed, "sha256": "cd"}
    assert sanity.stale(record, records) == "other parameters of 'RAIN, fine-tuned'"


def test_the_command_names_what_does_not_fit():
    with pytest.raises(ValueError, match="No study is called 'slow'; there are quick, cifar10"):
        sanity.run(Sanity("slow"))
    with pytest.raises(ValueError, match="num_examples=1 must be at least 2"):
        sanity.run(Sanity(num_examples=1))
    with pytest.raises(ValueError, match="rows is empty"):
        sanity.run(Sanity(rows=()))
    with pytest.raises(ValueError, match="rows='fd' is none of undefended, rain_pretrained"):
        sanity.run(Sanity(rows=("fd",)))
    with pytest.raises(ValueError, match="rows='fdd' is none of undefended, fd,"):
        sanity.run(Sanity("transformations", rows=("fdd",)))
    study = dataclasses.replace(STUDIES["cifar10"][0], radius=4 / 255)
    given = sanity._options(Sanity(num_steps=7), study)
    assert (given.num_steps, given.num_eot, given.radius) == (7, 16, 4 / 255)
    given = sanity._options(Sanity(radius=8 / 255), study)  # also what is an option's own default
    assert given.radius == 8 / 255
    assert jax.tree.leaves(dataclasses.asdict(Sanity()))


def test_a_transformation_that_rounds_is_checked_through_soft_rounding(tmp_path):
    options = checks.Options(num_queries=2, num_surface=0, batch_size=2)
    command = Sanity(
        "transformations", rows=("fd",), num_examples=2, radius=2 / 255, num_steps=4,
        options=options, out=tmp_path,
    )  # fmt: skip
    record = sanity.load(sanity.run(command).parent)
    (row,) = record["rows"]
    assert (record["options"]["radius"], record["options"]["step_size"]) == (2 / 255, 0.5 / 255)
    found = {check["name"]: check for check in row["checks"]}
    assert found["gradients are there"]["passed"]  # true rounding has none
    assert found["more steps never helps the defense"]["doubts"] == "own"
    # The images are judged behind true rounding, as the study's are.
    assert row["target"]["defense"]["rounding"] == "true"
    failed = {**found["more steps never helps the defense"], "passed": False}
    record["rows"][0]["checks"] = [failed]
    assert list(sanity.doubts(record)) == [("fd", "own")]
