"""Measuring a study: what is missing is made, in any number of processes, and recorded."""

import contextlib
import datetime
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from rainjax._files import read_arrays, read_json, write_json
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.describe import content_digest, describe, describe_attack
from rainjax.evaluation.provenance import provenance
from rainjax.evaluation.records import KIND, SCHEMA, Record, load_records, pack_indices
from rainjax.evaluation.shards import Shard, current_shard, wait_for_all, write_manifest
from rainjax.evaluation.study import Cell, Study, Subject, cells, check_classes
from rainjax.evaluation.work import MEMBER, Unit, Work


def evaluate(
    study: Study,
    out: pathlib.Path | str = "results",
    *,
    shard: Shard | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> list[Record]:
    """Measures a study, or what is missing of it, and returns its records.

    Everything is kept in `out`/`study.name`: the records, and in `work/` the adversarial images
    and logits of every batch, so that a run that is killed at any moment loses one batch, and
    another number made of the same attacks costs none. What other code, other images or other
    parameters made is made again.

    Under `jax.distributed` every process takes its share and process 0 writes the records, in a
    folder that all of them see. With a `shard` only its share is made, and no record:
    `rainjax.evaluation.merge` puts shares together. Where `mesh` is None a batch is spread over
    the devices of this process.

    Args:
        study: What is measured.
        out: The folder that holds the study's own.
        shard: The share of this process; by default what JAX's own processes come to.
        mesh: The devices a batch is spread over; its size must divide every batch.
        progress: Whether to say on stderr what there is to do, and how far it is.

    Raises:
        ValueError: the study's parts do not fit each other, its folder holds another study, or
            an attack fails on some images; says which.
    """
    planned = cells(study)
    check_classes(study)
    folder = pathlib.Path(out) / study.name
    claim(folder, study)
    work = Work(study, folder, mesh=mesh)
    shard = shard or current_shard()
    everything = [(cell, work.units(cell)) for cell in planned]
    _check_others(folder, study, {cell.id for cell in planned})
    missing = [(cell, units) for cell, units in everything if not _recorded(work, cell, units)]
    mine = shard.share([unit for _, units in everything for unit in units])
    say = _Teller(progress)
    say.plan(study, folder, everything, missing, work.missing_gradients(mine), shard)
    made = 0
    with say.bar(work.missing_gradients(mine)) as tick:
        for cell, units in missing:
            say.at(cell)
            for unit in units:
                if unit.owner in mine:
                    work.make(unit, tick)
                    say.after_batch()
            if shard.is_whole:
                made += _write_record(work, cell, units)
    if not shard.is_whole:
        if not shard.distributed:
            write_manifest(folder, shard, everything)
            return []
        wait_for_all("units")
        if shard.index == 0:
            made = sum(_write_record(work, cell, units) for cell, units in missing)
    if shard.index == 0:
        _write_order(folder, study)
        for extra in study.extras:
            extra.write(work, planned, anew=made > 0)
    if shard.distributed:
        wait_for_all("records")
    return load_records(folder)


def claim(folder: pathlib.Path, study: Study) -> None:
    """Marks a folder as a study's, or refuses one that holds other images or other draws.

    Raises:
        ValueError: saying what differs.
    """
    found = {
        "name": study.name,
        "data": f"{study.images.name}, {study.images.split}, {study.images.fingerprint}",
        "seed": study.seed,
        "num_score_draws": study.num_score_draws,
    }
    path = folder / "study.json"
    there = read_json(path) if path.exists() else {}
    for name, value in found.items():
        if there.get(name, value) != value:
            raise ValueError(
                f"{folder} holds a study with {name}={there[name]!r}, not {value!r}: choose "
                "another folder or name, or delete this one."
            )
    try:
        write_json(path, {"schema": SCHEMA, "kind": "study", **there, **found})
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {folder} ({error.strerror}): choose another folder."
        ) from error


def _check_others(folder: pathlib.Path, study: Study, planned: set[str]) -> None:
    """Refuses records that would stay in the folder, of a subject that is another one by now.

    Raises:
        ValueError: naming the first.
    """
    there = {path.stem: path for path in sorted((folder / "records").glob("*.json"))}
    subjects = {subject.name: subject for subject in study.subjects}
    for name in there.keys() - planned:
        content = read_json(there[name]).get("subject", {})
        subject = subjects.get(content.get("name"))
        if subject is None:
            continue
        now = {"target": describe(subject.pipeline), "params": describe_params(subject)}
        changed = [part for part, value in now.items() if content.get(part) != value]
        if changed:
            raise ValueError(
                f"{there[name]} is of another {subject.name!r} ({' and '.join(changed)} differ), "
                "and this study does not make it again: give the subject another name, or delete "
                "that subject's records."
            )


def record(work: Work, cell: Cell, units: list[Unit]) -> dict[str, Any]:
    """Returns the content of a cell's record, from what is kept of its units."""
    began = time.perf_counter()
    study, subject, threat = work.study, cell.subject, cell.threat
    kept = [read_arrays(unit.scored) for unit in units]
    attacks = [read_arrays(unit.attacked) for unit in units if unit.attacked]
    seconds = sum(float(part.pop("seconds")) for part in (*kept, *attacks))
    together = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    labels = study.images.labels(np.arange(cell.num_examples))
    result = study.measure.reduce(together, labels)
    if isinstance(cell.attack, AutoAttack):
        result["members"] = _members(cell.attack, attacks)
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "id": cell.id,
        "decides": work.record_digest(cell, units),
        "study": study.name,
        "subject": {
            "name": subject.name,
            "is_random": subject.pipeline.is_random,
            "defended": subject.pipeline.defended,
            "target": describe(subject.pipeline),
            "params": describe_params(subject),
        },
        "threat": {
            "name": threat.name,
            "description": threat.description,
            "knowledge": threat.knowledge.name.lower(),
            "tags": list(threat.tags),
            "surrogate": None if cell.attack is None else describe(threat.surrogate),
            "differentiates": describe(cell.surrogate),
            "attack": describe_attack(cell.attack),
        },
        "axes": {
            "norm": cell.norm,
            "radius": cell.radius,
            "num_draws": cell.num_draws,
            "num_steps": cell.num_steps,
        },
        "data": {
            "name": study.images.name,
            "split": study.images.split,
            "fingerprint": study.images.fingerprint,
            "indices": pack_indices(np.arange(cell.num_examples)),
        },
        "seed": study.seed,
        "num_score_draws": work.num_draws(subject),
        "batch_size": study.batch_size,
        "result": result,
        "run": {
            "seconds": round(seconds + time.perf_counter() - began, 2),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **provenance(),
        },
    }


def _recorded(work: Work, cell: Cell, units: list[Unit]) -> bool:
    path = work.folder / "records" / f"{cell.id}.json"
    return path.exists() and read_json(path).get("decides") == work.record_digest(cell, units)


def _write_record(work: Work, cell: Cell, units: list[Unit]) -> int:
    write_json(work.folder / "records" / f"{cell.id}.json", record(work, cell, units))
    return 1


def _write_order(folder: pathlib.Path, study: Study) -> None:
    """Says in study.json in which order displays show what; names of earlier runs stay."""
    path = folder / "study.json"
    there = read_json(path)
    for kind in ("subjects", "threats"):
        names = [value.name for value in getattr(study, kind)]
        there[kind] = list(dict.fromkeys([*names, *there.get(kind, [])]))
    there["displays"] = [describe(display) for display in study.displays]
    write_json(path, there)


def describe_params(subject: Subject) -> dict[str, Any]:
    """Returns the name and the content of every part of the parameters; None for an empty one."""
    params = subject.params
    parts = params if isinstance(params, dict) else {"params": params}
    found: dict[str, Any] = {}
    for name, part in parts.items():
        empty = not jax.tree.leaves(part)
        source = {"name": subject.sources.get(name), "sha256": content_digest(part)}
        found[name] = None if empty and name not in subject.sources else source
    return found


def _members(attack: AutoAttack, attacks: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Adds up what an ensemble's members did over the batches."""
    counts = np.sum([kept["members"] for kept in attacks], axis=0)[:, : len(MEMBER)]
    return [
        {"name": member.name, **dict(zip(MEMBER, map(int, count), strict=True))}
        for member, count in zip(attack.members, counts.tolist(), strict=True)
    ]


class _Teller:
    """Says on stderr what there is to do, where it goes, and how far it is."""

    def __init__(self, progress: bool):
        self._progress = progress
        self._first: tuple[float, int] | None = None
        self._told = False

    def plan(self, study: Study, folder, everything, missing, gradients: int, shard) -> None:
        """Says what will be made, at what price."""
        if not self._progress:
            return
        left = f"{len(missing)} of them to be measured" if missing else "all of them measured"
        text = f"{study.name}: {len(study.subjects)} subjects, {len(everything)} numbers, {left}"
        if missing:
            text += (
                f"; {_count(gradients)} image gradients, {gradients / study.count:,.0f} an image"
            )
            text += "" if shard.is_whole else f", in share {shard}"
        print(f"{text}. Writing to {folder}.", file=sys.stderr)

    @contextlib.contextmanager
    def bar(self, total: int) -> Iterator[Callable[[int], object]]:
        """Shows a bar, and hands out what counts gradients on it."""
        with tqdm(
            total=total, unit="grad", unit_scale=True, smoothing=0.02, mininterval=1,
            disable=not self._progress or not total,
        ) as self._bar:  # fmt: skip
            yield self._tick

    def at(self, cell: Cell) -> None:
        """Says which number is being made."""
        self._bar.set_description(f"{cell.subject.name}, {cell.threat.name}")

    def after_batch(self) -> None:
        """Says, after the first batch that was attacked, how long the rest will take."""
        if self._told or self._first is None or self._bar.disable:
            return
        began, done = self._first
        rate = (self._bar.n - done) / max(time.perf_counter() - began, 1e-9)
        if rate:
            self._told = True
            left = (self._bar.total - self._bar.n) / rate
            text = f"At the first batch's rate, {_duration(left)} to go, without compilation."
            self._bar.write(text, file=sys.stderr)

    def _tick(self, count: int) -> None:
        self._bar.update(count)
        if self._first is None:  # the first gradient waits for its compilation
            self._first = time.perf_counter(), count


def _count(count: int) -> str:
    return f"{count:,}" if count < 10**6 else f"{count / 10**6:.1f} million"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
