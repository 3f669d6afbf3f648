"""Curves: accuracy against how far, how long or how thoroughly an attacker searches."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from rainjax.evaluation.records import Record, Score
from rainjax.report._display import Display, Drawing
from rainjax.report.live import Chart, Line
from rainjax.report.results import Results, balls, subjects_of
from rainjax.report.style import (
    axis_top,
    new_figure,
    percent_axis,
    png_bytes,
    spread,
    styled,
    subject_colour,
    threat_look,
)
from rainjax.report.text import (
    ball_texts,
    draws_of,
    norm_text,
    num_text,
    percent,
    radius_text,
    steps_text,
    unique,
)


@dataclasses.dataclass(frozen=True)
class _Axis:
    name: str
    title: str
    label: str
    absent: str
    short: Callable[[float], str]


_AXES = {
    "radius": _Axis(
        "radius",
        "Accuracy against the radius of the attack",
        "radius",
        "No sweep over the radius was recorded, so there is no such figure.",
        lambda x: f"radius {x:g}",
    ),
    "num_draws": _Axis(
        "draws",
        "Accuracy against the number of gradient samples",
        "gradient samples per step (K)",
        "No sweep over the number of gradient samples was recorded, so there is no such figure.",
        lambda x: f"K = {x:g}",
    ),
    "num_steps": _Axis(
        "steps",
        "Accuracy against the number of steps",
        "steps of the attack",
        "No sweep over the number of steps was recorded, so there is no such figure.",
        lambda x: f"{x:g} steps",
    ),
}


@dataclasses.dataclass(frozen=True)
class Curve(Display):
    """Accuracy against one axis of the attacks, from the records with a tag, all for None.

    A line joins the records of one subject that differ in `x` alone: of one threat model, whose
    name may say the number of draws or of steps. An attack that takes every draw there is, and so
    needs no samples, is a level beside the lines over `num_draws`.
    """

    files: ClassVar[tuple[str, ...]] = tuple(
        f"{axis.name}{end}" for axis in _AXES.values() for end in (".png", "-*.png")
    )

    x: Literal["radius", "num_draws", "num_steps"]
    tag: str | None

    @property
    def heading(self) -> str:
        return _AXES[self.x].title

    @property
    def absent(self) -> str:
        return _AXES[self.x].absent

    def drawings(self, results: Results) -> list[Drawing]:
        shown = [record for record in results.scored(self.tag) if record.attack is not None]
        if self.x == "radius":
            # A figure has one radius axis; L-infinity is the one that most studies sweep.
            norms = sorted(
                {r.ball[0] for r in shown if r.ball and r.ball[1] < math.inf},
                key=lambda norm: norm != "linf",
            )
            return [_against_radius(self, results, norm) for norm in norms[:1]]
        words = ball_texts(balls(run[0] for run in self.runs(results)))
        return [
            _against_number(self, results, ball, "" if len(words) == 1 else f", {words[ball]}")
            for ball in words
        ]

    def runs(self, results: Results) -> list[list[Record]]:
        """Returns the records of every line, from the smallest `x` to the largest."""
        found: dict[tuple, list[Record]] = {}
        for record in results.scored(self.tag):
            bounded = record.radius is not None and record.radius < math.inf
            # A ladder has no number of its own of them: `LadderCurve` shows what it went through.
            level = record.ladder or (self.x == "num_draws" and draws_of(record) == "enumerated")
            if record.attack is not None and (bounded if self.x == "radius" else not level):
                found.setdefault(self._line(record), []).append(record)
        subjects, threats = list(results.subjects), list(results.threats)
        place = lambda run: (subjects.index(run[0].subject), threats.index(run[0].threat))
        return sorted(map(self._sorted, found.values()), key=place)

    def named(self, record: Record) -> str:
        """Returns the name of a record's line: its threat model's, without the value of `x`."""
        if self.x == "radius":
            return record.threat
        # "EOT-PGD-40" is EOT-PGD over the number of steps, and "EOT, K = 8" is EOT over draws.
        value = rf"(?:\bK\s*=\s*)?(?<![\d.]){self._x(record):g}(?![\d.])"
        text = re.sub(rf"[-\s,]*{value}", "", record.threat)
        return text.strip(" -,") or record.threat

    def _sorted(self, line: list[Record]) -> list[Record]:
        """Returns a line's records by `x`; of several at one place that of most images."""
        found = {self._x(r): r for r in sorted(line, key=lambda r: r.num_examples)}
        return [found[x] for x in sorted(found)]

    def _x(self, record: Record) -> float:
        return float(getattr(record, self.x) or 0.0)

    def _line(self, record: Record) -> tuple:
        ball = record.norm if self.x == "radius" else record.ball
        others = [getattr(record, name) for name in ("num_draws", "num_steps") if name != self.x]
        return record.subject, self.named(record), ball, *others


def _against_radius(curve: Curve, results: Results, norm: str) -> Drawing:
    """A panel for each subject with a defense, those without one in every panel."""
    runs = [run for run in curve.runs(results) if run[0].norm == norm]
    shown = [record for run in runs for record in run]
    scale = 255 if norm == "linf" else 1
    lines: dict[str, list[Line]] = {subject: [] for subject in subjects_of(results, shown)}
    for run in runs:
        lines[run[0].subject].append(_radius_line(results, run, scale))
    bare = {
        subject: [
            dataclasses.replace(
                line, label=subject if len(own) == 1 else f"{subject}, {line.label}"
            )
            for line in own
        ]
        for subject, own in lines.items()
        if results.is_bare(subject)
    }
    bare = bare if len(bare) < len(lines) else {}
    panels = {subject: own for subject, own in lines.items() if subject not in bare}
    reference = [line for own in bare.values() for line in own]
    every = [line for own in panels.values() for line in own] + reference
    ticks = sorted({x for line in every for x in line.x})
    x_label = f"{norm_text(norm)} radius{', in 255ths' * (scale == 255)}"
    with styled():
        across = min(2, len(panels))
        down = math.ceil(len(panels) / across)
        figure = new_figure(4.6 * across if across > 1 else 6.4, 3.9 * down)
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes, (subject, own) in zip(grid, panels.items(), strict=False):
            draw_lines(axes, reference + own)
            axes.set_title(subject, color=subject_colour(results, subject))
            axes.set_xlabel(x_label)
            axes.set_xlim(0, ticks[-1])
            axes.set_xticks(ticks)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            percent_axis(axes, 1.0)
            _label_ends(figure, axes, reference + own)
        for axes in grid[1:]:
            axes.set_ylabel("")
        for axes in grid[len(panels) :]:
            axes.remove()
        png = png_bytes(figure)
    over = "/255" if scale == 255 else ""
    return Drawing(
        name=_name(curve),
        title=curve.heading,
        caption=f"Mean over draws; bands are 95 % intervals for the choice of images "
        f"({num_text(shown)}). At radius 0, the same images unattacked.",
        alt="Line charts of accuracy against the attack's radius. "
        + story(panels | bare, lambda x: f"radius {x:g}{over}" if x else "radius 0"),
        png=png,
        chart=Chart(
            {subject: reference + own for subject, own in panels.items()},
            x_label,
            ticks if ticks[0] == 0 else [0.0, *ticks],
        ),
    )


def _radius_line(results: Results, run: list[Record], scale: int) -> Line:
    """A line that starts at the clean accuracy; a lone radius is a dot."""
    x = [(record.radius or 0.0) * scale for record in run]
    scores = [record.score() for record in run]
    clean = _clean_score(results, run[0]) if len(run) > 1 and x[0] > 0 else None
    if clean is not None:
        x, scores = [0.0, *x], [clean, *scores]
    dashes, mark = threat_look(results, run[0].threat)
    colour = subject_colour(results, run[0].subject)
    return Line(run[0].threat, colour, dashes, mark, x, scores)


def _clean_score(results: Results, run: Record) -> Score | None:
    """The subject's clean accuracy on the very images of `run`, if they were all scored."""
    for record in results.scored(None):
        same_images = set(run.indices.tolist()) <= set(record.indices.tolist())
        if record.attack is None and record.subject == run.subject and same_images:
            return record.score_on(run.indices.tolist())
    return None


def _against_number(
    curve: Curve, results: Results, ball: tuple[str, float], where: str
) -> Drawing:
    """All subjects in one panel, over draws or over steps, on a logarithmic axis.

    `where` names the ball, where the display has several.
    """
    axis = _AXES[curve.x]
    runs = [run for run in curve.runs(results) if run[0].ball == ball]
    levels = [
        record
        for record in results.scored(curve.tag)
        if curve.x == "num_draws" and record.ball == ball and draws_of(record) == "enumerated"
    ]
    lines = [_number_line(curve, results, run, runs) for run in runs]
    with styled():
        figure = new_figure(8.4, 4.0)
        axes = figure.add_subplot()
        axes.set_xscale("log", base=2)
        draw_lines(axes, lines)
        ends = list(lines)
        ticks = sorted({x for line in lines for x in line.x})
        for record in levels:
            colour = subject_colour(results, record.subject)
            axes.axhline(record.score().accuracy, color=colour, dashes=(5, 3), lw=1.3)
            label = f"{record.subject}, {record.threat}"
            ends.append(Line(label, colour, "dashed", "", [ticks[-1]], [record.score()]))
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlabel(axis.label)
        axes.set_xlim(ticks[0], max(ticks[-1], 2 * ticks[0]))
        highest = max(score.high for line in ends for score in line.scores)
        percent_axis(axes, highest)
        _label_ends(figure, axes, ends)
        png = png_bytes(figure)
    sampled = [record for run in runs for record in run]
    norm, radius = ball
    steps = f", {steps_text(sampled[0])}" if curve.x == "num_draws" else ""
    caption = (
        f"{norm_text(norm)} radius {radius_text(norm, radius)}{steps}; {num_text(sampled)}. "
        "Mean over draws; bands are 95 % intervals for the choice of images."
    )
    if levels:
        threats = " and ".join(unique(record.threat for record in levels))
        caption += f" Dashed: {threats}, which takes every draw there is and needs no samples."
    what = "gradient samples per step" if curve.x == "num_draws" else "steps"
    alt = f"Line chart of accuracy against the number of {what}. "
    alt += story({line.label: [line] for line in lines}, axis.short)
    alt += "".join(
        f" {record.subject} under {record.threat}: {percent(record.score().accuracy)}."
        for record in levels
    )
    suffix = f"-{norm}-{radius:.4g}" if where else ""
    levels_drawn = [line.level((ticks[0], ticks[-1])) for line in ends[len(lines) :]]
    chart = Chart({"": lines + levels_drawn}, axis.label, ticks, axis_top(highest), log=True)
    return Drawing(f"{_name(curve)}{suffix}", axis.title + where, caption, alt, png, chart)


def _number_line(
    curve: Curve, results: Results, run: list[Record], runs: Sequence[list[Record]]
) -> Line:
    """A line in its subject's colour; with several threat models they differ in their dashes."""
    subject, threat = run[0].subject, run[0].threat
    names = {curve.named(other[0]) for other in runs}
    several = len(names) > 1 or len([r for r in runs if r[0].subject == subject]) > 1
    label = f"{subject}, {curve.named(run[0])}" if several else subject
    dashes, mark = threat_look(results, threat) if several else ("solid", "o")
    x, scores = [curve._x(record) for record in run], [record.score() for record in run]
    return Line(label, subject_colour(results, subject), dashes, mark, x, scores)


def _name(curve: Curve) -> str:
    name = _AXES[curve.x].name
    return name if curve.tag in (None, name) else f"{name}-{curve.tag}"


def draw_lines(axes: Any, lines: list[Line]) -> None:
    """Draws lines with bands of 95 % intervals; a lone point has a bar."""
    for line in lines:
        style = {"color": line.colour, "marker": line.mark, "clip_on": False, "zorder": 3}
        axes.plot(line.x, [score.accuracy for score in line.scores], ls=line.dashes, **style)
        low, high = [score.low for score in line.scores], [score.high for score in line.scores]
        if len(line.x) > 1:
            axes.fill_between(line.x, low, high, color=line.colour, alpha=0.12, lw=0)
        else:
            axes.vlines(line.x, low, high, color=line.colour, lw=1.2)


def _label_ends(figure: Any, axes: Any, lines: list[Line]) -> None:
    """Writes each line's label at its right end, moved up or down until none overlap."""
    label_ends(
        figure,
        axes,
        [(line.label, line.colour, line.x[-1], line.scores[-1].accuracy) for line in lines],
    )


def label_ends(figure: Any, axes: Any, ends: list[tuple[str, str, float, float]]) -> None:
    """Writes labels in their colours at the right ends of lines, none over another."""
    figure.draw_without_rendering()
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((x, y)) for _, _, x, y in ends]
    right = max(x for x, _ in places)
    step = 13.5 / 72 * figure.dpi / axes.get_window_extent().height
    heights = spread([y for _, y in places], step)
    for (label, colour, _, _), y in zip(ends, heights, strict=True):
        axes.annotate(
            label,
            xy=(right, y),
            xycoords="axes fraction",
            xytext=(9, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9.5,
            va="center",
        )


def story(lines: dict[str, list[Line]], place: Callable[[float], str]) -> str:
    """Tells where each line begins and ends, for those who cannot see it."""
    sentences = []
    for title, own in lines.items():
        for line in own:
            name = line.label if line.label.startswith(title) else f"{title}, {line.label}"
            ends = list(zip(line.x, line.scores, strict=True))
            ends = [ends[0], ends[-1]] if len(ends) > 1 else ends
            told = [f"{percent(score.accuracy)} at {place(x)}" for x, score in ends]
            sentences.append(f"{name}: {', '.join(told)}.")
    return " ".join(sentences)
