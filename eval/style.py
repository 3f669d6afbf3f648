"""What every figure of a report shares: its look, its colours, and the words that go with it."""

import dataclasses
import io
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours, the orange ones darkened until small text in them can be read.
INK, GREY, FAINT = "#222222", "#767676", "#dddddd"
BLUE, RUST, GREEN, PINK, OCHRE = "#0072b2", "#c24e00", "#007a5a", "#b0558a", "#96730a"
SPARE = (GREEN, PINK, OCHRE)

# One colour for one thing, in every figure: rows of the table and curves of the spectrum.
COLOURS = {
    "undefended": GREY,
    "rain_pretrained": RUST,
    "rain_finetuned": BLUE,
    "original": INK,
    "down-sampled, bicubic up": PINK,
    "RAIN before fine-tuning": RUST,
    "RAIN fine-tuned": BLUE,
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


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure as PNG bytes, with its title, a caption, and a text that can stand in for it."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def png_bytes(figure: Figure) -> bytes:
    """Renders without a date or version, so that an unchanged figure is an unchanged file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
