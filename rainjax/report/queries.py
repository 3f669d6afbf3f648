"""Accuracy against queries: with which forward pass black boxes first had a success."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from rainjax.evaluation.records import Record, Score
from rainjax.metrics import wilson_interval
from rainjax.report._display import Display, Drawing
from rainjax.report.results import Ball, Results, balls, subjects_of
from rainjax.report.style import GREY, PALETTE, new_figure, percent_axis, png_bytes, styled
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import ball_texts, interval, num_text, percent, unique

_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))


@dataclasses.dataclass(frozen=True)
class QueryCurve(Display):
    """The share of images without a success yet against queries, and a table of when they came.

    A query is one image through the pipeline under one draw, whatever an attack counts by. One
    line per black box, with the 95 % Wilson interval for the choice of images; a panel per subject
    and a figure per ball. Shown are the black boxes with the tag, all of them for None, as far as
    their records say when the first success came.
    """

    files: ClassVar[tuple[str, ...]] = ("queries.png", "queries-*.png")

    tag: str | None = None

    @property
    def heading(self) -> str:
        return "Accuracy against queries"

    @property
    def absent(self) -> str:
        return "No record says with which query a success came, so there is no such figure."

    def shown(self, results: Results) -> list[Record]:
        """Returns the records that are shown."""
        return [r for r in results.scored(self.tag) if r.queries_to_success is not None]

    def tables(self, results: Results) -> list[Table]:
        shown = self.shown(results)
        return [
            _table([r for r in shown if r.ball == ball], results, f"Queries to success {words}")
            for ball, words in ball_texts(balls(shown)).items()
        ]

    def drawings(self, results: Results) -> list[Drawing]:
        shown = self.shown(results)
        words = ball_texts(balls(shown))
        return [
            _drawing([r for r in shown if r.ball == ball], results, ball, words[ball], len(words))
            for ball in words
        ]


def standing(first: Int[np.ndarray, "n"], budget: int) -> list[tuple[int, Score]]:
    """Returns where the share of images without a success falls, and to what; then the budget.

    `first` is with which query each first was one, 0 for never. The curve is a staircase: a share
    holds from its number of queries, included, to the next. It begins at one query.
    """
    steps = sorted({1, budget, *first[first > 0].tolist()})
    counts = [int(((first == 0) | (first > queries)).sum()) for queries in steps]
    return [
        (queries, Score(count / len(first), *wilson_interval(float(count), len(first))))
        for queries, count in zip(steps, counts, strict=True)
    ]


def _first_of(record: Record) -> tuple[Int[np.ndarray, "n"], int]:
    first, budget = record.queries_to_success, record.query_budget
    assert first is not None
    assert budget is not None
    return first, budget


def _table(shown: list[Record], results: Results, title: str) -> Table:
    body = []
    for subject in subjects_of(results, shown):
        for record in (r for r in shown if r.subject == subject):
            first, budget = _first_of(record)
            reached, own = first[first > 0], (record.id,)
            left, score = standing(first, budget)[-1][1], record.score()
            body.append(
                (
                    Cell(subject),
                    Cell(record.threat),
                    Cell(f"{np.median(reached):g}", f"of {len(reached)} images", own)
                    if len(reached)
                    else ABSENT,
                    Cell(f"{len(first) - len(reached)}", f"of {len(first)}", own),
                    Cell(f"{budget}"),
                    Cell(percent(left.accuracy), interval(left), own),
                    Cell(percent(score.accuracy), interval(score), own),
                )
            )
    names = ("", "black box", "median queries to success", "never", "budget",
             "without a success", "accuracy, fresh draws")  # fmt: skip
    notes = [
        "A query is one image through the pipeline under one draw. Medians are over the images "
        "with a success alone, those that were wrong before the attack among them; **never** is "
        "how many had none within the budget.",
        "A success is what the attacker took for one by his own answers; for attacks that look "
        "for the nearest success it is the first within the radius. The last column is scored "
        "under fresh draws, after the attack.",
    ]
    if any(record.content["subject"]["is_random"] for record in shown):
        notes.append(
            "Where a row is random a success is one under the draws that were asked, by luck "
            "perhaps: under others the image may be right, so the last column is what counts."
        )
    return Table(title, tuple(map(Cell, names)), tuple(body), tuple(notes))


def _drawing(
    shown: list[Record], results: Results, ball: Ball, words: str, num_balls: int
) -> Drawing:
    subjects, threats = subjects_of(results, shown), unique(record.threat for record in shown)
    across = min(2, len(subjects))
    down = math.ceil(len(subjects) / across)
    with styled():
        figure = new_figure(4.4 * across if across > 1 else 6.4, 2.9 * down + 0.5)
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        highest = max(standing(*_first_of(record))[0][1].high for record in shown)
        most = max(_first_of(record)[1] for record in shown)
        for axes, subject in zip(grid, subjects, strict=False):
            axes.set_xscale("log")
            axes.set_xlim(1, 1.1 * most)
            percent_axis(axes, highest)
            for record in (r for r in shown if r.subject == subject):
                _draw_curve(axes, record, *_look(threats.index(record.threat)))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            axes.set_title(subject)
            axes.set_xlabel("queries an image")
            axes.set_ylabel("without a success")
        for axes in [axes for place, axes in enumerate(grid) if place % across]:
            axes.set_ylabel("")
        for axes in grid[len(subjects) :]:
            axes.remove()
        handles = []
        for place, threat in enumerate(threats):
            colour, dashes = _look(place)
            handles += grid[0].plot([], [], color=colour, ls=dashes, label=threat)
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(threats), 4), frameon=False
        )
        png = png_bytes(figure)
    norm, radius = ball
    return Drawing(
        "queries" if num_balls == 1 else f"queries-{norm}-{radius:.4g}",
        QueryCurve().heading + ("" if num_balls == 1 else f", {words}"),
        f"Black boxes {words} ({num_text(shown)}): the share of images for which the attacker has "
        "seen no success yet, against the forward passes that he asked for, an image. A line ends "
        "at its budget. Bands are 95 % intervals for the choice of images.",
        "Staircases of the share of images without a success against queries. "
        + "; ".join(_alt(record) for record in shown)
        + ".",
        png,
    )


def _look(place: int) -> tuple[str, Any]:
    """Returns the colour and the dashes of an attack by its place among those that are shown."""
    colours = (*PALETTE, GREY)
    return colours[place % len(colours)], _DASHES[place % len(_DASHES)]


def _draw_curve(axes: Any, record: Record, colour: str, dashes: Any) -> None:
    path = standing(*_first_of(record))
    x, scores = [queries for queries, _ in path], [score for _, score in path]
    style = {"color": colour, "clip_on": False}
    axes.step(x, [s.accuracy for s in scores], where="post", ls=dashes, zorder=3, **style)
    low, high = [s.low for s in scores], [s.high for s in scores]
    axes.fill_between(x, low, high, step="post", color=colour, alpha=0.07, lw=0)


def _alt(record: Record) -> str:
    first, budget = _first_of(record)
    path = standing(first, budget)
    reached = first[first > 0]
    median = f", median {np.median(reached):g} queries" if len(reached) else ""
    return (
        f"{record.subject}, {record.threat}: {percent(path[0][1].accuracy)} after 1 query, "
        f"{percent(path[-1][1].accuracy)} after {budget}{median}"
    )
