"""The studies of this repository by name, as their pages in `eval/studies/` declare them."""

import dataclasses
import importlib
import pathlib
import pkgutil
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Annotated, TypeVar

import tyro

from eval.studies.common import StudyOptions
from rainjax._arguments import Named
from rainjax.evaluation import Study

_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True)
class OfAStudy(metaclass=Named):
    """Options of a program that is given a study and some of its pipelines."""

    study: Annotated[str, tyro.conf.Positional] = "quick"
    """The study whose networks, data and attacks are taken: a word of `python -m eval --help`."""
    rows: tuple[str, ...] | None = None
    """The pipelines to take, by the names of the study's subjects or their short ones:
    undefended, rain_pretrained, rain_finetuned of RAIN's studies, undefended, fd and so on of
    transformations. By default those that the study names for this, or all."""
    out: pathlib.Path = pathlib.Path("results")
    """The record is written to OUT/STUDY."""
    study_options: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Options of the study, as on its command line."""

    def __post_init__(self):
        getattr(super(), "__post_init__", lambda: None)()  # of the other base, if there is one
        if self.rows == ():
            raise ValueError(f"rows={self.rows} must name one.")


def modules(*packages: str) -> Iterator[ModuleType]:
    """Yields the modules of these packages, but those that are parts of others: `_name.py`."""
    for package in map(importlib.import_module, packages):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not module.ispkg and not module.name.rpartition(".")[2].startswith("_"):
                yield importlib.import_module(module.name)


def studies() -> dict[str, tuple[StudyOptions, str]]:
    """Returns the options and a description of every study: the `STUDIES` of all pages.

    Raises:
        ValueError: two pages declare studies of one name.
    """
    found: dict[str, tuple[StudyOptions, str]] = {}
    for module in modules("eval.studies"):
        declared = getattr(module, "STUDIES", {})
        for name in found.keys() & declared:
            raise ValueError(f"{module.__name__} declares a second study {name!r}: rename it.")
        found |= declared
    return found


def options_of(name: str, words: Sequence[str] = ()) -> StudyOptions:
    """Returns the options of the study of a name, and what `words` of a command line change.

    Raises:
        ValueError: there is none of that name.
    """
    known = studies()
    if name not in known:
        raise ValueError(f"No study is called {name!r}; there are {', '.join(known)}.")
    options, _ = known[name]
    return parsed(options, words, prog=f"python -m eval {name}") if words else options


def parsed(default: _Value, words: Sequence[str], *, prog: str) -> _Value:
    """Returns a dataclass with those of its fields changed that a command line names."""
    return tyro.cli(type(default), default=default, args=list(words), prog=prog)


def with_rows(options: StudyOptions, rows: Sequence[str]) -> tuple[Study, tuple[str, ...] | None]:
    """Returns the study, and the names of the subjects that `rows` asks for: None for no rows.

    A row is a subject's name, or the short name that the options have for it. Options with a field
    `rows` are asked for these alone, so that no others are loaded.

    Raises:
        ValueError: there is no subject of a name, or the parts do not fit each other.
    """
    if not rows:
        return options.study(), None
    if any(field.name == "rows" for field in dataclasses.fields(options)):
        short = {title: name for name, title in options.short_names.items()}
        options = dataclasses.replace(options, **{"rows": tuple(short.get(r, r) for r in rows)})
    study = options.study()
    titles = {subject.name: subject.name for subject in study.subjects}
    known = dict(options.short_names) or titles
    names = {**titles, **known}
    for row in rows:
        if row not in names:
            raise ValueError(f"rows={row!r} is none of {', '.join(known)}.")
    return study, tuple(names[row] for row in rows)
