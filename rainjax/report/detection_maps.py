"""Displays of detection over what is done to images: over a radius, over kinds and severities."""

import dataclasses
import math
import re
from typing import Any, ClassVar

import numpy as np

from rainjax._checks import is_whole
from rainjax.evaluation.records import Record, Score, slug
from rainjax.report._detections import Pick, attacked, detections, look_of
from rainjax.report._display import Display, Drawing
from rainjax.report.curves import draw_lines, label_ends, story
from rainjax.report.live import Chart, Line
from rainjax.report.results import Results, subjects_of
from rainjax.report.style import INK, new_figure, percent_axis, png_bytes, styled
from rainjax.report.text import norm_text, num_text, percent, unique

_SHARES = {
    "accuracy_without_detector": "classifier wrong",
    "coverage": "rejected",
    "slips_through": "answered wrong",
}


@dataclasses.dataclass(frozen=True)
class DetectionOverRadius(Display):
    """The share of attacked images that are detected, against the radius of the attack.

    Detected means rejected at the detector's own threshold or, with a `false_positive_rate`,
    above the threshold that this share of the same images is above before the attack; it must be
    one that `Detection` measured. `of` "successful" attacks alone, or of all. A panel for each
    subject, a line for each threat model with the tag, all for None; a figure for each norm.
    """

    files: ClassVar[tuple[str, ...]] = ("detection-radius-*.png",)

    tag: str | None = "radius"
    false_positive_rate: float | None = None
    of: Pick = "all"

    @property
    def heading(self) -> str:
        return "Detection against the radius of the attack"

    @property
    def absent(self) -> str:
        return "No detector was measured over the radius, so there is no such figure."

    def runs(self, results: Results) -> list[list[Record]]:
        """Returns the records of every line, from the smallest radius to the largest."""
        found: dict[tuple, dict[float, Record]] = {}
        for record in sorted(attacked(results, self.tag), key=lambda r: r.num_examples):
            if record.radius is not None and record.radius < math.inf and self._share(record):
                line = record.subject, record.threat, record.norm
                found.setdefault(line, {})[record.radius] = record
        subjects, threats = list(results.subjects), list(results.threats)
        place = lambda line: (subjects.index(line[0]), threats.index(line[1]), line[2])
        return [[found[line][r] for r in sorted(found[line])] for line in sorted(found, key=place)]

    def drawings(self, results: Results) -> list[Drawing]:
        """Returns the drawings.

        Raises:
            ValueError: a record has no rate at `false_positive_rate`; says which it has.
        """
        runs = self.runs(results)
        norms = unique(run[0].norm for run in runs)
        return [self._drawing(results, [r for r in runs if r[0].norm == n], n) for n in norms]

    def _share(self, record: Record) -> dict[str, float] | None:
        ranking = record.result["all_attacked" if self.of == "all" else "successful"]
        if ranking is None:
            return None
        if self.false_positive_rate is None:
            return ranking["rejected"]
        rates = ranking["detection_rates"]
        if f"{self.false_positive_rate:g}" not in rates:
            raise ValueError(
                f"The record {record.id!r} has no detection at "
                f"false_positive_rate={self.false_positive_rate:g}: take one of "
                f"{', '.join(rates)}, or measure Detection(false_positive_rates=...)."
            )
        return rates[f"{self.false_positive_rate:g}"]

    def _line(self, run: list[Record], threats: list[str], scale: int) -> Line:
        shares = [share for record in run if (share := self._share(record)) is not None]
        look = look_of(threats.index(run[0].threat))
        return Line(
            run[0].threat,
            look["color"],
            look["ls"],
            "o",
            [(record.radius or 0.0) * scale for record in run],
            [Score(share["value"], share["low"], share["high"]) for share in shares],
        )

    def _drawing(self, results: Results, runs: list[list[Record]], norm: str) -> Drawing:
        shown = [record for run in runs for record in run]
        scale = 255 if norm == "linf" else 1
        threats = unique(run[0].threat for run in runs)
        lines: dict[str, list[Line]] = {subject: [] for subject in subjects_of(results, shown)}
        for run in runs:
            lines[run[0].subject].append(self._line(run, threats, scale))
        across = min(2, len(lines))
        down = math.ceil(len(lines) / across)
        ticks = sorted({x for own in lines.values() for line in own for x in line.x})
        x_label = f"{norm_text(norm)} radius{', in 255ths' * (scale == 255)}"
        with styled():
            figure = new_figure(5.4 * across if across > 1 else 6.8, 3.7 * down)
            grid = figure.subplots(down, across, squeeze=False).ravel()
            for axes, (subject, own) in zip(grid, lines.items(), strict=False):
                axes.set_title(subject)
                axes.set_xscale("log", base=2)
                draw_lines(axes, own)
                axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
                axes.minorticks_off()
                axes.set_xlim(ticks[0], max(ticks[-1], 2 * ticks[0]))
                axes.set_xlabel(x_label)
                percent_axis(axes, 1.0)
                axes.set_ylabel("detected")
                label_ends(
                    figure,
                    axes,
                    [(own.label, own.colour, own.x[-1], own.scores[-1].accuracy) for own in own],
                )
            for axes in grid[len(lines) :]:
                axes.remove()
            png = png_bytes(figure)
        rate = self.false_positive_rate
        how = "Rejected at the detector's own threshold; bands are 95 % Wilson intervals"
        if rate is not None:
            how = (
                f"Above the threshold that {percent(rate)} of the same images are above before "
                "the attack; bands are 95 % bootstrap intervals"
            )
        which = "all attacked images" if self.of == "all" else "successful attacks alone"
        over = "/255" if scale == 255 else ""
        name = ["detection-radius", norm, "" if rate is None else f"{rate:g}"]
        name += ["successful" * (self.of != "all"), (self.tag or "") * (self.tag != "radius")]
        return Drawing(
            "-".join(slug(part) for part in name if part),
            self.heading,
            f"Of {which} ({num_text(shown)}). {how} for the choice of images.",
            "Line charts of the share detected against the attack's radius. "
            + story(lines, lambda x: f"radius {x:g}{over}"),
            png,
            Chart(lines, x_label, ticks, log=True, y_label="detected"),
        )


@dataclasses.dataclass(frozen=True)
class DistortionMap(Display):
    """Kinds of distortion by severity: what is wrong, what is rejected, and what is left.

    Three maps for each subject: the share that the classifier gets wrong, the share that the
    detector rejects, and the share answered wrong, which is left. Shown are the records of
    `Detection` with the tag, all for None, whose attack, or a part of it, has a whole number as
    its `severity`. A row is of the threat models of one name, which may end in the severity.
    """

    files: ClassVar[tuple[str, ...]] = ("distortions-*.png",)

    tag: str | None = "distortions"

    @property
    def heading(self) -> str:
        return "Distorted images: wrong, rejected, and answered wrong"

    @property
    def absent(self) -> str:
        return "No detector was measured on distorted images, so there is no such figure."

    def drawings(self, results: Results) -> list[Drawing]:
        shown = [r for r in detections(results, self.tag) if severity_of(r) is not None]
        return [
            self._drawing([r for r in shown if r.subject == subject], subject)
            for subject in subjects_of(results, shown)
        ]

    def _drawing(self, shown: list[Record], subject: str) -> Drawing:
        kinds = unique(distortion_of(record) for record in shown)
        severities = sorted({severity_of(record) or 0 for record in shown})
        # Of several records in one place that of most images counts.
        places = {
            (distortion_of(record), severity_of(record)): record
            for record in sorted(shown, key=lambda record: record.num_examples)
        }
        grids = {}
        for name in _SHARES:
            grid = np.full((len(kinds), len(severities)), np.nan)
            for (kind, severity), record in places.items():
                value = record.result[name]["value"]
                value = value if name == "slips_through" else 1 - value
                grid[kinds.index(kind), severities.index(severity or 0)] = value
            grids[name] = grid
        with styled({"axes.grid": False}):
            wide = 1.4 + 0.09 * max(map(len, kinds)) + 3 * (0.35 + 0.52 * len(severities))
            figure = new_figure(max(wide, 6.0), 1.2 + 0.36 * len(kinds))
            axes_of = figure.subplots(1, 3, sharey=True)
            for axes, (name, grid) in zip(axes_of, grids.items(), strict=True):
                _draw_map(axes, grid, kinds, severities)
                axes.set_title(_SHARES[name], fontsize=10.5)
            axes_of[1].set_xlabel("severity")
            png = png_bytes(figure)
        means = ", ".join(
            f"{_SHARES[name]} {percent(float(np.nanmean(grid)))}" for name, grid in grids.items()
        )
        own_tag = [self.tag] if self.tag and self.tag != "distortions" else []
        worst = max(places.values(), key=lambda r: r.result["slips_through"]["value"])
        return Drawing(
            "-".join(["distortions", slug(subject), *map(slug, own_tag)]),
            f"{subject}: distorted images",
            f"In per cent of the images ({num_text(shown)}), at the detector's own threshold; "
            f"mean over the map: {means}. What is rejected need not be wrong: a detector of poor "
            "quality may reject what the classifier still recognises.",
            f"Three heat maps of {len(kinds)} distortions at {len(severities)} severities. In the "
            f"mean, {means}. Most are answered wrong under {worst.threat}: "
            f"{percent(worst.result['slips_through']['value'])}.",
            png,
        )


def severity_of(record: Record) -> int | None:
    """Returns the `severity` of a record's attack, or of a part of it; None where none has it."""
    parts: list[dict[str, Any]] = [record.attack or {}]
    for part in parts:
        if is_whole(part.get("severity")):
            return part["severity"]
        parts += [value for value in part.values() if isinstance(value, dict)]
    return None


def distortion_of(record: Record) -> str:
    """Returns the name of a record's threat model without the severity that it may end in."""
    end = rf"[\s,_-]*(?:\bseverity\s*)?(?<![\d.]){severity_of(record)}$"
    text = re.sub(end, "", record.threat)
    return text or record.threat


def _draw_map(axes: Any, grid: np.ndarray, kinds: list[str], severities: list[int]) -> None:
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(severities)), [str(severity) for severity in severities])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (y, x), value in np.ndenumerate(grid):
        text = "–" if np.isnan(value) else f"{100 * value:.0f}"
        colour = "white" if value > 0.55 else INK
        axes.text(x, y, text, ha="center", va="center", fontsize=9, color=colour)
