"""A curve over a number of the defense: how accuracies follow what its author has to choose."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from rainjax.evaluation.records import Record, slug
from rainjax.report._display import Display, Drawing
from rainjax.report.contrast import BlindAgainstAdaptive
from rainjax.report.curves import draw_lines, story
from rainjax.report.live import Chart, Line
from rainjax.report.results import Ball, Results, balls, clean
from rainjax.report.style import (
    GREY,
    PALETTE,
    axis_top,
    new_figure,
    percent_axis,
    png_bytes,
    styled,
)
from rainjax.report.text import ball_texts, num_text, unique

_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.4)))


@dataclasses.dataclass(frozen=True)
class FieldCurve(Display):
    """Accuracy against a `field` of the defense, from the records with a tag, all for None.

    A line joins the subjects whose defenses differ in that field alone, and whose parameters are
    the same. There is a panel for clean images, one for the strongest attack by somebody who is
    blind to the defense, and one for the strongest of all, as `BlindAgainstAdaptive` has them.
    The classifier without a defense is the point `none_at` of the lines that share its parameters,
    such as 0 for a number of iterations, or for None a level.

    Raises:
        ValueError: `field` is no name, or `none_at` not finite.
    """

    files: ClassVar[tuple[str, ...]] = ("field-*.png",)

    field: str
    tag: str | None
    none_at: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.field.isidentifier():
            raise ValueError(
                f"field={self.field!r} must be the name of a defense's field, such as "
                "'num_iterations'."
            )
        if self.none_at is not None and not math.isfinite(self.none_at):
            raise ValueError(f"none_at={self.none_at} must be finite, or None for a level.")

    @property
    def heading(self) -> str:
        return f"Accuracy against the defense's {self._words}"

    @property
    def absent(self) -> str:
        return f"No two defenses differ in their {self._words} alone, so there is no such figure."

    def drawings(self, results: Results) -> list[Drawing]:
        lines = self.lines(results)
        if not any(len(line) > 1 for line in lines.values()):
            return []
        own = {record.subject for line in lines.values() for record in line}
        shown = [
            record
            for record in results.scored(self.tag)
            if record.subject in own or not record.defended
        ]
        within = [ball for ball in balls(shown) if ball[1] < math.inf]
        texts = ball_texts(within)
        several = len(within) > 1
        return [
            self._drawing(lines, shown, ball, texts.get(ball, "") if ball else "", several)
            for ball in within or [None]
            if self._panels(lines, shown, ball)
        ]

    def lines(self, results: Results) -> dict[str, list[Record]]:
        """Returns a record of each subject of every line, by the field, under the line's name."""
        found: dict[str, dict[float, Record]] = {}
        for record in results.scored(self.tag):
            value = self._value(record)
            if value is not None:
                found.setdefault(self._others(record), {}).setdefault(value, record)
        lines = {}
        for line in found.values():
            ordered = [line[value] for value in sorted(line)]
            name = unique(self._named(record) for record in ordered)[0]
            while name in lines:  # two that are told apart by what no name says
                name += "'"
            lines[name] = ordered
        return lines

    @property
    def _words(self) -> str:
        """The field as one says it."""
        return re.sub(r"^num\b", "number of", self.field.replace("_", " "))

    def _value(self, record: Record) -> float | None:
        defense = record.content["subject"]["target"].get("defense")
        value = defense.get(self.field) if isinstance(defense, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not record.defended:
            return None
        return float(value)

    def _others(self, record: Record) -> str:
        """Returns all that tells one line from another."""
        subject = record.content["subject"]
        target = dict(subject["target"])
        target["defense"] = {k: v for k, v in target["defense"].items() if k != self.field}
        parts = {name: part and part["sha256"] for name, part in subject["params"].items()}
        return json.dumps([target, parts], sort_keys=True)

    def _named(self, record: Record) -> str:
        """Returns a subject's name without the value of the field, such as ", T = 3"."""
        value = self._value(record)
        found = list(re.finditer(rf"[-\s,]*\b\w+\s*=\s*{value:g}(?![\d.])", record.subject))
        if not found:
            return record.subject
        start, end = found[-1].span()
        return (record.subject[:start] + record.subject[end:]).strip(" -,") or record.subject

    def _drawing(
        self,
        lines: dict[str, list[Record]],
        shown: list[Record],
        ball: Ball | None,
        where: str,
        several: bool,
    ) -> Drawing:
        panels = self._panels(lines, shown, ball)
        bare = {name: _bare(shown, line[0]) for name, line in lines.items()}
        bare_names = unique(subject for subject in bare.values() if subject is not None)
        drawn: dict[str, list[Line]] = {}
        used: list[Record] = []
        for title, choose in panels.items():
            undefended = {name: choose(name) for name in bare_names}
            drawn[title] = []
            for place, (name, subjects) in enumerate(lines.items()):
                points = [(self._value(r), choose(r.subject)) for r in subjects]
                points.append((self.none_at, undefended.get(bare[name] or "")))
                points = [(x, r) for x, r in points if x is not None and r is not None]
                points.sort(key=lambda point: point[0])
                if points:
                    used += [record for _, record in points]
                    drawn[title].append(_line(name, place, points))
            if self.none_at is None:
                levels = {name: r for name, r in undefended.items() if r is not None}
                used += levels.values()
                drawn[title] += [
                    Line(name, GREY, "dashed", "", [], [r.score()]) for name, r in levels.items()
                ]
        xs = sorted({x for own in drawn.values() for line in own for x in line.x})
        highest = max(s.high for own in drawn.values() for line in own for s in line.scores)
        with styled():
            figure = new_figure(1.4 + 3.1 * len(panels), 3.9)
            grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
            for axes, (title, own) in zip(grid, drawn.items(), strict=True):
                draw_lines(axes, [line for line in own if line.x])
                for line in own:
                    if not line.x:
                        axes.axhline(line.scores[0].accuracy, color=GREY, ls="dashed", lw=1.3)
                axes.set_title(title)
                axes.set_xlabel(self._words)
                axes.set_xticks(xs, [f"{x:g}" for x in xs])
                percent_axis(axes, highest)
            for axes in grid[1:]:
                axes.set_ylabel("")
            handles = {
                line.label: grid[0].plot(
                    [], [], color=line.colour, ls=line.dashes, marker=line.mark, label=line.label
                )[0]
                for own in drawn.values()
                for line in own
            }
            figure.legend(
                handles=list(handles.values()),
                loc="outside lower center",
                ncols=min(2, len(handles)),
                frameon=False,
            )
            png = png_bytes(figure)
        told = [
            dataclasses.replace(line, label=f"{title}: {line.label}")
            for title, own in drawn.items()
            for line in own
            if line.x
        ]
        return Drawing(
            self._file(ball, several),
            self.heading + (f", {where}" if where else ""),
            self._caption(used, bare_names),
            f"Line charts of accuracy against the {self._words}. "
            + story({line.label: [line] for line in told}, lambda x: f"{x:g}"),
            png,
            Chart(
                {
                    title: [line if line.x else line.level((xs[0], xs[-1])) for line in own]
                    for title, own in drawn.items()
                },
                self._words,
                [float(x) for x in xs],
                axis_top(highest),
            ),
        )

    def _panels(
        self, lines: dict[str, list[Record]], shown: list[Record], ball: Ball | None
    ) -> dict[str, Any]:
        """Returns the panels' titles, and what each takes of a subject, where lines have some."""
        panels: dict[str, Any] = {"clean": lambda name: clean(shown, name)}
        if ball is not None:
            contrast = BlindAgainstAdaptive(tag=self.tag, norm=ball[0])
            panels["strongest blind"] = lambda name: contrast.blind(shown, name, ball[1])
            panels["strongest adaptive"] = lambda name: contrast.adaptive(shown, name, ball[1])
        return {
            title: choose
            for title, choose in panels.items()
            if any(choose(r.subject) is not None for line in lines.values() for r in line)
        }

    def _file(self, ball: Ball | None, several: bool) -> str:
        parts = ["field", slug(self.field)]
        parts += [self.tag] if self.tag not in (None, "table") else []
        parts += [f"{ball[0]}-{ball[1]:.4g}"] if several and ball else []
        return "-".join(parts)

    def _caption(self, used: Iterable[Record], bare: list[str]) -> str:
        used = list(used)
        attacks = unique(record.threat for record in used if record.attack is not None)
        caption = f"Bands are 95 % intervals for the choice of images; {num_text(used)}."
        if attacks:
            caption += f" Strongest, point by point, were {', '.join(attacks)}; an attack of more "
            caption += "steps, draws or starts may leave less."
        if bare:
            where = "Dashed" if self.none_at is None else f"At {self.none_at:g}"
            caption += f" {where}: {', '.join(bare)}."
        return caption


def _bare(shown: list[Record], record: Record) -> str | None:
    """Returns the subject without a defense whose parameters a record's subject has as well."""
    own = _digests(record)
    return next((r.subject for r in shown if not r.defended and _digests(r) <= own), None)


def _digests(record: Record) -> set[tuple[str, str]]:
    parts = record.content["subject"]["params"].items()
    return {(name, part["sha256"]) for name, part in parts if part}


def _line(name: str, place: int, points: list[tuple[float, Record]]) -> Line:
    colour = PALETTE[place % len(PALETTE)]
    dashes = _DASHES[place // len(PALETTE) % len(_DASHES)]
    scores = [record.score() for _, record in points]
    return Line(name, colour, dashes, "o", [x for x, _ in points], scores)
