"""Which accuracies are shown as upper bounds: no number that flatters."""

import math
from collections.abc import Iterable

from rainjax.evaluation.describe import digest
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record
from rainjax.report.brackets import is_exact
from rainjax.report.results import Ball, Results, lowest, on_common_images
from rainjax.report.tables import ABSENT, Cell
from rainjax.report.text import unique

_LADDER = ", ladder"  # what `ladders` adds to a name


def bounded(results: Results, cell: Cell, record: Record | None, *, ball: Ball) -> Cell:
    """Returns the cell of the strongest attack within a ball, with "≤" where that is a bound.

    It is one where the attack is a ladder that was still falling, or `wanting` says what is
    wanting; and none where as much is proved.
    """
    if record is None or cell == ABSENT or is_exact(results, record, ball):
        return cell
    if record.still_falling:
        return falling(cell, record)
    if wanting(results, record, ball):
        return cell.replaced(f"≤ {cell.value}")
    return cell


def falling(cell: Cell, record: Record) -> Cell:
    """Returns a record's cell, as a bound where its ladder was still falling."""
    return cell.replaced(f"≤ {cell.value}, still falling") if record.still_falling else cell


def at_most(results: Results, record: Record, ball: Ball) -> str:
    """Returns "≤ " before the number of the strongest attack within a ball that is a bound."""
    if is_exact(results, record, ball):
        return ""
    return "≤ " if record.still_falling or wanting(results, record, ball) else ""


def wanting(results: Results, record: Record, ball: Ball) -> list[str]:
    """Returns the threat models within a ball whose surrogates had no flat ladder, if it matters.

    It does where `_claims_more`. Asked is whatever the study tried on the subject, and all of
    `ladders` that applies to it, which records say unless they are of an older version: by how it
    is climbed and what is, and not by what it is called. A ladder that had no gradient to follow
    for some images, or was told what not to double, is flat for another reason, and counts for
    nothing.
    """
    if not _claims_more(results, record, ball):
        return []
    own = [other for other in results.scored(None) if other.subject == record.subject]
    tried = [
        other
        for other in own
        # What was found on another classifier gets no stronger by fooling that one better.
        if other.ball == ball and other.knowledge not in (Knowledge.KEYS, Knowledge.TRANSFER)
    ]
    flat = {_surrogate(other) for other in tried if _settled(other)}
    asked = [(_surrogate(other), other.threat.removesuffix(_LADDER)) for other in tried]
    # Of what the study left out too: an attack that nobody made breaks nothing.
    for other in own:
        told = other.content["subject"].get("surrogates", {})
        asked += [(tuple(of), name) for name, of in told.items() if tuple(of) not in dict(asked)]
    return unique(name for of, name in asked if of not in flat)


def _claims_more(results: Results, record: Record, ball: Ball) -> bool:
    """Whether the strongest attack within a ball leaves more than attacks leave of the bare one.

    That is the undefended classifier, within the same ball; where nobody attacked it, whether it
    leaves anything.
    """
    if not record.scored or not record.defended or ball[1] == math.inf:
        return False
    bare = _undefended(results, record, ball)
    if bare is not None:
        own, others, _ = on_common_images(record, bare)
        if own.accuracy <= others.accuracy:
            return False
    return record.score().accuracy > 0


def bound_notes(
    results: Results, claims: Iterable[tuple[Record, Ball]], *, also: Iterable[Record] = ()
) -> tuple[str, ...]:
    """Returns what a table says of its bounds.

    `claims` are the records that speak for a subject within a ball; it shows others `also`.
    """
    claims = [(r, ball) for r, ball in claims if not is_exact(results, r, ball)]
    found = {(r.subject, ball): wanting(results, r, ball) for r, ball in claims}
    notes = []
    if any(found.values()):
        notes.append(
            f"**≤**: an upper bound. The number {_compared(results, claims)}, and "
            f"{_missing(results, found)}."
        )
    fewer = [
        f"{record.subject} on {words}"
        for record, ball in claims
        if not found[record.subject, ball] and (words := _on_fewer(results, record, ball))
    ]
    if fewer:
        notes.append(
            "Flat ladders, which leave a number without ≤, were climbed for "
            f"{', '.join(unique(fewer))}."
        )
    if any(record.still_falling for record in (*(record for record, _ in claims), *also)):
        notes.append(
            "**still falling**: its ladder ended by its budget, and not because doubling steps, "
            "draws and restarts changed nothing any more."
        )
    return tuple(notes)


def _on_fewer(results: Results, record: Record, ball: Ball) -> str:
    """Says on how many images ladders freed a number of its sign, where those are not all."""
    if not _claims_more(results, record, ball):
        return ""
    most: dict[tuple[str, str], int] = {}
    for other in results.scored(None):
        if other.subject == record.subject and other.ball == ball and _settled(other):
            place = _surrogate(other)
            most[place] = max(most.get(place, 0), other.num_examples)
    if not most or min(most.values()) >= record.num_examples:
        return ""
    return f"{min(most.values())} of {record.num_examples} images"


def _compared(results: Results, claims: list[tuple[Record, Ball]]) -> str:
    """Says what bounds are compared with, if anything."""
    if any(_undefended(results, r, ball) for r, ball in claims if r.defended):
        return (
            "stands above what attacks leave of the undefended classifier within the same radius"
        )
    return "is not held against the classifier without a defense, which nobody attacked"


def _missing(results: Results, found: dict[tuple[str, Ball], list[str]]) -> str:
    """Says what is missing: under all surrogates alike, or under some for each subject."""
    climbed = {r.subject for r in results.scored(None) if r.ladder is not None}
    none = [subject for (subject, _), names in found.items() if names and subject not in climbed]
    text = "no strength ladder (`rainjax.evaluation.ladders`) was climbed"
    if len(none) == sum(map(bool, found.values())):
        return text
    told = [
        f"{subject} under {' and '.join(names)}"
        for (subject, _), names in found.items()
        if names and subject in climbed
    ]
    told += [f"{', '.join(unique(none))} at all"] if none else []
    ladder = "no flat strength ladder, all doubled and with a gradient for every image,"
    return f"{ladder} was climbed for {'; '.join(unique(told))}"


def _undefended(results: Results, record: Record, ball: Ball) -> Record | None:
    """Returns the strongest attack within a ball on the classifier without a defense.

    Where there are several, that is one that shares all its parameters with the record's subject.
    """
    norm, radius = ball
    bare = [
        other
        for other in results.scored(None)
        if not other.defended
        and other.norm == norm
        and (other.radius or 0.0) <= radius
        and other.knowledge is not Knowledge.KEYS
    ]
    own = _parts(record)
    return lowest([other for other in bare if _parts(other) <= own] or bare)


def _parts(record: Record) -> set[str]:
    """Returns the digests of a subject's parameters."""
    return {part["sha256"] for part in record.content["subject"]["params"].values() if part}


def _settled(record: Record) -> bool:
    """Whether a ladder was flat, with all doubled that counts and a gradient for every image."""
    if not record.ladder or not record.ladder["flat"]:
        return False
    return not record.num_zero_gradient and not record.content["threat"].get("left_out")


def _surrogate(record: Record) -> tuple[str, str]:
    """Returns how an attack climbs, as `climbable` tells it, and a digest of what."""
    attack = record.content["threat"].get("attack") or {}
    attack = attack.get("attack") or attack  # a ladder holds its attack
    asks = "num_queries" in attack and "num_steps" not in attack  # an ensemble has both
    asks |= record.knowledge <= Knowledge.SCORES
    outputs = attack.get("class") == "ReachableOutputs"
    how = "outputs" if outputs else "scores" if asks else "gradient"
    return how, digest(record.content["threat"].get("differentiates"))
