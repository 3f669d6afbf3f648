"""Certifies subjects of a study by randomized smoothing: `python -m eval smoothing`."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from eval.studies import smoothing_report
from eval.studies.named import named, with_rows
from eval.studies.transformations import Transformations
from rainjax.evaluation.certification import CertifyOptions, certify_study


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
    drawing = smoothing_report.figure(record)
    path.with_suffix(".png").write_bytes(drawing.png)
    print(f"\n{smoothing_report.RECORD.text(record)}\n")
    print(f"Wrote {path}\nWrote {path.with_suffix('.png')}")
    return path
