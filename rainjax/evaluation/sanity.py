"""Sanity checks of a study: whether its attacks were strong enough to be believed."""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rainjax._checks import check_kind
from rainjax._files import as_path, read_json, write_json
from rainjax.evaluation.checks import Check, run_checks
from rainjax.evaluation.describe import describe, describe_attack, describe_program
from rainjax.evaluation.plan import claim, describe_params, identity
from rainjax.evaluation.probes import check_randomness
from rainjax.evaluation.progress import progress_bar
from rainjax.evaluation.provenance import code_digest, provenance
from rainjax.evaluation.records import SCHEMA
from rainjax.evaluation.strength import check_strength
from rainjax.evaluation.study import Study, chosen
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.suspects import (
    Suspect,
    Variations,
    applying,
    find_suspect,
    num_gradients,
)

KIND = "sanity"


@dataclasses.dataclass(frozen=True)
class SanityOptions(Variations):
    """Which attack is checked, on how many images, and how far it is varied.

    The attack's own settings are those of the study unless they are given.
    """

    num_examples: int = 64
    """Images that every check is run on: the first ones of the study."""
    threat: str | None = None
    """The threat model under suspicion, whose strength is asked as well: do twice the steps,
    draws or restarts leave less? By default the strongest that follows a gradient in a ball."""
    radius: float | None = None
    """Radius of the ball of the attack under suspicion; by default the study's, of several the
    largest."""
    step_size: float | None = None
    """Size of one of its steps; by default the study's, or a quarter of the radius."""
    num_steps: int | None = None
    """Its number of steps; by default the study's."""
    num_eot: int | None = None
    """Draws whose gradients it averages on a random pipeline; by default the study's."""

    def __post_init__(self):
        super().__post_init__()
        if self.num_examples < 2:
            raise ValueError(
                f"num_examples={self.num_examples} must be at least 2: changes are judged against "
                "how much they vary from image to image."
            )
        for field in ("num_steps", "num_eot"):
            given = getattr(self, field)
            if given is not None and given < 1:
                raise ValueError(f"{field}={given} must be at least 1.")
        for field in ("radius", "step_size"):
            given = getattr(self, field)
            if given is not None and not 0 < given < float("inf"):
                raise ValueError(f"{field}={given} must be positive and finite; 8/255 is 0.03137.")


def check_study(
    study: Study,
    out: pathlib.Path | str = "results",
    *,
    subjects: Sequence[str] | None = None,
    options: SanityOptions = SanityOptions(),
    progress: bool = True,
) -> dict[str, Any]:
    """Checks the attacks on a study's subjects, and returns the record that it writes.

    Looks for what makes a defense only seem robust: randomness that is none, gradients that are
    not there, attacks that do not gain from more steps, more draws or a larger radius, black-box
    attacks that beat white-box ones. The record is `out`/`study.name`/sanity.json, which the
    study's report shows beside the accuracies that a failed check affects.

    Args:
        study: What was measured, or will be.
        out: The folder that holds the study's own.
        subjects: The names of the subjects to check; all of them for None.
        options: Which attack is checked, on how many images, and how far it is varied.
        progress: Whether to say on stderr what was found, and how far it is.

    Raises:
        ValueError: the study has no subject or threat model of a name, or too few images, or its
            folder holds another study.
    """
    asked = chosen(study, subjects)
    check_kind(options, SanityOptions, "check_study(options=...)")
    names = [threat.name for threat in study.threats]
    if options.threat is not None and options.threat not in names:
        raise ValueError(f"threat={options.threat!r} is none of {', '.join(map(repr, names))}.")
    count = min(options.num_examples, study.count)
    if count < 2:
        raise ValueError(
            f"The study {study.name!r} has one image, and changes are judged against how much "
            "they vary from image to image: give it two at least."
        )
    folder = as_path("out", out) / study.name
    _check_records(folder, study)
    claim(folder, identity(study))
    images, labels = study.images.get(np.arange(count))
    images = images.astype(np.float32) / 255
    suspects = [_suspect(study, subject, options) for subject in asked]
    rows = [
        _row(study, subject, suspect, options, images, labels, folder, progress)
        for subject, suspect in zip(asked, suspects, strict=True)
    ]
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "study": study.name,
        "code": code_digest(),
        "options": {
            **{f.name: getattr(options, f.name) for f in dataclasses.fields(SanityOptions)},
            **_settings(suspects),
            "num_score_draws": study.num_score_draws,
            "seed": study.seed,
        },
        "data": {
            "name": study.images.name,
            "split": study.images.split,
            "fingerprint": study.images.fingerprint,
            "num_examples": count,
        },
        "rows": rows,
        "run": {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **provenance(),
        },
    }
    write_json(folder / "sanity.json", content)
    return content


def _check_records(folder: pathlib.Path, study: Study) -> None:
    """Refuses a folder whose records are of another study, also where no file says whose it is.

    Raises:
        ValueError: saying what differs.
    """
    wanted = identity(study)
    for path in sorted((folder / "records").glob("*.json")):
        content = read_json(path)
        data, subject = content.get("data", {}), content.get("subject", {})
        there = {
            "name": content.get("study"),
            "data": ", ".join(str(data.get(part)) for part in ("name", "split", "fingerprint")),
            "seed": content.get("seed"),
        }
        if subject.get("is_random"):
            there["num_score_draws"] = content.get("num_score_draws")
        for name, value in there.items():
            if value != wanted[name]:
                raise ValueError(
                    f"{path} is of a study with {name}={value!r}, not {wanted[name]!r}: give the "
                    "study that the records are of, or another folder."
                )


def _suspect(study: Study, subject: Subject, options: SanityOptions) -> Suspect | None:
    return find_suspect(
        study,
        subject,
        threat=options.threat,
        radius=options.radius,
        step_size=options.step_size,
        num_steps=options.num_steps,
        num_draws=options.num_eot,
    )


def _settings(suspects: Sequence[Suspect | None]) -> dict[str, Any]:
    """Returns the settings of the attacks under suspicion; those of each are in its row."""
    found = [suspect.attack for suspect in suspects if suspect is not None]
    if not found:
        return {}
    strongest = max(found, key=lambda attack: (attack.radius, attack.num_draws))
    return {
        "radius": strongest.radius,
        "step_size": strongest.step_size,
        "num_steps": strongest.num_steps,
        "num_eot": strongest.num_draws,
    }


def _row(
    study: Study, subject: Subject, suspect: Suspect | None, options: SanityOptions,
    images: np.ndarray, labels: np.ndarray, folder: pathlib.Path, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Checks one subject."""
    began = time.perf_counter()
    target = describe_program(subject.pipeline)  # before anything runs that was compiled for it
    for program in () if suspect is None else (suspect.surrogate, suspect.attack):
        describe_program(program)
    names = tuple(dict.fromkeys(cell.threat.name for cell in applying(study, subject)))
    total = 0
    if suspect:
        total = len(images) * num_gradients(subject, suspect, options, images.shape[1:])
    checks, surfaces = [], []
    with progress_bar(total, unit="grad", shown=progress) as bar:
        bar.begin_part(subject.name)

        def add(check: Check) -> None:
            checks.append(check)
            bar.write(str(check))
            bar.begin_part(subject.name)

        add(_randomness(subject, images[:4], names))
        if suspect is None:
            add(_nobody_climbs(subject, names))
        else:
            _, surfaces = run_checks(
                subject, suspect, images, labels, options,
                seed=study.seed, num_score_draws=study.num_score_draws,
                batch_size=study.batch_size, on_gradient=bar.add, on_check=add,
            )  # fmt: skip
        if options.threat is not None:
            strength = check_strength(
                study, subject, options.threat, folder,
                num_examples=len(images), radius=options.radius,
            )  # fmt: skip
            for check in strength:
                add(check)
    return {
        "subject": subject.name,
        "target": target,
        "params": describe_params(subject),
        **_suspicion(suspect),
        "checks": [{**dataclasses.asdict(c), "doubts": list(c.doubts)} for c in checks],
        "surfaces": surfaces,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _randomness(subject: Subject, images: np.ndarray, names: tuple[str, ...]) -> Check:
    """Checks that a pipeline is as random as it says; if not, no number of it means anything."""
    found = check_randomness(subject.pipeline, subject.params, images)
    varies = "other" if found.says_random else "the same"
    as_it_says = f"Other keys give {varies} results, the same keys the same ones."
    return Check(
        "the draws come from the key",
        f"is_random is {found.says_random}: other keys give {varies} results, and the same keys "
        "the same ones, also when the pipeline is compiled anew",
        found.problem or as_it_says,
        found.problem is None,
        names,
        dataclasses.asdict(found),
    )


def _nobody_climbs(subject: Subject, names: tuple[str, ...]) -> Check:
    """What is said of a subject that no attack on its gradient was tried on."""
    differentiable = subject.pipeline.differentiable
    return Check(
        "an attack on the gradient is there",
        "a threat model of the study follows the gradient of the whole pipeline in a ball",
        "None does."
        if differentiable
        else "None does, and the pipeline says that it has no gradient.",
        False if differentiable else None,
        names if differentiable else (),
        {},
    )


def _suspicion(suspect: Suspect | None) -> dict[str, Any]:
    """Returns what a record says of the attack under suspicion."""
    if suspect is None:
        return {"threat": None, "attack": None, "measured": None, "differentiates": None}
    return {
        "threat": suspect.threat,
        "attack": describe_attack(suspect.attack),
        "measured": describe_attack(suspect.measured),
        "differentiates": describe(suspect.surrogate),
    }
