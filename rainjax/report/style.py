"""What every figure shares: its look, its colours, and how it becomes a file."""

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any

from rainjax._extras import require
from rainjax.report.results import Results

# Okabe and Ito's colours, the orange ones darkened until small text in them can be read.
INK, GREY, FAINT = "#222222", "#767676", "#dddddd"
BLUE, RUST, GREEN, PINK, OCHRE = "#0072b2", "#c24e00", "#007a5a", "#b0558a", "#96730a"
PALETTE = (RUST, BLUE, GREEN, PINK, OCHRE)
# A page has two shades of each, for a light and for a dark ground.
COLOUR_NAMES = {
    INK: "ink",
    GREY: "grey",
    BLUE: "blue",
    RUST: "rust",
    GREEN: "green",
    PINK: "pink",
    OCHRE: "ochre",
}

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
    "savefig.dpi": 144,
    "figure.constrained_layout.use": True,
}

# From the first threat model that attacks on; a study with more begins again.
_DASHES = (
    (0, (5, 2)),
    (0, (1, 1.4)),
    "solid",
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
_MARKS = ("o", "s", "o", "D", "v", "^")


@contextlib.contextmanager
def styled(changes: dict[str, Any] | None = None) -> Iterator[None]:
    """Draws in the style of reports, with `changes` to matplotlib's names for its parts.

    Raises:
        ImportError: matplotlib is not installed; says how to.
    """
    matplotlib = require("matplotlib", name="matplotlib", extra="report")
    with matplotlib.rc_context({**STYLE, **(changes or {})}):
        yield


def new_figure(width: float, height: float) -> Any:
    """Returns an empty matplotlib figure of a size in inches, without a window."""
    figure = require("matplotlib.figure", name="matplotlib", extra="report")
    return figure.Figure(figsize=(width, height))


def png_bytes(figure: Any) -> bytes:
    """Renders without a date or version, so that an unchanged figure is an unchanged file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def subject_colour(results: Results, subject: str) -> str:
    """Returns a subject's colour in every figure: by its place among those with a defense."""
    if results.is_bare(subject):
        return GREY
    defended = [name for name in results.subjects if not results.is_bare(name)]
    return PALETTE[defended.index(subject) % len(PALETTE)]


def threat_look(results: Results, threat: str) -> tuple[Any, str]:
    """Returns the dashes and the mark of a threat model: by its place among those that attack."""
    clean = {record.threat for record in results.records if record.attack is None}
    attacking = [name for name in results.threats if name not in clean]
    place = attacking.index(threat) % len(_DASHES)
    return _DASHES[place], _MARKS[place]


def percent_axis(axes: Any, highest: float) -> None:
    """Starts at zero, as lengths should, and ends at the next fifth above the data."""
    ticker = require("matplotlib.ticker", name="matplotlib", extra="report")
    axes.set_ylim(0, axis_top(highest))
    axes.set_ylabel("accuracy")
    # Whole per cents: a tick at 2.5 % that is called 2 % would be a lie.
    axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def axis_top(highest: float) -> float:
    """Returns where an axis of shares ends: at the next fifth above the data."""
    return min(1.0, math.ceil(highest * 5 + 0.1) / 5)


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
