"""Draws what the attacker and the defense did to a handful of images."""

import math
import pathlib
import textwrap
import zipfile

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.style import GREEN, RUST, STYLE, Drawing, png_bytes


def panel(path: pathlib.Path, title: str) -> Drawing:
    """Returns originals, perturbations, attacked and purified images of one record side by side.

    Raises `ValueError` naming the file when it is damaged or incomplete.
    """
    arrays = _read_panel(path)
    original, change, purified = (
        np.asarray(arrays[name], np.float32) for name in ("original", "change", "purified")
    )
    original /= 255
    peak = float(np.abs(change).max())
    factor = max(1, math.floor(0.4 / peak)) if peak > 0 else 1
    rows = {
        "original": original,
        f"change × {factor}": np.clip(0.5 + factor * change, 0, 1),
        "attacked": original + change,
        "purified": purified,
    }
    names = [str(name) for name in arrays["class_names"]]
    labels, before, after = (
        [names[i] for i in arrays[k]]
        for k in ("labels", "predicted_original", "predicted_attacked")
    )
    num = len(original)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.25 + 1.45 * num, 6.7))
        grid = figure.subplots(4, num, squeeze=False)
        for r, (name, images) in enumerate(rows.items()):
            for c in range(num):
                axes = grid[r, c]
                axes.imshow(np.clip(images[c], 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            grid[r, 0].set_ylabel(name, fontsize=10.5)
        for c in range(num):
            grid[0, c].set_title(_wrap(labels[c]), loc="center", fontsize=10)
            _say(grid[0, c], before[c], before[c] == labels[c])
            _say(grid[3, c], after[c], after[c] == labels[c])
        png = png_bytes(figure)
    stories = [
        f"{a}, seen as {b} before and as {c} after the attack"
        for a, b, c in zip(labels, before, after, strict=True)
    ]
    return Drawing(
        name=f"panel-{path.stem}",
        title=title,
        caption=f"Bold: the true class. Below the first and the last row: what the whole pipeline "
        f"says to the original and to the attacked image. The change is centred at grey and "
        f"amplified {factor} times.",
        alt=f"{num} images in four rows: original, change amplified {factor} times, attacked, "
        f"purified. {'; '.join(stories)}.",
        png=png,
    )


def _say(axes: Axes, name: str, right: bool) -> None:
    mark = "✓" if right else "✗"
    axes.set_xlabel(_wrap(f"{mark} {name}"), color=GREEN if right else RUST)


def _wrap(name: str) -> str:
    return textwrap.fill(name, 16, max_lines=2)


def _read_panel(path: pathlib.Path) -> dict[str, np.ndarray]:
    needed = ("original", "change", "purified", "labels", "class_names")
    needed += ("predicted_original", "predicted_attacked")
    try:
        # NumPy leaves a damaged archive open when it is given a path.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}); run the evaluation again.") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the array {missing[0]!r}; it holds {sorted(arrays)}.")
    shapes = {name: arrays[name].shape for name in ("original", "change", "purified")}
    if len(set(shapes.values())) > 1 or arrays["original"].ndim != 4:
        raise ValueError(f"{path} must hold images of one shape `m h w c`, not {shapes}.")
    return arrays
