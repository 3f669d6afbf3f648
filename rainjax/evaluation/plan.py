"""A study's plan as plain JSON, and the records that follow from it and from what was kept.

Everything that a record says is decided before anything is measured, but for its `result` and its
`run`. So whoever has the plan and the files of the units has the records: the process that made
them all, one of several, or `merge`, on another machine and without the study.
"""

import datetime
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from rainjax._files import check_writable, read_arrays, read_json, write_json
from rainjax.ensemble import Ensemble
from rainjax.evaluation.batteries import climbable
from rainjax.evaluation.climbing import ladder_record
from rainjax.evaluation.describe import content_digest, describe, describe_attack, digest
from rainjax.evaluation.effort import growing
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.measures import Measure, outcome_of
from rainjax.evaluation.packing import pack_counts, pack_indices, unpack_indices
from rainjax.evaluation.provenance import code_digest
from rainjax.evaluation.records import SCHEMA, load_order
from rainjax.evaluation.rounding_certificate import proof_outcome
from rainjax.evaluation.shots import shots_of
from rainjax.evaluation.spent import asks_for_answers
from rainjax.evaluation.study import Cell, Study
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.validation import PROOF, ROBUSTNESS, find_problem
from rainjax.evaluation.work import MEMBER, NOT_OF_IMAGES, Unit, Work

Plan = dict[str, Any]  # what `make_plan` returns
Entry = dict[str, Any]  # one cell of it


def make_plan(work: Work, everything: Sequence[tuple[Cell, Sequence[Unit]]]) -> Plan:
    """Returns all that decides the records of a study, and the names of the units they rest on."""
    study = work.study
    parts = {
        subject.name: {"params": describe_params(subject), **_climbable(subject)}
        for subject in study.subjects
    }
    return {
        "schema": SCHEMA,
        "kind": "plan",
        "study": identity(study),
        "code": code_digest(),
        "backend": jax.default_backend(),
        "measure": describe(study.measure),
        "extras": [type(extra).__name__ for extra in study.extras],
        "order": {
            "subjects": [subject.name for subject in study.subjects],
            "threats": [threat.name for threat in study.threats],
            "displays": [describe(display) for display in study.displays],
        },
        "labels": ",".join(map(str, study.images.labels(np.arange(study.count)).tolist())),
        "cells": [
            {
                "record": _header(work, cell, list(units), parts[cell.subject.name]),
                "members": _member_names(work, cell),
                "units": [
                    {
                        "images": pack_indices(unit.rows),
                        "content": work.images_digest(unit.rows),
                        "attacked": unit.attacked.stem if unit.attacked else None,
                        "scored": unit.scored.stem,
                    }
                    for unit in units
                ],
            }
            for cell, units in everything
        ],
    }


def plan_digest(plan: Plan) -> str:
    """Returns the digest that a plan is told from others by."""
    return digest(plan)


def identity(study: Study) -> dict[str, Any]:
    """Returns what makes two studies one, whatever else they measure: images and draws."""
    return {
        "name": study.name,
        "data": f"{study.images.name}, {study.images.split}, {study.images.fingerprint}",
        "seed": study.seed,
        "num_score_draws": study.num_score_draws,
    }


def claim(folder: pathlib.Path, found: dict[str, Any]) -> None:
    """Marks a folder as that of the study that is `found`, or refuses one that holds another.

    Raises:
        ValueError: saying what differs, or that nothing can be written there.
    """
    for place in (folder, folder / "work", folder / "records"):
        check_writable(place)
    path = folder / "study.json"
    there = read_json(path) if path.exists() else {}
    load_order(folder)  # `write_order` reads it, when all has been measured
    for name, value in found.items():
        if there.get(name, value) != value:
            raise ValueError(
                f"{folder} holds a study with {name}={there[name]!r}, not {value!r}: choose "
                "another folder or name, or delete this one."
            )
    write_json(path, {"schema": SCHEMA, "kind": "study", **there, **found})


def check_others(folder: pathlib.Path, plan: Plan) -> None:
    """Refuses a folder with records that this study would make wrong, or would lose.

    Those are records that stay, of a subject that is another one by now; records of a subject
    whose files would be called like one of this study's; and files that are no records, which
    would be met when all has been measured.

    Raises:
        ValueError: naming the first.
    """
    planned = {entry["record"]["id"]: entry["record"]["subject"] for entry in plan["cells"]}
    subjects = {subject["name"]: subject for subject in planned.values()}
    for path in sorted((folder / "records").glob("*.json")):
        content = read_json(path)
        if path.stem not in planned:
            problem = find_problem(content)
            if problem is not None:
                raise ValueError(f"{path} is no usable record: {problem}; delete it.")
        subject = content.get("subject")
        if not isinstance(subject, dict):  # it is made anew
            continue
        name, anew = subject.get("name"), planned.get(path.stem)
        now = subjects.get(name) if anew is None else anew
        if now is None or (anew is not None and anew["name"] == name):
            continue
        changed = [part for part in ("target", "params") if subject.get(part) != now[part]]
        if changed and anew is None:
            raise ValueError(
                f"{path} is of another {name!r} ({' and '.join(changed)} differ), "
                "and this study does not make it again: give the subject another name, or delete "
                "that subject's records."
            )
        if changed:
            raise ValueError(
                f"{path} is of {name!r}, and {now['name']!r}, which is another subject, would be "
                "recorded under the same name: give it a name that differs in letters or digits."
            )


def describe_params(subject: Subject) -> dict[str, Any]:
    """Returns the name and the content of every part of the parameters; None for an empty one."""
    params = subject.params
    parts = params if isinstance(params, dict) else {"params": params}
    found: dict[str, Any] = {}
    for name, part in parts.items():
        empty = not jax.tree.leaves(part)
        several = isinstance(subject.pipeline, Ensemble) and ", ".join(subject.sources)
        source = {"name": several or subject.sources.get(name), "sha256": content_digest(part)}
        found[name] = None if empty and name not in subject.sources else source
    return found


def names(entry: Entry) -> list[str]:
    """Returns the names of the files that a record rests on."""
    found = [name for unit in entry["units"] for name in (unit["attacked"], unit["scored"])]
    return [name for name in found if name]


def unit_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file that a unit of this name is kept in."""
    return folder / "work" / f"{name}.npz"


def read_unit(path: pathlib.Path, unit: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a unit, of which a plan says the images.

    Raises:
        ValueError: the file is damaged, or is not of these images; says which to delete.
    """
    arrays, num = read_arrays(path), len(unpack_indices(unit["images"]))
    wanted = {"seconds", *(("attacked",) if path.stem.startswith("a-") else ())}
    images = [array for name, array in arrays.items() if name not in NOT_OF_IMAGES]
    whole = images and all(array.shape[:1] == (num,) for array in images)
    if not whole or not wanted <= arrays.keys():
        raise ValueError(f"{path} is damaged (not of {num} images): delete it and run again.")
    return arrays


def record_path(folder: pathlib.Path, entry: Entry) -> pathlib.Path:
    """Returns the file of a cell's record."""
    return folder / "records" / f"{entry['record']['id']}.json"


def is_recorded(folder: pathlib.Path, entry: Entry) -> bool:
    """Tells whether a record is there, and was made of what would make it now."""
    path = record_path(folder, entry)
    return path.exists() and read_json(path).get("decides") == entry["record"]["decides"]


def write_record(
    folder: pathlib.Path, plan: Plan, entry: Entry, measure: Measure, run: dict[str, Any]
) -> None:
    """Makes a record of what is kept of its units, and writes it.

    `run` says what the record tells of the processes that made it; seconds and date are added.

    Raises:
        ValueError: a file is damaged; says which.
    """
    began = time.perf_counter()
    read = lambda kind: [
        read_unit(unit_path(folder, unit[kind]), unit) for unit in entry["units"] if unit[kind]
    ]
    kept, attacks = read("scored"), read("attacked")
    for unit, part in zip(entry["units"], kept, strict=True):
        if part.keys() != kept[0].keys():
            path = unit_path(folder, unit["scored"])
            raise ValueError(f"{path} is damaged (it has other arrays): delete it and run again.")
    seconds = sum(float(part.pop("seconds")) for part in (*kept, *attacks))
    together = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    rows = unpack_indices(entry["record"]["data"]["indices"])
    if entry["record"]["kind"] == PROOF:
        outcome = proof_outcome(together)
    else:
        outcome = outcome_of(measure, measure.reduce(together, labels(plan)[rows]))
        outcome["measure"] = plan["measure"]
        if measure.kind == ROBUSTNESS:
            outcome["result"]["shots"] = shots_of(entry["record"])
    if entry["members"] is not None:
        outcome["result"]["members"] = _members(entry["members"], attacks)
    zero = [kept["zero_gradient"] for kept in attacks if "zero_gradient" in kept]
    if attacks and "rungs" in attacks[0]:
        kinds = entry["record"]["threat"]["attack"]["kinds"]
        outcome["ladder"] = ladder_record(kinds, attacks[0])
    first = [kept["queries_to_success"] for kept in attacks if "queries_to_success" in kept]
    if first and asks_for_answers(entry["record"]):
        budget = entry["record"]["axes"]["num_gradients"]
        outcome["queries"] = {"budget": budget, "to_success": pack_counts(np.concatenate(first))}
    content = {
        **entry["record"],
        **outcome,
        # Images without a gradient to follow; no word where the attack asks for none.
        **({"num_zero_gradient": int(np.concatenate(zero).sum())} if zero else {}),
        "run": {
            "seconds": round(seconds + time.perf_counter() - began, 2),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **run,
        },
    }
    problem = find_problem(content)
    if problem is not None:  # before the rest is measured
        raise ValueError(
            f"What {type(measure).__name__}.reduce returns makes no usable record of "
            f"{content['id']}: {problem}."
        )
    write_json(record_path(folder, entry), content)


def write_order(folder: pathlib.Path, plan: Plan) -> None:
    """Says in study.json what this run measured, by which code, and in which order to show it.

    Subjects and names of earlier runs stay.
    """
    path = folder / "study.json"
    # Somebody may have deleted it while all was measured.
    claimed = {"schema": SCHEMA, "kind": "study", **plan["study"]}
    there = read_json(path) if path.exists() else claimed
    for kind in ("subjects", "threats"):
        there[kind] = list(dict.fromkeys([*plan["order"][kind], *there.get(kind, [])]))
    there["displays"] = plan["order"]["displays"]
    there["code"] = plan["code"]
    newest: dict[str, list[str]] = {}
    for entry in plan["cells"]:
        newest.setdefault(entry["record"]["subject"]["name"], []).append(entry["record"]["id"])
    there["records"] = {**there.get("records", {}), **newest}
    write_json(path, there)


def labels(plan: Plan) -> Int[np.ndarray, "n"]:
    """Returns the labels of the study's images."""
    return np.array([int(label) for label in plan["labels"].split(",")])


def _header(work: Work, cell: Cell, units: list[Unit], parts: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a cell's record, but for what only its measurement tells."""
    study, subject, threat = work.study, cell.subject, cell.threat
    changed = work.changed_members(cell)  # which tables then tell
    return {
        "schema": SCHEMA,
        "kind": PROOF if cell.proof else study.measure.kind,
        "id": cell.id,
        "decides": work.record_digest(cell, units),
        "study": study.name,
        "subject": {
            "name": subject.name,
            "is_random": subject.pipeline.is_random,
            "defended": subject.pipeline.defended,
            "target": describe(subject.pipeline),
            **parts,
        },
        "threat": {
            "name": threat.name,
            "description": "; ".join(filter(None, (threat.description, changed))),
            "knowledge": threat.knowledge.name.lower(),
            "tags": list(threat.tags),
            "surrogate": None if cell.attack is None else describe(threat.surrogate),
            "differentiates": describe(cell.surrogate),
            "attack": describe_attack(cell.proof or cell.attack),
            **_protocol(work, cell),
            **_left_out(cell),
        },
        "axes": {
            "norm": cell.norm,
            "radius": cell.radius,
            "num_draws": cell.num_draws,
            "num_steps": cell.num_steps,
            "num_gradients": cell.num_gradients,
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
    }


def _climbable(subject: Subject) -> dict[str, Any]:
    """Returns what a ladder should climb before an accuracy behind this defense is believed."""
    if not subject.pipeline.defended:
        return {}
    found = climbable(subject.pipeline)
    return {"surrogates": {name: list(told) for name, told in found.items()}}


def _protocol(work: Work, cell: Cell) -> dict[str, Any]:
    """Returns what a record says of the published protocol that a number is named after."""
    published = cell.threat.protocol
    if published is None:
        return {}
    deviations = cell.deviations(work.study.images.name, work.num_draws(cell.subject))
    return {
        "protocol": {
            "name": published.protocol,
            "source": published.source,
            "shots": published.shots,
            "deviations": list(deviations),
        }
    }


def _left_out(cell: Cell) -> dict[str, Any]:
    """Returns what a ladder was told not to double, though it would make its attack stronger."""
    if not isinstance(cell.attack, Ladder) or cell.surrogate is None:
        return {}
    there = growing(cell.attack.attack, cell.surrogate.is_random)
    left_out = [kind for kind in there if kind not in (cell.attack.kinds or there)]
    return {"left_out": left_out} if left_out else {}


def _member_names(work: Work, cell: Cell) -> list[str] | None:
    members = work.members(cell)
    return None if members is None else [member.name for member in members]


def _members(named: list[str], attacks: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Adds up what an ensemble's members did over the batches."""
    counts = np.sum([kept["members"] for kept in attacks], axis=0)
    return [
        {"name": name, **dict(zip(MEMBER, map(int, count), strict=True))}
        for name, count in zip(named, counts.tolist(), strict=True)
    ]
