"""What is wrong with the content of a record, if anything, in a sentence."""

import math
from typing import Any

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.packing import unpack_counts, unpack_indices

ROBUSTNESS = "robustness"
OTHER = "measure"
PROOF = "proof"
_NUMBER = (int, float)
_FIELDS: dict[str, Any] = {
    "id": str,
    "study": str,
    "subject.name": str,
    "subject.is_random": bool,
    "subject.defended": bool,
    "subject.target": dict,
    "subject.params": dict,
    "threat.name": str,
    "threat.description": str,
    "threat.knowledge": str,
    "threat.tags": list,
    "axes.num_draws": int,
    "axes.num_steps": int,
    "data.name": str,
    "data.split": str,
    "data.fingerprint": str,
    "data.indices": str,
    "seed": int,
    "num_score_draws": int,
    "result": dict,
    "run.seconds": _NUMBER,
    "run.started": str,
    "run.versions": dict,
    "run.backend": str,
    "run.device": str,
    "run.command": str,
}
_SCORES = ("mean", "worst", "vote")
_OF_KIND: dict[str, dict[str, Any]] = {
    ROBUSTNESS: {
        "result.num_examples": int,
        "result.correct_draws": str,
        "result.linf_max": _NUMBER,
        **{f"result.{s}.{e}": _NUMBER for s in _SCORES for e in ("low", "accuracy", "high")},
    },
    OTHER: {"measure.class": str, "shown": dict},
    PROOF: {
        "shown": dict,
        "axes.norm": str,
        "axes.radius": _NUMBER,
        "result.num_examples": int,
        "result.proved_images": str,
        **{f"result.proved.{end}": _NUMBER for end in ("low", "accuracy", "high")},
    },
}
_LADDER: dict[str, Any] = {
    "ladder.flat": bool,
    "ladder.ended": str,
    "ladder.num_draws": int,
    "ladder.rungs": list,
}
_RUNG: dict[str, Any] = {
    **dict.fromkeys(("steps", "draws", "restarts", "num_attacked", "num_gradients"), int),
    **dict.fromkeys(("accuracy", "low", "high"), _NUMBER),
    "correct_draws": str,
}
_WORDS = {
    str: "text",
    int: "whole number",
    list: "list",
    dict: "object",
    bool: "truth value",
    _NUMBER: "number",
}


def find_problem(record: dict[str, Any]) -> str | None:
    """Says what is wrong with the content of a record, or None."""
    own = _OF_KIND.get(str(record.get("kind")))
    if own is None:
        return f"its kind is {record.get('kind')!r}, none of {', '.join(map(repr, _OF_KIND))}"
    for path, kind in (_FIELDS | own).items():
        value = _at(record, path)
        if value is None:
            return f"it lacks {path!r}"
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return f"{path} is {value!r}, which is no {_WORDS[kind]}"
    of_kind = {ROBUSTNESS: _scores_problem, PROOF: _proof_problem}.get(
        record["kind"], _shown_problem
    )
    return (
        _surrogates_problem(record)
        or _threat_problem(record)
        or _indices_problem(record)
        or _zero_gradient_problem(record)
        or _queries_problem(record)
        or _ladder_problem(record)
        or of_kind(record)
    )


def _surrogates_problem(record: dict[str, Any]) -> str | None:
    """Looks at what a ladder should climb, which records of older versions do not say."""
    found = record["subject"].get("surrogates", {})
    pair = lambda value: isinstance(value, list) and list(map(type, value)) == [str, str]
    if isinstance(found, dict) and all(map(pair, found.values())):
        return None
    return f"subject.surrogates is {found!r}: no names with [how it is climbed, a digest of what]"


def _threat_problem(record: dict[str, Any]) -> str | None:
    threat, axes = record["threat"], record["axes"]
    names = [knowledge.name.lower() for knowledge in Knowledge]
    if threat["knowledge"] not in names:
        return f"threat.knowledge is {threat['knowledge']!r}, none of {', '.join(names)}"
    if not all(isinstance(tag, str) for tag in threat["tags"]):
        return f"threat.tags is {threat['tags']!r}, no list of names"
    problem = _protocol_problem(threat.get("protocol"))
    if problem is not None:
        return problem
    attack, norm, radius = threat.get("attack"), axes.get("norm"), axes.get("radius")
    if attack is None:
        return None if norm is None else "axes.norm is given, but threat.attack is not"
    if not isinstance(attack, dict) or not isinstance(attack.get("class"), str):
        return "threat.attack is no object with its 'class'"
    if not isinstance(norm, str):
        return f"axes.norm is {norm!r}, no text"
    if radius is not None and not (isinstance(radius, _NUMBER) and 0 <= radius < math.inf):
        return f"axes.radius is {radius!r}; it must be finite and not negative"
    return None


def _protocol_problem(protocol: Any) -> str | None:
    if protocol is None:
        return None
    names = ("name", "source", "shots")
    texts = protocol.get("deviations") if isinstance(protocol, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return f"threat.protocol is {protocol!r}, and names no list of 'deviations'"
    wrong = [name for name in names if not isinstance(protocol.get(name), str)]
    return f"threat.protocol lacks {wrong[0]!r}" if wrong else None


def _indices_problem(record: dict[str, Any]) -> str | None:
    if record["num_score_draws"] < 1:
        return f"num_score_draws is {record['num_score_draws']}; it must be at least 1"
    try:
        unpack_indices(record["data"]["indices"])
    except ValueError as error:
        return str(error)
    return None


def _zero_gradient_problem(record: dict[str, Any]) -> str | None:
    """Looks at a number that records of older versions, and of some attacks, do not have."""
    found, most = (
        record.get("num_zero_gradient", 0),
        len(unpack_indices(record["data"]["indices"])),
    )
    if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= most:
        return None
    return f"num_zero_gradient is {found!r}, which is no whole number from 0 to {most}"


def _queries_problem(record: dict[str, Any]) -> str | None:
    """Looks at queries to success, which only records of black boxes have, and no older ones."""
    if "queries" not in record:
        return None
    budget, packed = (_at(record, f"queries.{name}") for name in ("budget", "to_success"))
    if not isinstance(budget, int) or isinstance(budget, bool) or budget < 1:
        return f"queries.budget is {budget!r}, which is no whole number from 1 on"
    try:
        found = unpack_counts(packed if isinstance(packed, str) else "").tolist()
    except ValueError as error:
        return f"queries.to_success: {error}"
    num = len(unpack_indices(record["data"]["indices"]))
    if len(found) != num or max(found) > budget:
        return f"queries.to_success must hold 0, for never, to {budget} for each of {num} images"
    return None


def _ladder_problem(record: dict[str, Any]) -> str | None:
    is_ladder = (record["threat"].get("attack") or {}).get("class") == "Ladder"
    if not is_ladder:
        return "it has a ladder, but threat.attack is none" if "ladder" in record else None
    for path, kind in _LADDER.items():
        value = _at(record, path)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return f"{path} is {value!r}, which is no {_WORDS[kind]}"
    ladder, num = record["ladder"], len(unpack_indices(record["data"]["indices"]))
    draws = ladder["num_draws"]
    if not ladder["rungs"] or draws < 1:
        return f"its ladder has {len(ladder['rungs'])} rungs, compared on {draws} draws"
    for place, rung in enumerate(ladder["rungs"]):
        where = f"ladder.rungs[{place}]"
        wrong = [name for name, kind in _RUNG.items() if not isinstance(_at(rung, name), kind)]
        if wrong:
            return f"{where} lacks {wrong[0]!r}"
        try:
            counts = unpack_counts(rung["correct_draws"]).tolist()
        except ValueError as error:
            return str(error)
        if len(counts) != num or not all(0 <= count <= draws for count in counts):
            return f"{where}.correct_draws must hold a number from 0 to {draws} for {num} images"
        if abs(sum(counts) / (num * draws) - rung["accuracy"]) > 1e-4:
            return f"{where}.accuracy is {rung['accuracy']!r}, and its correct_draws say otherwise"
    return None


def _shown_problem(record: dict[str, Any]) -> str | None:
    if all(isinstance(text, str) for text in record["shown"].values()):
        return None
    return f"shown is {record['shown']!r}, which is no object of texts"


def _proof_problem(record: dict[str, Any]) -> str | None:
    result, indices = record["result"], unpack_indices(record["data"]["indices"])
    try:
        proved = unpack_counts(result["proved_images"]).tolist()
    except ValueError as error:
        return str(error)
    if not len(indices) == len(proved) == result["num_examples"]:
        return (
            f"result.num_examples is {result['num_examples']}, but it names {len(indices)} images "
            f"and proofs for {len(proved)}"
        )
    if not set(proved) <= {0, 1}:
        return "result.proved_images must hold 0 or 1 for every image"
    low, middle, high = (result["proved"][end] for end in ("low", "accuracy", "high"))
    if not 0 <= low <= middle + 1e-9 <= high + 2e-9 <= 1 + 4e-9:
        return f"result.proved is {middle!r} in [{low!r}, {high!r}]; 0 to 1, in order"
    if abs(sum(proved) / len(proved) - middle) > 1e-4:
        return (
            f"result.proved.accuracy is {middle!r}, but result.proved_images add up to "
            f"{sum(proved) / len(proved):.4f}"
        )
    if record["threat"]["knowledge"] != Knowledge.NONE.name.lower():
        return "it is a proof, and threat.knowledge is not none: nobody attacks"
    return _shown_problem(record)


def _scores_problem(record: dict[str, Any]) -> str | None:
    result, draws = record["result"], record["num_score_draws"]
    num, indices = result["num_examples"], unpack_indices(record["data"]["indices"])
    try:
        counts = unpack_counts(result["correct_draws"]).tolist()
    except ValueError as error:
        return str(error)
    if not len(indices) == len(counts) == num:
        return (
            f"result.num_examples is {num}, but it names {len(indices)} images and counts draws "
            f"for {len(counts)}"
        )
    if not all(0 <= count <= draws for count in counts):
        return f"result.correct_draws must hold whole numbers from 0 to {draws}"
    for name in _SCORES:
        low, middle, high = (result[name][end] for end in ("low", "accuracy", "high"))
        if not 0 <= low <= middle + 1e-9 <= high + 2e-9 <= 1 + 4e-9:
            return f"result.{name} is {middle!r} in [{low!r}, {high!r}]; 0 to 1, in order"
    recount = {"mean": sum(counts) / (num * draws), "worst": counts.count(draws) / num}
    for name, share in recount.items():
        if abs(share - result[name]["accuracy"]) > 1e-4:
            return (
                f"result.{name}.accuracy is {result[name]['accuracy']!r}, but "
                f"result.correct_draws add up to {share:.4f}"
            )
    return None


def _at(record: dict[str, Any], path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
