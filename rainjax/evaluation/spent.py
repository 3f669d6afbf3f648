"""What a black box spent until its first success, in forward passes of the pipeline."""

from typing import Any

import numpy as np
from jaxtyping import Int

from rainjax.attacks import Attack
from rainjax.attacks._watch import NO_GRADIENT, UNTOLD, Watch
from rainjax.evaluation.knowledge import Knowledge


def queries_to_success(attack: Attack, watch: Watch) -> Int[np.ndarray, "n"] | None:
    """Returns with which forward pass each image first was a success to the attack, 0 for never.

    A success is what the attack itself took for one: see `Attack.sees_success`. Whatever an attack
    calls a query, one here is one image through the pipeline under one draw: a call of `EOT(K)` is
    K of them, and a pair of Square's twice as many. None where the attack asked for a gradient, or
    its answers do not tell of successes.
    """
    first = np.asarray(watch.first_success)
    if (np.asarray(watch.gradient) != NO_GRADIENT).any() or (first == UNTOLD).all():
        return None
    calls = attack.num_calls
    draws = np.cumsum([0, *(attack.eot.count(call, calls) for call in range(calls))])
    return attack.passes_per_draw * draws[np.maximum(first, 0)]


def asks_for_answers(record: dict[str, Any]) -> bool:
    """Whether a record, given as its content, is of a black box that asks the whole pipeline."""
    knowledge = Knowledge[record["threat"]["knowledge"].upper()]
    return knowledge in (Knowledge.LABELS, Knowledge.SCORES)
