"""Reads an evaluation's records from a folder, and refuses those that cannot be believed."""

import json
import math
import pathlib
from collections.abc import Iterable

from rainjax.metrics import wilson_interval

SCHEMA = 1

# From the least informed attacker to the best informed one. Equal ranks are not compared.
RANK = {
    "clean": -1,
    "blind": 0,
    "fgsm": 0,
    "bim": 0,
    "pgd": 0,
    "deepfool": 0,
    "cw": 0,
    "white_box": 1,
    "bpda": 1,
    "own": 1,
    "eot": 2,
    "mean_field": 2,
    "autoattack": 2,
    "known_key": 3,
}
ROLES = ("table", "radius", "eot", "comparison")

_NUMBER = (int, float)
_FIELDS = {
    "id": str,
    "study": str,
    "roles": list,
    "row.key": str,
    "row.title": str,
    "row.target": dict,
    "row.params": dict,
    "column.key": str,
    "column.title": str,
    "column.threat_model": str,
    "data.name": str,
    "data.split": str,
    "data.fingerprint": str,
    "data.indices": list,
    "seed": int,
    "num_score_draws": int,
    "result.num_examples": int,
    "result.correct_draws": list,
    "result.linf_max": _NUMBER,
    "run.seconds": _NUMBER,
    "run.started": str,
    "run.versions": dict,
    "run.backend": str,
    "run.device": str,
    "run.command": str,
}
_SCORES = ("mean", "worst", "vote")


def load_records(folder: pathlib.Path | str) -> list[dict]:
    """Returns the records under `folder`/records, in the order of their file names.

    Raises `ValueError` with the file's name for a record that is damaged, incomplete, of another
    schema, of another study than the first one, or at odds with its own per-image counts.
    """
    paths = sorted((pathlib.Path(folder) / "records").glob("*.json"))
    if not paths:
        raise ValueError(
            f"{folder} holds no records/*.json; name the folder that `python -m eval` wrote."
        )
    records, seen = [], {}
    for path in paths:
        record = read_json(path)
        problem = _problem(record)
        if problem is None and record["id"] in seen:
            problem = f"its id {record['id']!r} is also that of {seen[record['id']]}"
        if problem is None and records and record["study"] != records[0]["study"]:
            problem = (
                f"it belongs to the study {record['study']!r}, the others to "
                f"{records[0]['study']!r}; keep each study in a folder of its own"
            )
        if problem is not None:
            raise ValueError(f"{path} is no usable record: {problem}.")
        seen[record["id"]] = path.name
        records.append(record)
    return records


def read_json(path: pathlib.Path) -> dict:
    """Returns the object in a JSON file, or says which file is damaged and where."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or no record ({error}): name the right file; delete this one, "
            "if the evaluation wrote it, and run it again."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} where an object belongs.")
    return value


def with_role(records: Iterable[dict], role: str) -> list[dict]:
    """Returns the records that serve one display."""
    return [record for record in records if role in record["roles"]]


def rows(records: Iterable[dict]) -> dict[str, str]:
    """Returns row keys and titles: no defense, what the papers propose, then as first met."""
    titles = {record["row"]["key"]: record["row"]["title"] for record in records}
    known = ["undefended", "rain_pretrained", "rain_finetuned", "fd", "fd_designed"]
    order = sorted(titles, key=lambda key: known.index(key) if key in known else len(known))
    return {key: titles[key] for key in order}


def ball(record: dict) -> tuple[str, float] | None:
    """Returns the norm and the radius of a record's attack; None for clean images.

    The radius of an attack that looks for the nearest success is infinite.
    """
    attack = record["column"]["attack"]
    if attack is None:
        return None
    return attack["norm"], math.inf if attack["radius"] is None else float(attack["radius"])


def eot(record: dict) -> dict:
    """Returns how a record's attack averaged over draws; empty for clean images."""
    attack = record["column"]["attack"] or {}
    if "num_eot" in attack:  # as records said it before attacks had an `eot`
        draws = "enumerated" if attack.get("enumerated") else "independent"
        return {"num_samples": attack["num_eot"], "draws": draws}
    return attack.get("eot", {})


def num_draws(record: dict) -> int:
    """Returns the number of draws that a record's attack averaged over at every step."""
    return eot(record).get("num_samples", 1)


def radius_text(norm: str, radius: float) -> str:
    """Returns a radius as it is quoted: in 255ths for `linf`, as a plain number otherwise."""
    if radius == math.inf:
        return "unbounded"
    if norm != "linf":
        return f"{radius:g}"
    # Radii such as 0.0313 come from rounding 8/255; no reader wants 7.98/255.
    steps = radius * 255
    return f"{round(steps)}/255" if abs(steps - round(steps)) < 0.03 else f"{steps:.3g}/255"


def norm_text(norm: str) -> str:
    """Returns a norm as papers print it."""
    return {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}.get(norm, norm)


def score_on(record: dict, indices: list[int]) -> dict:
    """Returns a record's mean score counted anew on some of its images.

    Raises `KeyError` if one of `indices` was not among them.
    """
    draws = dict(zip(record["data"]["indices"], record["result"]["correct_draws"], strict=True))
    correct = sum(draws[index] for index in indices) / record["num_score_draws"]
    low, high = wilson_interval(correct, len(indices))
    return {"accuracy": correct / len(indices), "low": low, "high": high}


def _problem(record: dict) -> str | None:
    """Says what is wrong with a record, or None."""
    if record.get("kind") != "robustness":
        return f"its kind is {record.get('kind')!r}, not 'robustness'"
    if record.get("schema") != SCHEMA:
        return f"its schema is {record.get('schema')!r}, and this program reads {SCHEMA}"
    scores = [f"result.{s}.{e}" for s in _SCORES for e in ("low", "accuracy", "high")]
    for path, kind in (_FIELDS | dict.fromkeys(scores, _NUMBER)).items():
        value = _at(record, path)
        if value is None:
            return f"it lacks {path!r}"
        if not isinstance(value, kind) or isinstance(value, bool):
            return f"{path} is {value!r}, which is no {_kind_text(kind)}"
    if not set(record["roles"]) <= set(ROLES):
        return f"roles is {record['roles']!r}, and known ones are {', '.join(ROLES)}"
    return _column_problem(record["column"]) or _result_problem(record)


def _column_problem(column: dict) -> str | None:
    if column["key"] not in RANK:
        return f"column.key is {column['key']!r}, and known ones are {', '.join(RANK)}"
    attack = column.get("attack")
    if column["key"] == "clean":
        return None if attack is None else "column.attack is given, but the column is clean"
    if not isinstance(attack, dict):
        return "it lacks 'column.attack'"
    kinds = {"class": str, "norm": str, "num_steps": int}
    if attack.get("radius", 0) is not None:  # None looks for the nearest success
        kinds["radius"] = _NUMBER
    for field, kind in kinds.items():
        if not isinstance(attack.get(field), kind):
            return f"column.attack.{field} is {attack.get(field)!r}, no {_kind_text(kind)}"
    if attack["radius"] is not None and not 0 <= attack["radius"] < math.inf:
        return f"column.attack.radius is {attack['radius']!r}; it must be finite and not negative"
    return None


def _result_problem(record: dict) -> str | None:
    result, draws = record["result"], record["num_score_draws"]
    num, counts = result["num_examples"], result["correct_draws"]
    if num < 1 or draws < 1:
        return f"it counts {num} examples and {draws} draws; both must be at least 1"
    if not len(record["data"]["indices"]) == len(counts) == num:
        return (
            f"result.num_examples is {num}, but it names {len(record['data']['indices'])} images "
            f"and counts draws for {len(counts)}"
        )
    if not all(isinstance(count, int) and 0 <= count <= draws for count in counts):
        return f"result.correct_draws must hold whole numbers from 0 to {draws}"
    for name in _SCORES:
        low, middle, high = (result[name][end] for end in ("low", "accuracy", "high"))
        if not 0 <= low <= middle + 1e-9 <= high + 2e-9 <= 1 + 4e-9:
            return f"result.{name} is {middle!r} in [{low!r}, {high!r}]; 0 to 1, in order"
    recount = {"mean": sum(counts) / (num * draws), "worst": counts.count(draws) / num}
    for name, share in recount.items():
        if abs(share - result[name]["accuracy"]) > 1e-4:
            return (
                f"result.{name}.accuracy is {result[name]['accuracy']!r}, "
                f"but result.correct_draws add up to {share:.4f}"
            )
    return None


def _at(record: dict, path: str):
    value = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _kind_text(kind) -> str:
    names = {str: "text", int: "whole number", list: "list", dict: "object", _NUMBER: "number"}
    return names[kind]
