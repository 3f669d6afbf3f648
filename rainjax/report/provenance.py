"""How the numbers of a page came about: the attacker, the attack, the record and the command."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record
from rainjax.report.results import Results
from rainjax.report.tables import Cell, Table
from rainjax.report.text import attack_text, unique, without_markup

_KNOWS = {
    Knowledge.NONE: "Nobody attacks: the images as they are.",
    Knowledge.TRANSFER: "The attacker asks nothing: he fools a classifier of his own, and hopes.",
    Knowledge.LABELS: "The attacker sees nothing but the labels that the pipeline answers with.",
    Knowledge.SCORES: "The attacker sees the scores that the pipeline answers with, and no "
    "gradient.",
    Knowledge.CLASSIFIER: "The attacker knows the classifier but not that images are purified "
    "first, and aims at the classifier alone.",
    Knowledge.DEFENSE: "The attacker knows the whole defended pipeline, but cannot know the draws "
    "with which the image will be judged.",
    Knowledge.KEYS: "The attacker even knows the random draws with which the image will be "
    "judged; nobody outside a laboratory does, and the gap to the other columns is what the "
    "secrecy of the draws is worth.",
}
_AVERAGES = (
    " He averages over random draws at every step, and so aims at what the defense does on "
    "average (expectation over transformation)."
)
_PROVED = "A proof: within the radius no attack whatsoever changes the answers counted here."


def knows(record: Record) -> str:
    """Returns a sentence or two on what a record's attacker knows and does with it."""
    if record.is_proof:
        return _PROVED
    averages = record.knowledge is Knowledge.DEFENSE and record.num_draws > 1
    return _KNOWS[record.knowledge] + (_AVERAGES if averages else "")


@dataclasses.dataclass(frozen=True, eq=False)
class Provenance:
    """Answers for every cell of some tables which records it follows from."""

    results: Results
    tables: Sequence[Table]

    @functools.cached_property
    def used(self) -> list[Record]:
        """The records that any cell follows from, in the study's order."""
        cells = (cell for table in self.tables for row in table.rows for cell in row)
        wanted = {name for cell in cells for name in cell.records}
        return [r for r in (*self.results.records, *self.results.proofs) if r.id in wanted]

    def places(self, cell: Cell) -> str:
        """Returns where a cell's records stand in `told`, empty for a cell without any."""
        return " ".join(str(self._place[name]) for name in cell.records if name in self._place)

    def failed(self, cell: Cell) -> list[str]:
        """Returns the names of the failed sanity checks that put a marked cell in doubt."""
        if "†" not in cell.value:
            return []
        own = [self.used[self._place[name]] for name in cell.records if name in self._place]
        doubts = self.results.doubts
        direct = [name for r in own for name in doubts.get((r.subject, r.threat), [])]
        # The strongest attack of a subject is in doubt with any of its attacks.
        subjects = {record.subject for record in own}
        every = (name for (subject, _), names in doubts.items() if subject in subjects
                 for name in names)  # fmt: skip
        return unique(direct or every)

    @functools.cached_property
    def told(self) -> list[dict[str, Any]]:
        """What is said of each record, as plain values."""
        return [self._told(record) for record in self.used]

    @functools.cached_property
    def _place(self) -> dict[str, int]:
        return {record.id: place for place, record in enumerate(self.used)}

    def _told(self, record: Record) -> dict[str, Any]:
        settings = [attack_text(record)] if record.attack is not None else []
        draws = record.num_score_draws
        scored = f"{record.num_examples} images"
        if not record.is_proof:
            scored += f", {draws} draws each" if draws > 1 else ", one draw each"
        return {
            "subject": record.subject,
            "threat": record.threat,
            "knows": knows(record),
            "attack": "; ".join([*filter(None, [record.description]), *settings]),
            "scored": scored,
            "record": record.id,
            "command": record.content["run"]["command"],
            "failed": list(self._failures(record)),
        }

    def _failures(self, record: Record) -> Iterable[dict[str, Any]]:
        """Yields the failed sanity checks of a record's subject."""
        for row in self.results.checked["rows"] if self.results.checked else ():
            for check in row["checks"] if row["subject"] == record.subject else ():
                if check["passed"] is False:
                    yield {
                        "name": check["name"],
                        "found": without_markup(check["found"]),
                        "doubts": check["doubts"],
                    }
