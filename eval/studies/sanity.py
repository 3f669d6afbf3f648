"""Checks the attacks of this repository's studies: `python -m eval sanity`."""

import dataclasses
import pathlib
from typing import Annotated

import tyro

from eval.studies.named import named, with_rows
from eval.studies.transformations import Transformations
from rainjax.evaluation.sanity import SanityOptions, check_study


@dataclasses.dataclass(frozen=True)
class Sanity(SanityOptions):
    """Checks that the attacks on a study's pipelines were strong enough to be believed.

    Looks for what makes a defense only seem robust: randomness that is none, gradients that are
    not there, attacks that do not gain from more steps, more draws or a larger radius, black-box
    attacks that beat white-box ones. Writes OUT/STUDY/sanity.json, which the study's report shows
    beside the accuracies that a failed check puts in doubt.
    """

    study: Annotated[str, tyro.conf.Positional] = "quick"
    """The study whose networks, data and attacks are taken: quick, cifar10, imagenette96, or one
    of transformations."""
    rows: tuple[str, ...] | None = None
    """The pipelines to check: undefended, rain_pretrained, rain_finetuned, by default the first
    and the last; of transformations their names, by default fd and quilting."""
    classifier: str | None = None
    """The classifier instead of the study's: a zoo name, a path, or a file of weights."""
    table: str | None = None
    """The table of the row fd_designed."""
    bank_size: int | None = None
    """Patches in quilting's bank; by default as many as the study has."""
    seed: int | None = None
    """The root of every random number; by default the study's."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    out: pathlib.Path = pathlib.Path("results")
    """The checks are written to OUT/STUDY."""

    def __post_init__(self):
        super().__post_init__()
        if self.rows == ():
            raise ValueError("rows is empty: name the pipelines to check.")


def run(command: Sanity) -> pathlib.Path:
    """Runs the checks, says what each found, and returns the record's path.

    Raises:
        ValueError: no study is called so, or its parts do not fit each other.
    """
    config = named(command.study)
    given = {"classifier": command.classifier, "seed": command.seed}
    usual = ("undefended", "rain_finetuned")
    if isinstance(config, Transformations):
        usual = ("fd", "quilting")
        given |= {"table": command.table, "bank_size": command.bank_size}
    config = dataclasses.replace(
        config,
        **{name: value for name, value in given.items() if value is not None},
        data_dir=command.data_dir,
    )
    study, subjects = with_rows(config, command.rows or usual)
    check_study(study, command.out, subjects=subjects, options=command)
    return command.out / study.name / "sanity.json"
