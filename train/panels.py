"""Pictures of what a network has learned."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from rainjax import transforms
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import psnr, ssim
from rainjax.nets import Network
from rainjax.pipeline import Defended
from rainjax.typing import Image, Params, PRNGKey


def super_resolution_panel(
    params: Params,
    path: pathlib.Path,
    *,
    network: Network,
    images: np.ndarray,
    degrade: Callable[[PRNGKey, Image], Image],
    seed: int,
) -> None:
    """Writes one row per image: low resolution, bicubic, restored with PSNR and SSIM, original."""
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
                (f"bicubic, {_likeness(bicubic, high)}", bicubic),
                (f"EDSR, {_likeness(restored, high)}", restored),
                ("original", high),
            ]
        )
    write_grid(path, rows)


def blind_spot_panel(
    params: Params,
    path: pathlib.Path,
    *,
    network: Network,
    images: np.ndarray,
    views: Callable[[Image], tuple[Image, Image]],
) -> None:
    """Writes one row per image: what is given, what the network makes of it, what is wanted."""
    rows = []
    for image in images:
        given, wanted = views(jnp.asarray(image, jnp.float32) / 255)
        found = jnp.clip(jax.jit(network.apply)(params, given), 0, 1)
        rows.append(
            [
                (f"given, {_likeness(given, wanted)}", given),
                (f"predicted, {_likeness(found, wanted)}", found),
                ("wanted", wanted),
            ]
        )
    write_grid(path, rows)


def purified_panel(
    path: pathlib.Path,
    pipeline: Defended,
    before: Params,
    after: Params,
    images: np.ndarray,
    *,
    seed: int,
) -> None:
    """Writes one row per image: original, and one draw of it behind either set of parameters.

    `before` and `after` are parameters of the whole pipeline; titles give its answers.
    """
    keys = example_keys(seed, Purpose.SCORE, jnp.arange(len(images)))
    purify = jax.jit(lambda params, key, image: pipeline.defense.apply(params, key, image))
    classify = jax.jit(pipeline.classifier.apply)
    rows = []
    for key, image in zip(keys, images, strict=True):
        image = jnp.asarray(image, jnp.float32) / 255
        shown = [("original", image)]
        for title, params in (("before", before), ("after", after)):
            shown.append((title, purify(params["defense"], key, image)))
        answers = [jnp.argmax(classify(after["classifier"], x)) for _, x in shown]
        rows.append(
            [(f"{title}: class {c}", x) for (title, x), c in zip(shown, answers, strict=True)]
        )
    write_grid(path, rows)


def quality_panel(
    params: Params,
    path: pathlib.Path,
    *,
    judge: Callable[[Params, dict[str, Any]], dict[str, Any]],
    views: dict[str, np.ndarray],
    clean: str,
    num_rows: int = 4,
) -> None:
    """Writes one row per image: itself and its first views, with quality and the chance of error.

    `views` are those of `train.pairs`; titles give what is true and, after an arrow, what the
    student says of it: `judge(params, view)` returns "quality" and "risk".
    """
    order = np.flatnonzero(views["kind"] == clean)
    judge = jax.jit(judge)
    rows = []
    for source in views["source"][order][:num_rows]:
        mine = np.flatnonzero(views["source"] == source)[:3]
        row = []
        for i in np.resize(mine, 3):  # a grid has rows of one length
            told = judge(params, {"image": views["image"][i]})
            title = (
                f"{views['kind'][i]}\nquality {views['quality'][i]:.2f} -> {told['quality']:.2f}\n"
                f"errs {views['errs'][i]:.0f} -> {jax.nn.sigmoid(told['risk']):.2f}"
            )
            row.append((title, views["image"][i]))
        rows.append(row)
    write_grid(path, rows)


def _likeness(image: Image, original: Image) -> str:
    found = f"{psnr(image, original):.1f} dB"
    if min(original.shape[:2]) < 11:  # SSIM's window
        return found
    return f"{found}, {ssim(image, original):.3f}"


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
