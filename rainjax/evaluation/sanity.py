"""Sanity checks of a study: whether its attacks were strong enough to be believed."""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tqdm import tqdm

from rainjax import gradients
from rainjax._files import read_json, write_json
from rainjax.evaluation.checks import Check, run_checks
from rainjax.evaluation.describe import describe, describe_attack
from rainjax.evaluation.provenance import provenance
from rainjax.evaluation.run import describe_params
from rainjax.evaluation.strength import check_strength
from rainjax.evaluation.study import Study, Subject
from rainjax.evaluation.suspects import (
    Suspect,
    Variations,
    applying,
    find_suspect,
    num_gradients,
)
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Pipeline
from rainjax.typing import Params

SCHEMA = 2
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
        ValueError: the study has no subject or threat model of a name, or too few images.
    """
    chosen = _chosen(study, subjects)
    names = [threat.name for threat in study.threats]
    if options.threat is not None and options.threat not in names:
        raise ValueError(f"threat={options.threat!r} is none of {', '.join(map(repr, names))}.")
    count = min(options.num_examples, study.count)
    if count < 2:
        raise ValueError(
            f"The study {study.name!r} has one image, and changes are judged against how much "
            "they vary from image to image: give it two at least."
        )
    folder = pathlib.Path(out) / study.name
    images, labels = study.images.get(np.arange(count))
    images = images.astype(np.float32) / 255
    rows = [_row(study, s, options, images, labels, folder, progress) for s in chosen]
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        "study": study.name,
        "options": {
            **dataclasses.asdict(options),
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


def load_sanity(folder: pathlib.Path | str) -> dict[str, Any] | None:
    """Returns a study's record of sanity checks, or None where none was made.

    Raises:
        ValueError: it is damaged, or another kind of record.
    """
    path = pathlib.Path(folder) / "sanity.json"
    if not path.exists():
        return None
    record = read_json(path)
    rows = record.get("rows")
    fields = {"subject", "target", "params", "checks", "surfaces"}
    whole = isinstance(rows, list) and all(
        isinstance(row, dict) and fields <= set(row) and all(map(_is_check, row["checks"]))
        for row in rows
    )
    if record.get("kind") != KIND or record.get("schema") != SCHEMA or not whole:
        raise ValueError(
            f"{path} is no usable record of sanity checks: make it again with `rainjax sanity`, "
            "or delete it."
        )
    return record


def check_randomness(
    pipeline: Pipeline, params: Params, images: Float[Array | np.ndarray, "n h w c"]
) -> Check:
    """Returns the check that a pipeline is as random as it says, and by its keys alone.

    Logits under several keys are compared with each other, and with those of the same keys in a
    program that is traced anew: what np.random gave is frozen in either, and not the same.
    """
    keys = example_keys(0, Purpose.SCORE, np.arange(len(images)))
    first, second = (_draws(pipeline)(params, keys, images) for _ in range(2))
    first, second = np.asarray(first), np.asarray(second)
    size = max(float(np.abs(first).max()), 1e-6)
    # What is not random may still be rounded otherwise under another key.
    least = 0.0 if pipeline.is_random else 1e-4 * size
    moved = float((np.ptp(first, axis=1) > least).any(-1).mean())
    anew = float(np.abs(first - second).max()) / size
    repeats = anew < 1e-4  # the same numbers, up to what another compilation may round
    found = f"Other keys give other logits for {moved:.1%} of the images, the same keys "
    found += "the same ones in a program traced anew." if repeats else (
        "others in a program traced anew: the draws are not the key's, np.random's perhaps."
    )  # fmt: skip
    random = pipeline.is_random
    return Check(
        "the draws come from the key",
        f"is_random is {random}: other keys give {'other' if random else 'the same'} logits, the "
        "same key always the same ones",
        found,
        repeats and (moved > 0) == random,
        (),
        {"images_moved": moved, "difference_anew": anew},
    )


_NUM_KEYS = 4


def _draws(pipeline: Pipeline):
    """Returns a program of its own for the logits of images under some keys each."""

    def one(params, key, image):
        logits = lambda i: pipeline.logits(params, gradients.draw(key, i), image)
        return jax.vmap(logits)(jnp.arange(_NUM_KEYS))

    return jax.jit(jax.vmap(one, (None, 0, 0)))


def _chosen(study: Study, names: Sequence[str] | None) -> list[Subject]:
    there = {subject.name: subject for subject in study.subjects}
    if names is None:
        return list(study.subjects)
    if not names:
        raise ValueError("subjects is empty: name the subjects to check, or leave it out for all.")
    for name in names:
        if name not in there:
            raise ValueError(f"subjects={name!r} is none of {', '.join(map(repr, there))}.")
    return [there[name] for name in dict.fromkeys(names)]


def _row(
    study: Study, subject: Subject, options: SanityOptions, images: np.ndarray,
    labels: np.ndarray, folder: pathlib.Path, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Checks one subject."""
    began = time.perf_counter()
    suspect = find_suspect(
        study,
        subject,
        threat=options.threat,
        radius=options.radius,
        step_size=options.step_size,
        num_steps=options.num_steps,
        num_draws=options.num_eot,
    )
    names = tuple(dict.fromkeys(cell.threat.name for cell in applying(study, subject)))
    total = 0
    if suspect:
        total = len(images) * num_gradients(subject, suspect, options, images.shape[1:])
    checks, surfaces = [], []
    with tqdm(
        total=total, unit="grad", unit_scale=True, desc=subject.name, disable=not progress
    ) as bar:

        def add(check: Check) -> None:
            checks.append(check)
            if progress:
                bar.write(str(check))

        check = check_randomness(subject.pipeline, subject.params, images[:8])
        add(dataclasses.replace(check, doubts=names))
        if suspect is None:
            add(_nobody_climbs(subject, names))
        else:
            _, surfaces = run_checks(
                subject, suspect, images, labels, options,
                seed=study.seed, num_score_draws=study.num_score_draws,
                batch_size=study.batch_size, on_gradient=bar.update, on_check=add,
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
        "target": describe(subject.pipeline),
        "params": describe_params(subject),
        **_suspicion(suspect),
        "checks": [{**dataclasses.asdict(c), "doubts": list(c.doubts)} for c in checks],
        "surfaces": surfaces,
        "seconds": round(time.perf_counter() - began, 1),
    }


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
        return {"threat": None, "attack": None, "differentiates": None}
    return {
        "threat": suspect.threat,
        "attack": describe_attack(suspect.attack),
        "differentiates": describe(suspect.surrogate),
    }


def _is_check(check: Any) -> bool:
    fields = {field.name for field in dataclasses.fields(Check)}
    return isinstance(check, dict) and fields <= set(check)
