"""Certifies subjects of a study by randomized smoothing: `python -m eval smoothing`."""

import dataclasses
import pathlib

from eval.pages import OfAStudy, options_of, with_rows
from rainjax._files import write_bytes
from rainjax.evaluation.certification import CertifyOptions, certify_study
from rainjax.report import certified
from rainjax.report.single_file import SingleFileRecord


@dataclasses.dataclass(frozen=True)
class Smoothing(OfAStudy, CertifyOptions):
    """Certifies pipelines by randomized smoothing: the only entry that guarantees anything.

    Everything else here tells what some attack could not do. This tells, with a probability of
    1 - alpha for every image, in what L2 ball around it no attack at all changes the answer: not
    of the plain pipeline, but of the smoothed one, which puts Gaussian noise on an image many
    times and takes the class that comes most often. The shipped classifiers were not trained with
    noise, so the numbers are low. Writes OUT/STUDY/smoothing.json and smoothing.png beside it;
    killed, it goes on where it was, and loses one row under one sigma at most.

    Beside the options below it takes those of the study, such as --classifier and --data-dir:
    `python -m eval STUDY --help` lists them.
    """

    batch_size: int = 50
    """Images computed together. Draws do not depend on it."""
    seed: int = 0
    """The root of every random number."""

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")


def run(command: Smoothing) -> pathlib.Path:
    """Certifies what is missing of the record, prints its table, and returns its path.

    Raises:
        ValueError: no study is called so, its parts do not fit each other, or the folder holds a
            record of other options, images or networks.
    """
    options = options_of(command.study, command.study_options)
    options = dataclasses.replace(options, batch_size=command.batch_size, seed=command.seed)
    study, subjects = with_rows(options, command.rows or options.smoothing_rows)
    # As many images as are asked for, be they more than the attacks of the study are run on.
    study = dataclasses.replace(study, num_examples=command.num_examples)
    record = certify_study(study, command.out, subjects=subjects, options=command)
    path = command.out / study.name / "smoothing.json"
    write_bytes(path.with_suffix(".png"), certified.figure(record).png)
    print(f"\n{RECORD.text(record)}\n")
    print(f"Wrote {path}\nWrote {path.with_suffix('.png')}")
    return path


RECORD = SingleFileRecord(
    "smoothing",
    "python -m eval smoothing",
    lambda record: (certified.table(record),),
    certified.problem,
)
