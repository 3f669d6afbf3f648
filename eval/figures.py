"""Draws the line charts of a report from its records and its spectrum."""

import dataclasses
import math
import pathlib
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval import records as rec
from eval.style import COLOURS, GREY, SPARE, STYLE, Drawing, png_bytes
from eval.tables import percent

_DASHES = {
    "blind": (0, (5, 2)),
    "white_box": (0, (1, 1.4)),
    "eot": "solid",
    "mean_field": (0, (5, 1.5, 1, 1.5)),
    "autoattack": (0, (8, 2)),
    "known_key": (0, (3, 1, 1, 1, 1, 1)),
}
_MARKS = {
    "blind": "o",
    "white_box": "s",
    "eot": "o",
    "mean_field": "D",
    "autoattack": "v",
    "known_key": "^",
}


@dataclasses.dataclass(frozen=True)
class _Line:
    label: str
    colour: str
    dashes: object
    mark: str
    x: list[float]
    scores: list[dict]


def accuracy_against_radius(records: list[dict]) -> Drawing | None:
    """Returns accuracy by radius and threat model, from the records with the role "radius".

    Each defended row has a panel of its own, with the undefended one for comparison.
    """
    shown = [r for r in rec.with_role(records, "radius") if r["column"]["attack"]]
    # A figure has one radius axis; L-infinity is the one every shipped study sweeps.
    norms = sorted({_norm(r) for r in shown}, key=lambda norm: norm != "linf")
    if not norms:
        return None
    shown = [r for r in shown if _norm(r) == norms[0]]
    scale = 255 if norms[0] == "linf" else 1
    titles = rec.rows(shown)
    lines = {row: _radius_lines(records, shown, row, scale) for row in titles}
    reference = lines.pop("undefended", []) if len(lines) > 1 else []
    reference = [dataclasses.replace(line, label=titles["undefended"]) for line in reference]
    every = [line for own in lines.values() for line in own] + reference
    with matplotlib.rc_context(STYLE):
        across = min(2, len(lines))
        down = math.ceil(len(lines) / across)
        figure = Figure(figsize=(4.6 * across if across > 1 else 6.4, 3.9 * down))
        grid = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes, (row, own) in zip(grid, lines.items(), strict=False):
            _draw_lines(axes, reference + own)
            axes.set_title(titles[row], color=_colour(row))
            axes.set_xlabel(f"{rec.norm_text(norms[0])} radius{', in 255ths' * (scale == 255)}")
            axes.set_xlim(0, max(x for line in every for x in line.x))
            axes.set_xticks(sorted({x for line in every for x in line.x}))
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            percent_axis(axes, 1.0)
            _label_ends(figure, axes, reference + own)
        for axes in grid[1:]:
            axes.set_ylabel("")
        for axes in grid[len(lines) :]:
            axes.remove()
        png = png_bytes(figure)
    stories = {titles[row]: own for row, own in lines.items()} | (
        {titles["undefended"]: reference} if reference else {}
    )
    over = "/255" if scale == 255 else ""
    return Drawing(
        name="radius",
        title="Accuracy against the radius of the attack",
        caption=f"Mean over draws; bands are 95 % intervals for the choice of images "
        f"({_num_text(shown)}). At radius 0, the same images unattacked.",
        alt="Line charts of accuracy against the attack's radius. "
        + _story(stories, lambda x: f"radius {x:g}{over}" if x else "radius 0"),
        png=png,
    )


def accuracy_against_samples(records: list[dict]) -> Drawing | None:
    """Returns accuracy by gradient samples per step, from the records with the role "eot"."""
    shown = rec.with_role(records, "eot")
    sampled = [r for r in shown if r["column"]["key"] in ("white_box", "eot")]
    if not sampled:
        return None
    lines, levels = [], []
    for row, title in rec.rows(shown).items():
        own = [r for r in shown if r["row"]["key"] == row]
        runs = [r for r in own if r in sampled]
        runs.sort(key=rec.num_draws)
        if runs:
            x = [float(rec.num_draws(r)) for r in runs]
            scores = [r["result"]["mean"] for r in runs]
            lines.append(_Line(title, _colour(row), "solid", "o", x, scores))
        levels += [(row, title, r) for r in own if r["column"]["key"] == "mean_field"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.0))
        axes = figure.add_subplot()
        axes.set_xscale("log", base=2)
        _draw_lines(axes, lines)
        ends = list(lines)
        last = max(x for line in lines for x in line.x)
        for row, title, record in levels:
            score = record["result"]["mean"]
            axes.axhline(score["accuracy"], color=_colour(row), dashes=(5, 3), lw=1.3)
            label = f"{title}, {record['column']['title']}"
            ends.append(_Line(label, _colour(row), "dashed", "", [last], [score]))
        ticks = sorted({x for line in lines for x in line.x})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlabel("gradient samples per step (K)")
        axes.set_xlim(ticks[0], max(ticks[-1], 2 * ticks[0]))
        percent_axis(axes, max(score["high"] for line in ends for score in line.scores))
        _label_ends(figure, axes, ends)
        png = png_bytes(figure)
    attack = sampled[0]["column"]["attack"]
    caption = (
        f"{rec.norm_text(attack['norm'])} radius "
        f"{rec.radius_text(attack['norm'], attack['radius'])}, {attack['num_steps']} steps; "
        f"{_num_text(sampled)}. Mean over draws; bands are "
        "95 % intervals for the choice of images."
    )
    if levels:
        caption += " Dashed: the mean-field attack, which needs no samples."
    alt = "Line chart of accuracy against the number of gradient samples per step. "
    alt += _story({line.label: [line] for line in lines}, lambda x: f"K = {x:g}")
    alt += "".join(
        f" {title} under {record['column']['title']}: "
        f"{percent(record['result']['mean']['accuracy'])}."
        for _, title, record in levels
    )
    return Drawing("samples", "Accuracy against the number of gradient samples", caption, alt, png)


def spectrum(path: pathlib.Path) -> Drawing:
    """Returns the radial power spectra in `spectrum.json`, on a logarithmic scale."""
    data = rec.read_json(path)
    frequency, curves = data.get("frequency"), data.get("curves")
    if data.get("kind") != "spectrum" or not isinstance(frequency, list) or not curves:
        raise ValueError(f"{path} is no spectrum: it needs kind, frequency and curves.")
    for name, power in curves.items():
        if len(power) != len(frequency) or not np.isfinite(power).all():
            raise ValueError(
                f"{path} is no usable spectrum: {name!r} needs {len(frequency)} finite values."
            )
    x = np.asarray(frequency, float)
    keep = x > 0
    spare = iter(SPARE * len(curves))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 4.2))
        axes = figure.add_subplot()
        axes.set_yscale("log")
        ends = []
        for name, power in curves.items():
            colour = COLOURS.get(name) or next(spare)
            power = np.where(np.asarray(power, float) > 0, power, np.nan)
            axes.plot(x[keep], power[keep], color=colour, lw=2.6 if name == "original" else 2.0)
            seen = power[keep][np.isfinite(power[keep])]
            if len(seen):
                end = {"accuracy": float(seen[-1])}
                ends.append(_Line(name, colour, "solid", "", [float(x[keep][-1])], [end]))
        axes.axvline(0.25, color=GREY, lw=1, ls=":")
        axes.annotate(
            "all that half the pixels can hold",
            (0.25, 1),
            (-6, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            color=GREY,
            fontsize=9,
        )
        axes.set_xlabel("spatial frequency, cycles per pixel")
        axes.set_ylabel("mean power")
        axes.set_xlim(0, 0.5)
        _label_ends(figure, axes, ends)
        png = png_bytes(figure)
    high = x > 0.25
    total = {name: float(np.asarray(power)[high].sum()) for name, power in curves.items()}
    base = total.get("original", 0.0)
    shares = [f"{n} {percent(t / base)}" for n, t in total.items() if n != "original" and base > 0]
    summary = f" Above 0.25 cycles per pixel, of the original's power: {', '.join(shares)}."
    return Drawing(
        name="spectrum",
        title="Spatial frequencies: what down-sampling takes and RAIN puts back",
        caption="Power in rings of spatial frequency, mean over "
        f"{data.get('num_examples')} images." + (summary if shares else ""),
        alt="Line chart on a logarithmic scale: power against spatial frequency for "
        f"{', '.join(curves)}." + (summary if shares else ""),
        png=png,
    )


def _radius_lines(records: list[dict], shown: list[dict], row: str, scale: int) -> list[_Line]:
    """One line per threat model, starting at the clean accuracy; a lone radius is a dot."""
    lines = []
    for column in rec.RANK:
        runs = [r for r in shown if (r["row"]["key"], r["column"]["key"]) == (row, column)]
        runs.sort(key=lambda r: r["column"]["attack"]["radius"])
        radii = [r["column"]["attack"]["radius"] * scale for r in runs]
        scores = [r["result"]["mean"] for r in runs]
        clean = _clean_score(records, runs[0]) if len(runs) > 1 and radii[0] > 0 else None
        if clean is not None:
            radii, scores = [0.0, *radii], [clean, *scores]
        if runs:
            title = runs[0]["column"]["title"]
            dashes, mark = _DASHES[column], _MARKS[column]
            lines.append(_Line(title, _colour(row), dashes, mark, radii, scores))
    return lines


def _draw_lines(axes: Axes, lines: list[_Line]) -> None:
    for line in lines:
        low, middle, high = ([s[k] for s in line.scores] for k in ("low", "accuracy", "high"))
        style = {"color": line.colour, "marker": line.mark, "clip_on": False, "zorder": 3}
        axes.plot(line.x, middle, ls=line.dashes, **style)
        if len(line.x) > 1:
            axes.fill_between(line.x, low, high, color=line.colour, alpha=0.12, lw=0)
        else:
            axes.vlines(line.x, low, high, color=line.colour, lw=1.2)


def percent_axis(axes: Axes, highest: float) -> None:
    """Starts at zero, as lengths should, and ends at the next fifth above the data."""
    axes.set_ylim(0, min(1.0, math.ceil(highest * 5 + 0.1) / 5))
    axes.set_ylabel("accuracy")
    # Whole per cents: a tick at 2.5 % that is called 2 % would be a lie.
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _label_ends(figure: Figure, axes: Axes, lines: list[_Line]) -> None:
    """Writes each line's label at its right end, moved up or down until none overlap."""
    figure.draw_without_rendering()
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform((line.x[-1], line.scores[-1]["accuracy"])) for line in lines]
    right = max(x for x, _ in ends)
    step = 13.5 / 72 * figure.dpi / axes.get_window_extent().height
    for line, y in zip(lines, spread([y for _, y in ends], step), strict=True):
        axes.annotate(
            line.label,
            xy=(right, y),
            xycoords="axes fraction",
            xytext=(9, 0),
            textcoords="offset points",
            color=line.colour,
            fontsize=9.5,
            va="center",
        )


def spread(wanted: list[float], step: float) -> list[float]:
    """Returns heights in the same order, at least `step` apart, as close as may be to `wanted`."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    # Neighbours that collide become one block, centred on what its members wanted.
    blocks: list[list[int]] = []
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _top(blocks[-2], wanted, step) > _bottom(
            blocks[-1], wanted, step
        ):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = [0.0] * len(wanted)
    for block in blocks:
        start = _bottom(block, wanted, step) + step / 2
        for number, index in enumerate(block):
            placed[index] = start + number * step
    return [y + max(0.0, -min(placed)) for y in placed]  # none below the axis and its numbers


def _bottom(block: list[int], wanted: list[float], step: float) -> float:
    return sum(wanted[i] for i in block) / len(block) - len(block) * step / 2


def _top(block: list[int], wanted: list[float], step: float) -> float:
    return _bottom(block, wanted, step) + len(block) * step


def _story(lines: dict[str, list[_Line]], place: Callable[[float], str]) -> str:
    """Tells where each line begins and ends, for those who cannot see it."""
    sentences = []
    for title, own in lines.items():
        for line in own:
            name = title if line.label.lower() == title.lower() else f"{title}, {line.label}"
            ends = list(zip(line.x, line.scores, strict=True))
            ends = [ends[0], ends[-1]] if len(ends) > 1 else ends
            told = [f"{percent(score['accuracy'])} at {place(x)}" for x, score in ends]
            sentences.append(f"{name}: {', '.join(told)}.")
    return " ".join(sentences)


def _clean_score(records: list[dict], run: dict) -> dict | None:
    """The row's clean accuracy on the very images of `run`, if they were all scored."""
    for record in records:
        same_row = record["row"]["key"] == run["row"]["key"]
        same_images = set(run["data"]["indices"]) <= set(record["data"]["indices"])
        if record["column"]["key"] == "clean" and same_row and same_images:
            return rec.score_on(record, run["data"]["indices"])
    return None


def _norm(record: dict) -> str:
    return record["column"]["attack"]["norm"]


def _num_text(shown: list[dict]) -> str:
    counts = sorted({r["result"]["num_examples"] for r in shown})
    return f"n = {' or '.join(map(str, counts))}"


def _colour(row: str) -> str:
    """Known rows have their own colour; others one that depends on their name alone."""
    return COLOURS.get(row) or SPARE[sum(row.encode()) % len(SPARE)]
