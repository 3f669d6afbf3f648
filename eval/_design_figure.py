"""The figure of a design of Feature Distillation, drawn from its record alone."""

import pathlib
from typing import Any

import numpy as np

from rainjax._extras import require
from rainjax._files import write_bytes
from rainjax.report.style import BLUE, GREY, INK, OCHRE, RUST, new_figure, png_bytes, styled


def draw(path: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes four panels: the band, the spectra, the changed share, and what it costs."""
    with styled():
        figure = new_figure(11.5, 9.6)
        (spread, spectrum), (share, accuracy) = figure.subplots(2, 2)
        _spread(spread, record)
        _spectrum(spectrum, record)
        _share(share, record)
        _accuracy(accuracy, record)
        figure.suptitle(
            f"{record['name']}: {record['classifier']['name']} on {record['data']['name']}, "
            f"L-inf radius {record['defensive']['radius']:.3g}/255",
            fontsize=12,
        )
        write_bytes(path, png_bytes(figure))


def _inside(record: dict[str, Any]) -> np.ndarray:
    return np.isin(np.arange(64), record["band"]["positions"]).reshape(8, 8)


def _spread(axes: Any, record: dict[str, Any]) -> None:
    spread, inside = np.array(record["band"]["spread"]), _inside(record)
    shown = np.maximum(spread, 1e-3)
    axes.imshow(shown, norm="log", cmap="Blues", interpolation="nearest")
    bright = np.log(shown) > np.log(shown).min() + 0.6 * np.ptp(np.log(shown))
    for (row, column), value in np.ndenumerate(spread):
        axes.text(
            column, row, f"{value:.3g}", ha="center", va="center", fontsize=9,
            color="white" if bright[row, column] else INK,
        )  # fmt: skip
    for row, column in zip(*np.nonzero(inside), strict=True):
        for dy, dx, x, y in (
            (-1, 0, (-0.5, 0.5), (-0.5, -0.5)),
            (1, 0, (-0.5, 0.5), (0.5, 0.5)),
            (0, -1, (-0.5, -0.5), (-0.5, 0.5)),
            (0, 1, (0.5, 0.5), (-0.5, 0.5)),
        ):
            beside = row + dy, column + dx
            if not all(0 <= place < 8 for place in beside) or not inside[beside]:
                axes.plot(np.add(column, x), np.add(row, y), color=RUST, clip_on=False)
    axes.grid(visible=False)
    axes.set(
        title=f"Spread of coefficients; outlined, the band of {inside.sum()}",
        xlabel="horizontal frequency", ylabel="vertical frequency",
        xticks=range(8), yticks=range(8),
    )  # fmt: skip


def _spectrum(axes: Any, record: dict[str, Any]) -> None:
    inside = _inside(record).ravel()
    found = record["defensive"]
    benign, moved = (
        np.array(found[name]).ravel() for name in ("benign_spread", "perturbation_spread")
    )
    order = np.argsort(-np.array(record["band"]["spread"]).ravel(), kind="stable")
    rank = np.arange(1, 65)
    for values, colour, label in ((benign, BLUE, "images"), (moved, INK, "perturbation")):
        axes.plot(rank, values[order], color=colour, label=label, linewidth=1.2)
        axes.plot(rank, np.where(inside[order], values[order], np.nan), "o", color=RUST)
    axes.plot([], [], "o", color=RUST, label="inside the band")
    dashed = {"color": GREY, "linestyle": (0, (5, 2)), "linewidth": 1.4}
    axes.axhline(found["radius"], label=f"random signs: {found['radius']:g}", **dashed)
    axes.set(
        yscale="log", title=f"Spectrum of {found['num_examples']} images and of their attack",
        xlabel="coefficients by spread, largest first", ylabel="standard deviation, grey levels",
    )  # fmt: skip
    axes.legend(frameon=False)


def _share(axes: Any, record: dict[str, Any]) -> None:
    found = record["defensive"]
    steps = [point["step"] for point in found["curve"]]
    closed = [point["closed_form"]["defense"] for point in found["curve"]]
    shaped = [point["shaped"]["defense"] for point in found["curve"]]
    axes.plot(steps, closed, color=GREY, linestyle=(0, (5, 2)), label="closed form, random signs")
    axes.plot(
        steps, shaped, color=OCHRE, linestyle=(0, (1, 1.4)),
        label="closed form, measured spread (outside)",
    )  # fmt: skip
    for band, colour, label in (
        ("defense", BLUE, "measured, outside the band"),
        ("accuracy", RUST, "measured, inside"),
    ):
        axes.plot(steps, [p["measured"][band] for p in found["curve"]], color=colour, label=label)
    axes.plot([0, found["step"]], [found["share"]] * 2, color=INK, linewidth=1)
    axes.plot([found["step"]] * 2, [0, found["share"]], color=INK, linewidth=1)
    axes.plot(found["measured_step"], found["share"], "o", color=BLUE)
    axes.annotate(
        f"tolerated {found['share']:.1%}: step {found['step']:g}\n"
        f"(measured, {found['measured_step']:.3g} is enough)",
        (found["step"], found["share"]), (6, 6), textcoords="offset points", va="bottom",
    )  # fmt: skip
    axes.set(
        title="Coefficients moved to another multiple", xlabel="step, grey levels",
        ylabel="share moved", xlim=(0, max(steps)), ylim=(0, 1),
    )  # fmt: skip
    axes.yaxis.set_major_formatter(_ticker().PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, loc="upper right")


def _accuracy(axes: Any, record: dict[str, Any]) -> None:
    found = record["refinement"]
    steps = [one["step"] for one in found["candidates"]]
    scores = [one["accuracy"] for one in found["candidates"]]
    floor = found["undefended"] - found["tolerance"]
    axes.plot(steps, scores, "o-", color=BLUE, linewidth=1.2)
    axes.axhline(found["undefended"], color=GREY, linewidth=1.4, label="no defense")
    tolerated = f"tolerated loss, {found['tolerance']:.3g}"
    axes.axhline(floor, color=RUST, linestyle=(0, (5, 2)), linewidth=1.4, label=tolerated)
    best = "chosen" if found["found"] else "the best, and not enough"
    cost = f"loss {found['loss']:.2%} ± {found['loss_error']:.2%}"
    axes.plot(
        found["step"], found["accuracy"], "o", color=RUST, markersize=11, fillstyle="none",
        markeredgewidth=2, label=f"{best}: step {found['step']:g}, {cost}",
    )  # fmt: skip
    axes.legend(frameon=False, loc="lower left")
    low, high = min([*scores, floor]), max([*scores, found["undefended"]])
    axes.set(
        title=f"Accuracy with step {record['defensive']['step']:g} outside the band",
        xlabel="step inside the band, grey levels",
        ylabel=f"accuracy on {found['num_examples']} images that choose",
        xlim=(0, None), ylim=(low - 0.45 * (high - low), high + 0.1 * (high - low)),
    )  # fmt: skip
    axes.yaxis.set_major_locator(_ticker().MaxNLocator(steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(_ticker().PercentFormatter(1))


def _ticker() -> Any:
    return require("matplotlib.ticker", name="matplotlib", extra="report")
