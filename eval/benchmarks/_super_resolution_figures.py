"""The figures of a record of `python -m eval super_resolution`: every image, and a close look."""

import math
from typing import Any

import numpy as np

from rainjax.report import Drawing
from rainjax.report.style import BLUE, GREY, INK, new_figure, png_bytes, styled


def gains(record: dict[str, Any], row: dict[str, Any], place: int) -> np.ndarray:
    """Returns by how many dB a row exceeds bicubic interpolation, for each image of a set."""
    ours, plain = (r["results"][place]["psnr"]["each"] for r in (row, record["rows"][0]))
    return np.asarray(ours) - np.asarray(plain)


def hardest(record: dict[str, Any]) -> int:
    """Returns the image of the first set on which interpolation does worst."""
    return int(np.argmin(record["rows"][0]["results"][0]["psnr"]["each"]))


def figure(record: dict[str, Any]) -> Drawing:
    """Returns the gain over bicubic interpolation: a panel per set, a line per network."""
    rows, told = record["rows"][1:], []
    with styled({"axes.grid.axis": "x"}):
        drawn = new_figure(2.4 + 2.6 * len(record["sets"]), 1.3 + 0.42 * len(rows))
        grid = drawn.subplots(1, len(record["sets"]), sharex=True, sharey=True, squeeze=False)[0]
        for place, (axes, images) in enumerate(zip(grid, record["sets"], strict=True)):
            axes.axvline(0, color=GREY, linewidth=1)
            for height, row in enumerate(rows):
                each = gains(record, row, place)
                axes.plot(each, [height] * len(each), "|", color=BLUE, alpha=0.45, markersize=9)
                axes.plot(each.mean(), height, "o", color=INK, markersize=6)
                axes.annotate(
                    f"{each.mean():+.2f}",
                    (each.mean(), height),
                    (0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                )
                told.append(f"{row['title']} on {images['name']}: {each.mean():+.2f} dB")
            axes.set_title(f"{images['name']} (n = {len(images['sizes'])})")
            axes.set_ylim(len(rows) - 0.5, -0.7)
            axes.tick_params(axis="y", length=0)
        grid[0].set_yticks(range(len(rows)), [row["title"] for row in rows])
        drawn.supxlabel("PSNR above bicubic interpolation, dB", fontsize=10, color=INK)
        png = png_bytes(drawn)
    return Drawing(
        name="super_resolution",
        title="Super-resolution above bicubic interpolation",
        caption="Dots are means, strokes single images.",
        alt=f"Dot plots of the gain in PSNR. {'; '.join(told)}.",
        png=png,
    )


def panel(
    record: dict[str, Any],
    index: int,
    low: np.ndarray,
    restored: dict[str, np.ndarray],
    original: np.ndarray,
    *,
    side: int = 96,
) -> Drawing:
    """Returns the part of an image with most detail, as every row restores it.

    `index` is the image's place in the first set. Scores are of the whole image.
    """
    side = min(side, *original.shape[:2])
    top, left = _detail(original, side)
    cut = lambda image: image[top : top + side, left : left + side]
    half = low[top // 2 : (top + side) // 2, left // 2 : (left + side) // 2]
    shown = {"low resolution": half}
    for row in record["rows"]:
        psnr, ssim = (row["results"][0][name]["each"][index] for name in ("psnr", "ssim"))
        shown[f"{row['title']}\n{psnr:.2f} dB, {ssim:.4f}"] = cut(restored[row["title"]])
    shown["original"] = cut(original)
    across = min(4, len(shown))
    down = math.ceil(len(shown) / across)
    with styled({"axes.grid": False}):
        drawn = new_figure(2.5 * across, 2.95 * down)
        grid = drawn.subplots(down, across, squeeze=False).ravel()
        for axes, (title, image) in zip(grid, shown.items(), strict=False):
            axes.imshow(image, interpolation="nearest")
            axes.set_title(title, loc="center", fontsize=10, color=INK, fontweight="normal")
        for axes in grid:
            axes.set_axis_off()
        png = png_bytes(drawn)
    name = record["sets"][0]["name"]
    return Drawing(
        name="super_resolution_panel",
        title="One detail, restored",
        caption=f"The {side} × {side} pixels with most detail of picture {index} of {name}, on "
        "which interpolation does worst; PSNR and SSIM are of the whole picture.",
        alt="; ".join(title.replace("\n", ": ") for title in shown),
        png=png,
    )


def _detail(image: np.ndarray, side: int) -> tuple[int, int]:
    """Returns the even corner of the square with the largest sum of differences."""
    grey = image.astype(np.float64).mean(-1)
    steps = [np.abs(np.diff(grey, axis=axis, append=0)) for axis in (0, 1)]
    steps[0][-1], steps[1][:, -1] = 0, 0  # there, the difference was to nothing
    total = np.pad((steps[0] + steps[1]).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = (
        total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    )
    sums = sums[::2, ::2]
    row, column = np.unravel_index(sums.argmax(), sums.shape)
    return 2 * int(row), 2 * int(column)
