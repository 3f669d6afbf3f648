"""Certifies pipelines by randomized smoothing: `python -m eval smoothing`."""

import dataclasses
import datetime
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from tqdm import tqdm

from eval import admission, pipelines, presets, smoothing_report
from eval import study as st
from eval.config import Robustness, Transformations
from rainjax import data
from rainjax._files import write_json
from rainjax.devices import data_mesh
from rainjax.evaluation.provenance import code_digest, provenance
from rainjax.evaluation.smoothing import Smoothed, certify, check_certifiable
from rainjax.keys import Purpose, example_keys


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """Certifies pipelines by randomized smoothing: the only entry that guarantees anything.

    Everything else here tells what some attack could not do. This tells, with a probability of
    1 - alpha for every image, in what L2 ball around it no attack at all changes the answer: not
    of the plain pipeline, but of the smoothed one, which puts Gaussian noise on an image many
    times and takes the class that comes most often. The shipped classifiers were not trained with
    noise, so the numbers are low. Writes OUT/smoothing.json and OUT/smoothing.png; killed, it
    goes on where it was, and loses one row under one sigma at most.
    """

    study: Annotated[str, tyro.conf.Positional] = "quick"
    """The study whose networks and data are taken: quick, cifar10, imagenette96, or one of
    transformations."""
    rows: tuple[str, ...] | None = None
    """The pipelines to smooth: undefended, rain_pretrained, rain_finetuned, by default the first
    and the last; of transformations their names, by default undefended and fd."""
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.25)
    """Standard deviations of the noise, in units of the [0, 1] range."""
    num_examples: int = 200
    """Images to certify: the first ones."""
    num_select: int = 100
    """Draws that select an image's class."""
    num_estimate: int = 1000
    """Further draws, which bound the class's probability; the paper's 100,000 certify more."""
    alpha: float = 0.001
    """How often a certificate may be wrong, at most."""
    radii: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    """L2 radii of the table's columns."""
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
    chunk_size: int | None = None
    """Draws of each image computed together; by default 4 on CPU, 64 elsewhere."""
    seed: int = 0
    """The root of every random number."""
    out: pathlib.Path = pathlib.Path("results/smoothing")
    """The record is written to OUT/smoothing.json."""

    def __post_init__(self):
        for field in ("num_examples", "num_select", "num_estimate", "batch_size", "chunk_size"):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        check_certifiable(self.num_estimate, self.alpha)
        if self.rows == () or not self.sigmas:
            raise ValueError(f"rows={self.rows} and sigmas={self.sigmas} must each name one.")
        if not all(0 < sigma < float("inf") for sigma in self.sigmas):
            raise ValueError(f"sigmas={self.sigmas} must be positive and finite.")
        if not self.radii or not all(0 <= radius < float("inf") for radius in self.radii):
            raise ValueError(f"radii={self.radii} must be some, finite and not negative.")


def run(command: Smoothing) -> pathlib.Path:
    """Certifies what is missing of the record, prints its table, and returns its path.

    Raises:
        ValueError: no study is called so, its parts do not fit each other, or the folder holds a
            record of other options, images or networks.
    """
    config = _config(command, presets.any_study(command.study))
    images_of = data.load(config.data, config.split, data_dir=config.data_dir)
    path = command.out / "smoothing.json"
    wanted = command.rows or _default_rows(config)
    found = {row.key: row for row in _pipelines(command, config, wanted)}
    admission.check(config, images_of, next(iter(found.values())))
    images, labels = images_of.get(np.arange(command.num_examples))
    record = {
        "schema": 1,
        "kind": "smoothing",
        "study": config.name,
        "options": {
            name: getattr(command, name)
            for name in ("num_examples", "num_select", "num_estimate", "alpha", "seed")
        },
        "radii": list(command.radii),
        "data": {
            "name": images_of.name,
            "split": images_of.split,
            "fingerprint": images_of.fingerprint,
            "labels": labels.tolist(),
        },
    }
    content = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    facts = {**record["options"], "images": content, "code": code_digest()}
    digest = lambda row, sigma: _digest(row, sigma, facts)
    cells = _recorded(path, record, found, digest)
    missing = [
        (found[key], sigma)
        for key in found
        for sigma in sorted(set(command.sigmas))
        if key in wanted and (key, sigma) not in cells
    ]
    per_cell = len(images) * (command.num_select + command.num_estimate)
    with tqdm(total=per_cell * len(missing), unit="draw", unit_scale=True) as bar:
        for row, sigma in missing:
            bar.set_description(f"{row.title}, sigma {sigma:g}")
            cells[row.key, sigma] = {
                **_certified(command, row, sigma, images, bar),
                "decides": digest(row, sigma),
            }
            write_json(path, {**record, "cells": _sorted(cells, found)})
    record["cells"] = _sorted(cells, found)
    write_json(path, record)  # the table's radii may be new
    drawing = smoothing_report.figure(record)
    path.with_suffix(".png").write_bytes(drawing.png)
    print(f"\n{smoothing_report.RECORD.text(record)}\n")
    print(f"Wrote {path}\nWrote {path.with_suffix('.png')}")
    return path


def _config(
    command: Smoothing, config: Robustness | Transformations
) -> Robustness | Transformations:
    """Returns the study, of which the networks, the data and the number of images are used."""
    num = command.num_examples
    changes = {
        "classifier": command.classifier or config.classifier,
        "data_dir": command.data_dir,
        "num_examples": num,
        "num_eot_examples": num,
    }
    if isinstance(config, Transformations):
        return dataclasses.replace(config, rain=command.finetuned or config.rain, **changes)
    finetuned = command.finetuned or config.finetuned
    return dataclasses.replace(config, finetuned=finetuned, num_sweep_examples=num, **changes)


def _default_rows(config: Robustness | Transformations) -> tuple[str, ...]:
    return ("undefended", "fd" if isinstance(config, Transformations) else "rain_finetuned")


def _pipelines(
    command: Smoothing, config: Robustness | Transformations, wanted: Sequence[str]
) -> list[st.Row]:
    """Returns what is to be smoothed, and what the record has already."""
    known, path = [], command.out / "smoothing.json"
    if path.exists():
        there = smoothing_report.RECORD.load(path)
        if there["study"] == config.name:
            known = [cell["row"]["key"] for cell in there["cells"]]
    names = tuple(dict.fromkeys([*wanted, *known]))
    return pipelines.named(config, names, table=command.table, bank_size=command.bank_size)


def _certified(
    command: Smoothing, row: st.Row, sigma: float, images: np.ndarray, bar: tqdm
) -> dict[str, Any]:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    began = time.perf_counter()
    size = min(command.batch_size, len(images))
    found = certify(
        Smoothed(row.target, sigma),
        row.params,
        example_keys(command.seed, Purpose.SCORE, np.arange(len(images))),
        images.astype(np.float32) / 255,
        num_select=command.num_select,
        num_estimate=command.num_estimate,
        alpha=command.alpha,
        batch_size=size,
        chunk_size=command.chunk_size,
        mesh=data_mesh(batch_size=size),
        on_draw=bar.update,
    )
    return {
        "row": {
            "key": row.key,
            "title": row.title,
            "target": st.describe(row.target),
            "params": row.sources,
        },
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


def _recorded(
    path: pathlib.Path,
    record: dict[str, Any],
    found: dict[str, st.Row],
    digest: Callable[[st.Row, float], str],
) -> dict[tuple[str, float], dict[str, Any]]:
    """Returns the cells that an earlier run left and this code would make again the same."""
    if not path.exists():
        return {}
    there, kept = smoothing_report.RECORD.load(path), {}
    for part in ("study", "options", "data"):
        if there[part] != record[part]:
            raise ValueError(
                f"{path} is of other {part}: choose another --out, or delete the file."
            )
    for cell in there["cells"]:
        row = found[cell["row"]["key"]]
        if cell["row"]["params"] != row.sources:
            raise ValueError(
                f"{path} is of other parameters of {row.title!r}: choose another --out, or "
                "delete the file."
            )
        if cell["decides"] == digest(row, cell["sigma"]):
            kept[row.key, cell["sigma"]] = cell
    return kept


def _digest(row: st.Row, sigma: float, facts: dict[str, Any]) -> str:
    decides = {
        "target": st.describe(row.target),
        "params": row.sources,
        "sigma": sigma,
        "backend": jax.default_backend(),
        **facts,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:24]


def _sorted(cells: dict[tuple[str, float], dict], found: dict[str, st.Row]) -> list[dict]:
    order = list(found)
    return [cells[place] for place in sorted(cells, key=lambda p: (order.index(p[0]), p[1]))]
