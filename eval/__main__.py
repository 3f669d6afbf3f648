"""Measures how well a purifying defense protects a classifier, and shows it.

Without a word, `python -m eval` runs the study `quick`: the built-in data set and the shipped
networks, attacked blind, white-box, with averaged gradients (EOT) and in the mean field. It
prints a table and leaves OUT/quick/report.html. Killed, it goes on where it was.

Beside the words below, `python -m eval design` designs a table of Feature Distillation.
"""

import dataclasses
import functools
import operator
import pathlib
import sys
from typing import Annotated, Any

import tyro

from eval import design, report, sanity, smoothing
from eval.benchmarks import (
    api,
    attacks,
    gains,
    peers,
    residuals,
    scores,
    speed,
    super_resolution,
    terms,
)
from eval.headline import headline
from eval.pages import studies
from eval.studies.common import StudyOptions
from rainjax._files import check_holder, check_writable
from rainjax._output import until_closed
from rainjax.compilation_cache import use_compilation_cache
from rainjax.devices import use_all_cores
from rainjax.evaluation import evaluate
from rainjax.report import as_plain, update_readme


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes the report of a folder of records again, and its table in a page of Markdown."""

    folder: Annotated[pathlib.Path, tyro.conf.Positional]
    """The study's folder: the one that holds records/. Or api.json, gains.json, peers.json,
    residuals.json, smoothing.json, speed.json or super_resolution.json. Or eval/records, a folder
    of studies, for the README's table."""
    readme: pathlib.Path | None = None
    """Also replace this file's table between its results:NAME markers."""
    name: str | None = None
    """NAME in those markers; by default the name of the folder or the file."""


# The words beside the names of studies.
_WORDS = {
    "report": Report,
    "sanity": sanity.Sanity,
    "smoothing": smoothing.Smoothing,
    "benchmark": attacks.Benchmark,
    "peers": peers.Peers,
    "speed": speed.Speed,
    "gains": gains.Gains,
    "scores": scores.Scores,
    "terms": terms.Terms,
    "api": api.Api,
    "residuals": residuals.Residuals,
    "super_resolution": super_resolution.SuperResolution,
}
# Of these, what the word itself does not know is an option of the study it is given.
_OF_A_STUDY = ("sanity", "smoothing", "scores")
_BENCHMARKS = {
    attacks.Benchmark: attacks.run,
    peers.Peers: peers.run,
    speed.Speed: speed.run,
    gains.Gains: gains.run,
    scores.Scores: scores.run,
    terms.Terms: terms.run,
    api.Api: api.run,
    residuals.Residuals: residuals.run,
    super_resolution.SuperResolution: super_resolution.run,
    smoothing.Smoothing: smoothing.run,
    design.Design: design.design,
}
# Killed, they go on where they were.
_RESUMES = StudyOptions | smoothing.Smoothing | residuals.Residuals | api.Api
# They compile anew: what they measure must not depend on what ran before.
_MEASURES_TIME = attacks.Benchmark | peers.Peers | scores.Scores | speed.Speed


def main() -> None:
    """Runs the command line's word; an expected error is one sentence on stderr."""
    use_all_cores()
    words = sys.argv[1:]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words = ["quick", *words]
    command = None
    try:
        with until_closed():
            command = read(words)
            _run(command)
    except (ValueError, OSError, MemoryError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        resumed = isinstance(command, _RESUMES)
        sys.exit(f"Stopped. The same command {'goes on from here' if resumed else 'begins anew'}.")


def read(words: list[str]) -> Any:
    """Returns what a command line asks for: the options of a study, or of another word."""
    if words[0] == "design":  # its presets are words of their own
        return design.read(words[1:])
    parse = functools.partial(tyro.cli, _commands(), prog="python -m eval", description=__doc__)
    if words[0] not in _OF_A_STUDY:
        return parse(args=words)
    command, others = parse(args=_study_first(words), return_unknown_args=True)
    return dataclasses.replace(command, study_options=tuple(others))


def _commands() -> Any:
    """Returns the type of all commands: a study for every name that a page declares."""
    known = [
        Annotated[type(options), tyro.conf.subcommand(name, default=options, description=text)]
        for name, (options, text) in studies().items()
    ]
    others = [Annotated[kind, tyro.conf.subcommand(word)] for word, kind in _WORDS.items()]
    return functools.reduce(operator.or_, [*known, *others])


def _study_first(words: list[str]) -> list[str]:
    """Returns the words with the study's name in front: no value of an option is taken for it."""
    word, *rest = words
    if (rest and not rest[0].startswith("-")) or {"-h", "--help"} & {*rest}:
        return words
    for place in range(1, len(rest)):
        before = rest[place - 1]
        if rest[place] in studies() and not (before.startswith("--") and "=" not in before):
            return [word, rest.pop(place), *rest]
    return [word, _WORDS[word]().study, *rest]


def _run(command: Any) -> None:
    if isinstance(command, sanity.Sanity | smoothing.Smoothing | scores.Scores):
        check_holder(command.out)
    elif not isinstance(command, Report):
        check_writable(_folder(command))
    if not isinstance(command, Report | _MEASURES_TIME):
        use_compilation_cache()
    if isinstance(command, StudyOptions):
        evaluate(command.study(), command.out)
        _show(command.out / command.name)
    elif isinstance(command, Report):
        _report(command)
    elif isinstance(command, sanity.Sanity):
        _sanity(command)
    else:
        _BENCHMARKS[type(command)](command)


def _folder(command: Any) -> pathlib.Path:
    """Returns the folder that a command writes to."""
    if isinstance(command, design.Design):
        return command.run.folder
    return command.out / command.name if isinstance(command, StudyOptions) else command.out


def _report(options: Report) -> None:
    if not options.folder.exists():
        raise FileNotFoundError(f"{options.folder} does not exist: name a study's folder.")
    if options.folder.is_file() and options.name is not None:
        raise ValueError(f"name={options.name!r} is for a study: {options.folder} names itself.")
    if options.folder.is_file():
        print(report.record_text(options.folder))
    elif report.holds_studies(options.folder):
        print(as_plain(headline(options.folder)))
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
