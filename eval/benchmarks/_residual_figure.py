"""The figure of a record of `python -m eval residuals`: a histogram and a spectrum an attack."""

import math
from typing import Any

import numpy as np

from eval.benchmarks._residual_statistics import ALL
from rainjax.report import Drawing
from rainjax.report.style import BLUE, GREY, INK, RUST, new_figure, png_bytes, styled
from rainjax.report.text import radius_text

_ACROSS = 2  # attacks in a row, two panels each
_FAINTEST = 1e-5  # share of the values that a bin must hold to be seen


def figure(record: dict[str, Any]) -> Drawing:
    """Returns the distribution of each attack's residual over its mirror image, and its spectrum.

    Spectra are divided by their mean over the rings, so that they can be laid over the images'.
    """
    entries, told = record["entries"], []
    down = math.ceil(len(entries) / _ACROSS)
    with styled({"axes.grid.axis": "both", "axes.titlesize": 10.5}):
        drawn = new_figure(6.6 * _ACROSS, 0.5 + 2.5 * down)
        grid = drawn.subplots(down, 2 * _ACROSS, squeeze=False)
        panels = grid.reshape(-1, 2)
        for entry, (left, right) in zip(entries, panels, strict=False):
            _histogram(left, entry)
            _spectrum(right, entry, record["images"])
            told.append(_told(entry))
        for left, right in panels[len(entries) :]:
            left.set_axis_off()
            right.set_axis_off()
        shown = {
            label: handle
            for axes in panels.ravel()
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        drawn.legend(
            shown.values(), shown.keys(), loc="outside upper left", ncols=4, frameon=False
        )
        drawn.get_layout_engine().set(w_pad=0.08, h_pad=0.1)
        png = png_bytes(drawn)
    return Drawing(
        name="residuals",
        title="Adversarial residuals, their mirror images and their spectra",
        caption="Left of each pair: how the values of adversarial minus original are distributed, "
        "over the same with its sign changed; right: the radial power spectrum, over that of the "
        "original images, each divided by its mean over all rings.",
        alt=f"Histograms and spectra of residuals. {'; '.join(told)}.",
        png=png,
    )


def _histogram(axes: Any, entry: dict[str, Any]) -> None:
    axes.set_title(f"{entry['name']}, {entry['num_images']} images")
    histogram = entry["histogram"]
    if histogram is None:
        return
    edges = np.asarray(histogram["edges"])
    shares = np.maximum(histogram["shares"], _FAINTEST / 10)
    axes.stairs(shares, edges, baseline=_FAINTEST / 10, fill=True, color=BLUE, alpha=0.45,
                label="residual $r$")  # fmt: skip
    axes.stairs(shares[::-1], edges, baseline=_FAINTEST / 10, color=RUST, linewidth=1.3,
                label="mirror image $-r$")  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(_FAINTEST, 1)
    axes.set_xlim(edges[0], edges[-1])
    unit = "grey levels"
    if entry["linf_radius"] is not None:
        unit = f"radii of {radius_text('linf', entry['linf_radius'])}"
    axes.set_xlabel(f"change, in {unit}")
    axes.set_ylabel("share of values")


def _spectrum(axes: Any, entry: dict[str, Any], images: dict[str, Any]) -> None:
    frequency = images["frequency"]
    for spectrum, colour, label in (
        (images["spectrum"], GREY, "original images"),
        (entry["spectrum"], BLUE, "residual"),
    ):
        power = np.asarray(spectrum or [0.0])
        if power.any():
            axes.plot(frequency[1:], power[1:] / power.mean(), color=colour, label=label)
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_yscale("log")
    axes.set_xlim(0, 0.5)
    axes.set_xlabel("frequency, cycles a pixel")
    axes.set_ylabel("power / its mean")
    axes.set_title(_numbers(entry), fontsize=9, fontweight="normal", color=INK)


def _numbers(entry: dict[str, Any]) -> str:
    found = entry["populations"][ALL]
    if found is None:
        return ""
    mean = 255 * found["pooled"]["mean"]
    distance = found["symmetry"]["distance"]
    return f"mean {mean:+.3f} grey levels, distance {distance:.3f}".replace("-", "−")


def _told(entry: dict[str, Any]) -> str:
    return f"{entry['name']}: {_numbers(entry)}"
