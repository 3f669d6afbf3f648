"""What a report is made from: a study's records in their order, and questions to them."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable, Sequence

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import (
    Origin,
    Record,
    Score,
    load_earlier,
    load_order,
    load_records,
)
from rainjax.report import sanity

Ball = tuple[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The records of one study with the order in which displays show its names.

    `proofs` are the records of what no attacker changes: they are no attacks, so that no display
    finds them among `records`. `folder` holds what lies beside the records, if anything does,
    `checked` is the record of sanity checks, and `earlier` are records of earlier runs, which no
    display shows.
    """

    records: Sequence[Record]
    subjects: Sequence[str]
    threats: Sequence[str]
    folder: pathlib.Path | None = dataclasses.field(default=None, repr=False)
    checked: sanity.Checked | None = dataclasses.field(default=None, repr=False)
    earlier: Sequence[Record] = ()
    proofs: Sequence[Record] = ()

    @staticmethod
    def read(folder: pathlib.Path | str) -> "Results":
        """Reads a study's folder.

        Raises:
            ValueError: a file in it is damaged, or of another study than the others; says which.
        """
        return Results.of(load_records(folder), load_earlier(folder))

    @staticmethod
    def of(records: Sequence[Record], earlier: Sequence[Record] = ()) -> "Results":
        """Returns the results of records, with what lies in the folder that all of them are from.

        The order is the study's; of records without a folder no defense comes first, and the
        least informed attack.

        Raises:
            ValueError: there are no records, or proofs alone, or `read` would raise it.
        """
        if not records:
            raise ValueError("There are no records, so there is nothing to report.")
        origin = common_origin(records)
        proofs = [record for record in records if record.is_proof]
        records = [record for record in records if not record.is_proof]
        if not records:
            raise ValueError(
                f"The records are of proofs alone ({proofs[0].id}): measure CLEAN or an attack "
                "as well, for them to be held against."
            )
        subjects, threats = _names(records)
        if origin is None:
            return Results(records, subjects, threats, earlier=earlier, proofs=proofs)
        order = load_order(origin.folder)
        return Results(
            records,
            _known_first(order["subjects"], subjects),
            _known_first(order["threats"], threats),
            origin.folder,
            sanity.load(origin.folder, records),
            earlier,
            proofs,
        )

    def tagged(self, tag: str | None) -> list[Record]:
        """Returns the records of the threat models with a tag; all of them for None."""
        return [record for record in self.records if tag is None or tag in record.tags]

    def scored(self, tag: str | None) -> list[Record]:
        """Returns the records with a tag that have accuracies, which some measures do not give."""
        return [record for record in self.tagged(tag) if record.scored]

    @functools.cached_property
    def doubts(self) -> dict[tuple[str, str], list[str]]:
        """The names of failed sanity checks, by the subject and the threat model they doubt."""
        return sanity.doubts(self.checked)

    def is_bare(self, subject: str) -> bool:
        """Whether a subject has no defense: it is what the others are held against."""
        return any(not r.defended for r in self.records if r.subject == subject)


def common_origin(records: Iterable[Record]) -> Origin | None:
    """Returns where all of the records come from, None if they come from several places."""
    origins = {record.origin for record in records}
    return origins.pop() if len(origins) == 1 else None


def subjects_of(results: Results, shown: Iterable[Record]) -> list[str]:
    """Returns the subjects of some records, in the results' order."""
    there = {record.subject for record in shown}
    return [subject for subject in results.subjects if subject in there]


def balls(records: Iterable[Record]) -> list[Ball]:
    """Returns the norms and radii of attacks, sorted."""
    return sorted({record.ball for record in records if record.ball is not None})


def radii(records: Iterable[Record], norm: str) -> list[float]:
    """Returns the radii of attacks within a bounded ball of a norm, sorted."""
    return [r for n, r in balls(records) if n == norm and r < math.inf]


def clean(records: Iterable[Record], subject: str) -> Record | None:
    """Returns a subject's record of unattacked images: that of most images."""
    found = [r for r in records if r.subject == subject and r.attack is None]
    return max(found, key=lambda record: record.num_examples, default=None)


def is_blind(record: Record) -> bool:
    """Whether somebody attacks who knows nothing of the defense, and asks it nothing."""
    return record.knowledge in (Knowledge.TRANSFER, Knowledge.CLASSIFIER)


def is_informed(record: Record) -> bool:
    """Whether somebody attacks who knows the defense, or asks the pipeline that it is part of."""
    return record.knowledge in (Knowledge.LABELS, Knowledge.SCORES, Knowledge.DEFENSE)


def knows_less(weaker: Record, stronger: Record) -> bool:
    """Whether whatever one attacker has the other has as well, and more.

    A black box sees what the defended pipeline answers, which who is blind to the defense does
    not: neither of the two has all that the other has. Nor is a classifier of one's own among
    what a black box has; whoever has the whole pipeline could have one.
    """
    if weaker.knowledge is Knowledge.TRANSFER:
        return stronger.knowledge >= Knowledge.DEFENSE
    black_box = Knowledge.NONE < weaker.knowledge < Knowledge.CLASSIFIER
    if black_box and stronger.knowledge is Knowledge.CLASSIFIER:
        return False
    return weaker.strength < stronger.strength


def strongest(records: Iterable[Record], subject: str, ball: Ball) -> Record | None:
    """Returns the `lowest` record of a subject's attacks within a ball; known keys do not compete.

    The knowledge of the scoring draws is a diagnosis that no attacker has.
    """
    return lowest(
        record
        for record in records
        if record.subject == subject
        and record.ball == ball
        and record.knowledge is not Knowledge.KEYS
    )


def lowest(candidates: Iterable[Record]) -> Record | None:
    """Returns the record of the attack that left least, None of none.

    Attacks on the same images are a group, of which the lowest is taken. Which group, where there
    are more, is decided by the lowest that any of each leaves on the images that all have.
    """
    candidates = list(candidates)
    if not candidates:
        return None

    def own(record: Record) -> tuple[float, int, bool]:
        # Where two are level, the one who knows more is named.
        knowledge, averages = record.strength
        return record.score().accuracy, -knowledge, not averages

    groups: dict[frozenset[int], list[Record]] = {}
    for record in candidates:
        groups.setdefault(frozenset(record.indices.tolist()), []).append(record)
    common = sorted(frozenset.intersection(*groups))
    if not common:
        return min(candidates, key=own)
    shared = lambda record: (record.score_on(common).accuracy, *own(record))
    return min(min(groups.values(), key=lambda group: min(map(shared, group))), key=own)


def on_common_images(first: Record, second: Record) -> tuple[Score, Score, str]:
    """Returns both mean scores on the images that both runs saw, and words where some differ."""
    seen = set(second.indices.tolist())
    common = [index for index in first.indices.tolist() if index in seen]
    if not common or len(common) == len(seen) == first.num_examples:
        return first.score(), second.score(), ""
    where = f" on the {len(common)} images that both were run on"
    return first.score_on(common), second.score_on(common), where


def _names(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Returns subjects and threat models in an order that follows from the records alone."""
    bare = list(dict.fromkeys(r.subject for r in records if not r.defended))
    subjects = dict.fromkeys([*bare, *(r.subject for r in records)])
    strength: dict[str, tuple[Knowledge, bool]] = {}
    for record in records:
        strength[record.threat] = min(
            record.strength, strength.get(record.threat, record.strength)
        )
    return list(subjects), sorted(strength, key=strength.__getitem__)


def _known_first(known: list[str], names: list[str]) -> list[str]:
    return [
        *(name for name in known if name in names),
        *(name for name in names if name not in known),
    ]
