"""Where nothing can be written: said before any work, and in the middle of it nothing is lost."""

import contextlib
import dataclasses
import errno
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

import eval.__main__ as eval_program
import rainjax.__main__ as program
from rainjax import _files
from rainjax.defenses import Identity
from rainjax.evaluation import Robustness, certify_study, evaluate, load_records
from rainjax.report import write_report
from tests.small_studies import linear, study_of
from tests.train.test_loop import fails_in_orbax, fit_line, line_task
from train import benchmark, classifier, finetune_rain, options, super_resolution
from train.run import main

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(params=["a file", "below a file", "a link to nowhere", "the system's"])
def out(tmp_path, request):
    """A folder that nothing can be written to, whoever runs the tests."""
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    places = {
        "a file": file,
        "below a file": file / "folder",
        "a link to nowhere": tmp_path / "link" / "folder",
        "the system's": pathlib.Path("/proc/results"),
    }
    if request.param == "the system's" and not pathlib.Path("/proc/self").exists():
        pytest.skip("has no /proc")
    return places[request.param]


def refused(main, out, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "use_all_cores", lambda: None)
        patch.setattr(eval_program, "use_all_cores", lambda: None)
        patch.setattr(sys, "argv", ["program", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            main()
    assert str(exit.value).startswith(f"error: Nothing can be written to {out}")
    assert "\n" not in str(exit.value)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "absent.py", "--out"],
        ["evaluate", "absent.py", "--submit", "local", "--out"],
        ["sanity", "absent.py", "--out"],
        ["merge", "absent", "--out"],
        ["data", "import", "--name", "n", "--split", "test=absent", "--data-dir"],
    ],
)
def test_rainjax_says_so_before_it_looks_at_anything_else(out, words):
    refused(program.main, out, *words, out)


def test_rainjax_draws_no_sheet_into_it(out):
    refused(program.main, out, "data", "show", "builtin", "test", "--out", out / "sheet.png")


@pytest.mark.parametrize(
    "words",
    [
        ["quick"],
        ["transformations"],
        ["sanity"],
        ["smoothing"],
        ["benchmark"],
        ["speed"],
        ["peers"],
        ["super_resolution", "--networks", "absent"],
        ["residuals", "--classifier", "absent"],
        ["design", "smoke"],
    ],
)
def test_eval_says_so_before_it_loads_a_network(out, words):
    refused(eval_program.main, out, *words, "--out", out)


@pytest.mark.parametrize("module", [classifier, super_resolution, finetune_rain])
def test_train_says_so_before_it_reads_a_picture(out, module, monkeypatch):
    monkeypatch.setattr(options, "use_all_cores", lambda: None)

    def train(options):
        pytest.fail("it began to work")

    run = lambda: options.program(train, module.PRESETS, module.__doc__)
    refused(run, out, "smoke", "--out", out)


def test_the_benchmark_of_training_says_so(out):
    refused(lambda: main(benchmark._program), out, "--out", out)


def test_functions_say_so(out):
    study = study_of(linear(Identity()))
    for measure in (evaluate, certify_study):
        with pytest.raises(ValueError, match="Nothing can be written to"):
            measure(study, out, progress=False)


def test_nothing_is_left_where_something_could_be_written(tmp_path):
    _files.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_study_may_have_a_folder_where_another_one_could_not(tmp_path, monkeypatch):
    def refuse(folder):
        raise ValueError(folder)

    monkeypatch.setattr(_files, "check_writable", refuse)
    with pytest.raises(ValueError, match="out"):
        _files.check_holder(tmp_path / "out")
    (tmp_path / "out" / "study").mkdir(parents=True)
    _files.check_holder(tmp_path / "out")


def test_a_report_says_so(tmp_path):
    evaluate(study_of(linear(Identity())), tmp_path, progress=False)
    (tmp_path / "small" / "figures").touch()
    with pytest.raises(ValueError, match=r"Nothing can be written to .*figures"):
        write_report(tmp_path / "small")


def full_from(monkeypatch, number):
    """Has the disk full from some file on; what is written elsewhere still goes there."""
    written, fsync = [], os.fsync

    def full(descriptor):
        written.append(descriptor)
        if number <= len(written) < number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(_files.os, "fsync", full)


def test_what_cannot_be_written_is_put_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full_from(monkeypatch, 1)
    with pytest.raises(
        OSError, match=r"there/a.json cannot be written \(No space left on"
    ) as told:
        _files.write_json(tmp_path / "there" / "a.json", {"hours": 7})
    (kept,) = tmp_path.glob("rainjax-*/a.json")
    assert f"its content is in {kept}:" in str(told.value)
    assert _files.read_json(kept) == {"hours": 7}
    assert not list((tmp_path / "there").iterdir())


def test_what_can_be_written_nowhere_is_one_sentence_too(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"a.npz cannot be written \(File exists\): make room"):
        _files.write_arrays(tmp_path / "file" / "a.npz", {"a": np.ones(3)})


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    study = study_of(linear(Identity()))
    with monkeypatch.context() as patch:
        full_from(patch, 5)
        with pytest.raises((OSError, ValueError), match="No space left on device") as told:
            evaluate(study, tmp_path / "out", progress=False)
    assert "\n" not in str(told.value)
    units = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/small/work/*")}
    assert units
    assert list(tmp_path.glob("rainjax-*/*.npz"))
    records = evaluate(study, tmp_path / "out", progress=False)
    assert {path: path.stat().st_mtime_ns for path in units} == units  # none was made again
    assert [r.result for r in records] == [
        r.result for r in evaluate(study, tmp_path / "whole", progress=False)
    ]


@dataclasses.dataclass(frozen=True)
class Deletes(Robustness):
    """Deletes the study's folder after the first batch."""

    folder: str = ""

    def unit(self, scorer, images, attacked, attack):
        place = pathlib.Path(self.folder)
        if len(list(place.glob("work/s-*"))) == 1 and not (place / "again").exists():
            shutil.rmtree(place)
            place.mkdir()
            (place / "again").touch()
        return super().unit(scorer, images, attacked, attack)


def test_a_folder_that_vanishes_is_made_again(tmp_path):
    study = study_of(linear(Identity()), measure=Deletes(folder=str(tmp_path / "small")))
    with pytest.raises(ValueError, match="is not there: run again") as told:
        evaluate(study, tmp_path, progress=False)
    assert "\n" not in str(told.value)
    records = evaluate(study, tmp_path, progress=False)
    assert [r.id for r in load_records(tmp_path / "small")] == [r.id for r in records]


@pytest.mark.parametrize("words", ["rainjax zoo show builtin_resnet", "eval report {speed}"])
def test_a_closed_pipe_ends_quietly(words):
    words = words.format(speed=ROOT / "eval" / "records" / "speed.json")
    text = f"{sys.executable} -m {words} | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@fails_in_orbax
@pytest.mark.filterwarnings("ignore:The checkpoint .* is damaged")
def test_training_whose_folder_vanishes_goes_on_or_begins_anew(tmp_path):
    task, _ = line_task()

    def deleting(first):
        for step, batch in enumerate(task.batches(first), first):
            if step == 7:
                shutil.rmtree(tmp_path / "run")
            yield batch

    with contextlib.suppress(OSError):  # where a checkpoint was being written
        fit_line(tmp_path / "run", batches=deleting)
    outcome = fit_line(tmp_path / "run")
    assert outcome.params["w"] == fit_line(tmp_path / "whole").params["w"]


@fails_in_orbax
def test_training_on_a_full_disk_ends_with_a_sentence_and_goes_on(tmp_path):
    """Files may not grow beyond some bytes, as on a disk that fills up."""
    task, _ = line_task()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(first):
        for step, batch in enumerate(task.batches(first), first):
            if step == 7:
                resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
            yield batch

    try:
        with pytest.raises(OSError, match="run again") as told:
            fit_line(tmp_path / "run", batches=filling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(told.value)
    whole = fit_line(tmp_path / "whole")
    assert fit_line(tmp_path / "run").params["w"] == whole.params["w"]
