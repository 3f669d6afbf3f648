"""What an attack can be given twice as much of: steps, queries, draws, restarts."""

import dataclasses
import math
from typing import Any

from rainjax.attacks import EOT, ScoreAttack

_COUNTS = ("steps", "queries", "restarts")
_ORDER = ("steps", "queries", "draws", "restarts")


def growing(attack: Any, is_random: bool) -> tuple[str, ...]:
    """Returns what makes an attack stronger when it is doubled, the first to try first.

    Draws count where the pipeline that it differentiates `is_random`, and restarts where it
    starts at random.
    """
    fields = {field.name for field in dataclasses.fields(attack)}
    there = {kind for kind in _COUNTS if f"num_{kind}" in fields}
    if not getattr(attack, "random_start", True):  # another run would be the same one
        there -= {"restarts"}
    if is_random and "eot" in fields and _eot(attack).draws != "enumerated":
        there |= {"draws"}
    # An ensemble may have no member that takes, say, queries.
    dearer = lambda kind: grown(attack, kind).num_gradients != attack.num_gradients
    return tuple(kind for kind in _ORDER if kind in there and dearer(kind))


def grown(attack: Any, kind: str) -> Any:
    """Returns the attack with twice as many steps, queries, restarts or draws.

    Where a budget of queries pays for the draws, it is doubled with them.
    """
    if kind == "draws":
        eot = with_draws(_eot(attack), 2 * _eot(attack).num_samples)
        budget = {"num_queries": 2 * attack.num_queries} if isinstance(attack, ScoreAttack) else {}
        return dataclasses.replace(attack, eot=eot, **budget)
    return dataclasses.replace(attack, **{f"num_{kind}": 2 * getattr(attack, f"num_{kind}")})


def with_draws(eot: EOT, num: int) -> EOT:
    """Returns the average over another number of draws, in chunks that divide it."""
    chunk, first = eot.chunk_size, eot.first
    return dataclasses.replace(
        eot,
        num_samples=num,
        chunk_size=chunk and math.gcd(chunk, num),
        first=first and min(first, num),
    )


def _eot(attack: Any) -> EOT:
    return attack.eot or EOT(attack.num_draws)
