"""Strength ladders: what every rung left, and at what cost."""

import dataclasses
import itertools
import math
from typing import Any, ClassVar

from rainjax.evaluation.records import Record, Score
from rainjax.report._display import Display, Drawing
from rainjax.report.curves import label_ends
from rainjax.report.live import Chart, Line
from rainjax.report.results import Ball, Results, balls, subjects_of
from rainjax.report.style import (
    GREY,
    PALETTE,
    axis_top,
    new_figure,
    percent_axis,
    png_bytes,
    styled,
    threat_look,
)
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import ball_texts, interval, num_text, percent

# What was doubled for a rung, as its mark; a kind that is not named here is a plain dot.
_MARKS = {None: "o", "steps": ">", "queries": ">", "draws": "s", "restarts": "D"}


@dataclasses.dataclass(frozen=True)
class LadderCurve(Display):
    """Accuracy on every rung of a ladder against the gradients spent, and a table of where it led.

    One line per ladder, with the 95 % Wilson interval for the choice of images, and a mark that
    says what was doubled for a rung; a panel per subject and a figure per ball. Shown are the
    ladders with the tag, all of them for None.
    """

    files: ClassVar[tuple[str, ...]] = ("ladders.png", "ladders-*.png")

    tag: str | None = None

    @property
    def heading(self) -> str:
        return "Accuracy as the attack is made stronger"

    @property
    def absent(self) -> str:
        return "No strength ladder was recorded, so there is no such figure."

    def ladders(self, results: Results) -> list[Record]:
        """Returns the records that are shown."""
        return [record for record in results.scored(self.tag) if record.ladder is not None]

    def tables(self, results: Results) -> list[Table]:
        shown = self.ladders(results)
        return [
            _table([r for r in shown if r.ball == ball], results, f"Strength ladders {words}")
            for ball, words in ball_texts(balls(shown)).items()
        ]

    def drawings(self, results: Results) -> list[Drawing]:
        shown = self.ladders(results)
        words = ball_texts(balls(shown))
        return [
            _drawing([r for r in shown if r.ball == ball], results, ball, words[ball], len(words))
            for ball in words
        ]


def climbed(record: Record) -> list[tuple[int, Score]]:
    """Returns the gradients spent up to each rung, per image, and the accuracy that it left.

    An image that is broken costs nothing more, so the first numbers are means over images.
    """
    assert record.ladder is not None
    rungs, num = record.ladder["rungs"], record.num_examples
    spent = itertools.accumulate(rung["num_attacked"] * rung["num_gradients"] for rung in rungs)
    return [
        (max(round(total / num), 1), Score(rung["accuracy"], rung["low"], rung["high"]))
        for total, rung in zip(spent, rungs, strict=True)
    ]


def _table(shown: list[Record], results: Results, title: str) -> Table:
    body = []
    for subject in subjects_of(results, shown):
        for record in (r for r in shown if r.subject == subject):
            ladder, path = record.ladder, climbed(record)
            assert ladder is not None
            changes = [_change(rung) for rung in ladder["rungs"][1:]]
            ends = ladder["rungs"][-1]
            body.append(
                (
                    Cell(subject),
                    Cell(record.threat),
                    *(
                        Cell(percent(s.accuracy), interval(s), (record.id,))
                        for _, s in (path[0], path[-1])
                    ),
                    Cell(", ".join(changes[-2:]) or str(ABSENT)),
                    Cell(ladder["ended"], f"{len(path)} rungs"),
                    Cell(f"{path[-1][0]}", f"of {ends['steps']} steps, K = {ends['draws']}"),
                    *_noise_cells(ladder["noise"]),
                )
            )
    names = ("", "ladder", "first rung", "last rung", "last changes, in points", "ended",
             "gradients an image", "cosine of two draws", "zero entries")  # fmt: skip
    return Table(
        title,
        tuple(map(Cell, names)),
        tuple(body),
        (
            "Every rung doubles the steps (or queries), the draws or the restarts of the one "
            "before, on the images that still stand; the changes are those on the same images, "
            "with their standard errors. It ended **flat** where the last two changed nothing "
            "beyond these, or by its **budget**, still falling perhaps.",
            "**cosine of two draws**: the mean cosine of the gradients of two random draws at "
            "the same image, and **zero entries** the share of their entries that are 0; where "
            "nothing is drawn there is none.",
        ),
    )


def _change(rung: dict[str, Any]) -> str:
    return f"{100 * rung['change']:+.1f} ± {100 * rung['error']:.1f}"


def _noise_cells(noise: dict[str, Any] | None) -> tuple[Cell, Cell]:
    if noise is None:
        return ABSENT, ABSENT
    cosine = noise["pairwise_cosine"]
    last = noise["stability"][-1]
    detail = "" if last["cosine"] is None else f"{last['cosine']:.2f} at K = {last['num_draws']}"
    first = ABSENT if cosine is None else Cell(f"{cosine:.2f}", detail)
    return first, Cell(percent(noise["zero_entries"]))


def _drawing(
    shown: list[Record], results: Results, ball: Ball, words: str, num_balls: int
) -> Drawing:
    subjects = subjects_of(results, shown)
    across = min(2, len(subjects))
    down = math.ceil(len(subjects) / across)
    lines: dict[str, list[Line]] = {}
    with styled():
        figure = new_figure(5.4 * across if across > 1 else 7.4, 3.9 * down)
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        highest = max(score.high for record in shown for _, score in climbed(record))
        for axes, subject in zip(grid, subjects, strict=False):
            own = [record for record in shown if record.subject == subject]
            axes.set_xscale("log", base=2)
            percent_axis(axes, highest)
            colours = [GREY, *PALETTE] if len(own) > len(PALETTE) else PALETTE
            ends, lines[subject] = [], []
            for record, colour in zip(own, itertools.cycle(colours), strict=False):
                lines[subject].append(_line(results, record, colour))
                _draw_ladder(axes, results, record, colour)
                spent, score = climbed(record)[-1]
                ends.append((record.threat, colour, float(spent), score.accuracy))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.set_title(subject)
            axes.set_xlabel("gradients (or queries) an image")
            label_ends(figure, axes, ends)
        for axes in grid[1:]:
            axes.set_ylabel("")
        for axes in grid[len(subjects) :]:
            axes.remove()
        png = png_bytes(figure)
    told = [
        f"{r.subject}, {r.threat}: {percent(path[0][1].accuracy)} after {path[0][0]} gradients, "
        f"{percent(path[-1][1].accuracy)} after {path[-1][0]}, "
        + ("still falling" if r.still_falling else "flat")
        for r in shown
        for path in (climbed(r),)
    ]
    norm, radius = ball
    return Drawing(
        "ladders" if num_balls == 1 else f"ladders-{norm}-{radius:.4g}",
        LadderCurve().heading + ("" if num_balls == 1 else f", {words}"),
        f"Attacks {words} ({num_text(shown)}), each rung with twice the steps or queries "
        "(triangles), draws (squares) or restarts (diamonds) of the one before; an image that is "
        "broken is attacked no more. A hollow end was still falling. Bands are 95 % intervals for "
        "the choice of images.",
        "Line charts of accuracy against gradients spent. " + "; ".join(told) + ".",
        png,
        Chart(
            lines, "gradients (or queries) an image", _powers(lines), axis_top(highest), log=True
        ),
    )


def _powers(lines: dict[str, list[Line]]) -> list[float]:
    """Returns powers of two from the first point of all lines to the last."""
    every = [x for own in lines.values() for line in own for x in line.x]
    low, high = math.floor(math.log2(min(every))), math.ceil(math.log2(max(every)))
    return [2.0**n for n in range(low, max(high, low + 1) + 1)]


def _line(results: Results, record: Record, colour: str) -> Line:
    assert record.ladder is not None
    path, (dashes, _) = climbed(record), threat_look(results, record.threat)
    marks = tuple(_MARKS.get(rung["doubled"], "o") for rung in record.ladder["rungs"])
    x, scores = [float(spent) for spent, _ in path], [score for _, score in path]
    return Line(record.threat, colour, dashes, "o", x, scores, marks, record.still_falling)


def _draw_ladder(axes: Any, results: Results, record: Record, colour: str) -> None:
    assert record.ladder is not None
    path = climbed(record)
    x = [spent for spent, _ in path]
    dashes, _ = threat_look(results, record.threat)
    style = {"color": colour, "clip_on": False, "zorder": 3}
    axes.plot(x, [score.accuracy for _, score in path], ls=dashes, **style)
    low, high = [score.low for _, score in path], [score.high for _, score in path]
    axes.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
    for place, ((spent, score), rung) in enumerate(zip(path, record.ladder["rungs"], strict=True)):
        hollow = record.still_falling and place == len(path) - 1
        axes.plot(
            spent, score.accuracy, _MARKS.get(rung["doubled"], "o"),
            fillstyle="none" if hollow else "full", **style,
        )  # fmt: skip
