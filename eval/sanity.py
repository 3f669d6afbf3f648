"""Checks the attacks of this repository's studies: `python -m eval sanity`."""

import dataclasses
import pathlib

from eval.pages import OfAStudy, options_of, with_rows
from rainjax.evaluation.sanity import SanityOptions, check_study


@dataclasses.dataclass(frozen=True)
class Sanity(OfAStudy, SanityOptions):
    """Checks that the attacks on a study's pipelines were strong enough to be believed.

    Looks for what makes a defense only seem robust: randomness that is none, gradients that are
    not there, attacks that do not gain from more steps, more draws or a larger radius, black-box
    attacks that beat white-box ones. Writes OUT/STUDY/sanity.json, which the study's report shows
    beside the accuracies that a failed check puts in doubt.

    Beside the options below it takes those of the study, such as --classifier and --data-dir:
    `python -m eval STUDY --help` lists them.
    """


def run(command: Sanity) -> pathlib.Path:
    """Runs the checks, says what each found, and returns the record's path.

    Raises:
        ValueError: no study is called so, or its parts do not fit each other.
    """
    options = options_of(command.study, command.study_options)
    study, subjects = with_rows(options, command.rows or options.sanity_rows)
    check_study(study, command.out, subjects=subjects, options=command)
    return command.out / study.name / "sanity.json"
