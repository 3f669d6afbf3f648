"""What a page can show live of a drawing: lines with bands, and pictures pixel by pixel."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from rainjax.evaluation.records import Score
from rainjax.report.style import COLOUR_NAMES

_NAMED_DASHES = {
    "solid": (),
    "-": (),
    "dashed": (3.7, 1.6),
    "--": (3.7, 1.6),
    "dotted": (1, 1.65),
    ":": (1, 1.65),
    "dashdot": (6.4, 1.6, 1, 1.6),
    "-.": (6.4, 1.6, 1, 1.6),
}


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a figure, its points from left to right.

    `marks` are those of its points, where they differ, for the one `mark`. With `hollow_end` the
    last is not filled. A `stepped` line stays where it is until its next point.
    """

    label: str
    colour: str
    dashes: Any
    mark: str
    x: list[float]
    scores: list[Score]
    marks: tuple[str, ...] = ()
    hollow_end: bool = False
    stepped: bool = False

    @staticmethod
    def bare(label: str, colour: str, dashes: Any, x: Any, y: Any, mark: str = "") -> "Line":
        """Returns a line of shares `y` without a band.

        Args:
            label: What its switch is called.
            colour: Its colour, as CSS and Matplotlib know it.
            dashes: Its dashes, as Matplotlib's `linestyle`.
            x: Positions along the axis.
            y: Shares in [0, 1].
            mark: The marker of its points, as Matplotlib's; none if empty.
        """
        none = float("nan")
        scores = [Score(float(share), none, none) for share in y]
        return Line(label, colour, dashes, mark, [float(value) for value in x], scores)

    def level(self, ends: Sequence[float]) -> "Line":
        """Returns a line without points from one end to the other, at the height of the first."""
        first = dataclasses.replace(self.scores[0], low=float("nan"), high=float("nan"))
        return dataclasses.replace(self, mark="", x=list(ends), scores=[first] * len(ends))


@dataclasses.dataclass(frozen=True)
class Chart:
    """Panels of lines on one pair of axes; lines of one label are switched on and off as one.

    The vertical axis is a share and goes from 0 to `top`. The horizontal one may be logarithmic,
    and of shares as well.
    """

    panels: dict[str, list[Line]]
    x_label: str
    ticks: list[float]
    top: float = 1.0
    log: bool = False
    y_label: str = "accuracy"
    x_shares: bool = False

    def data(self) -> dict[str, Any]:
        """Returns the chart as plain values."""
        return {
            "x_label": self.x_label,
            "y_label": self.y_label,
            "ticks": self.ticks,
            "top": self.top,
            "log": self.log,
            "x_shares": self.x_shares,
            "panels": [
                {"title": title, "lines": [_line_data(line) for line in lines]}
                for title, lines in self.panels.items()
            ],
        }


@dataclasses.dataclass(frozen=True)
class Picture:
    """Versions of one image by name, as PNG of its own size, and what is seen in them.

    `size` is `(width, height)` in pixels.
    """

    versions: dict[str, bytes]
    size: tuple[int, int]
    label: str
    before: str
    after: str

    @property
    def rightly_seen(self) -> tuple[bool, bool]:
        """Whether the pipeline is right before the attack, and after it."""
        return self.before == self.label, self.after == self.label


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures with the same versions; that called `change` is grey plus `factor` times it."""

    pictures: tuple[Picture, ...]
    change: str
    factor: int

    @staticmethod
    def of(
        versions: dict[str, np.ndarray],
        labels: Sequence[str],
        before: Sequence[str],
        after: Sequence[str],
        change: str,
        factor: int,
    ) -> "Pictures":
        """Returns the pictures of images in [0, 1], `m h w c`, by the names of their versions.

        Args:
            versions: The images as they were, attacked, purified ..., `m h w c`, by name.
            labels: What each picture shows.
            before: What each was taken for before.
            after: And after.
            change: The name of the version that is a perturbation.
            factor: How many times it is magnified.
        """
        found = []
        for place, seen in enumerate(zip(labels, before, after, strict=True)):
            shown = {name: as_shown(images[place]) for name, images in versions.items()}
            high, wide = next(iter(shown.values())).shape[:2]
            coded = {name: image_bytes(image) for name, image in shown.items()}
            found.append(Picture(coded, (wide, high), *seen))
        return Pictures(tuple(found), change, factor)


def as_shown(image: np.ndarray) -> np.ndarray:
    """Returns an image in colour if it has three channels, else its channels side by side."""
    if image.shape[-1] == 3:
        return image
    return np.concatenate([image[..., channel] for channel in range(image.shape[-1])], axis=1)


def image_bytes(image: np.ndarray) -> bytes:
    """Returns an image in [0, 1], `h w 3` or `h w`, as PNG of its own size, rounded to 8 bits."""
    buffer, pixels = io.BytesIO(), np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def smaller(png: bytes) -> bytes:
    """Returns a figure with a palette, a third of its size, where nobody sees the difference.

    Lines, text and maps have few colours; a figure with photographs in it stays as it is.
    """
    figure = PIL.Image.open(io.BytesIO(png)).convert("RGB")
    few = figure.quantize(256, dither=PIL.Image.Dither.NONE)
    error = np.asarray(few.convert("RGB"), np.float32) - np.asarray(figure, np.float32)
    if (error**2).mean() > 1.5:
        return png
    buffer = io.BytesIO()
    few.save(buffer, format="png", optimize=True)
    return min(buffer.getvalue(), png, key=len)


def _line_data(line: Line) -> dict[str, Any]:
    number = lambda value: None if np.isnan(value) else round(value, 5)
    bare = all(np.isnan(score.low) for score in line.scores)
    marks = line.marks or (line.mark,) * len(line.x)
    dashes = _NAMED_DASHES[line.dashes] if isinstance(line.dashes, str) else line.dashes[1]
    return {
        "label": line.label,
        "colour": COLOUR_NAMES.get(line.colour, line.colour),
        "dashes": [2 * length for length in dashes],  # given in widths of a line, which is 2 px
        "marks": list(marks) if any(marks) else [],
        "hollow_end": line.hollow_end,
        "stepped": line.stepped,
        "x": [round(float(x), 6) for x in line.x],
        "y": [number(score.accuracy) for score in line.scores],
        "low": [] if bare else [number(score.low) for score in line.scores],
        "high": [] if bare else [number(score.high) for score in line.scores],
    }
