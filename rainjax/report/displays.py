"""Which displays a study is shown by: those that it names, or those that its records allow."""

import dataclasses
import pathlib
import typing
from collections.abc import Sequence
from typing import Any

from rainjax.evaluation.records import load_study_file
from rainjax.report._detections import detections
from rainjax.report._display import Display
from rainjax.report.contrast import BlindAgainstAdaptive
from rainjax.report.curves import Curve
from rainjax.report.detection import (
    MOST_LINES,
    RiskCoverageCurves,
    RocCurves,
    ScoreHistograms,
)
from rainjax.report.detection_maps import DetectionOverRadius, DistortionMap, severity_of
from rainjax.report.iterates import Iterates
from rainjax.report.ladders import LadderCurve
from rainjax.report.pictures import Gallery, Panels, Spectrum, Surfaces
from rainjax.report.queries import QueryCurve
from rainjax.report.results import Results, balls, common_origin
from rainjax.report.suspicious import MostSuspicious
from rainjax.report.tabular import DrawsTable, Leaderboard, ResultsTable
from rainjax.report.text import Finding, draws_of, unique
from rainjax.report.transfer_matrix import TransferMatrix

# More subjects than these are compared at a glance in a ranking, and not in curves.
_FEW = 4


def choose(results: Results) -> tuple[list[Display], list[Finding]]:
    """Returns the study's displays or, where it names none, the default ones; and what to say.

    They are those of the study itself, where `evaluate` returned the records, or else those that
    study.json names, as far as they are this library's: a file never decides what code runs.

    Raises:
        ValueError: study.json is damaged, or names no field of a display; says what.
    """
    origin = common_origin(results.records)
    displays, unknown = origin.displays if origin else (), []
    if displays is None:
        displays, unknown = load_displays(results.folder) if results.folder else ((), [])
    notes = [
        Finding(
            f"The study also has the display {name!r}, which no file can bring along: see it with "
            "`rainjax evaluate` of the study's file, or `report(folder, displays=[...])`."
        )
        for name in unique(unknown)
    ]
    return list(displays) or default_displays(results), notes


def known_displays() -> dict[str, type[Display]]:
    """Returns the displays of this library, by name."""
    found, kinds = {}, [Display]
    while kinds:
        kinds += (kind := kinds.pop()).__subclasses__()
        if kind is not Display and kind.__module__.startswith("rainjax."):
            found[kind.__name__] = kind
    return found


def default_displays(results: Results) -> list[Display]:
    """Returns what the records and the files beside them have something to show for."""
    tags = {tag for record in results.records for tag in record.tags}
    attacked = balls(results.records)
    # Where every attack has tags of its own a table of the clean images alone says nothing.
    tabled = balls(results.tagged("table")) if attacked else results.tagged("table")
    table = "table" if tabled else None
    shown = results.scored(table)
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
    matrix = TransferMatrix("transfer" if "transfer" in tags else table)
    if len(matrix.sources(results)) > 1:
        found.append(matrix)
    if any(record.ladder is not None for record in results.scored(None)):
        found.append(LadderCurve())
    queries = QueryCurve("queries" if "queries" in tags else None)
    if queries.shown(results):
        found.append(queries)
    found += _default_curves(results, tags, table, quiet=contrast or many)
    found += _of_detectors(results, tags, table)
    folder = results.folder
    if folder is not None and any((folder / "panels").glob("*.npz")):
        found.append(Panels(table))
    if folder is not None and any((folder / "iterates").glob("*.npz")):
        found.append(Iterates("iterates" if "iterates" in tags else table))
    if folder is not None and any((folder / "suspicious").glob("*.npz")):
        found.append(MostSuspicious(table))
    if folder is not None and (folder / "spectrum.json").exists():
        found.append(Spectrum())
    if folder is not None and (folder / "gallery.npz").exists():
        found.append(Gallery())
    if results.checked and any(row["surfaces"] for row in results.checked["rows"]):
        found.append(Surfaces())
    return found


def load_displays(folder: pathlib.Path) -> tuple[list[Display], list[str]]:
    """Returns the displays that a folder's study.json names, and the names that are not ours.

    Raises:
        ValueError: it names something that is no display, or no field of one; says what.
    """
    path, named = folder / "study.json", load_study_file(folder).get("displays", [])
    if not isinstance(named, list):
        raise ValueError(f"{path} is damaged: 'displays' must be a list.")
    wrong = [v for v in named if not isinstance(v, dict) or not isinstance(v.get("class"), str)]
    if wrong:
        raise ValueError(f"{path} is damaged: the display {wrong[0]!r} has no 'class'.")
    kinds = known_displays()
    found = [_display(kinds[v["class"]], v, path) for v in named if v["class"] in kinds]
    return found, [v["class"] for v in named if v["class"] not in kinds]


def _display(kind: type[Display], value: dict[str, Any], path: pathlib.Path) -> Display:
    fields = {field: item for field, item in value.items() if field != "class"}
    name = kind.__name__
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


def _of_detectors(results: Results, tags: set[str], table: str | None) -> Sequence[Display]:
    """Returns what there is to show of `Detection`; lines only if they can be told apart."""
    shown, found = detections(results, table), []
    each = [sum(r.subject == subject for r in shown) for subject in results.subjects]
    if shown and max(each) <= MOST_LINES:
        found += [RocCurves(table)] * any(record.attack is not None for record in shown)
        found += [ScoreHistograms(table), RiskCoverageCurves(table)]
    over_radius = DetectionOverRadius("radius" if "radius" in tags else table)
    if any(len(run) > 1 for run in over_radius.runs(results)):
        found.append(over_radius)
    if any(severity_of(record) is not None for record in detections(results, None)):
        found.append(DistortionMap("distortions" if "distortions" in tags else None))
    return found


def _sweeps(curve: Curve, results: Results) -> bool:
    runs = [[r for r in run if draws_of(r) == "independent"] for run in curve.runs(results)]
    return any(len(run) > 1 for run in runs)
