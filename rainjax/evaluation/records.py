"""The records of a study: one JSON file per number, and what a display may ask of one."""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from rainjax._files import read_json
from rainjax.evaluation.knowledge import Knowledge
from rainjax.metrics import wilson_interval

SCHEMA = 2
KIND = "robustness"


@dataclasses.dataclass(frozen=True)
class Score:
    """A share of images, with the ends of its 95 % Wilson interval for the choice of images."""

    accuracy: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One measured number with everything that a display asks for; `content` is the JSON object.

    Two records are the same only if they are one object: displays look records up by identity.
    """

    content: dict[str, Any] = dataclasses.field(repr=False)

    def __repr__(self) -> str:
        score = self.score()
        return f"<Record {self.id}: {score.accuracy:.1%} [{score.low:.1%}, {score.high:.1%}]>"

    @property
    def id(self) -> str:
        """The name of the record's file: unique within the study."""
        return self.content["id"]

    @property
    def subject(self) -> str:
        """The name of the pipeline that was scored."""
        return self.content["subject"]["name"]

    @property
    def defended(self) -> bool:
        """Whether there is a defense; without one it is what the others are held against."""
        return self.content["subject"]["defended"]

    @property
    def threat(self) -> str:
        """The name of the threat model."""
        return self.content["threat"]["name"]

    @property
    def description(self) -> str:
        """What the attacker knows and does, in a few words."""
        return self.content["threat"]["description"]

    @property
    def knowledge(self) -> Knowledge:
        """What the attacker knows."""
        return Knowledge[self.content["threat"]["knowledge"].upper()]

    @property
    def tags(self) -> tuple[str, ...]:
        """The displays that the threat model was made for."""
        return tuple(self.content["threat"]["tags"])

    @property
    def attack(self) -> dict[str, Any] | None:
        """The attack as plain JSON, with its class and its options; None where nobody attacks."""
        return self.content["threat"]["attack"]

    @property
    def norm(self) -> str | None:
        """The norm of the attack's ball; None where nobody attacks."""
        return self.content["axes"]["norm"]

    @property
    def radius(self) -> float | None:
        """The radius in units of the [0, 1] range; infinite for an attack that minimises it."""
        if self.norm is None:
            return None
        radius = self.content["axes"]["radius"]
        return math.inf if radius is None else float(radius)

    @property
    def ball(self) -> tuple[str, float] | None:
        """Norm and radius; None where nobody attacks."""
        return None if self.norm is None else (self.norm, self.radius or 0.0)

    @property
    def num_draws(self) -> int:
        """How many draws the attack averages over at every step."""
        return self.content["axes"]["num_draws"]

    @property
    def num_steps(self) -> int:
        """How many steps the attack takes, 0 where nobody attacks."""
        return self.content["axes"]["num_steps"]

    @property
    def strength(self) -> tuple[Knowledge, bool]:
        """What the attacker has, as an order: knowledge, then whether he averages over draws."""
        return self.knowledge, self.num_draws > 1

    @functools.cached_property
    def indices(self) -> Int[np.ndarray, "n"]:
        """The positions of the images in their data set."""
        return unpack_indices(self.content["data"]["indices"])

    @functools.cached_property
    def correct_draws(self) -> Int[np.ndarray, "n"]:
        """Under how many scoring draws each image was classified right."""
        return unpack_counts(self.content["result"]["correct_draws"])

    @property
    def num_score_draws(self) -> int:
        """Under how many draws every image was scored."""
        return self.content["num_score_draws"]

    @property
    def num_examples(self) -> int:
        """How many images were scored."""
        return self.content["result"]["num_examples"]

    @property
    def result(self) -> dict[str, Any]:
        """Everything that was measured, as plain JSON."""
        return self.content["result"]

    def score(self, name: str = "mean") -> Score:
        """Returns "mean" accuracy over draws, that of their "vote", or of the "worst" draw."""
        found = self.content["result"][name]
        return Score(found["accuracy"], found["low"], found["high"])

    def score_on(self, indices: Iterable[int]) -> Score:
        """Returns the mean accuracy counted anew on some of the images.

        Raises:
            KeyError: the record knows nothing of one of them.
        """
        draws = dict(zip(self.indices.tolist(), self.correct_draws.tolist(), strict=True))
        counts = [draws[index] for index in indices]
        correct = sum(counts) / self.num_score_draws
        return Score(correct / len(counts), *wilson_interval(correct, len(counts)))


def load_records(folder: pathlib.Path | str) -> list[Record]:
    """Returns the records under `folder`/records, subjects and threat models in their order.

    The order is that of `folder`/study.json; what it does not name comes last, by name.

    Raises:
        ValueError: there are none, or one is damaged, incomplete, of another schema, of another
            study than the first, or at odds with its own counts; says which.
    """
    folder = pathlib.Path(folder)
    paths = sorted((folder / "records").glob("*.json"))
    if not paths:
        raise ValueError(
            f"{folder} holds no records/*.json: name the folder that `rainjax evaluate` wrote."
        )
    records: list[Record] = []
    seen: dict[str, str] = {}
    for path in paths:
        record = Record(read_json(path))
        problem = find_problem(record.content)
        if problem is None and record.id in seen:
            problem = f"its id {record.id!r} is also that of {seen[record.id]}"
        if problem is None and records and _study(record) != _study(records[0]):
            problem = (
                f"it belongs to the study {_study(record)!r}, the others to "
                f"{_study(records[0])!r}; keep each study in a folder of its own"
            )
        if problem is not None:
            raise ValueError(f"{path} is no usable record: {problem}.")
        seen[record.id] = path.name
        records.append(record)
    return in_order(records, load_order(folder))


def load_order(folder: pathlib.Path | str) -> dict[str, list[str]]:
    """Returns the names of "subjects" and "threats" as study.json orders them, or empty lists."""
    path = pathlib.Path(folder) / "study.json"
    content = read_json(path) if path.exists() else {}
    found = {kind: content.get(kind, []) for kind in ("subjects", "threats")}
    for kind, names in found.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path} is damaged: {kind!r} must be a list of names.")
    return found


def in_order(records: Sequence[Record], order: dict[str, list[str]]) -> list[Record]:
    """Returns records by subject, then threat model, radius, draws and number of images."""

    def place(names: list[str], name: str) -> tuple[int, str]:
        return (names.index(name), "") if name in names else (len(names), name)

    def key(record: Record):
        return (
            place(order["subjects"], record.subject),
            place(order["threats"], record.threat),
            record.norm or "",
            record.radius or 0.0,
            record.num_draws,
            record.num_examples,
        )

    return sorted(records, key=key)


def record_id(
    subject: str, threat: str, *, norm: str | None, radius: float | None, num_draws: int, num: int
) -> str:
    """Returns the name of a record's file: subject, threat model, ball, draws, images."""
    parts = [slug(subject), slug(threat)]
    if norm is not None:
        size = "nearest" if radius is None else _size(norm, radius)
        parts += [f"{norm}-{size}", f"k{num_draws}"]
    return "--".join([*parts, f"n{num}"])


def slug(text: str) -> str:
    """Returns a name as files bear it: lower case, digits, and single hyphens."""
    return re.sub(r"[^\w.]+", "-", text.lower().replace("_", "-")).strip("-")


def pack_indices(indices: Int[np.ndarray, "n"] | Sequence[int]) -> str:
    """Returns positions as ranges: `"0-199"`, `"0-4,7,9-12"`; the order is kept."""
    found: list[list[int]] = []
    for index in map(int, indices):
        if found and index == found[-1][1] + 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def unpack_indices(text: str) -> Int[np.ndarray, "n"]:
    """Returns the positions that `pack_indices` wrote.

    Raises:
        ValueError: the text holds no ranges.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"{text!r} holds no ranges such as 0-4,7")
    spans = [[int(end) for end in span.split("-")] for span in text.split(",")]
    return np.concatenate([np.arange(span[0], span[-1] + 1) for span in spans])


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def pack_counts(counts: Int[np.ndarray, "n"] | Sequence[int]) -> str:
    """Returns counts as text: a digit in base 36 each, or, where one is larger, with commas."""
    counts = [int(count) for count in counts]
    if max(counts) < len(_DIGITS):
        return "".join(_DIGITS[count] for count in counts)
    return ",".join(map(str, counts)) + ","


def unpack_counts(text: str) -> Int[np.ndarray, "n"]:
    """Returns the counts that `pack_counts` wrote.

    Raises:
        ValueError: the text holds none.
    """
    if re.fullmatch(r"(\d+,)+", text):
        return np.array([int(number) for number in text[:-1].split(",")])
    if not re.fullmatch(r"[0-9a-z]+", text):
        raise ValueError(f"{text[:40]!r} holds no counts")
    return np.array([_DIGITS.index(digit) for digit in text])


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
    "result.num_examples": int,
    "result.correct_draws": str,
    "result.linf_max": _NUMBER,
    "run.seconds": _NUMBER,
    "run.started": str,
    "run.versions": dict,
    "run.backend": str,
    "run.device": str,
    "run.command": str,
}
_SCORES = ("mean", "worst", "vote")
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
    if record.get("kind") != KIND:
        return f"its kind is {record.get('kind')!r}, not {KIND!r}"
    if record.get("schema") != SCHEMA:
        return f"its schema is {record.get('schema')!r}, and this program reads {SCHEMA}"
    scores = [f"result.{s}.{e}" for s in _SCORES for e in ("low", "accuracy", "high")]
    for path, kind in (_FIELDS | dict.fromkeys(scores, _NUMBER)).items():
        value = _at(record, path)
        if value is None:
            return f"it lacks {path!r}"
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            return f"{path} is {value!r}, which is no {_WORDS[kind]}"
    return _threat_problem(record) or _result_problem(record)


def _threat_problem(record: dict[str, Any]) -> str | None:
    threat, axes = record["threat"], record["axes"]
    names = [knowledge.name.lower() for knowledge in Knowledge]
    if threat["knowledge"] not in names:
        return f"threat.knowledge is {threat['knowledge']!r}, none of {', '.join(names)}"
    if not all(isinstance(tag, str) for tag in threat["tags"]):
        return f"threat.tags is {threat['tags']!r}, no list of names"
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


def _result_problem(record: dict[str, Any]) -> str | None:
    result, draws = record["result"], record["num_score_draws"]
    num = result["num_examples"]
    try:
        indices = unpack_indices(record["data"]["indices"]).tolist()
        counts = unpack_counts(result["correct_draws"]).tolist()
    except ValueError as error:
        return str(error)
    if num < 1 or draws < 1:
        return f"it counts {num} examples and {draws} draws; both must be at least 1"
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


def _study(record: Record) -> str:
    return record.content["study"]


def _size(norm: str, radius: float) -> str:
    """Returns a radius as a file's name has it: in 255ths for `linf`."""
    return f"{radius * 255:.6g}" if norm == "linf" else f"{radius:.6g}"


def _at(record: dict[str, Any], path: str) -> Any:
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
