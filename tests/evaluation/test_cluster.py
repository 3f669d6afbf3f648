"""Shares as jobs: run here by submitit's local executor, and as Slurm would be asked for them."""

import json
import pathlib
import re
import sys

import pytest

from rainjax.evaluation.cluster import submit
from tests.measured import NAME, content

ROOT = pathlib.Path(__file__).parents[2]
FILE = """
import contextlib, jax
from tests.measured import study

with contextlib.suppress(RuntimeError):  # JAX has started where jobs are submitted
    jax.config.update("jax_num_cpu_devices", 2)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


def test_the_local_executor_makes_the_records_of_one_process(mine, undisturbed, tmp_path):
    jobs = submit(mine, tmp_path, executor="local", num_shards=2, options=["--quiet"], minutes=10)
    assert len(set(jobs)) == 3
    assert content(tmp_path) == content(undisturbed)
    record = json.loads(next((tmp_path / NAME / "records").glob("*.json")).read_text())
    assert record["run"]["command"] == f"python -m rainjax merge {NAME}"
    command = "python -m rainjax evaluate mine.py --out {} --quiet --shard 0/2"
    assert record["run"]["shares"][0]["command"] == command.format(tmp_path.name)


def test_a_local_job_that_fails_is_named(mine, tmp_path):
    with pytest.raises(
        ValueError, match=r"`rainjax evaluate .*--shard 0/1` failed; (\S+)"
    ) as told:
        submit(mine, tmp_path, executor="local", num_shards=1, options=["--num-examples", "99"])
    log = re.search(r"failed; (\S+) says why", str(told.value))
    assert log is not None
    assert "num_examples=99, but 'pictures' has 9" in pathlib.Path(log[1]).read_text()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm that keeps what it is given: the files handed to sbatch, in their order."""
    tools, kept = tmp_path / "bin", tmp_path / "kept"
    tools.mkdir()
    kept.mkdir()
    script = (
        "#!/bin/sh\n"
        f'number=$(ls {kept} | wc -l)\ncp "$1" {kept}/$number\n'
        'echo "Submitted batch job 70$number"\n'
    )
    for name in ("sbatch", "srun", "sacct", "scancel"):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    return lambda: [path.read_text().splitlines() for path in sorted(kept.iterdir())]


def test_slurm_is_asked_for_an_array_and_a_merge_after_it(mine, slurm, tmp_path):
    jobs = submit(
        mine,
        tmp_path,
        num_shards=16,
        minutes=90,
        partition="gpu",
        gpus=1,
        cpus=8,
        mem_gb=32,
        num_at_once=4,
        slurm={"account": "mine"},
    )
    assert jobs == [*(f"700_{index}" for index in range(16)), "701"]
    array, merging = slurm()
    flags = {
        "--array=0-15%4",
        "--partition=gpu",
        "--time=90",
        "--gpus-per-node=1",
        "--cpus-per-task=8",
        "--mem=32GB",
        "--account=mine",
        f"--job-name=rainjax-{NAME}",
    }
    assert {f"#SBATCH {flag}" for flag in flags} <= set(array)
    assert not any("dependency" in line for line in array)
    held = {"--dependency=afterok:700", "--kill-on-invalid-dep=yes", "--partition=gpu"}
    assert {f"#SBATCH {flag}" for flag in held} <= set(merging)
    assert not any("gpus" in line or "--array" in line for line in merging)


def test_a_job_is_the_command_that_anybody_would_type(mine, slurm, tmp_path):
    """What is pickled for Slurm runs, and asks to be queued again when its time is over."""
    from submitit.core.utils import DelayedSubmission

    submit(mine, tmp_path, num_shards=3, name="other", options=["--seed", "1"])
    pickles = sorted((tmp_path / "other" / "jobs").glob("*_submitted.pkl"))
    found = [DelayedSubmission.load(path) for path in pickles]
    words = [" ".join(job.args[0]) for job in found]
    evaluate = f"evaluate {mine} --out {tmp_path} --name other --seed 1 --shard"
    merge = f"merge {tmp_path / 'other'}"
    assert sorted(words) == [*(f"{evaluate} {index}/3" for index in range(3)), merge]
    again = found[0].function.checkpoint(*found[0].args)
    assert again.args == found[0].args


def test_without_slurm_or_submitit_a_sentence_says_so(mine, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"slurm takes no jobs here: .*srun"):
        submit(mine, tmp_path, num_shards=2)
    with pytest.raises(ValueError, match="num_shards=0 must be at least 1"):
        submit(mine, tmp_path, num_shards=0)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r'submitit is not installed: pip install "rainjax\[cl'):
        submit(mine, tmp_path, num_shards=2)
    assert list((tmp_path / NAME).glob("work/*")) == []
