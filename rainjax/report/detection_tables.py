"""Tables of detectors beside each other: a number of `Detection`, or distortion by distortion."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record
from rainjax.metrics import auroc
from rainjax.report._detections import Pick, detections, scores, wrong_shares
from rainjax.report._display import Display
from rainjax.report.detection_maps import distortion_of, severity_of
from rainjax.report.results import Results, subjects_of
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import percent, radius_text, unique

Number = Literal[
    "auroc",
    "average_precision",
    "detected",
    "answered_wrong",
    "answered_right",
    "right_among_answered",
    "rejected",
    "egregiously_wrong",
]
Attacker = Literal["anybody", "nobody", "blind", "adaptive"]

# Of fewer images that are wrong, or right, the AUROC between the two says nothing.
FEWEST = 5


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """How a number is called, read and shown, and what a note says of it."""

    title: str
    read: Callable[["DetectionTable", Record], dict[str, float] | None]
    show: Callable[[float], str]
    note: str


@dataclasses.dataclass(frozen=True)
class DetectionTable(Display):
    """One number of `Detection`, a row for each detector and a column for each threat model.

    Shown are the records with the tag, all for None, of threat models with such an `attacker`:
    "nobody", one who is "blind" to the detector, or an "adaptive" one, who asks the whole. The
    numbers of ranking, "auroc", "average_precision" and "detected" at `false_positive_rate`, are
    `of` "all" attacked images, or of "successful" attacks. Of "answered_wrong" the last column is
    the most that any attacker of the table reaches within a ball. `about` ends the title.

    Raises:
        ValueError: a field is not what it says.
    """

    number: Number = "auroc"
    tag: str | None = "table"
    attacker: Attacker = "anybody"
    of: Pick = "all"
    false_positive_rate: float = 0.05
    about: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.false_positive_rate < 1:
            raise ValueError(
                f"false_positive_rate={self.false_positive_rate} must lie in (0, 1); 5 % is 0.05."
            )

    def tables(self, results: Results) -> list[Table]:
        """Returns the table; none where no record has such a number."""
        quantity = _QUANTITIES[self.number]
        shown = [r for r in detections(results, self.tag) if self._is_of(r)]
        shown = [r for r in shown if quantity.read(self, r) is not None]
        if not shown:
            return []
        columns = unique(_column(record) for record in _ordered(shown))
        whole = max(record.num_examples for record in shown)
        strongest = self.number == "answered_wrong" and self.attacker != "nobody"
        rows = []
        for subject in subjects_of(results, shown):
            found = {_column(r): r for r in shown if r.subject == subject}
            cells = [self.cell(found.get(column), whole) for column in columns]
            if strongest:
                worst = max(found.values(), key=lambda r: r.result["slips_through"]["value"])
                cell = self.cell(worst, whole)
                detail = f"{cell.detail} {_column(worst)}".strip()
                cells.append(cell.replaced(cell.value, detail))
            rows.append((Cell(subject), *cells))
        names = [*columns, *(["the most"] if strongest else [])]
        who = {
            "anybody": "",
            "nobody": ", nobody attacks",
            "blind": ", blind attackers",
            "adaptive": ", attackers who know the detector",
        }[self.attacker]
        of = ", successful attacks alone" if self._ranks and self.of == "successful" else ""
        return [
            Table(
                f"{self._title}{who}{of}{self.about and f', {self.about}'}",
                (Cell(""), *map(Cell, names)),
                tuple(rows),
                notes=(
                    f"{quantity.note} In brackets 95 % intervals for the choice of images: the "
                    f"first {whole}, or n of them where n is named.",
                ),
                judged_by_last=strongest,
            )
        ]

    @property
    def _ranks(self) -> bool:
        return self.number in ("auroc", "average_precision", "detected")

    @property
    def _title(self) -> str:
        title = _QUANTITIES[self.number].title
        return title.format(rate=f"{100 * self.false_positive_rate:g} %")

    def _is_of(self, record: Record) -> bool:
        knows = record.knowledge
        return {
            "anybody": True,
            "nobody": knows is Knowledge.NONE,
            "blind": knows in (Knowledge.TRANSFER, Knowledge.CLASSIFIER),
            "adaptive": knows in (Knowledge.LABELS, Knowledge.SCORES)
            or knows >= Knowledge.DEFENSE,
        }[self.attacker]

    def cell(self, record: Record | None, whole: int) -> Cell:
        """Returns what a record says; n beside it where it is not of the `whole` number."""
        quantity = _QUANTITIES[self.number]
        found = None if record is None else quantity.read(self, record)
        if record is None or found is None:
            return ABSENT
        low, high = (quantity.show(found[end]).removesuffix(" %") for end in ("low", "high"))
        ends = f"[{low}, {high}]"
        num = self._num(record)
        detail = ends + (f" n={num}" if num != whole else "")
        return Cell(quantity.show(found["value"]), detail, (record.id,))

    def _num(self, record: Record) -> int:
        group = record.result["successful"] if self._ranks and self.of == "successful" else None
        return record.num_examples if group is None else group["num_examples"]


def _ranking(name: str) -> Callable[[DetectionTable, Record], dict[str, float] | None]:
    def read(table: DetectionTable, record: Record) -> dict[str, float] | None:
        group = record.result["all_attacked" if table.of == "all" else "successful"]
        if group is None or name != "detected":
            return group and group[name]
        return group["detection_rates"].get(f"{table.false_positive_rate:g}")

    return read


def _share(name: str) -> Callable[[DetectionTable, Record], dict[str, float] | None]:
    return lambda table, record: record.result[name]


def _rejected(table: DetectionTable, record: Record) -> dict[str, float]:
    answered = record.result["coverage"]
    return {
        "value": 1 - answered["value"],
        "low": 1 - answered["high"],
        "high": 1 - answered["low"],
    }


def _fraction(value: float) -> str:
    return f"{value:.3f}"


_AFTERWARDS = "The threshold is chosen afterwards, on the clean versions of the same images."
_OWN = "At the detector's own threshold, which other clean images decided."
_QUANTITIES: dict[Number, _Quantity] = {
    "auroc": _Quantity(
        "AUROC",
        _ranking("auroc"),
        _fraction,
        "The chance that an attacked image gets a higher score than a clean one; 0.5 is chance.",
    ),
    "average_precision": _Quantity(
        "Average precision",
        _ranking("average_precision"),
        _fraction,
        "Of attacked images among as many clean ones.",
    ),
    "detected": _Quantity(
        "Detected at {rate} false positives", _ranking("detected"), percent, _AFTERWARDS
    ),
    "answered_wrong": _Quantity(
        "Answered wrong",
        _share("slips_through"),
        percent,
        f"{_OWN} What an attacker wants: a wrong answer that is not rejected.",
    ),
    "answered_right": _Quantity(
        "Answered right, a rejection is an error",
        _share("accuracy_rejected_is_error"),
        percent,
        _OWN,
    ),
    "right_among_answered": _Quantity(
        "Right among answered, rejections left out",
        _share("accuracy_of_answered"),
        percent,
        _OWN,
    ),
    "rejected": _Quantity("Rejected", _rejected, percent, _OWN),
    "egregiously_wrong": _Quantity(
        "Answered egregiously wrong",
        _share("egregious"),
        percent,
        f"{_OWN} Wrong, with at least the probability that the record's `confidence` names.",
    ),
}


@dataclasses.dataclass(frozen=True)
class DistortionTable(Display):
    """How well scores tell images that the classifier gets wrong, distortion by distortion.

    The AUROC between distorted images that the classifier gets wrong and those that it gets right,
    all severities together: a row for each distortion, a column for each detector. Shown are the
    records of `Detection` with the tag, all for None, whose attack has a `severity`.
    """

    tag: str | None = "distortions"

    def tables(self, results: Results) -> list[Table]:
        """Returns the table; none where nothing was distorted."""
        shown = [r for r in detections(results, self.tag) if severity_of(r) is not None]
        if not shown:
            return []
        subjects = subjects_of(results, shown)
        rows = []
        for kind in (*unique(distortion_of(record) for record in shown), None):
            some = [r for r in shown if kind is None or distortion_of(r) == kind]
            first = [r for r in some if r.subject == subjects[0]]
            wrong = float(np.concatenate([wrong_shares(r)[1] for r in first]).mean())
            cells = [_of_errors([r for r in some if r.subject == name]) for name in subjects]
            bare = Cell(percent(wrong), records=tuple(record.id for record in first))
            rows.append((Cell(kind or "all"), bare, *cells))
        severities = ", ".join(map(str, sorted({severity_of(r) or 0 for r in shown})))
        num = max(record.num_examples for record in shown)
        return [
            Table(
                "Telling errors on distorted images: AUROC",
                (Cell(""), Cell("the classifier is wrong"), *map(Cell, subjects)),
                tuple(rows),
                notes=(
                    "The chance that a distorted image which the classifier gets wrong has a "
                    f"higher score than one that it gets right; severities {severities}, {num} "
                    f"images each; none where fewer than {FEWEST} are wrong, or right.",
                ),
            )
        ]


@dataclasses.dataclass(frozen=True)
class CleanTable(Display):
    """What a detector does to images as they are: rejections, and both ways to count them.

    A row for each detector, from the records of `Detection` with the tag, all for None, that are
    of nobody's attack.
    """

    tag: str | None = "table"

    def tables(self, results: Results) -> list[Table]:
        """Returns the table; none where clean images were not measured."""
        shown = [r for r in detections(results, self.tag) if r.attack is None]
        if not shown:
            return []
        numbers = ("rejected", "answered_right", "right_among_answered", "egregiously_wrong")
        columns = [DetectionTable(number, self.tag, "nobody") for number in numbers]
        whole = max(record.num_examples for record in shown)
        rows = []
        for record in shown:
            alone = record.result["egregious_without_detector"]["value"]
            cells = [column.cell(record, whole) for column in columns]
            lone = Cell(percent(alone), records=(record.id,))
            rows.append((Cell(record.subject), *cells, lone))
        confidence = percent(shown[0].result["confidence"])
        return [
            Table(
                "Images as they are",
                (
                    Cell(""),
                    Cell("rejected"),
                    Cell("answered right"),
                    Cell("right among answered"),
                    Cell("egregiously wrong"),
                    Cell("without the detector"),
                ),
                tuple(rows),
                notes=(
                    f"{_OWN} **answered right**: a rejection is an error; **right among "
                    "answered**: it is left out. **egregiously wrong**: answered wrong with a "
                    f"probability of at least {confidence}, and how often the classifier alone "
                    f"is. In brackets 95 % intervals for the choice of {whole} images.",
                ),
            )
        ]


@dataclasses.dataclass(frozen=True)
class DetectionSummary(Display):
    """What detectors cost, tell apart and let past: the tables to read first.

    How blind attackers are told from clean images; what gets past from attackers who know the
    detector, and how much of it is egregiously wrong; what becomes of clean images; what becomes
    of fine images that are made to look poor, the tag `sabotage`, and of poor ones that are made
    to look fine, `washed`; and how errors on distorted images are told, `distortions`.
    """

    tag: str | None = "table"
    distortions: str | None = "distortions"
    sabotage: str = "sabotage"
    washed: str = "washed"

    def tables(self, results: Results) -> list[Table]:
        """Returns the tables of those questions that something was measured for."""
        displays = (
            DetectionTable("auroc", self.tag, "blind"),
            DetectionTable("average_precision", self.tag, "blind"),
            DetectionTable("answered_wrong", self.tag, "adaptive"),
            DetectionTable("egregiously_wrong", self.tag),
            CleanTable(self.tag),
            DetectionTable("rejected", self.sabotage, about="fine images made to look poor"),
            DetectionTable("rejected", self.washed, about="poor images made to look fine"),
            DistortionTable(self.distortions),
        )
        return [table for display in displays for table in display.tables(results)]


def _of_errors(shown: list[Record]) -> Cell:
    found = np.concatenate([scores(record)[1] for record in shown] or [np.zeros(0)])
    wrong = np.concatenate([wrong_shares(record)[1] for record in shown] or [np.zeros(0)]) > 0.5
    if min(wrong.sum(), (~wrong).sum()) < FEWEST:
        return ABSENT
    ids = tuple(record.id for record in shown)
    return Cell(f"{auroc(found[~wrong], found[wrong]):.3f}", records=ids)


def _ordered(shown: list[Record]) -> list[Record]:
    """Returns records by radius, the clean ones first and those without a radius last."""

    def place(record: Record) -> tuple[Any, ...]:
        radius = record.content["axes"].get("radius")
        return record.attack is not None, radius is None, radius or 0.0

    return sorted(shown, key=place)


def _column(record: Record) -> str:
    axes = record.content["axes"]
    norm, radius = axes.get("norm"), axes.get("radius")
    if record.attack is None or radius is None or not np.isfinite(radius):
        return record.threat
    return f"{record.threat}, {radius_text(norm, radius)}"
