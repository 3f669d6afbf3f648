"""Displays of what was kept beside the records: images, spectra, surfaces of the loss."""

import dataclasses
import math
import pathlib
import textwrap
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from rainjax._extras import require
from rainjax._files import read_array, read_arrays, read_json
from rainjax.evaluation.records import Record, slug
from rainjax.report._display import Display, Drawing
from rainjax.report.curves import label_ends
from rainjax.report.live import Pictures, as_shown
from rainjax.report.results import Results, balls, is_blind, lowest, strongest, subjects_of
from rainjax.report.style import (
    GREEN,
    GREY,
    INK,
    PALETTE,
    RUST,
    new_figure,
    png_bytes,
    styled,
    subject_colour,
)
from rainjax.report.text import attack_text, percent


@dataclasses.dataclass(frozen=True)
class Panels(Display):
    """A few images as they were, as the strongest attacks left them, and behind the defense.

    Of each subject with a defense the strongest blind attack and the strongest of all are shown,
    as far as their images were kept.
    """

    files: ClassVar[tuple[str, ...]] = ("panel-*.png",)

    tag: str | None = "table"

    @property
    def heading(self) -> str:
        return "What the attacker and the defense do to images"

    @property
    def absent(self) -> str:
        return "No images were kept, so there are none to show."

    def drawings(self, results: Results) -> list[Drawing]:
        if results.folder is None:
            return []
        paths = [
            (r, results.folder / "panels" / f"{r.id}.npz") for r in to_be_seen(results, self.tag)
        ]
        return [
            panel(path, f"{record.subject} against {record.threat}, {attack_text(record)}")
            for record, path in paths
            if path.exists()
        ]


@dataclasses.dataclass(frozen=True)
class Gallery(Display):
    """One image behind every defense, from `gallery.npz`."""

    files: ClassVar[tuple[str, ...]] = ("gallery.png",)

    @property
    def heading(self) -> str:
        return "What every defense makes of the first image"

    @property
    def absent(self) -> str:
        return "No purified image was kept, so there is none to show."

    def drawings(self, results: Results) -> list[Drawing]:
        path = results.folder and results.folder / "gallery.npz"
        return [gallery(path)] if path and path.exists() else []


@dataclasses.dataclass(frozen=True)
class Spectrum(Display):
    """The radial power spectra of images and of what defenses make of them: `spectrum.json`."""

    files: ClassVar[tuple[str, ...]] = ("spectrum.png",)

    @property
    def heading(self) -> str:
        return "Spatial frequencies: what down-sampling takes and defenses put back"

    @property
    def absent(self) -> str:
        return "No spectrum was recorded, so there is no such figure."

    def drawings(self, results: Results) -> list[Drawing]:
        path = results.folder and results.folder / "spectrum.json"
        return [spectrum(path, results, self.heading)] if path and path.exists() else []


@dataclasses.dataclass(frozen=True)
class Surfaces(Display):
    """The loss around a few images, as the sanity checks found it."""

    files: ClassVar[tuple[str, ...]] = ("surface-*.png",)

    @property
    def heading(self) -> str:
        return "The loss that the attacks climb"

    @property
    def absent(self) -> str:
        return "No sanity check was run, so there is no such figure: `rainjax sanity`."

    def drawings(self, results: Results) -> list[Drawing]:
        rows = results.checked["rows"] if results.checked else []
        return [surfaces(row["subject"], row["surfaces"]) for row in rows if row["surfaces"]]


def to_be_seen(results: Results, tag: str | None) -> list[Record]:
    """Returns, of each subject with a defense, the strongest blind attack and the strongest."""
    shown = results.scored(tag)
    subjects = subjects_of(results, shown)
    found: list[Record] = []
    for subject in [s for s in subjects if not results.is_bare(s)] or subjects:
        for ball in balls(shown):
            own = [r for r in shown if r.subject == subject and r.ball == ball]
            for record in (lowest(filter(is_blind, own)), strongest(own, subject, ball)):
                if record is not None and record not in found:
                    found.append(record)
    return found


def panel(path: pathlib.Path, title: str) -> Drawing:
    """Returns originals, perturbations, attacked and purified images of one record side by side.

    Raises:
        ValueError: the file is damaged or incomplete; says which.
    """
    arrays = _read_panel(path)
    original, change, purified = (
        np.asarray(arrays[name], np.float32) for name in ("original", "change", "purified")
    )
    original /= 255
    peak = float(np.abs(change).max())
    factor = max(1, math.floor(0.4 / peak)) if peak > 0 else 1
    amplified = f"change × {factor}"
    rows = {
        "original": original,
        amplified: np.clip(0.5 + factor * change, 0, 1),
        "attacked": original + change,
        "purified": purified,
    }
    names = [str(name) for name in arrays["class_names"]]
    labels, before, after = (
        [names[i] for i in arrays[k]]
        for k in ("labels", "predicted_original", "predicted_attacked")
    )
    num = len(original)
    with styled({"axes.grid": False}):
        figure = new_figure(1.25 + 1.45 * num, 6.7)
        grid = figure.subplots(4, num, squeeze=False)
        for r, (name, images) in enumerate(rows.items()):
            for c in range(num):
                axes = grid[r, c]
                axes.imshow(as_shown(np.clip(images[c], 0, 1)), cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
            grid[r, 0].set_ylabel(name, fontsize=10.5)
        for c in range(num):
            grid[0, c].set_title(wrap(labels[c]), loc="center", fontsize=10)
            say(grid[0, c], before[c], before[c] == labels[c])
            say(grid[3, c], after[c], after[c] == labels[c])
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
        pictures=Pictures.of(rows, labels, before, after, amplified, factor),
    )


def gallery(path: pathlib.Path) -> Drawing:
    """Returns one image behind every defense; raises ValueError where the file is damaged."""
    images, titles = read_array(path, "images"), read_array(path, "titles").tolist()
    across = min(5, len(images))
    down = math.ceil(len(images) / across)
    with styled({"axes.grid": False}):
        figure = new_figure(1.9 * across, 2.2 * down)
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes, image, title in zip(grid, images, titles, strict=False):
            axes.imshow(as_shown(image), cmap="gray", vmin=0, vmax=255)
            axes.set_title(textwrap.fill(title, 20), loc="center", fontsize=9, color=INK)
        for axes in grid:
            axes.set_axis_off()
        png = png_bytes(figure)
    return Drawing(
        "gallery",
        "One image, purified",
        "The first image of the set, unattacked, behind every defense; random ones with one draw.",
        "The first image behind " + ", ".join(titles),
        png,
    )


def spectrum(path: pathlib.Path, results: Results, title: str) -> Drawing:
    """Returns the radial power spectra in a file, on a logarithmic scale.

    Raises:
        ValueError: the file is damaged; says what it lacks.
    """
    data = read_json(path)
    frequency, curves = data.get("frequency"), data.get("curves")
    if data.get("kind") != "spectrum" or not isinstance(frequency, list) or not curves:
        raise ValueError(f"{path} is no spectrum: it needs kind, frequency and curves.")
    for name, power in curves.items():
        if len(power) != len(frequency) or not np.isfinite(power).all():
            raise ValueError(
                f"{path} is no usable spectrum: {name!r} needs {len(frequency)} finite values."
            )
    x = np.asarray(frequency, float)
    keep = x > 0
    colours = _curve_colours(results, list(curves))
    with styled():
        figure = new_figure(8.4, 4.2)
        axes = figure.add_subplot()
        axes.set_yscale("log")
        ends = []
        for (name, power), colour in zip(curves.items(), colours, strict=True):
            power = np.where(np.asarray(power, float) > 0, power, np.nan)
            axes.plot(x[keep], power[keep], color=colour, lw=2.6 if name == "original" else 2.0)
            seen = power[keep][np.isfinite(power[keep])]
            if len(seen):
                ends.append((name, colour, float(x[keep][-1]), float(seen[-1])))
        axes.axvline(0.25, color=GREY, lw=1, ls=":")
        axes.annotate(
            "all that half the pixels can hold",
            (0.25, 1),
            (-6, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            color=GREY,
            fontsize=9,
        )
        axes.set_xlabel("spatial frequency, cycles per pixel")
        axes.set_ylabel("mean power")
        axes.set_xlim(0, 0.5)
        if ends:
            label_ends(figure, axes, ends)
        png = png_bytes(figure)
    high = x > 0.25
    total = {name: float(np.asarray(power)[high].sum()) for name, power in curves.items()}
    base = total.get("original", 0.0)
    shares = [f"{n} {percent(t / base)}" for n, t in total.items() if n != "original" and base > 0]
    summary = f" Above 0.25 cycles per pixel, of the original's power: {'; '.join(shares)}."
    return Drawing(
        name="spectrum",
        title=title,
        caption="Power in rings of spatial frequency, mean over "
        f"{data.get('num_examples')} images." + (summary if shares else ""),
        alt="Line chart on a logarithmic scale: power against spatial frequency for "
        f"{'; '.join(curves)}." + (summary if shares else ""),
        png=png,
    )


def surfaces(subject: str, found: list[dict[str, Any]]) -> Drawing:
    """Returns one picture of the loss around a few images: along its gradient and at random."""
    ticker = require("matplotlib.ticker", name="matplotlib", extra="report")
    low = min(np.min(surface["loss"]) for surface in found)
    high = max(np.max(surface["loss"]) for surface in found)
    gains = []
    with styled({"axes.grid": False}):
        figure = new_figure(3.3 * len(found) + 0.9, 3.4)
        grid = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        for axes, surface in zip(grid, found, strict=True):
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
        ticks = ticker.MaxNLocator(6)
        bar = figure.colorbar(filled, ax=list(grid), label="mean loss", ticks=ticks)
        bar.outline.set_visible(False)
        png = png_bytes(figure)
    told = "; ".join(
        f"image {s['image']}: {up:+.2f} along the gradient, {aside:.2f} from lowest to highest "
        "along random signs"
        for s, (up, aside) in zip(found, gains, strict=True)
    )
    return Drawing(
        name=f"surface-{slug(subject)}",
        title=f"{subject}: the loss around an image",
        caption="Cross-entropy, mean over draws, on the plane of the gradient's sign and random "
        "signs; the dot is the image itself. A gradient that means something leads uphill to the "
        f"right, smoothly, and random signs do not. Change of the loss: {told}.",
        alt=f"Contour plots of the loss around {len(found)} images. {told}.",
        png=png,
    )


def _curve_colours(results: Results, names: list[str]) -> Iterator[str]:
    """Yields the subjects' colours, and for the other curves some that no subject has."""
    subjects = [name for name in names if name in results.subjects]
    taken = {subject_colour(results, name) for name in subjects}
    spare = [colour for colour in PALETTE if colour not in taken] or list(PALETTE)
    others = [name for name in names if name not in results.subjects and name != "original"]
    for name in names:
        if name in results.subjects:
            yield subject_colour(results, name)
        else:
            yield INK if name == "original" else spare[others.index(name) % len(spare)]


def say(axes: Any, name: str, right: bool) -> None:
    """Writes below an image which class was seen in it, and whether that is right."""
    mark = "✓" if right else "✗"
    axes.set_xlabel(wrap(f"{mark} {name}"), color=GREEN if right else RUST)


def wrap(name: str) -> str:
    """Returns a name in two short lines at most."""
    return textwrap.fill(name, 16, max_lines=2)


def _read_panel(path: pathlib.Path) -> dict[str, np.ndarray]:
    needed = ("original", "change", "purified", "labels", "class_names")
    needed += ("predicted_original", "predicted_attacked")
    arrays = read_arrays(path)
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks the array {missing[0]!r}; it holds {sorted(arrays)}.")
    shapes = {name: arrays[name].shape for name in ("original", "change", "purified")}
    if len(set(shapes.values())) > 1 or arrays["original"].ndim != 4:
        raise ValueError(f"{path} must hold images of one shape `m h w c`, not {shapes}.")
    return arrays
