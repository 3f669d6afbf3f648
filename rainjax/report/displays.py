"""Which displays a study is shown by: those that it names, or those that its records allow."""

import dataclasses
import pathlib
import typing
from collections.abc import Sequence
from typing import Any

from rainjax._files import read_json
from rainjax.report._display import Display
from rainjax.report.contrast import BlindAgainstAdaptive
from rainjax.report.curves import Curve
from rainjax.report.pictures import Gallery, Panels, Spectrum, Surfaces
from rainjax.report.results import Results, balls
from rainjax.report.tabular import DrawsTable, Leaderboard, ResultsTable
from rainjax.report.text import draws_of

# A file names one of these and never decides what code runs.
DISPLAYS: dict[str, type[Display]] = {
    kind.__name__: kind
    for kind in (
        ResultsTable,
        DrawsTable,
        Leaderboard,
        BlindAgainstAdaptive,
        Curve,
        Panels,
        Gallery,
        Spectrum,
        Surfaces,
    )
}
# More subjects than these are compared at a glance in a ranking, and not in curves.
_FEW = 4


def choose(results: Results) -> list[Display]:
    """Returns the displays that study.json names or, where it names none, the default ones.

    Raises:
        ValueError: it names something else; says what.
    """
    if results.folder is not None:
        named = load_displays(results.folder)
        if named:
            return named
    return default_displays(results)


def default_displays(results: Results) -> list[Display]:
    """Returns what the records and the files beside them have something to show for."""
    tags = {tag for record in results.records for tag in record.tags}
    table = "table" if "table" in tags else None
    shown = results.tagged(table)
    contrast = "comparison" in tags
    many = len({record.subject for record in shown}) > _FEW
    found: list[Display] = []
    if contrast:
        found.append(BlindAgainstAdaptive())
    found.append(ResultsTable(table))
    if many and not contrast and balls(shown):
        found.append(Leaderboard(table))
    if any(record.num_score_draws > 1 for record in shown) and balls(shown):
        found.append(DrawsTable(table))
    found += _default_curves(results, tags, table, quiet=contrast or many)
    folder = results.folder
    if folder is not None and any((folder / "panels").glob("*.npz")):
        found.append(Panels(table))
    if folder is not None and (folder / "spectrum.json").exists():
        found.append(Spectrum())
    if folder is not None and (folder / "gallery.npz").exists():
        found.append(Gallery())
    if results.checked and any(row["surfaces"] for row in results.checked["rows"]):
        found.append(Surfaces())
    return found


def load_displays(folder: pathlib.Path) -> list[Display]:
    """Returns the displays that a folder's study.json names; none where there is no such file.

    Raises:
        ValueError: it names something that is no display, or no field of one; says what.
    """
    path = folder / "study.json"
    if not path.exists():
        return []
    named = read_json(path).get("displays", [])
    if not isinstance(named, list):
        raise ValueError(f"{path} is damaged: 'displays' must be a list.")
    return [_display(value, path) for value in named]


def _display(value: Any, path: pathlib.Path) -> Display:
    fields = dict(value) if isinstance(value, dict) else {}
    name = fields.pop("class", None)
    kind = DISPLAYS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(
            f"{path} names the display {name!r}; it can name {', '.join(DISPLAYS)}. Give one of "
            "your own to rainjax.report.report(folder, displays=[...])."
        )
    known = {field.name for field in dataclasses.fields(kind)}
    wrong = [field for field in fields if field not in known]
    if wrong:
        raise ValueError(f"{path} gives {name} the field {wrong[0]!r}, which it does not have.")
    hints = typing.get_type_hints(kind)
    values = {
        field: tuple(item) if typing.get_origin(hints[field]) is tuple else item
        for field, item in fields.items()
    }
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} names no usable {name}: {error}") from error


def _default_curves(
    results: Results, tags: set[str], table: str | None, *, quiet: bool
) -> Sequence[Display]:
    """Returns a curve for each tag of its name, or else for what the table's records sweep."""
    found = []
    own = (Curve("radius", "radius"), Curve("num_draws", "draws"), Curve("num_steps", "steps"))
    for curve in own:
        of_table = dataclasses.replace(curve, tag=table)
        if curve.tag in tags:
            found.append(curve)
        elif not quiet and _sweeps(of_table, results):
            found.append(of_table)
    return found


def _sweeps(curve: Curve, results: Results) -> bool:
    runs = [[r for r in run if draws_of(r) == "independent"] for run in curve.runs(results)]
    return any(len(run) > 1 for run in runs)
