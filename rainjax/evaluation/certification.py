"""Certifying a study's subjects by randomized smoothing: numbers that no attack can beat."""

import dataclasses
import datetime
import hashlib
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rainjax._arguments import Named
from rainjax._checks import check_fields, check_kind
from rainjax._files import as_path, check_writable, read_json, write_json
from rainjax.devices import data_mesh
from rainjax.evaluation.describe import describe_program, digest
from rainjax.evaluation.plan import describe_params
from rainjax.evaluation.progress import progress_bar
from rainjax.evaluation.provenance import code_digest, provenance
from rainjax.evaluation.smoothing import Smoothed, certify, check_certifiable
from rainjax.evaluation.study import Study, cells, check_classes, chosen
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.threats import CLEAN
from rainjax.keys import Purpose, example_keys

SCHEMA = 1
KIND = "smoothing"


@dataclasses.dataclass(frozen=True)
class CertifyOptions(metaclass=Named):
    """How much noise is put on how many images, and how often."""

    sigmas: tuple[float, ...] = (0.05, 0.1, 0.25)
    """Standard deviations of the noise, in units of the [0, 1] range."""
    num_examples: int = 200
    """Images to certify: the first ones of the study."""
    num_select: int = 100
    """Draws that select an image's class."""
    num_estimate: int = 1000
    """Further draws, which bound the class's probability; the paper's 100,000 certify more."""
    alpha: float = 0.001
    """How often a certificate may be wrong, at most."""
    radii: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    """L2 radii of the table's columns."""
    chunk_size: int | None = None
    """Draws of each image computed together; by default 4 on CPU, 64 elsewhere."""

    def __post_init__(self):
        check_fields(self)
        for field in ("num_examples", "num_select", "num_estimate", "chunk_size"):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        check_certifiable(self.num_estimate, self.alpha)
        if not self.sigmas:
            raise ValueError(f"sigmas={self.sigmas} must name one.")
        if not all(0 < sigma < float("inf") for sigma in self.sigmas):
            raise ValueError(f"sigmas={self.sigmas} must be positive and finite.")
        if not self.radii or not all(0 <= radius < float("inf") for radius in self.radii):
            raise ValueError(f"radii={self.radii} must be some, finite and not negative.")


def certify_study(
    study: Study,
    out: pathlib.Path | str = "results",
    *,
    subjects: Sequence[str] | None = None,
    options: CertifyOptions = CertifyOptions(),
    progress: bool = True,
) -> dict[str, Any]:
    """Certifies what is missing of a study's subjects, and returns the record that it writes.

    The record is `out`/`study.name`/smoothing.json. A run that is killed goes on where it was,
    and loses one subject under one sigma at most. Subjects of the record that the study does not
    have stay in it.

    Args:
        study: What is certified; its threat models have no say.
        out: The folder that holds the study's own.
        subjects: The names of the subjects to certify; all of them for None.
        options: How much noise is put on how many images, and how often.
        progress: Whether to show on stderr how far it is.

    Raises:
        ValueError: the study has no subject of a name, or the record that is there is of other
            images, other options or other parameters, or nothing can be written there.
    """
    wanted = chosen(study, subjects)
    check_kind(options, CertifyOptions, "certify_study(options=...)")
    cells(dataclasses.replace(study, threats=(CLEAN,)))
    check_classes(study)
    path = as_path("out", out) / study.name / "smoothing.json"
    check_writable(path.parent)
    count = min(options.num_examples, study.count)
    images, labels = study.images.get(np.arange(count))
    record = {
        "schema": SCHEMA,
        "kind": KIND,
        "study": study.name,
        "options": {
            "num_examples": count,
            "num_select": options.num_select,
            "num_estimate": options.num_estimate,
            "alpha": options.alpha,
            "seed": study.seed,
        },
        "radii": list(options.radii),
        "data": {
            "name": study.images.name,
            "split": study.images.split,
            "fingerprint": study.images.fingerprint,
            "labels": labels.tolist(),
        },
    }
    facts = {
        **record["options"],
        "images": hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        "code": code_digest(),
        "backend": jax.default_backend(),
    }

    def decides(subject: Subject, sigma: float) -> str:
        return digest({**_describe(subject), "sigma": sigma, **facts})

    kept = _kept(path, record, study, decides)
    missing = [
        (subject, sigma)
        for subject in wanted
        for sigma in sorted(set(options.sigmas))
        if (subject.name, sigma) not in kept
    ]
    per_cell = count * (options.num_select + options.num_estimate)
    total = per_cell * len(missing)
    with progress_bar(total, len(missing), unit="draw", shown=progress) as bar:
        for subject, sigma in missing:
            bar.begin_part(f"{subject.name}, sigma {sigma:g}")
            cell = _certified(study, subject, sigma, images, options, bar.add)
            kept[subject.name, sigma] = {**cell, "decides": decides(subject, sigma)}
            write_json(path, {**record, "cells": _in_order(kept, study)})
    record["cells"] = _in_order(kept, study)
    write_json(path, record)  # the table's radii may be new
    return record


def _describe(subject: Subject) -> dict[str, Any]:
    return {
        "title": subject.name,
        "target": describe_program(subject.pipeline),
        "params": describe_params(subject),
    }


def _certified(
    study: Study, subject: Subject, sigma: float, images: np.ndarray, options: CertifyOptions,
    on_draw: Callable[[int], object],
) -> dict[str, Any]:  # fmt: skip
    """Returns one cell of the record: a subject under one sigma."""
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    began = time.perf_counter()
    size = min(study.batch_size, len(images))
    found = certify(
        Smoothed(subject.pipeline, sigma),
        subject.params,
        example_keys(study.seed, Purpose.SCORE, np.arange(len(images))),
        images.astype(np.float32) / 255,
        num_select=options.num_select,
        num_estimate=options.num_estimate,
        alpha=options.alpha,
        batch_size=size,
        chunk_size=options.chunk_size,
        mesh=data_mesh(batch_size=size),
        on_draw=on_draw,
    )
    return {
        "row": _describe(subject),
        "sigma": sigma,
        "classes": found.classes.tolist(),
        "radii": found.radii.tolist(),
        "selected": found.selected.tolist(),
        "counts": found.counts.tolist(),
        "run": {
            "seconds": round(time.perf_counter() - began, 2),
            "started": started,
            **provenance(),
        },
    }


def _kept(
    path: pathlib.Path,
    record: dict[str, Any],
    study: Study,
    decides: Callable[[Subject, float], str],
) -> dict[tuple[str, float], dict[str, Any]]:
    """Returns the cells that an earlier run left and this code would make again the same."""
    if not path.exists():
        return {}
    there, kept = read_json(path), {}
    if there.get("kind") != KIND or there.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no record of certificates: choose another folder.")
    for part in ("study", "options", "data"):
        if there[part] != record[part]:
            raise ValueError(
                f"{path} is of other {part}: choose another folder, or delete the file."
            )
    subjects = {subject.name: subject for subject in study.subjects}
    for cell in there["cells"]:
        name, sigma = cell["row"]["title"], cell["sigma"]
        subject = subjects.get(name)
        if subject is not None and cell["row"]["params"] != describe_params(subject):
            raise ValueError(
                f"{path} is of other parameters of {name!r}: choose another folder, or delete the "
                "file."
            )
        if subject is None or cell["decides"] == decides(subject, sigma):
            kept[name, sigma] = cell
    return kept


def _in_order(kept: dict[tuple[str, float], dict], study: Study) -> list[dict[str, Any]]:
    """Returns the cells in the study's order, and those of other subjects after them."""
    names = [subject.name for subject in study.subjects]
    names += [name for name, _ in kept if name not in names]
    return [kept[place] for place in sorted(kept, key=lambda p: (names.index(p[0]), p[1]))]
