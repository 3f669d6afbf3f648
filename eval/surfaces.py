"""Draws the loss around an image: along the gradient and along a random direction."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.style import INK, STYLE, Drawing, png_bytes


def loss_surfaces(row: dict) -> Drawing | None:
    """Returns one picture of a sanity row's loss surfaces; None where none were recorded."""
    surfaces = row["surfaces"]
    if not surfaces:
        return None
    low = min(np.min(s["loss"]) for s in surfaces)
    high = max(np.max(s["loss"]) for s in surfaces)
    gains = []
    plain: dict[Any, Any] = {**STYLE, "axes.grid": False}
    with matplotlib.rc_context(plain):
        figure = Figure(figsize=(3.3 * len(surfaces) + 0.9, 3.4))
        grid = figure.subplots(1, len(surfaces), squeeze=False, sharey=True)[0]
        for axes, surface in zip(grid, surfaces, strict=True):
            reach, loss = np.asarray(surface["reach"]), np.asarray(surface["loss"])
            filled = axes.contourf(
                reach, reach, loss.T, levels=np.linspace(low, high + 1e-9, 25), cmap="cividis"
            )
            axes.contour(reach, reach, loss.T, levels=8, colors="white", linewidths=0.5)
            axes.plot(0, 0, "o", color="white", markeredgecolor=INK)
            axes.set_title(f"image {surface['image']}")
            axes.set_xlabel("along the gradient's sign, 255ths")
            middle = len(reach) // 2
            gains.append((loss[-1, middle] - loss[middle, middle], np.ptp(loss[middle])))
        grid[0].set_ylabel("along random signs, 255ths")
        bar = figure.colorbar(filled, ax=list(grid), label="mean loss", ticks=MaxNLocator(6))
        bar.outline.set_visible(False)  # type: ignore[operator]
        png = png_bytes(figure)
    told = "; ".join(
        f"image {s['image']}: {up:+.2f} along the gradient, {aside:.2f} from lowest to highest "
        "along random signs"
        for s, (up, aside) in zip(surfaces, gains, strict=True)
    )
    return Drawing(
        name=f"surface-{row['key'].replace('_', '-')}",
        title=f"{row['title']}: the loss around an image",
        caption="Cross-entropy, mean over draws, on the plane of the gradient's sign and random "
        "signs; the dot is the image itself. A gradient that means something leads uphill to the "
        f"right, smoothly, and random signs do not. Change of the loss: {told}.",
        alt=f"Contour plots of the loss around {len(surfaces)} images. {told}.",
        png=png,
    )
