"""Both ends of robust accuracy: what is proved, and what the strongest attack leaves."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from rainjax.evaluation.records import Record, Score
from rainjax.metrics import wilson_interval
from rainjax.report.results import Ball, Results
from rainjax.report.tables import ABSENT, Cell
from rainjax.report.text import Finding, ball_texts, interval, percent, unique


@dataclasses.dataclass(frozen=True)
class Bracket:
    """What is proved of the images that an attack was run on; `num` where proofs were of fewer."""

    proved: Score
    num: int | None = None


def proofs_within(results: Results, subject: str, ball: Ball) -> list[Record]:
    """Returns the proofs of a subject that hold within a ball: in its norm, as far at least."""
    norm, radius = ball
    return [
        proof
        for proof in results.proofs
        if proof.subject == subject and proof.norm == norm and (proof.radius or 0.0) >= radius
    ]


def bracket(results: Results, record: Record | None, ball: Ball) -> Bracket | None:
    """Returns what is proved within a ball, of a record's images; None where nothing was tried.

    An image counts as proved where any proof holds that reaches as far.
    """
    if record is None or not record.scored:
        return None
    proved = _proved(proofs_within(results, record.subject, ball))
    common = [index for index in record.indices.tolist() if index in proved]
    if not common:
        return None
    hits = sum(proved[index] for index in common)
    score = Score(hits / len(common), *wilson_interval(hits, len(common)))
    return Bracket(score, None if len(common) == record.num_examples else len(common))


def is_exact(results: Results, record: Record, ball: Ball) -> bool:
    """Returns whether as much is proved within a ball as an attack leaves, of the same images."""
    found = bracket(results, record, ball)
    if found is None or found.num or contradicted(results, record):
        return False
    return record.score().accuracy == found.proved.accuracy


def bracketed(results: Results, cell: Cell, record: Record | None, *, ball: Ball) -> Cell:
    """Returns the cell of the strongest attack within a ball, with what is proved before it.

    It is as it was where there is no proof.
    """
    found = None if cell == ABSENT else bracket(results, record, ball)
    if found is None or record is None:
        return cell
    proofs = (proof.id for proof in proofs_within(results, record.subject, ball))
    cell = dataclasses.replace(cell, records=(*cell.records, *proofs))
    num = f", n = {found.num}" if found.num else ""
    detail = f"proved {interval(found.proved)}, attacked {cell.detail}"
    lower, upper = f"{percent(found.proved.accuracy)} (proved{num})", f"{cell.value} (attacked)"
    if contradicted(results, record):
        return cell.replaced(f"{lower} contradicts {upper}", detail)
    if is_exact(results, record, ball):  # no bound, but the number itself
        return cell.replaced(cell.value + " (proved)" * (record.score().accuracy > 0))
    return cell.replaced(f"between {lower} and {upper}", detail)


def bracket_notes(results: Results, claims: Iterable[tuple[Record, Ball]]) -> tuple[str, ...]:
    """Returns what a table says of its brackets, where it has one.

    `claims` are the records that speak for a subject within a ball.
    """
    found = [(r, ball) for r, ball in claims if bracket(results, r, ball) is not None]
    if not found:
        return ()
    names = unique(
        proof.threat for r, ball in found for proof in proofs_within(results, r.subject, ball)
    )
    return (
        f"**proved** ({', '.join(names)}): no perturbation within the radius, found by whatever "
        "attack, changes these right predictions, up to the rounding of float32 in the "
        "classifier: bounds on every value that the defense rounds say so. The true robust "
        "accuracy on these images lies between this and what the strongest attack leaves.",
    )


def contradicted(results: Results, record: Record) -> list[int]:
    """Returns the images that a proof says nobody breaks and whose record says they are broken.

    The images that nobody attacked are within every ball.
    """
    if not record.scored or record.radius == math.inf:
        return []
    norm, radius = record.ball or (None, 0.0)
    proofs = [
        proof
        for proof in results.proofs
        if proof.subject == record.subject
        and norm in (None, proof.norm)
        and (proof.radius or 0.0) >= (radius or 0.0)
    ]
    proved = _proved(proofs)
    draws = zip(record.indices.tolist(), record.correct_draws.tolist(), strict=True)
    return [i for i, right in draws if proved.get(i, False) and right < record.num_score_draws]


def contradictions(results: Results) -> list[Finding]:
    """Returns a flag for each record that leaves less than is proved."""
    told = ball_texts({record.ball for record in results.records if record.ball is not None})
    flags = []
    for record in results.records:
        found = contradicted(results, record)
        if not found:
            continue
        within = f" {told[record.ball]}" if record.ball else ""
        images = f"image {found[0]}" if len(found) == 1 else f"{len(found)} images"
        flags.append(
            Finding(
                f"{record.subject}: {record.threat}{within} broke {images} of which it is proved "
                "that nobody can: either the proof is wrong, or the attack left its ball.",
                flag=True,
            )
        )
    return flags


def _proved(proofs: Sequence[Record]) -> dict[int, bool]:
    """Returns whether any proof holds, of each image that one was tried on."""
    found: dict[int, bool] = {}
    for proof in proofs:
        for index, holds in proof.proved.items():
            found[index] = found.get(index, False) or holds
    return found
