"""Measures how well a defense protects a classifier, and shows it.

Write a file with a function `study()` that returns a `rainjax.evaluation.Study`, and give it to
`rainjax evaluate`. Killed, it goes on where it was.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated, Literal

import jax
import tyro

from rainjax import evaluation
from rainjax._files import check_holder
from rainjax._output import until_closed
from rainjax.compilation_cache import use_compilation_cache
from rainjax.devices import join_processes, use_all_cores
from rainjax.evaluation.cluster import submit
from rainjax.evaluation.loading import load_study, resized, users_line
from rainjax.evaluation.records import load_study_file
from rainjax.evaluation.shards import parse_shard, shard_of_array
from rainjax.evaluation.study import Study


@dataclasses.dataclass(frozen=True)
class Jobs:
    """What each of the shares that are submitted may take."""

    minutes: int = 240
    """After so long a share is queued again; it goes on where it was."""
    gpus: int | None = None
    """GPUs of a share."""
    cpus: int | None = None
    """Cores of a share."""
    mem_gb: int | None = None
    """Memory of a share."""
    num_at_once: int | None = None
    """Shares that may run at the same time; by default all of them."""
    partition: str | None = None
    """Slurm's partition."""
    slurm: tuple[str, ...] = ()
    """Other options of sbatch, such as account=mine constraint=a100."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures a study, or what is missing of it, and writes its report.

    Under Slurm arrays and Kubernetes indexed jobs each task makes its share, which `rainjax merge`
    puts together. docs/distributed.md has it all.
    """

    study: Annotated[str, tyro.conf.Positional]
    """The Python file that holds the study: FILE.py, or FILE.py:NAME for another function."""
    out: pathlib.Path = pathlib.Path("results")
    """The study is written to OUT/NAME and, when interrupted, continued from there."""
    name: str | None = None
    """The study's name instead of its own."""
    num_examples: int | None = None
    """Images instead of the study's own number: the first ones."""
    num_score_draws: int | None = None
    """Draws under which every image of a random pipeline is scored, instead of the study's own."""
    batch_size: int | None = None
    """Images attacked together, instead of the study's own number. Draws do not depend on it."""
    seed: int | None = None
    """The root of every random number, instead of the study's own."""
    shard: str | None = None
    """INDEX/COUNT: make this share alone, and no record; 0/3, 1/3 and 2/3 are three shares."""
    distributed: bool = False
    """Join other processes of JAX: each makes its share, and the first one writes the records."""
    quiet: bool = False
    """Say nothing of the work on the way."""
    submit: Literal["slurm", "local"] | None = None
    """Submit shares as jobs of a Slurm array, or run them on this machine at once, and merge them
    afterwards."""
    array: int | None = None
    """Shares to submit, 8 by default."""
    jobs: Jobs = dataclasses.field(default_factory=Jobs)
    """What each of the submitted shares may take."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes the report of a folder of records again, and says what it shows."""

    folder: Annotated[pathlib.Path, tyro.conf.Positional]
    """The study's folder: the one that holds records/."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sanity(evaluation.SanityOptions):
    """Checks that the attacks on a study's subjects were strong enough to be believed.

    Looks for what makes a defense only seem robust: randomness that is none, gradients that are
    not there, attacks that do not gain from more steps, more draws or a larger radius, black-box
    attacks that beat white-box ones. Writes OUT/NAME/sanity.json, which the report shows beside
    the accuracies that a failed check puts in doubt. Of a folder it needs to be told which file
    the study is from: no file in it decides what code runs.
    """

    target: Annotated[str, tyro.conf.Positional]
    """The Python file that holds the study, FILE.py or FILE.py:NAME; or the folder that `rainjax
    evaluate` wrote, with --study."""
    study: str | None = None
    """The Python file that holds the study, where the target is its folder."""
    subjects: tuple[str, ...] | None = None
    """The names of the subjects to check; by default all of them."""
    out: pathlib.Path = pathlib.Path("results")
    """The checks are written to OUT/NAME, where the target is no folder."""


@dataclasses.dataclass(frozen=True)
class Merge:
    """Puts the shares of a study together, and writes its records and its report.

    Refuses shares that are missing, that differ where they overlap, or that are of other code,
    images or parameters.
    """

    folders: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional]
    """The study's folders that hold the shares; one, where all shares were written to it."""
    out: pathlib.Path | None = None
    """The records are written to OUT/NAME; by default to the one folder."""
    study: str | None = None
    """The Python file that holds the study, for a measure or extras of its own."""


Command = (
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Sanity, tyro.conf.subcommand("sanity")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
)
_ELSEWHERE = ("data", "zoo")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a mistake in it ends the program with one sentence."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with until_closed():
            if arguments and arguments[0] in _ELSEWHERE:
                _elsewhere(arguments[0], arguments[1:])
                return
            _run(tyro.cli(Command, args=arguments, prog="rainjax", description=_help()))
    except (ValueError, OSError, MemoryError, ImportError) as error:
        where = users_line(error)
        sys.exit(f"error: {where}: {error}" if where else f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from here.")


def _help() -> str:
    assert __doc__ is not None
    return (
        f"{__doc__}\nBeside the commands below there are `rainjax data`, for data sets, and "
        "`rainjax zoo`, for networks that ship or that you saved."
    )


def _elsewhere(word: Literal["data", "zoo"] | str, arguments: list[str]) -> None:
    if word == "data":
        from rainjax.data.__main__ import main
    else:
        from rainjax.zoo.__main__ import main
    main(arguments)


def _run(command: Evaluate | Report | Sanity | Merge) -> None:
    match command:
        case Evaluate():
            _evaluate(command)
        case Report():
            _show(command.folder)
        case Sanity():
            _sanity(command)
        case Merge():
            _merge(command)


def _evaluate(command: Evaluate) -> None:
    check_holder(command.out)
    if command.submit is not None:
        _submit(command)
        return
    for option, given in (("--array", command.array), ("--jobs", command.jobs)):
        if given not in (None, Jobs()):
            raise ValueError(f"{option} is about jobs: add --submit slurm or --submit local.")
    use_all_cores()
    use_compilation_cache()
    if command.distributed:
        join_processes()
    study = resized(
        load_study(command.study),
        num_examples=command.num_examples,
        num_score_draws=command.num_score_draws,
        batch_size=command.batch_size,
        seed=command.seed,
        name=command.name,
    )
    shard = None
    if not command.distributed:
        shard = parse_shard(command.shard) if command.shard else shard_of_array()
    elif command.shard:
        raise ValueError(
            f"shard={command.shard!r} and distributed: JAX's processes take shares of their own; "
            "give one of the two."
        )
    folder = command.out / study.name
    evaluation.evaluate(study, command.out, shard=shard, progress=not command.quiet)
    if shard is not None and not shard.is_whole:
        print(f"Made share {shard}. `rainjax merge {folder}` puts the shares together.")
    elif jax.process_index() == 0:
        _show(folder, study)


def _submit(command: Evaluate) -> None:
    given = ("num_examples", "num_score_draws", "batch_size", "seed")
    values = {name: getattr(command, name) for name in given}
    options = [
        word
        for name, value in values.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    wrong = [text for text in command.jobs.slurm if "=" not in text.strip("=")]
    if wrong or command.shard or command.distributed:
        what = f"jobs.slurm={wrong[0]!r}" if wrong else "--submit with --shard or --distributed"
        raise ValueError(
            f"{what}: sbatch's options are NAME=VALUE, and shares are those of --array."
        )
    num_shards = 8 if command.array is None else command.array
    jobs = {**vars(command.jobs), "slurm": dict(t.split("=", 1) for t in command.jobs.slurm)}
    names = submit(
        command.study,
        command.out,
        executor=command.submit or "slurm",
        num_shards=num_shards,
        name=command.name,
        options=[*options, *(["--quiet"] if command.quiet else [])],
        **jobs,
    )
    done = "Made and merged" if command.submit == "local" else "Submitted"
    print(f"{done} {num_shards} shares: jobs {names[0]} to {names[-1]}, which merges them.")


def _sanity(command: Sanity) -> None:
    use_all_cores()
    use_compilation_cache()
    folder = pathlib.Path(command.target)
    if not folder.is_dir():
        check_holder(command.out)
        study, out = load_study(command.target), command.out
    elif command.study is None:
        raise ValueError(
            f"{folder} is a folder: name the Python file of its study as well, --study FILE.py, "
            "for no file in the folder decides what code runs."
        )
    else:
        there = load_study_file(folder)  # what `evaluate`'s command line may have changed
        draws, seed = there.get("num_score_draws"), there.get("seed")
        study = load_study(command.study)
        study = resized(study, name=folder.name, seed=seed, num_score_draws=draws)
        out = folder.parent
    evaluation.check_study(study, out, subjects=command.subjects, options=command)
    folder = out / study.name
    print(f"\nWrote {folder / 'sanity.json'}")
    if any((folder / "records").glob("*.json")):
        _show(folder, study)
    else:
        print("`rainjax evaluate` makes the report that will show it.")


def _merge(command: Merge) -> None:
    if command.out is not None:
        check_holder(command.out)
    study = None if command.study is None else load_study(command.study)
    records = evaluation.merge(command.folders, command.out, study=study)
    name = records[0].content["study"]
    _show(command.folders[0] if command.out is None else command.out / name, study)


def _show(folder: pathlib.Path, study: Study | None = None) -> None:
    """Writes the report of a folder, with the displays of the study where it is at hand."""
    from rainjax import report

    displays = list(study.displays) or None if study else None
    paths = report.write_report(folder, displays)
    print("\n" + report.summary(folder, displays=displays))
    print("\n" + "\n".join(f"Wrote {path}" for path in paths))


if __name__ == "__main__":
    main()
