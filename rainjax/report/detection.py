"""Displays of detectors: how their scores rank images, and what the answered ones are worth."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from rainjax._extras import require
from rainjax.evaluation.records import Record, slug
from rainjax.metrics import risk_coverage, roc_curve
from rainjax.report._detections import (
    Pick,
    attacked,
    chosen_images,
    detections,
    look_of,
    scores,
    wrong_shares,
)
from rainjax.report._display import Display, Drawing
from rainjax.report.live import Chart, Line
from rainjax.report.results import Results, subjects_of
from rainjax.report.style import (
    FAINT,
    GREY,
    INK,
    new_figure,
    png_bytes,
    styled,
)
from rainjax.report.text import ball_texts, num_text, percent, unique

# Of more lines in a panel none can be told from another.
MOST_LINES = 8
_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_LOG_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class RocCurves(Display):
    """The share of attacked images detected against that of clean ones rejected by mistake.

    From the records of `Detection` with the tag, all for None: a panel for each subject, a line
    for each attack, and on it a dot where the detector's own threshold is. With `log_x` few false
    positives, which are what matters in use, get most of the axis. `of` "successful" attacks
    alone, or of all.
    """

    files: ClassVar[tuple[str, ...]] = ("roc.png", "roc-*.png")

    tag: str | None = "table"
    log_x: bool = False
    of: Pick = "all"

    @property
    def heading(self) -> str:
        return "Detection against false positives"

    @property
    def absent(self) -> str:
        return "No detector was measured against an attack, so there is no such figure."

    def drawings(self, results: Results) -> list[Drawing]:
        shown = [r for r in attacked(results, self.tag) if chosen_images(r, self.of).any()]
        if not shown:
            return []

        lines: dict[str, list[Line]] = {}
        names = _names(shown)

        def draw(axes: Any, record: Record, look: dict[str, Any]) -> str:
            clean, suspicious = scores(record)
            chosen = chosen_images(record, self.of)
            false, detected = roc_curve(clean, suspicious[chosen])
            axes.plot(false, detected, drawstyle="steps-post", **look)
            at = (clean > 0).mean(), (suspicious[chosen] > 0).mean()
            dot = at[0] > 0 or not self.log_x
            own = names[record], look["color"], look["ls"]
            x = np.maximum(false, 1 / record.num_examples) if self.log_x else false
            kept = _corners(x, detected)
            curve = Line.bare(*own, x[kept], detected[kept])
            found = lines.setdefault(record.subject, [])
            found.append(dataclasses.replace(curve, stepped=True))
            found += [Line.bare(*own, at[:1], at[1:], "o")] * bool(dot)
            if dot:
                axes.plot(*at, "o", color=look["color"], clip_on=False, zorder=4)
            ranking = record.result["all_attacked" if self.of == "all" else "successful"]
            return "" if ranking is None else f"AUROC {ranking['auroc']['value']:.3f}"

        def finish(axes: Any, own: list[Record]) -> None:
            axes.set_xlabel("false positives, share of clean images")
            axes.set_ylabel("detected")
            axes.set_ylim(0, 1.01)
            if self.log_x:
                least = min(1 / record.num_examples for record in own)
                axes.set_xscale("log")
                axes.set_xlim(least, 1)
                ticks = [t for t in _LOG_TICKS if least <= t]
                axes.set_xticks(ticks)
                axes.minorticks_off()
            else:
                axes.set_xlim(0, 1)
            _percents(axes.yaxis)
            _percents(axes.xaxis)
            line = np.geomspace(1e-4, 1, 200) if self.log_x else [0, 1]
            axes.plot(line, line, color=GREY, lw=1, ls=":")

        png, told = _panels(results, shown, draw, finish)
        least = min(1 / record.num_examples for record in shown)
        ends = np.geomspace(least, 1, 50) if self.log_x else np.array([0.0, 1.0])
        chance = Line.bare("tells nothing", GREY, "dotted", ends, ends)
        ticks = [t for t in _LOG_TICKS if least <= t] if self.log_x else _FIFTHS
        chart = Chart(
            {subject: [*own, chance] for subject, own in lines.items()},
            "false positives, share of clean images",
            list(ticks),
            log=self.log_x,
            y_label="detected",
            x_shares=True,
        )
        which = "all attacked images" if self.of == "all" else "successful attacks alone"
        return [
            Drawing(
                _named("roc", self.tag, "successful" * (self.of != "all"), "log" * self.log_x),
                self.heading + (", few false positives" if self.log_x else ""),
                f"Of {which} ({num_text(shown)}), against the same images before the attack, by "
                "every threshold; a dot is the detector's own one. Dotted: a score that tells "
                "nothing." + (" The axis begins at one image." if self.log_x else ""),
                f"Line charts of detection against false positives. {told}",
                png,
                chart,
            )
        ]


@dataclasses.dataclass(frozen=True)
class ScoreHistograms(Display):
    """How the scores of clean and of attacked images are spread, and where the threshold is.

    A panel for each subject; the records of `Detection` with the tag, all for None.
    """

    files: ClassVar[tuple[str, ...]] = ("scores.png", "scores-*.png")

    tag: str | None = "table"
    num_bins: int = 24

    def __post_init__(self):
        super().__post_init__()
        if not 2 <= self.num_bins <= 1000:
            raise ValueError(f"num_bins={self.num_bins} must be from 2 to 1000.")

    @property
    def heading(self) -> str:
        return "Scores of clean and of attacked images"

    @property
    def absent(self) -> str:
        return "No detector was measured, so there is no such figure."

    def drawings(self, results: Results) -> list[Drawing]:
        shown = detections(results, self.tag)
        if not shown:
            return []
        edges: dict[str, np.ndarray] = {}
        for subject in subjects_of(results, shown):
            own = [part for r in shown if r.subject == subject for part in scores(r)]
            low, high = np.quantile(np.concatenate(own), [0.005, 0.995])
            low, high = min(low, -1.0), max(high, 1.0)
            width = (high - low) / self.num_bins
            # One edge is the threshold: no bin holds answered and rejected images.
            edges[subject] = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)

        def shares(record: Record, values: np.ndarray) -> np.ndarray:
            bins = edges[record.subject]
            counts, _ = np.histogram(np.clip(values, bins[0], bins[-1]), bins)
            return counts / len(values)

        def draw(axes: Any, record: Record, look: dict[str, Any]) -> str:
            clean, suspicious = scores(record)
            if not axes.patches:
                of_clean = shares(record, clean), edges[record.subject]
                axes.stairs(*of_clean, fill=True, color=FAINT)
                axes.stairs(*of_clean, color=GREY)
            if record.attack is None:
                return f"{percent((clean > 0).mean())} above"
            style = {"color": look["color"], "ls": look["ls"], "lw": 1.8}
            axes.stairs(shares(record, suspicious), edges[record.subject], **style)
            return f"{percent((suspicious > 0).mean())} above"

        def finish(axes: Any, own: list[Record]) -> None:
            axes.axvline(0, color=INK, lw=1, ls=":")
            axes.set_xlabel("score, in units of the detector's scale; 0 is its threshold")
            axes.set_ylabel("share of images")
            _percents(axes.yaxis)

        png, told = _panels(results, shown, draw, finish)
        return [
            Drawing(
                _named("scores", self.tag),
                self.heading,
                f"Images to the right of the dotted line are rejected ({num_text(shown)}). Grey: "
                "clean images. The outermost bins hold what lies beyond them.",
                f"Histograms of detection scores. {told}",
                png,
            )
        ]


@dataclasses.dataclass(frozen=True)
class RiskCoverageCurves(Display):
    """The error among answered images, as ever more suspicious ones are answered as well.

    A panel for each subject, a line for each threat model, clean images among them, and a dot
    where the detector's own threshold is; the records of `Detection` with the tag, all for None.
    """

    files: ClassVar[tuple[str, ...]] = ("risk.png", "risk-*.png")

    tag: str | None = "table"

    @property
    def heading(self) -> str:
        return "Error among the images that are answered"

    @property
    def absent(self) -> str:
        return "No detector was measured, so there is no such figure."

    def drawings(self, results: Results) -> list[Drawing]:
        shown = detections(results, self.tag)
        if not shown:
            return []

        lines: dict[str, list[Line]] = {}
        names = _names(shown)

        def draw(axes: Any, record: Record, look: dict[str, Any]) -> str:
            seen, wrong = scores(record)[1], wrong_shares(record)[1]
            found = risk_coverage(seen, wrong)
            axes.plot(found.coverage, found.risk, **look)
            answered = record.result["accuracy_of_answered"]
            own = names[record], look["color"], look["ls"]
            kept = lines.setdefault(record.subject, [])
            kept.append(Line.bare(*own, found.coverage, found.risk))
            if answered is not None:
                at = record.result["coverage"]["value"], 1 - answered["value"]
                kept.append(Line.bare(*own, at[:1], at[1:], "o"))
                axes.plot(*at, "o", color=look["color"], clip_on=False, zorder=4)
            return f"area {found.area:.3f}, {found.excess:.3f} above the best"

        def finish(axes: Any, own: list[Record]) -> None:
            axes.set_xlabel("answered, share of images")
            axes.set_ylabel("wrong among the answered")
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1.01)
            _percents(axes.xaxis)
            _percents(axes.yaxis)

        png, told = _panels(results, shown, draw, finish)
        return [
            Drawing(
                _named("risk", self.tag),
                self.heading,
                f"The least suspicious images are answered first ({num_text(shown)}); a dot is "
                "the detector's own threshold. A detector that ranks by error falls to the left; "
                "a level line tells nothing. The legend has the area below each line, and what "
                "the best order of the same answers would save.",
                f"Line charts of error against the share answered. {told}",
                png,
                Chart(
                    lines,
                    "answered, share of images",
                    list(_FIFTHS),
                    y_label="wrong among the answered",
                    x_shares=True,
                ),
            )
        ]


def _panels(
    results: Results,
    shown: list[Record],
    draw: Callable[[Any, Record, dict[str, Any]], str],
    finish: Callable[[Any, list[Record]], None],
) -> tuple[bytes, str]:
    """Draws a panel for each subject; returns the picture, and what is to be told of its lines.

    Raises:
        ValueError: more lines in a panel than can be told apart.
    """
    subjects = subjects_of(results, shown)
    names, told = _names(shown), []
    threats = unique(names[record] for record in shown if record.attack is not None)
    most = max(sum(r.subject == subject for r in shown) for subject in subjects)
    across = min(2, len(subjects))
    down = math.ceil(len(subjects) / across)
    high = 4.0 + 0.2 * most
    with styled():
        lines = require("matplotlib.lines", name="matplotlib", extra="report")
        figure = new_figure(5.4 * across if across > 1 else 6.8, high * down)
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, subject in zip(grid, subjects, strict=False):
            own = [record for record in shown if record.subject == subject]
            if len(own) > MOST_LINES:
                raise ValueError(
                    f"{len(own)} lines for {subject!r} cannot be told apart: give the display "
                    f"the tag of {MOST_LINES} threat models at most."
                )
            handles = []
            for record in own:
                look = {"color": GREY, "ls": "solid"}
                if record.attack is not None:
                    look = look_of(threats.index(names[record]))
                words = draw(axes, record, look)
                label = ", ".join(filter(None, (names[record], words)))
                handles.append(lines.Line2D([], [], label=label, **look))
                told.append(f"{subject}, {label}.")
            finish(axes, own)
            axes.set_title(subject)
            axes.legend(
                handles=handles,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.16),  # below the axis: lines go everywhere
                fontsize=9,
                frameon=False,
            )
        for axes in grid[len(subjects) :]:
            axes.remove()
        return png_bytes(figure), " ".join(told)


def _corners(false: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Returns which points of a curve by steps turn it: the last at each place, where it rises."""
    last = np.append(np.diff(false) > 0, True)
    heights = np.where(last, detected, -np.inf)
    before = np.append(-np.inf, np.maximum.accumulate(heights)[:-1])
    turns = last & (detected > before)
    turns[-1] = True
    return turns


def _names(shown: list[Record]) -> dict[Record, str]:
    """Returns threat models' names, with the ball where a subject has several of one name."""
    twice = {
        a.threat
        for a, b in itertools.combinations(shown, 2)
        if (a.subject, a.threat) == (b.subject, b.threat)
    }
    texts = ball_texts({record.ball for record in shown if record.ball})
    return {
        r: f"{r.threat} {texts[r.ball]}" if r.threat in twice and r.ball else r.threat
        for r in shown
    }


def _percents(axis: Any) -> None:
    axis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")


def _named(*parts: str | None) -> str:
    """Returns a figure's name: a tag other than the table's is part of it."""
    return "-".join(slug(part) for part in parts if part and part != "table")
