"""The figure and the table of a record that `rainjax.evaluation.certify_study` wrote."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy  # whose special functions are loaded when they are first asked for

from rainjax.evaluation import Score
from rainjax.evaluation.smoothing import (
    ABSTAINED,
    Certificates,
    CertifiedAccuracy,
    certificates,
    certified_accuracy,
    lower_bound,
)
from rainjax.report._display import Drawing
from rainjax.report.style import GREY, PALETTE, new_figure, percent_axis, png_bytes, styled
from rainjax.report.tables import Cell, Table
from rainjax.report.text import interval, percent


def figure(record: dict[str, Any]) -> Drawing:
    """Returns certified accuracy against the L2 radius: a panel per sigma, a line per row."""
    sigmas, highest = sorted({cell["sigma"] for cell in record["cells"]}), 0.0
    titles = dict.fromkeys(cell["row"]["title"] for cell in record["cells"])
    colours = dict(zip(titles, itertools.cycle((GREY, *PALETTE)), strict=False))
    with styled():
        drawn = new_figure(max(6.4, 3.4 * len(sigmas)), 3.8)
        grid = drawn.subplots(1, len(sigmas), sharex=True, sharey=True, squeeze=False)[0]
        for axes, sigma in zip(grid, sigmas, strict=True):
            for cell in record["cells"]:
                if cell["sigma"] != sigma:
                    continue
                # No further: there, zero is a matter of how many draws there were.
                radii = np.linspace(0, _furthest(record["options"]) * sigma, 501)
                curve = _accuracy(record, cell, radii)
                highest = max(highest, float(curve.high.max()))
                colour = colours[cell["row"]["title"]]
                ends = [*radii, radii[-1]], [*curve.accuracy, 0.0]
                axes.plot(*ends, color=colour, label=cell["row"]["title"])
                axes.fill_between(radii, curve.low, curve.high, color=colour, alpha=0.12, lw=0)
            axes.set_title(f"σ = {sigma:g}")
            axes.set_xlabel("L2 radius")
            axes.set_xlim(0, 1.03 * _furthest(record["options"]) * sigmas[-1])
        percent_axis(grid[0], highest)
        grid[0].set_ylabel("certified accuracy")
        named = {
            label: line
            for axes in grid
            for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        grid[-1].legend(named.values(), named, frameon=False, labelcolor="linecolor")
        png = png_bytes(drawn)
    options = record["options"]
    told = []
    for cell in record["cells"]:
        accuracy = percent(_accuracy(record, cell, [0.0]).accuracy[0])
        largest = max(cell["radii"])
        told.append(
            f"{cell['row']['title']}, σ = {cell['sigma']:g}: {accuracy} at radius 0, "
            f"no certificate beyond {largest:.3g}."
        )
    return Drawing(
        name="smoothing",
        title="Certified accuracy against the L2 radius",
        caption=f"Share of {options['num_examples']} images that the smoothed pipeline gets right "
        "with a certificate of at least this radius; bands are 95 % intervals for the choice of "
        "images.",
        alt=f"Line charts of certified accuracy against the L2 radius. {' '.join(told)}",
        png=png,
    )


def table(record: dict[str, Any]) -> Table:
    """Returns certified accuracy at the record's radii: a line per row and sigma."""
    options, labels, rows = record["options"], record["data"]["labels"], []
    for cell in record["cells"]:
        curve = _accuracy(record, cell, record["radii"])
        shares = [
            Cell(percent(share), interval(Score(share, low, high)))
            for share, low, high in zip(curve.accuracy, curve.low, curve.high, strict=True)
        ]
        answers = [name for name in cell["classes"] if name != ABSTAINED]
        commonest = max(map(answers.count, answers), default=0)
        whole = [percent(n / len(labels)) for n in (len(labels) - len(answers), commonest)]
        names = cell["row"]["title"], f"{cell['sigma']:g}"
        rows.append((*map(Cell, names), *shares, *map(Cell, whole)))
    columns = (f"radius {radius:g}" for radius in record["radii"])
    heads = ("", "σ", *columns, "abstained", "one class")
    notes = (
        f"Share of the first {options['num_examples']} images of {record['data']['name']} "
        f"({record['data']['split']} split) that are classified right with a certificate of at "
        "least this L2 radius (the values of an image lie in [0, 1]); in brackets the 95 % Wilson "
        "interval for the choice of images.",
        "**Guaranteed**, which nothing else here is: with a probability of at least "
        f"{100 * (1 - options['alpha']):g} % for each image, no perturbation of a smaller L2 "
        "norm, found by whatever attack, changes the answer (up to rounding in float32).",
        "**For what**: the smoothed classifier, which puts Gaussian noise of standard deviation "
        "**σ** on the image, runs the whole pipeline, and answers what comes most often; neither "
        "the plain pipeline nor other norms.",
        f"{options['num_select']} draws of noise select the class and {options['num_estimate']} "
        "others bound its probability (Cohen et al., 2019), so that no radius exceeds "
        f"{_furthest(options):.2f} σ; **abstained**: the bound is not above one half.",
        "A classifier that was not trained with such noise, and of the shipped ones none was, "
        "goes wrong in it, and numbers are low; **one class**: the share of images that all get "
        "the same answer. Where that is most of them, the classifier is sure, and blind.",
    )
    return Table("Certified accuracy", tuple(map(Cell, heads)), tuple(rows), notes)


def problem(record: dict[str, Any]) -> str:
    """Says what is wrong with a record, or nothing."""
    num = record["options"]["num_examples"]
    if not record["cells"]:
        return "it has no cells"
    for cell in record["cells"]:
        name = f"{cell['row']['title']}, sigma {cell['sigma']:g}"
        columns = [cell[part] for part in ("selected", "counts", "classes", "radii")]
        if {len(column) for column in (*columns, record["data"]["labels"])} != {num}:
            return f"{name} is not of {num} images"
        counted = _recount(record, cell)
        if counted.classes.tolist() != cell["classes"]:
            return f"the classes of {name} do not follow from its counts"
        if not np.allclose(counted.radii, cell["radii"], rtol=1e-6, atol=0):
            return f"the radii of {name} do not follow from its counts"
    return ""


def _accuracy(
    record: dict[str, Any], cell: dict[str, Any], radii: Sequence[float] | np.ndarray
) -> CertifiedAccuracy:
    labels = np.asarray(record["data"]["labels"])
    return certified_accuracy(_recount(record, cell), labels, np.asarray(radii, float))


def _furthest(options: dict[str, Any]) -> float:
    """Returns the radius, in units of sigma, that is certified when all draws agree."""
    num = options["num_estimate"]
    return float(scipy.special.ndtri(lower_bound(np.array([num]), num, options["alpha"])[0]))


def _recount(record: dict[str, Any], cell: dict[str, Any]) -> Certificates:
    """Returns the certificates that follow from a cell's counts."""
    return certificates(
        np.asarray(cell["selected"]),
        np.asarray(cell["counts"]),
        num_draws=record["options"]["num_estimate"],
        sigma=cell["sigma"],
        alpha=record["options"]["alpha"],
    )
