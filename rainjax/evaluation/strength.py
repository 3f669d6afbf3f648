"""The strength of an attack: whether twice the effort leaves less."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rainjax.evaluation.checks import Check, shares_of
from rainjax.evaluation.effort import growing, grown
from rainjax.evaluation.ladder import Ladder, paired_change
from rainjax.evaluation.measures import Robustness
from rainjax.evaluation.run import evaluate
from rainjax.evaluation.shards import Shard
from rainjax.evaluation.study import Cell, Study, cells
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.suspects import applying, within
from rainjax.evaluation.threats import ThreatModel


def check_strength(
    study: Study,
    subject: Subject,
    threat: str,
    folder: pathlib.Path,
    *,
    num_examples: int,
    radius: float | None = None,
) -> list[Check]:
    """Returns a check for each way of doubling a threat model's effort; none if it has no say.

    Steps, queries, restarts and, where the surrogate is random, draws are doubled one at a time,
    once each: a `Ladder` goes on until that changes nothing.
    A check passes where that leaves no less, image by image, than two standard errors of the
    difference. Of several threat models of one name it is the one of the table, and of the
    largest radius; `radius` gives it another. What is measured is kept in `folder`/strength, as
    a study of its own, so that it is not measured again.

    Args:
        study: The study that was measured.
        subject: One of its subjects.
        threat: The name of one of its threat models.
        folder: The study's folder.
        num_examples: How many images, from the first on.
        radius: Another radius than the threat model's, in units of the [0, 1] range.
    """
    tried = attempts(study, subject, threat, radius=radius)
    threats = [
        dataclasses.replace(model, name=threat + words, num_examples=None, tags=("table",))
        for words, model in tried.items()
    ]
    if len(threats) < 2:
        return []
    left = _left(study, subject, threats, folder, num_examples)
    return [
        _compare(f"{words.removeprefix(', ')} of {threat}", threat, left[0], more)
        for words, more in zip(list(tried)[1:], left[1:], strict=True)
    ]


def attempts(
    study: Study, subject: Subject, threat: str, *, radius: float | None = None
) -> dict[str, ThreatModel]:
    """Returns a threat model as it is, and with twice of what it has, by what that is in words."""
    found = [cell for cell in applying(study, subject) if cell.threat.name == threat]
    # A ladder has been doubled already, as often as its record says.
    found = [cell for cell in found if not isinstance(cell.attack, Ladder | None)]
    if not found:
        return {}
    cell = max(found, key=lambda c: ("table" in c.threat.tags, c.radius or math.inf, c.num_draws))
    attack: Any = cell.attack
    if radius is not None and cell.radius is not None:
        attack = within(attack, radius)
    tried = {"": attack, **dict(_doubled(cell, attack))}
    return {w: dataclasses.replace(cell.threat, attack=attack) for w, attack in tried.items()}


def _doubled(cell: Cell, attack: Any) -> Iterator[tuple[str, Any]]:
    """Yields the ways of doubling what an attack does, in words and as the attack."""
    assert cell.surrogate is not None
    for kind in growing(attack, cell.surrogate.is_random):
        yield f", twice the {kind}", grown(attack, kind)


def _left(
    study: Study,
    subject: Subject,
    threats: list[ThreatModel],
    folder: pathlib.Path,
    num_examples: int,
) -> list[np.ndarray]:
    """Returns each image's share of right answers under every threat model."""
    trial = dataclasses.replace(
        study, name="strength", subjects=(subject,), threats=tuple(threats),
        num_examples=num_examples, displays=(), extras=(), measure=Robustness(),
    )  # fmt: skip
    names = {cell.threat.name: cell.id for cell in cells(trial)}
    there = evaluate(trial, folder, shard=Shard(), progress=False)
    records = {record.id: record for record in there}
    found = [records[names[threat.name]] for threat in threats]
    return [record.correct_draws / record.num_score_draws for record in found]


def _compare(name: str, threat: str, before: np.ndarray, after: np.ndarray) -> Check:
    change, error = paired_change(before, after)
    return Check(
        name,
        "leaves no less than the attack as it is: it was strong enough",
        f"{before.mean():.1%} -> {after.mean():.1%}, a change of {100 * change:+.1f} "
        f"± {100 * error:.1f} points on the same {len(before)} images.",
        bool(change >= -2 * error),
        (threat,),
        {"change": change, "error": error, **shares_of([before, after])},
    )
