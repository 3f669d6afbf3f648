"""Measures how well a defense protects a classifier, and shows it.

Write a file with a function `study()` that returns a `rainjax.evaluation.Study`, and give it to
`rainjax evaluate`. Killed, it goes on where it was.
"""

import dataclasses
import os
import pathlib
import sys
from typing import Annotated, Literal

import tyro

from rainjax import evaluation
from rainjax.devices import use_all_cores
from rainjax.evaluation.loading import load_study, resized
from rainjax.evaluation.shards import parse_shard, shard_of_array


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures a study, or what is missing of it, and writes its report.

    Under Slurm arrays and Kubernetes indexed jobs each task makes its share, which `rainjax merge`
    puts together.
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
    quiet: bool = False
    """Say nothing of the work on the way."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes the report of a folder of records again, and says what it shows."""

    folder: Annotated[pathlib.Path, tyro.conf.Positional]
    """The study's folder: the one that holds records/."""


Command = (
    Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)
_ELSEWHERE = ("data", "zoo")


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a mistake in it ends the program with one sentence."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in _ELSEWHERE:
            _elsewhere(arguments[0], arguments[1:])
            return
        _run(tyro.cli(Command, args=arguments, prog="rainjax", description=_help()))
    except (ValueError, FileNotFoundError, MemoryError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from here.")
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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


def _run(command: Evaluate | Report) -> None:
    match command:
        case Evaluate():
            _evaluate(command)
        case Report():
            _show(command.folder)


def _evaluate(command: Evaluate) -> None:
    use_all_cores()
    study = resized(
        load_study(command.study),
        num_examples=command.num_examples,
        num_score_draws=command.num_score_draws,
        batch_size=command.batch_size,
        seed=command.seed,
        name=command.name,
    )
    shard = parse_shard(command.shard) if command.shard else shard_of_array()
    folder = command.out / study.name
    evaluation.evaluate(study, command.out, shard=shard, progress=not command.quiet)
    if shard is None or shard.is_whole:
        _show(folder)
    else:
        print(f"Made share {shard}. `rainjax merge {folder}` puts the shares together.")


def _show(folder: pathlib.Path) -> None:
    from rainjax import report

    paths = report.write_report(folder)
    print("\n" + report.summary(folder))
    print("\n" + "\n".join(f"Wrote {path}" for path in paths))


if __name__ == "__main__":
    main()
