"""Certifies subjects of a study by randomized smoothing: `python -m eval smoothing`."""

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import scipy.special
import tyro

from eval.studies.named import named, with_rows
from eval.studies.transformations import Transformations
from rainjax.evaluation import Score
from rainjax.evaluation.certification import CertifyOptions, certify_study
from rainjax.evaluation.smoothing import (
    ABSTAINED,
    Certificates,
    CertifiedAccuracy,
    certificates,
    certified_accuracy,
    lower_bound,
)
from rainjax.report import Drawing
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.style import GREY, PALETTE, new_figure, percent_axis, png_bytes, styled
from rainjax.report.tables import Cell, Table
from rainjax.report.text import interval, percent


@dataclasses.dataclass(frozen=True)
class Smoothing(CertifyOptions):
    """Certifies pipelines by randomized smoothing: the only entry that guarantees anything.

    Everything else here tells what some attack could not do. This tells, with a probability of
    1 - alpha for every image, in what L2 ball around it no attack at all changes the answer: not
    of the plain pipeline, but of the smoothed one, which puts Gaussian noise on an image many
    times and takes the class that comes most often. The shipped classifiers were not trained with
    noise, so the numbers are low. Writes OUT/STUDY/smoothing.json and smoothing.png beside it;
    killed, it goes on where it was, and loses one row under one sigma at most.
    """

    study: Annotated[str, tyro.conf.Positional] = "quick"
    """The study whose networks and data are taken: quick, cifar10, imagenette96, or one of
    transformations."""
    rows: tuple[str, ...] | None = None
    """The pipelines to smooth: undefended, rain_pretrained, rain_finetuned, by default the first
    and the last; of transformations their names, by default undefended and fd."""
    classifier: str | None = None
    """The classifier instead of the study's: a zoo name, a path, or a file of weights."""
    table: str | None = None
    """The table of the row fd_designed."""
    bank_size: int | None = None
    """Patches in quilting's bank; by default as many as the study has."""
    finetuned: str | None = None
    """RAIN's EDSR after fine-tuning instead of the study's: a zoo name or a path."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    batch_size: int = 50
    """Images computed together. Draws do not depend on it."""
    seed: int = 0
    """The root of every random number."""
    out: pathlib.Path = pathlib.Path("results")
    """The record is written to OUT/STUDY/smoothing.json."""

    def __post_init__(self):
        super().__post_init__()
        if self.rows == ():
            raise ValueError(f"rows={self.rows} must name one.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")


def run(command: Smoothing) -> pathlib.Path:
    """Certifies what is missing of the record, prints its table, and returns its path.

    Raises:
        ValueError: no study is called so, its parts do not fit each other, or the folder holds a
            record of other options, images or networks.
    """
    config = named(command.study)
    given = {"classifier": command.classifier}
    usual = ("undefended", "rain_finetuned")
    if isinstance(config, Transformations):
        usual = ("undefended", "fd")
        given |= {"table": command.table, "bank_size": command.bank_size}
    config = dataclasses.replace(
        config,
        **{name: value for name, value in given.items() if value is not None},
        data_dir=command.data_dir,
        batch_size=command.batch_size,
        seed=command.seed,
    )
    study, subjects = with_rows(
        config,
        command.rows or usual,
        num_examples=command.num_examples,
        finetuned=command.finetuned,
    )
    record = certify_study(study, command.out, subjects=subjects, options=command)
    path = command.out / study.name / "smoothing.json"
    drawing = figure(record)
    path.with_suffix(".png").write_bytes(drawing.png)
    print(f"\n{RECORD.text(record)}\n")
    print(f"Wrote {path}\nWrote {path.with_suffix('.png')}")
    return path


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


def _table(record: dict[str, Any]) -> Table:
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


def _problem(record: dict[str, Any]) -> str:
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


RECORD = SingleFileRecord(
    "smoothing", "python -m eval smoothing", lambda record: (_table(record),), _problem
)
