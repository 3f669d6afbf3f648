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

from rainjax._files import as_path, read_json
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.packing import unpack_counts, unpack_indices
from rainjax.evaluation.shots import shots_of
from rainjax.evaluation.validation import PROOF, ROBUSTNESS, find_problem
from rainjax.metrics import wilson_interval

SCHEMA = 2


@dataclasses.dataclass(frozen=True)
class Score:
    """A share of images, with the ends of its 95 % Wilson interval for the choice of images."""

    accuracy: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Where records come from: their study's folder, and the displays that the study named.

    `displays` is None where the study itself is not at hand.
    """

    folder: pathlib.Path
    displays: tuple[Any, ...] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One measured number with everything that a display asks for; `content` is the JSON object.

    Two records are the same only if they are one object: displays look records up by identity.
    """

    content: dict[str, Any] = dataclasses.field(repr=False)
    origin: Origin | None = dataclasses.field(default=None, repr=False)

    def __repr__(self) -> str:
        if not self.scored:
            return f"<Record {self.id}: {', '.join(map(' '.join, self.shown.items()))}>"
        score = self.score()
        return f"<Record {self.id}: {score.accuracy:.1%} [{score.low:.1%}, {score.high:.1%}]>"

    @property
    def scored(self) -> bool:
        """Whether it has accuracies: it is of `Robustness`, or of a measure that extends it."""
        return self.content["kind"] == ROBUSTNESS

    @property
    def is_proof(self) -> bool:
        """Whether it says what no attacker changes, by a `RoundingCertificate`."""
        return self.content["kind"] == PROOF

    @functools.cached_property
    def proved(self) -> dict[int, bool]:
        """Whether each image's prediction is proved, by the image's position; of a proof alone."""
        found = unpack_counts(self.content["result"]["proved_images"])
        return dict(zip(self.indices.tolist(), map(bool, found.tolist()), strict=True))

    @property
    def measure(self) -> str:
        """The name of the measure's class."""
        return self.content.get("measure", {}).get("class", "Robustness").rpartition(".")[2]

    @property
    def shown(self) -> dict[str, str]:
        """What a measure other than `Robustness` has displays show: titles and texts."""
        return self.content.get("shown", {})

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
    def protocol(self) -> dict[str, Any] | None:
        """The published protocol it is named after: "name", "source", "shots", "deviations"."""
        return self.content["threat"].get("protocol")

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

    @property
    def num_zero_gradient(self) -> int | None:
        """For how many images the gradient was exactly zero at every call, and none a success.

        None where nobody attacks, the attack asks for no gradient, or an older version measured.
        """
        return self.content.get("num_zero_gradient")

    @property
    def query_budget(self) -> int | None:
        """How many forward passes of the pipeline a black box may ask for, an image.

        None of every other attacker, and of what an older version measured.
        """
        return self.content.get("queries", {}).get("budget")

    @functools.cached_property
    def queries_to_success(self) -> Int[np.ndarray, "n"] | None:
        """With which forward pass each image first was a success to the attacker; 0 for never.

        By his own answers: where the pipeline is random, one that other draws may not share. For
        attacks that look for the nearest success it is the first within the radius. None where
        `query_budget` is.
        """
        found = self.content.get("queries")
        return None if found is None else unpack_counts(found["to_success"])

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
        """How many images were measured."""
        return len(self.indices)

    @property
    def result(self) -> dict[str, Any]:
        """Everything that was measured, as plain JSON."""
        return self.content["result"]

    @property
    def ladder(self) -> dict[str, Any] | None:
        """What a ladder came to on every rung, as plain JSON; None of any other attack."""
        return self.content.get("ladder")

    @property
    def still_falling(self) -> bool:
        """Whether it is of a ladder that ended by its budget: its number is an upper bound."""
        return self.ladder is not None and not self.ladder["flat"]

    def shot(self, name: str = "mean") -> str:
        """Returns how a score counts draws, in the field's words: see `shots_of`."""
        return shots_of(self.content)[name]

    def score(self, name: str = "mean") -> Score:
        """Returns "mean" accuracy over draws, that of their "vote", or of the "worst" draw.

        Raises:
            ValueError: it is of a measure that knows no accuracy.
        """
        if not self.scored:
            raise ValueError(
                f"The record {self.id!r} is of the measure {self.measure!r}, which gives no "
                "accuracy: read its `result`."
            )
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


def load_records(
    folder: pathlib.Path | str, *, displays: Sequence[Any] | None = None
) -> list[Record]:
    """Returns the records under `folder`/records, subjects and threat models in their order.

    The order is that of `folder`/study.json; what it does not name comes last, by name. Of a
    subject that was measured in several runs the records are those of the newest one: another
    number of images, say, makes records beside the old ones, which `load_earlier` returns.

    Args:
        folder: The study's folder.
        displays: Those of the study, which a report of these records then shows.

    Raises:
        ValueError: there are none, or one is damaged, incomplete, of another schema, of another
            study than the first, or at odds with its own counts; says which.
    """
    origin = Origin(as_path("folder", folder), None if displays is None else tuple(displays))
    return _load(origin, earlier=False)


def load_earlier(folder: pathlib.Path | str) -> list[Record]:
    """Returns the records of earlier runs that the newest did not make again; raises as above."""
    return _load(Origin(pathlib.Path(folder)), earlier=True)


def load_order(folder: pathlib.Path | str) -> dict[str, list[str]]:
    """Returns the names of "subjects" and "threats" as study.json orders them, or empty lists."""
    content = load_study_file(folder)
    found = {kind: content.get(kind, []) for kind in ("subjects", "threats")}
    for kind, names in found.items():
        if not _are_names(names):
            path = pathlib.Path(folder) / "study.json"
            raise ValueError(f"{path} is damaged: {kind!r} must be a list of names.")
    return found


def load_study_file(folder: pathlib.Path | str) -> dict[str, Any]:
    """Returns what study.json says of the study and of its newest run; empty without a file."""
    path = pathlib.Path(folder) / "study.json"
    return read_json(path) if path.exists() else {}


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
    """Returns the name of a record's file: subject, threat model, ball, draws, images.

    Args:
        subject: The subject's name.
        threat: The threat model's name.
        norm: The ball's norm; None where there is no ball.
        radius: Its radius, in units of the [0, 1] range; None where the nearest success is looked
            for.
        num_draws: Draws that the attack averages over.
        num: The number of images.
    """
    parts = [slug(subject), slug(threat)]
    if norm is not None:
        size = "nearest" if radius is None else _size(norm, radius)
        parts += [f"{norm}-{size}", f"k{num_draws}"]
    return "--".join([*parts, f"n{num}"])


def slug(text: str) -> str:
    """Returns a name as files bear it: lower case, digits, and single hyphens."""
    return re.sub(r"[^\w.]+", "-", text.lower().replace("_", "-")).strip("-")


def _load(origin: Origin, *, earlier: bool) -> list[Record]:
    folder = origin.folder
    paths = sorted((folder / "records").glob("*.json"))
    if not paths:
        raise ValueError(
            f"{folder} holds no records/*.json: name the folder that `rainjax evaluate` wrote."
        )
    records: list[Record] = []
    seen: dict[str, str] = {}
    for path in paths:
        record = Record(read_json(path), origin)
        problem = _schema_problem(record.content) or find_problem(record.content)
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
    newest = {name: ids for name, ids in _newest(folder).items() if seen.keys() & set(ids)}
    is_earlier = lambda record: record.id not in newest.get(record.subject, [record.id])
    chosen = [record for record in records if is_earlier(record) is earlier]
    return in_order(chosen, load_order(folder))


def _newest(folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns the records of the newest run of every subject, as study.json names them."""
    found = load_study_file(folder).get("records", {})
    if not isinstance(found, dict) or not all(map(_are_names, found.values())):
        raise ValueError(
            f"{folder / 'study.json'} is damaged: 'records' must name each subject's records."
        )
    return found


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _schema_problem(record: dict[str, Any]) -> str | None:
    found = record.get("schema")
    return None if found == SCHEMA else f"its schema is {found!r}, and this program reads {SCHEMA}"


def _study(record: Record) -> str:
    return record.content["study"]


def _size(norm: str, radius: float) -> str:
    """Returns a radius as a file's name has it: in 255ths for `linf`."""
    return f"{radius * 255:.6g}" if norm == "linf" else f"{radius:.6g}"
