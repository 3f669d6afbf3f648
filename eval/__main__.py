"""Measures how well a purifying defense protects a classifier, and shows it.

Without a word, `python -m eval` runs the study `quick`: the built-in data set and the shipped
networks, attacked blind, white-box, with averaged gradients (EOT) and in the mean field. It
prints a table and leaves OUT/quick/report.html. Killed, it goes on where it was.

Beside the words below, `python -m eval design` designs a table of Feature Distillation.
"""

import dataclasses
import pathlib
import sys
from typing import Annotated, Any

import tyro

from eval import report
from eval.benchmarks import attacks, peers, speed, super_resolution
from eval.studies import design, rain, sanity, smoothing, transformations
from eval.studies.rain import RAINStudy
from eval.studies.transformations import Transformations
from rainjax.compilation_cache import use_compilation_cache
from rainjax.devices import use_all_cores
from rainjax.evaluation import evaluate
from rainjax.report import update_readme


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes the report of a folder of records again, and the tables of a README."""

    folder: Annotated[pathlib.Path, tyro.conf.Positional]
    """The study's folder: the one that holds records/. Or peers.json, smoothing.json, speed.json
    or super_resolution.json."""
    readme: pathlib.Path | None = None
    """Also replace this file's table between its results:NAME markers."""
    name: str | None = None
    """NAME in those markers; by default the study's name."""


def _study(name: str) -> Any:
    options, text = (rain.STUDIES | transformations.STUDIES)[name]
    return tyro.conf.subcommand(name, default=options, description=text)


Command = (
    Annotated[RAINStudy, _study("quick")]
    | Annotated[RAINStudy, _study("cifar10")]
    | Annotated[RAINStudy, _study("imagenette96")]
    | Annotated[Transformations, _study("transformations")]
    | Annotated[Transformations, _study("cifar10_transformations")]
    | Annotated[Transformations, _study("nips2017_transformations")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[sanity.Sanity, tyro.conf.subcommand("sanity")]
    | Annotated[smoothing.Smoothing, tyro.conf.subcommand("smoothing")]
    | Annotated[attacks.Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[peers.Peers, tyro.conf.subcommand("peers")]
    | Annotated[speed.Speed, tyro.conf.subcommand("speed")]
    | Annotated[super_resolution.SuperResolution, tyro.conf.subcommand("super_resolution")]
)
_BENCHMARKS = {
    attacks.Benchmark: attacks.run,
    peers.Peers: peers.run,
    speed.Speed: speed.run,
    super_resolution.SuperResolution: super_resolution.run,
    smoothing.Smoothing: smoothing.run,
    design.Design: design.design,
}
# They compile anew: what they measure must not depend on what ran before.
_MEASURES_TIME = attacks.Benchmark | peers.Peers | speed.Speed


def main() -> None:
    """Runs the command line's word; an expected error is one sentence on stderr."""
    use_all_cores()
    words = sys.argv[1:]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["quick", *words]
    command = _read(words)
    try:
        _run(command)
    except (ValueError, FileNotFoundError, MemoryError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        resumed = isinstance(command, RAINStudy | Transformations | smoothing.Smoothing)
        sys.exit(f"Stopped. The same command {'goes on from here' if resumed else 'begins anew'}.")


def _read(words: list[str]) -> Any:
    if words[0] == "design":  # its presets are words of their own
        return design.read(words[1:])
    return tyro.cli(Command, args=words, prog="python -m eval", description=__doc__)


def _run(command: Any) -> None:
    if not isinstance(command, Report | _MEASURES_TIME):
        use_compilation_cache()
    if isinstance(command, RAINStudy | Transformations):
        evaluate(command.study(), command.out)
        _show(command.out / command.name)
    elif isinstance(command, Report):
        _report(command)
    elif isinstance(command, sanity.Sanity):
        _sanity(command)
    else:
        _BENCHMARKS[type(command)](command)


def _report(options: Report) -> None:
    if not options.folder.exists():
        raise FileNotFoundError(f"{options.folder} does not exist: name a study's folder.")
    if options.folder.is_file() and options.name is not None:
        raise ValueError(f"name={options.name!r} is for a study: {options.folder} names itself.")
    if options.folder.is_file():
        print(report.record_text(options.folder))
    else:
        _show(options.folder)
    if options.readme is not None:
        name = options.name or options.folder.stem
        update_readme(options.readme, {name: report.block(options.folder)})
        print(f"Wrote the table {name} into {options.readme}.")


def _sanity(command: sanity.Sanity) -> None:
    path = sanity.run(command)
    print(f"\nWrote {path}")
    if any((path.parent / "records").glob("*.json")):
        _show(path.parent)
    else:
        print(f"`python -m eval {command.study}` makes the report that will show it.")


def _show(folder: pathlib.Path) -> None:
    paths = report.write_report(folder)
    print("\n" + report.summary(folder))
    print("\n" + "\n".join(f"Wrote {path}" for path in paths))


if __name__ == "__main__":
    main()
