"""Puts the shares of a study together: their units in one folder, and the records of them all."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rainjax._checks import check_kind
from rainjax._files import as_path, copy_file, read_json
from rainjax.evaluation.describe import describe
from rainjax.evaluation.loading import resized
from rainjax.evaluation.measures import Measure, Robustness
from rainjax.evaluation.names import check_folder_name
from rainjax.evaluation.plan import (
    Entry,
    Plan,
    check_others,
    claim,
    is_recorded,
    labels,
    make_plan,
    names,
    plan_digest,
    read_unit,
    unit_path,
    write_order,
    write_record,
)
from rainjax.evaluation.provenance import code_digest, command
from rainjax.evaluation.records import SCHEMA, Record, load_records
from rainjax.evaluation.study import Study, cells
from rainjax.evaluation.work import Work

_RUN = ("versions", "backend", "device", "num_devices", "revision")


@dataclasses.dataclass(frozen=True, eq=False)
class _Made:
    """A share that was made: the manifest that it left, and the folder it lies in."""

    path: pathlib.Path
    content: dict[str, Any]

    @property
    def folder(self) -> pathlib.Path:
        return self.path.parent.parent

    @property
    def name(self) -> str:
        return f"{self.content['index']}/{self.content['count']}"


def merge(
    folders: Sequence[pathlib.Path | str] | pathlib.Path | str,
    out: pathlib.Path | str | None = None,
    *,
    study: Study | None = None,
) -> list[Record]:
    """Puts the shares of a study together and returns its records, those of a single process.

    Nothing is computed but what records say of the units that the shares kept; their `run` names
    the shares. Neither the study nor its networks and images are needed, and no accelerator,
    unless the study has a measure or extras of its own.

    Args:
        folders: The study's folders, `OUT/NAME`, that hold the shares; one, where all shares were
            written to it.
        out: The folder that gets `out`/`NAME`; None leaves the records in the one folder.
        study: The study, which brings its own measure and extras; name, seed and sizes are taken
            from the shares, for their command line may have changed them. By default records of
            the library's own measure are made, and no extras.

    Raises:
        ValueError: a share or a unit is missing or damaged; two shares have the same unit with
            other content; shares, or the study, are of other code, images, parameters or options;
            says which.
    """
    given = list(folders) if isinstance(folders, Sequence) else [folders]
    given = [folders] if isinstance(folders, str) else given
    if not given:
        raise ValueError("folders is empty: name the study's folder, OUT/NAME, that holds shares.")
    if study is not None:
        check_kind(study, Study, "merge(study=...)")
    sources = list(dict.fromkeys(as_path("folders", folder) for folder in given))
    shares = [share for folder in sources for share in _shares(folder)]
    plan = _common_plan(shares)
    study = None if study is None else _as_planned(study, plan)
    measure = _measure(plan, study)
    target = _target(sources, plan, out)
    claim(target, plan["study"])
    check_others(target, plan)
    missing = [entry for entry in plan["cells"] if not is_recorded(target, entry)]
    _check_complete(shares, missing)
    for name, unit in _units(missing).items():
        places = [unit_path(folder, name) for folder in dict.fromkeys([target, *sources])]
        there = [path for path in places if path.exists()]
        if not there:
            raise ValueError(_lost(name, unit, shares))
        _check_same(there, unit)
        if there[0] != places[0]:
            copy_file(there[0], places[0])
    for entry in missing:
        write_record(target, plan, entry, measure, _run(shares, entry))
    write_order(target, plan)
    if study is not None:
        planned = cells(study)
        for extra in study.extras:
            extra.write(Work(study, target), planned, anew=bool(missing))
    return load_records(target, displays=None if study is None else study.displays)


def _shares(folder: pathlib.Path) -> list[_Made]:
    paths = sorted((folder / "shards").glob("*-of-*.json"))
    if not paths:
        raise ValueError(
            f"{folder} holds no share that was finished: name the folder OUT/NAME of "
            "`rainjax evaluate --shard`, which leaves shards/*-of-*.json in it at its end."
        )
    found = [_Made(path, read_json(path)) for path in paths]
    for share in found:
        content = share.content
        kinds = {"index": int, "count": int, "plan": str, "units": list, "run": dict}
        wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
        if content.get("kind") != "shard" or content.get("schema") != SCHEMA or wrong:
            raise ValueError(
                f"{share.path} is no share that this program wrote: delete it, and make the share "
                "again."
            )
    return found


def _common_plan(shares: Sequence[_Made]) -> Plan:
    """Returns the plan that all shares are of.

    Raises:
        ValueError: there are two, or they are of other code than this; says how they differ.
    """
    plan, first = _plan(shares[0]), shares[0]
    for share in shares[1:]:
        if share.content["plan"] != first.content["plan"]:
            raise ValueError(
                f"{share.path} is a share of another study than {first.path}: "
                f"{_difference(_plan(share), plan)}. Make both alike, or delete what is out of "
                "date."
            )
    if plan["code"] != code_digest():
        raise ValueError(
            f"The shares in {first.folder} were made by other code than this rainjax: merge them "
            "with the rainjax that made them, or make them again."
        )
    return plan


def _plan(share: _Made) -> Plan:
    path = share.path.with_name(f"plan-{share.content['plan']}.json")
    if not path.exists():
        raise ValueError(f"{path}, which {share.path} is a share of, is not there: copy it too.")
    plan = read_json(path)
    if plan_digest(plan) != share.content["plan"]:
        raise ValueError(f"{path} is damaged: delete it, and make a share again.")
    return plan


def _as_planned(study: Study, plan: Plan) -> Study:
    """Returns the study with what the command line of its shares may have changed."""
    return resized(
        study,
        name=plan["study"]["name"],
        seed=plan["study"]["seed"],
        num_score_draws=plan["study"]["num_score_draws"],
        batch_size=plan["cells"][0]["record"]["batch_size"],
        num_examples=len(labels(plan)),
    )


def _measure(plan: Plan, study: Study | None) -> Measure:
    """Returns what reduces the units: a value of the caller's or the library's, never a file's."""
    if study is not None:
        work = Work(study, pathlib.Path())
        own = make_plan(work, [(cell, work.units(cell)) for cell in cells(study)])
        if plan_digest(own) != plan_digest(plan):
            raise ValueError(
                f"The study {study.name!r} is not that of the shares: {_difference(own, plan)}. "
                "Give the study as it was, on a machine as it was."
            )
        return study.measure
    options = {name: value for name, value in plan["measure"].items() if name != "class"}
    known = {field.name for field in dataclasses.fields(Robustness)}
    if plan["measure"]["class"] == "Robustness" and options.keys() == known:
        measure = Robustness(**options)
        if describe(measure) == plan["measure"]:
            return measure
    raise ValueError(
        f"The shares were measured by {plan['measure']['class']}, which no file can bring along: "
        "give the study as well (--study FILE.py)."
    )


def _target(
    sources: Sequence[pathlib.Path], plan: Plan, out: pathlib.Path | str | None
) -> pathlib.Path:
    if out is not None:
        check_folder_name(plan["study"]["name"])
        return as_path("out", out) / plan["study"]["name"]
    if len(sources) > 1:
        raise ValueError(
            f"Shares in {len(sources)} folders need another one that they are put together in: "
            "give it as --out."
        )
    return sources[0]


def _check_complete(shares: Sequence[_Made], missing: Sequence[Entry]) -> None:
    """Refuses to go on without a share.

    Raises:
        ValueError: a unit was made by none; names it, and the shares that are not there.
    """
    made = {name for share in shares for name in share.content["units"]}
    wanted = _units(missing)
    lost = [name for name in wanted if name not in made]
    if not lost:
        return
    text = f"{len(lost)} of {len(wanted)} units were made by no share, the first of them "
    text += f"{lost[0]} of {_where(wanted[lost[0]])}"
    counts = {share.content["count"] for share in shares}
    if len(counts) == 1:
        count = counts.pop()
        there = {share.content["index"] for share in shares}
        absent = [f"{index}/{count}" for index in range(count) if index not in there]
        if absent:
            are = "shares" if len(absent) > 1 else "share"
            text += f": {are} {', '.join(absent)} not found; make what is missing, or name its "
            raise ValueError(text + "folder too.")
    raise ValueError(f"{text}: make the shares again; what there is of them costs nothing.")


def _lost(name: str, unit: dict[str, Any], shares: Sequence[_Made]) -> str:
    maker = next(share for share in shares if name in share.content["units"])
    return (
        f"{name} of {_where(unit)} is not in {maker.folder / 'work'}, though share {maker.name} "
        "made it: copy the whole folder, or make the share again."
    )


def _check_same(paths: Sequence[pathlib.Path], unit: dict[str, Any]) -> None:
    """Reads a unit wherever it is.

    Raises:
        ValueError: one is damaged, has another number of images, or differs from the others.
    """
    first: Mapping[str, np.ndarray] | None = None
    for path in paths:
        arrays = read_unit(path, unit)
        arrays.pop("seconds")
        if first is None:
            first = arrays
        elif not _equal(first, arrays):
            raise ValueError(
                f"{paths[0]} and {path} are one unit, of {_where(unit)}, and differ: two machines "
                "do not compute alike, or one of the files was changed; make both again."
            )


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Tells whether arrays are the same to the bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def _units(entries: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """Returns what there is to say of each unit, by name."""
    return {
        name: {**unit, "cell": entry["record"]["id"]}
        for entry in entries
        for unit in entry["units"]
        for name in (unit["attacked"], unit["scored"])
        if name
    }


def _where(unit: dict[str, Any]) -> str:
    return f"{unit['cell']}, images {unit['images']}"


def _run(shares: Sequence[_Made], entry: Entry) -> dict[str, Any]:
    """Returns what a record says of its shares: their machines where all are alike, and each."""
    wanted = set(names(entry))
    makers = [share for share in shares if wanted & set(share.content["units"])]
    first = makers[0].content["run"]
    return {
        "command": command(),
        **{name: first.get(name) for name in _RUN},
        "shares": [
            {
                "share": share.name,
                "command": share.content["run"].get("command"),
                **{
                    name: share.content["run"].get(name)
                    for name in _RUN
                    if share.content["run"].get(name) != first.get(name)
                },
            }
            for share in makers
        ],
    }


def _difference(one: Plan, other: Plan) -> str:
    """Says in what two plans differ: what is most likely the reason first."""
    if one["code"] != other["code"]:
        return "the code of the library differs"
    for name in one["study"]:
        if one["study"][name] != other["study"].get(name):
            return f"{name} is {one['study'][name]!r} and {other['study'].get(name)!r}"
    if one["backend"] != other["backend"]:
        return f"the backend is {one['backend']!r} and {other['backend']!r}"
    mine, theirs = ({e["record"]["id"]: e for e in plan["cells"]} for plan in (one, other))
    for name in sorted(mine.keys() & theirs.keys()):
        for path, a, b in _differing(mine[name]["record"], theirs[name]["record"]):
            return f"{name} has {path} {_short(a)} and {_short(b)}"
        for a, b in zip(mine[name]["units"], theirs[name]["units"], strict=False):
            if a["content"] != b["content"]:
                return f"the images {a['images']} or their labels differ"
    alone = sorted(mine.keys() ^ theirs.keys())
    if alone:
        return f"{alone[0]} is in one of them only"
    found = _differing(
        {name: value for name, value in one.items() if name != "cells"},
        {name: value for name, value in other.items() if name != "cells"},
    )
    for path, a, b in found:
        return f"{path} is {_short(a)} and {_short(b)}"
    return "the order of their numbers differs"


def _differing(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields the places in which plain JSON differs, with what is there."""
    if isinstance(one, dict) and isinstance(other, dict):
        # Digests of what else is there tell a reader nothing.
        for name in sorted({*one, *other} - {"decides", "surrogates"}):
            inner = f"{path}.{name}" if path else name
            yield from _differing(one.get(name), other.get(name), inner)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for place, pair in enumerate(zip(one, other, strict=True)):
            yield from _differing(*pair, f"{path}[{place}]")
    elif one != other:
        yield path, one, other


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."
