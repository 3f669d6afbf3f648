"""Shares of a study as jobs of a cluster, through submitit, and a job that merges them."""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rainjax._extras import require
from rainjax.evaluation.loading import load_study, resized
from rainjax.evaluation.measures import Robustness

_MAX_TIMEOUTS = 20  # how often a share goes on after the end of its time


def submit(
    study_file: str,
    out: pathlib.Path | str = "results",
    *,
    executor: Literal["slurm", "local"] = "slurm",
    num_shards: int,
    options: Sequence[str] = (),
    name: str | None = None,
    minutes: int = 240,
    partition: str | None = None,
    gpus: int | None = None,
    cpus: int | None = None,
    mem_gb: int | None = None,
    num_at_once: int | None = None,
    slurm: Mapping[str, Any] | None = None,
) -> list[str]:
    """Submits the shares of a study as one array, and a job that merges them afterwards.

    A job is the command `rainjax evaluate STUDY_FILE --out OUT --shard i/n`. One that comes to the
    end of its time, or makes room for another, is queued again and goes on where it was. What
    jobs say is in `out`/NAME/jobs. "local" runs all shares on this machine at once, and returns
    when they are merged; "slurm" returns as soon as they are queued.

    Args:
        study_file: The Python file that holds the study, as `rainjax evaluate` takes it.
        out: The folder that holds the study's own, on a file system that all machines share.
        executor: Where the jobs run.
        num_shards: How many shares there are.
        options: Further words of `rainjax evaluate`, such as `("--num-examples", "200")`.
        name: The study's name instead of its own.
        minutes: How long a share may run before it is queued again.
        partition: Slurm's partition.
        gpus: GPUs of a share.
        cpus: Cores of a share.
        mem_gb: Memory of a share.
        num_at_once: How many shares may run at the same time.
        slurm: Other options of `sbatch`, such as `{"account": "mine", "constraint": "a100"}`.

    Returns:
        The names of the jobs: one for each share, and that of the merging one.

    Raises:
        ImportError: submitit is not installed.
        ValueError: the file holds no study, there is no Slurm here, or a local job failed; says
            which.
    """
    if num_shards < 1:
        raise ValueError(f"num_shards={num_shards} must be at least 1.")
    submitit = require("submitit", name="submitit", extra="cluster")
    study = resized(load_study(study_file), name=name)
    folder = pathlib.Path(out) / study.name
    given = [] if name is None else ["--name", name]
    common = ["evaluate", study_file, "--out", str(out), *given, *options]
    shares = [[*common, "--shard", f"{index}/{num_shards}"] for index in range(num_shards)]
    own = bool(study.extras) or type(study.measure) is not Robustness
    merging = ["merge", str(folder), *(["--study", study_file] if own else [])]
    generic = {"timeout_min": minutes, "cpus_per_task": cpus, "mem_gb": mem_gb}
    options_of = {
        "gpus_per_node": gpus,
        "slurm_partition": partition,
        "slurm_array_parallelism": num_at_once or num_shards,
        "slurm_additional_parameters": dict(slurm or {}),
    }
    try:
        queue = _queue(submitit, executor, folder, **generic, **options_of)
        jobs = queue.map_array(_Command(), shares)
        if executor == "local":
            _wait(jobs, shares)
        after = _after(executor, jobs)
        # The merge computes nothing, but extras and measures of the study's own may.
        needs = options_of if own else {**options_of, "gpus_per_node": None}
        more = {**needs["slurm_additional_parameters"], **after}
        queue = _queue(
            submitit, executor, folder, **generic, **{**needs, "slurm_additional_parameters": more}
        )
        last = queue.submit(_Command(), merging)
    except RuntimeError as error:  # there is no Slurm, or it does not take the job
        raise ValueError(f"{executor} takes no jobs here: {error}") from error
    if executor == "local":
        _wait([last], [merging])
    return [job.job_id for job in (*jobs, last)]


@dataclasses.dataclass(frozen=True)
class _Command:
    """Runs a command of `rainjax` in a process of its own, as records say; queued again if cut."""

    def __call__(self, words: list[str]) -> None:
        subprocess.run([sys.executable, "-m", "rainjax", *words], check=True)

    def checkpoint(self, words: list[str]) -> Any:
        """Returns what is queued when the job's time is over: itself, for it resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, words)


def _queue(submitit: Any, executor: str, folder: pathlib.Path, **parameters: Any) -> Any:
    queue = submitit.AutoExecutor(
        folder=folder / "jobs", cluster=executor, slurm_max_num_timeout=_MAX_TIMEOUTS
    )
    given = {name: value for name, value in parameters.items() if value is not None}
    queue.update_parameters(name=f"rainjax-{folder.name}", **given)
    return queue


def _after(executor: str, jobs: Sequence[Any]) -> dict[str, str]:
    """Returns sbatch's options that hold a job back until all of an array have succeeded."""
    if executor != "slurm":
        return {}
    array = jobs[0].job_id.split("_")[0]
    return {"dependency": f"afterok:{array}", "kill-on-invalid-dep": "yes"}


def _wait(jobs: Sequence[Any], commands: Sequence[Sequence[str]]) -> None:
    """Waits for local jobs.

    Raises:
        ValueError: one failed; says which, and where it says why.
    """
    try:
        failed = [place for place, job in enumerate(jobs) if job.exception() is not None]
    except KeyboardInterrupt:
        for job in jobs:
            job.cancel()
        raise
    if failed:
        words = " ".join(commands[failed[0]])
        raise ValueError(f"`rainjax {words}` failed; {jobs[failed[0]].paths.stderr} says why.")
