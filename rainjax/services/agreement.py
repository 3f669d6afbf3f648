"""How far two answers of a service agree: its own on the clean picture, and another one."""

import dataclasses

from rainjax.services._base import Answer
from rainjax.services.words import meanings


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What is left of a service's clean answer in another of its answers.

    `top1`: the first labels mean the same. `topk`: the clean answer's first label is among the
    other's first k. `overlap`: the share of the clean answer's first k labels that are among the
    other's first k.
    """

    top1: bool
    topk: bool
    overlap: float


def agreement(clean: Answer, other: Answer, k: int) -> Agreement | None:
    """Compares two answers by `services.words`; None if the clean one has no labels.

    Labels are the same where a name or an alias of one means what a name or an alias of the other
    does. So "Car" agrees with "Automobile", and not with "Vehicle", which is a broader word.

    Raises:
        ValueError: `k` is not at least 1.
    """
    if k < 1:
        raise ValueError(f"{k=} must be at least 1.")
    if not clean:
        return None
    first, *_ = wanted = [meanings(label) for label in clean[:k]]
    given = [meanings(label) for label in other[:k]]
    among = lambda meant: any(meant & g for g in given)
    return Agreement(
        top1=bool(given) and bool(first & given[0]),
        topk=among(first),
        overlap=sum(map(among, wanted)) / len(wanted),
    )
