"""What a record of `python -m eval super_resolution` says: a table, a figure, and a close look."""

import math
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from rainjax.report import Drawing
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.style import BLUE, GREY, INK, STYLE, png_bytes
from rainjax.report.tables import ABSENT, Cell, Table

# What Lim et al. (2017) are quoted with for EDSR baseline, trained on DIV2K, on Set5.
CLAIM, CLAIM_SET, CLAIM_IMAGES = 37.99, "set5", 5


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
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        drawn = Figure(figsize=(2.4 + 2.6 * len(record["sets"]), 1.3 + 0.42 * len(rows)))
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
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        drawn = Figure(figsize=(2.5 * across, 2.95 * down))
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


def _table(record: dict[str, Any]) -> Table:
    claimed = [place for place, images in enumerate(record["sets"]) if _is_claims(images)]
    heads = [f"{images['name']} (n = {len(images['sizes'])})" for images in record["sets"]]
    heads = ["", "network, parameters", *heads, *(f"against {CLAIM} dB" for _ in claimed)]
    rows = []
    for row in record["rows"]:
        network, cells = row["network"], []
        kind = Cell(f"{network['class']}, {row['num_params']:,}") if network else ABSENT
        for place, result in enumerate(row["results"]):
            detail = f"{result['ssim']['mean']:.4f}"
            if network:
                gain = gains(record, row, place)
                detail += f", {gain.mean():+.2f} ± {gain.std():.2f}"
            cells.append(Cell(f"{result['psnr']['mean']:.2f} dB", detail))
        for place in claimed:
            cells.append(Cell(f"{row['results'][place]['psnr']['mean'] - CLAIM:+.2f} dB"))
        rows.append((Cell(row["title"]), kind, *cells))
    notes = _notes(record, claimed=bool(claimed))
    return Table("Super-resolution × 2", tuple(map(Cell, heads)), tuple(rows), notes)


def _notes(record: dict[str, Any], *, claimed: bool) -> tuple[str, ...]:
    splits = ", ".join(f"{images['name']} ({images['split']})" for images in record["sets"])
    notes = [
        f"Mean PSNR on the images of {splits}; then mean SSIM, and how far PSNR is above "
        "bicubic interpolation, ± its standard deviation among the images.",
        "The low resolution is the image at half its size, bicubic with anti-aliasing, in 8 bits. "
        "Outputs are rounded to 8 bits and compared on the Y channel (BT.601, 16 to 235, not "
        f"rounded), {record['options']['border']} pixels of border cut off; the judge is "
        f"{record['run']['judge']}.",
    ]
    trained = [
        f"{row['title']} on {row['trained_on']}" for row in record["rows"] if row.get("trained_on")
    ]
    if trained:
        notes.append(f"Trained, as their cards say: {', '.join(trained)}.")
    if claimed:
        notes.append(
            f"**against {CLAIM} dB**: what EDSR baseline (1,369,859 parameters), trained on "
            "DIV2K, is quoted with on Set5 (Lim et al., 2017). A claim: that network was not "
            "measured here."
        )
    return tuple(notes)


def _is_claims(images: dict[str, Any]) -> bool:
    name = images["name"].partition(":")[0]
    return name == CLAIM_SET and len(images["sizes"]) == CLAIM_IMAGES


def _problem(record: dict[str, Any]) -> str:
    """Says what is wrong with a record, or nothing."""
    if len(record["rows"]) < 2 or record["rows"][0]["network"] is not None:
        return "its first row is not interpolation, followed by networks"
    for row in record["rows"]:
        for images, result in zip(record["sets"], row["results"], strict=True):
            for name in ("psnr", "ssim"):
                each = np.asarray(result[name]["each"], float)
                if each.shape != (len(images["sizes"]),) or not len(each):
                    return f"{name} of {row['title']} is not of all images of {images['name']}"
                told = [result[name][part] for part in ("mean", "spread")]
                if not np.allclose(told, [each.mean(), each.std()], rtol=1e-9, atol=1e-12):
                    return (
                        f"the mean {name} of {row['title']} on {images['name']} does not follow "
                        "from that of its images"
                    )
    return ""


RECORD = SingleFileRecord(
    "super_resolution",
    "python -m eval super_resolution",
    lambda record: (_table(record),),
    _problem,
)
