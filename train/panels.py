"""Pictures of what a network has learned."""

import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from rainjax import transforms
from rainjax._types import Image, Params, PRNGKey
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import psnr
from rainjax.nets import Network


def super_resolution_panel(
    path: pathlib.Path,
    network: Network,
    params: Params,
    images: np.ndarray,
    degrade: Callable[[PRNGKey, Image], Image],
    *,
    seed: int,
) -> None:
    """Writes one row per image: low resolution, bicubic, restored with their PSNR, original."""
    keys = example_keys(seed, Purpose.SCORE, jnp.arange(len(images)))
    rows = []
    for key, image in zip(keys, images, strict=True):
        high = jnp.asarray(image, jnp.float32) / 255
        low = degrade(key, high)
        bicubic = jnp.clip(transforms.resize_bicubic(low, *high.shape[:2]), 0, 1)
        restored = jnp.clip(jax.jit(network.apply)(params, low), 0, 1)
        rows.append(
            [
                ("low resolution", low),
                (f"bicubic, {psnr(bicubic, high):.1f} dB", bicubic),
                (f"EDSR, {psnr(restored, high):.1f} dB", restored),
                ("original", high),
            ]
        )
    write_grid(path, rows)


def write_grid(path: pathlib.Path, rows: list[list[tuple[str, Image]]]) -> None:
    """Writes titled images as a grid, each pixel a sharp square."""
    figure = matplotlib.figure.Figure(
        figsize=(2.4 * len(rows[0]), 2.6 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes_row, row in zip(axes, rows, strict=True):
        for axis, (title, image) in zip(axes_row, row, strict=True):
            axis.imshow(np.asarray(image), vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    figure.savefig(path, dpi=120)
