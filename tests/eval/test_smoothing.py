"""`python -m eval smoothing` from end to end, on tiny networks and a few pictures."""

import json

import numpy as np
import pytest

import eval.__main__ as program
from eval import report, smoothing
from eval.smoothing import Smoothing
from rainjax import data, zoo
from rainjax.defenses import Identity
from rainjax.evaluation import certification
from rainjax.evaluation.describe import content_digest
from rainjax.evaluation.smoothing import ABSTAINED, Smoothed, certify
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from rainjax.report import certified
from tests import saved_networks

pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIONS = {
    "sigmas": (0.01, 0.1), "num_examples": 12, "num_select": 10, "num_estimate": 40,
    "radii": (0.0, 0.005, 0.05), "batch_size": 4, "chunk_size": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    found = saved_networks.save(tmp_path_factory.mktemp("networks"))
    return {name: found[name] for name in ("classifier", "finetuned")}


@pytest.fixture(scope="module")
def command(networks, tmp_path_factory):
    out = tmp_path_factory.mktemp("smoothing")
    words = tuple(word for name, path in networks.items() for word in (f"--{name}", path))
    return Smoothing(**OPTIONS, out=out, study_options=words)


@pytest.fixture(scope="module")
def path(command, quick_compilation):
    """The record of an undisturbed run."""
    return smoothing.run(command)


def _changed(command, **changes):
    return Smoothing(**(vars(command) | changes))


def test_the_record_holds_what_certify_says_of_every_image(path, networks):
    record = json.loads(path.read_text())
    assert record == smoothing.RECORD.load(path)
    places = [(cell["row"]["title"], cell["sigma"]) for cell in record["cells"]]
    assert places == [
        ("no defense", 0.01), ("no defense", 0.1),
        ("RAIN, fine-tuned", 0.01), ("RAIN, fine-tuned", 0.1),
    ]  # fmt: skip
    images, labels = data.load("builtin", "test").get(np.arange(12))
    assert record["data"]["labels"] == labels.tolist()
    entry = zoo.load(networks["classifier"])
    found = certify(
        Smoothed(Defended(Identity(), entry.network), 0.01),
        {"defense": (), "classifier": entry.params},
        example_keys(0, Purpose.SCORE, np.arange(12)),
        images.astype(np.float32) / 255,
        num_select=10,
        num_estimate=40,
    )
    cell = record["cells"][0]
    for part in ("classes", "radii", "selected", "counts"):
        assert cell[part] == getattr(found, part).tolist()
    assert len({tuple(cell["counts"]) for cell in record["cells"]}) == 4
    assert cell["row"]["params"]["classifier"]["sha256"] == content_digest(entry.params)
    assert cell["run"]["versions"]["jax"]
    assert str(path.parent) not in path.read_text()
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_table_is_a_count_of_the_record(path, capsys):
    record = smoothing.RECORD.load(path)
    table = smoothing.RECORD.text(record, "markdown").splitlines()
    lines = [line for line in table if line.startswith("| ") and "%" in line]
    labels, found_right = record["data"]["labels"], 0
    for line, cell in zip(lines, record["cells"], strict=True):
        title, sigma, *shares = [part.strip() for part in line.strip("|").split("|")]
        assert (title, float(sigma)) == (cell["row"]["title"], cell["sigma"])
        certified = list(zip(cell["classes"], cell["radii"], labels, strict=True))
        hits = [
            sum(found == label and reach >= radius for found, reach, label in certified)
            for radius in record["radii"]
        ]
        abstained = cell["classes"].count(ABSTAINED)
        kinds = {name: cell["classes"].count(name) for name in {*cell["classes"]} - {ABSTAINED}}
        found_right += hits[0]
        expected = [*hits, abstained, max(kinds.values(), default=0)]
        assert [share.split(" %")[0] for share in shares] == [
            f"{n / 12 * 100:.1f}" for n in expected
        ]
    assert 0 < found_right < 48
    notes = "\n".join(table)
    assert "99.9 % for each image" in notes
    assert "the smoothed classifier" in notes
    # All of 40 draws: the bound is the 40th root of alpha.
    assert "no radius exceeds 1.00 σ" in notes
    assert max(max(cell["radii"]) / cell["sigma"] for cell in record["cells"]) <= 1.0 + 5e-3
    program._report(program.Report(path))
    assert "rain" in capsys.readouterr().out.lower()
    assert report.record_text(path, "markdown") == smoothing.RECORD.text(record, "markdown")


def test_the_figure_tells_every_curve(path):
    record = smoothing.RECORD.load(path)
    drawing = certified.figure(record)
    assert drawing.png == path.with_suffix(".png").read_bytes()
    for cell in record["cells"]:
        assert f"{cell['row']['title']}, σ = {cell['sigma']:g}: " in drawing.alt
    nothing = [cell | {"counts": [0] * 12} for cell in record["cells"]]
    assert certified.figure(record | {"cells": nothing}).png  # no certificate at all


def test_a_killed_run_goes_on_cell_by_cell(path, command, monkeypatch, tmp_path, capsys):
    made = []

    def stop_at(limit):
        def certified(*args):
            if len(made) == limit:
                raise KeyboardInterrupt
            made.append(args[1].name)
            return smoothing_certified(*args)

        return certified

    smoothing_certified = certification._certified
    again = _changed(command, out=tmp_path)
    monkeypatch.setattr(certification, "_certified", stop_at(2))
    with pytest.raises(KeyboardInterrupt):
        smoothing.run(again)
    there = smoothing.RECORD.load(tmp_path / "quick" / "smoothing.json")
    assert [cell["sigma"] for cell in there["cells"]] == [0.01, 0.1]
    monkeypatch.setattr(certification, "_certified", stop_at(4))
    smoothing.run(again)
    assert made == ["no defense", "no defense", "RAIN, fine-tuned", "RAIN, fine-tuned"]
    plain = lambda record: [cell | {"run": None} for cell in record["cells"]]
    whole = smoothing.RECORD.load(tmp_path / "quick" / "smoothing.json")
    assert plain(whole) == plain(smoothing.RECORD.load(path))
    assert whole["cells"][:2] == there["cells"]

    # What is there stays, whatever a later command asks for; other code makes it again.
    smoothing.run(_changed(again, sigmas=(0.1,), rows=("undefended",), radii=(0.02,)))
    later = smoothing.RECORD.load(tmp_path / "quick" / "smoothing.json")
    assert later == whole | {"radii": [0.02]}
    monkeypatch.setattr(certification, "code_digest", lambda: "other")
    with pytest.raises(KeyboardInterrupt):
        smoothing.run(again)


def test_a_record_of_something_else_is_not_overwritten(path, command, networks, tmp_path):
    shipped = ("--classifier=builtin_resnet",)
    for changes, sentence in (
        ({"seed": 1}, "is of other options: choose another folder"),
        ({"num_examples": 5}, "is of other options"),
        ({"alpha": 0.01}, "is of other options"),
        ({"study_options": shipped}, "is of other parameters of 'no defense'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            smoothing.run(_changed(command, **changes))


def test_unusable_records_are_refused(path, tmp_path):
    record = json.loads(path.read_text())

    def first(**changes):
        return record | {"cells": [record["cells"][0] | changes, *record["cells"][1:]]}

    radii = [radius + 0.001 for radius in record["cells"][0]["radii"]]
    for changed, sentence in (
        (record | {"kind": "peers"}, "is no usable record of `python -m eval peers`"),
        (record | {"schema": 2}, "another kind"),
        (record | {"cells": []}, "it has no cells"),
        ({k: v for k, v in record.items() if k != "radii"}, "KeyError: 'radii'"),
        (first(radii=radii), "the radii of no defense, sigma 0.01 do not follow"),
        (first(classes=[0] * 12), "the classes of no defense, sigma 0.01 do not follow"),
        (first(counts=[41] * 12), "must lie in 0..num_draws=40"),
        (first(counts=[1]), "no defense, sigma 0.01 is not of 12 images"),
        (first(sigma="much"), "ValueError"),
    ):
        other = tmp_path / "other.json"
        other.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(ValueError, match=sentence):
            report.record_text(other)
    (tmp_path / "other.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        smoothing.RECORD.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_examples": 0}, "num_examples=0 must be at least 1"),
        ({"chunk_size": 0}, "chunk_size=0 must be at least 1"),
        ({"num_select": 0}, "num_select=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"sigmas": ()}, r"sigmas=\(\) must name one"),
        ({"rows": ()}, r"rows=\(\) must name one"),
        ({"sigmas": (0.1, -1.0)}, r"sigmas=\(0.1, -1.0\) must be positive"),
        ({"radii": (float("nan"),)}, r"radii=\(nan,\) must be some, finite"),
    ],
)
def test_bad_options_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Smoothing(**changes)


def test_the_command_line_runs_it(monkeypatch, command, networks, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"No study is called 'slow'; there are .*quick, cifar10"):
        smoothing.run(Smoothing(study="slow"))
    words = ["eval", "smoothing", f"--classifier={networks['classifier']}", f"--out={tmp_path}"]
    words += ["--rows", "undefended", "--sigmas", "0.05", "--num-examples=2", "--num-estimate=9"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(program, "use_all_cores", lambda: None)
    with pytest.raises(SystemExit, match="2"):
        program.main()
    assert "num_estimate=9 can only abstain at alpha=0.001" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*words[:-1], "--num-estimate=12"])
    program.main()
    assert "Certified accuracy" in capsys.readouterr().out
    record = smoothing.RECORD.load(tmp_path / "quick" / "smoothing.json")
    assert record["options"]["num_estimate"] == 12


def test_transformations_can_be_certified_too(networks, tmp_path):
    command = Smoothing(
        study="transformations", rows=("fd",), out=tmp_path,
        study_options=(f"--classifier={networks['classifier']}",),
        **(OPTIONS | {"sigmas": (0.05,), "num_examples": 4}),
    )  # fmt: skip
    (cell,) = smoothing.RECORD.load(smoothing.run(command))["cells"]
    assert cell["row"]["target"]["defense"]["class"] == "FeatureDistillation"
    with pytest.raises(ValueError, match="rows='rain_finetuned' is none of undefended, fd,"):
        smoothing.run(_changed(command, rows=("rain_finetuned",)))
    # What another command certified stays, though it does not load it.
    later = smoothing.run(_changed(command, rows=("bit_depth",)))
    cells = smoothing.RECORD.load(later)["cells"]
    assert [c["row"]["title"] for c in cells] == ["bit depth, 3 bits", cell["row"]["title"]]
    assert cells[1] == cell
    moved = tmp_path / "quick" / "smoothing.json"
    moved.parent.mkdir()
    later.rename(moved)
    with pytest.raises(ValueError, match="is of other study"):
        smoothing.run(_changed(command, study="quick", rows=None))
