"""The attack under suspicion: which one of a study's it is, and how it is varied."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax.attacks import EOT, PGD, Attack, Square
from rainjax.attacks._base import BallAttack
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.effort import with_draws
from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.study import Cell, Study, cells
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.threats import ClassifierAlone
from rainjax.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Variations(metaclass=Named):
    """How far the attack under suspicion is varied, and what it is held against."""

    more: int = 4
    """Steps and draws are raised this many times, and lowered as much."""
    num_queries: int = 300
    """Queries of the black-box attack (Square)."""
    num_surface: int = 3
    """Images whose loss surface is drawn."""
    surface_points: int = 9
    """Points along each side of a loss surface."""

    def __post_init__(self):
        check_fields(self)
        if self.num_queries < 1:
            raise ValueError(f"num_queries={self.num_queries} must be at least 1.")
        if self.more < 2:
            raise ValueError(f"more={self.more} must be at least 2: it is by how much to vary.")
        if self.num_surface < 0 or self.surface_points < 3:
            raise ValueError(
                f"num_surface={self.num_surface} must not be negative, and surface_points="
                f"{self.surface_points} at least 3."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Suspect:
    """The attack under suspicion: an attacker of a subject who follows a gradient in a ball.

    `threat` is the name of the threat model, and `climbers` are all the names of those that take
    gradients of the whole pipeline. `surrogate` is what the attack differentiates, and `measured`
    the attack that the study has in the place of this one.
    """

    threat: str
    climbers: tuple[str, ...]
    surrogate: Pipeline
    attack: PGD
    measured: Any = None

    def __post_init__(self):
        if not self.attack.radius:
            raise ValueError("radius=0.0 leaves an attack nothing to do: give a positive one.")


def find_suspect(
    study: Study,
    subject: Subject,
    *,
    threat: str | None = None,
    radius: float | None = None,
    step_size: float | None = None,
    num_steps: int | None = None,
    num_draws: int | None = None,
) -> Suspect | None:
    """Returns the attack under suspicion of a subject, None where nobody follows its gradient.

    That is the strongest attacker of the study who knows the defense and follows a gradient in a
    ball: on a random pipeline one who averages over draws, then the one of the largest radius,
    the most draws, and the last in the list; threat models of the table come before those of
    curves. With `threat` it is the one of this name, where that is such an attacker. An attack of
    another family than PGD is stood in for by PGD in its ball, with its steps and draws, and a
    step of a quarter of the radius: what is checked is the gradient. The other arguments
    change the attack's settings; the step keeps its share of the radius.

    Args:
        study: The study that was measured.
        subject: One of its subjects.
        threat: The name of a threat model; the strongest for None.
        radius: Another radius, in units of the [0, 1] range.
        step_size: Another step, in the same units.
        num_steps: Another number of steps.
        num_draws: Another number of draws averaged at a step.
    """
    there = applying(study, subject)
    climbers = tuple(dict.fromkeys(c.threat.name for c in there if _sees_gradient(c)))
    found = [c for c in there if _sees_gradient(c) and _as_pgd(c.attack) and c.radius]
    found = [cell for cell in found if cell.threat.name == threat] or found
    if not found:
        return None
    # Of equals `max` takes the first, and studies go from weak attackers to strong ones.
    cell = max(reversed(found), key=_strength)
    attack, surrogate = _as_pgd(cell.attack), cell.surrogate
    assert attack is not None
    assert surrogate is not None
    eot = attack.eot
    if eot.draws != "enumerated":  # an enumeration is of all outcomes or of none
        num = num_draws or eot.num_samples
        eot = with_draws(eot, num if surrogate.is_random else 1)
    changes = {"step_size": step_size, "num_steps": num_steps, "eot": eot}
    given = {name: value for name, value in changes.items() if value is not None}
    attack = attack if radius is None else within(attack, radius)
    attack = dataclasses.replace(attack, **given)
    return Suspect(cell.threat.name, climbers, surrogate, attack, cell.attack)


def applying(study: Study, subject: Subject) -> list[Cell]:
    """Returns the cells of one subject, in the order of the study's threat models."""
    found = cells(dataclasses.replace(study, subjects=(subject,)))
    names = [threat.name for threat in study.threats]
    return sorted(found, key=lambda cell: names.index(cell.threat.name))


def _sees_gradient(cell: Cell) -> bool:
    """Whether an attacker takes gradients of the whole pipeline."""
    blind_to = Knowledge.CLASSIFIER if cell.subject.pipeline.defended else Knowledge.SCORES
    return blind_to < cell.threat.knowledge < Knowledge.KEYS


def _strength(cell: Cell) -> tuple[bool, bool, float, int]:
    assert cell.surrogate is not None
    eot = getattr(_as_pgd(cell.attack), "eot", None)
    samples = cell.surrogate.is_random and eot is not None and eot.draws != "enumerated"
    draws = cell.num_draws if samples else 1
    return "table" in cell.threat.tags, draws > 1, cell.radius or 0.0, draws


def _as_pgd(attack: Attack | AutoAttack | Ladder | None) -> PGD | None:
    """Returns PGD in the place of an attack that follows a gradient in a ball; None for others.

    Of a ladder it is the attack that it begins with.
    """
    attack = attack.attack if isinstance(attack, Ladder) else attack
    steps = getattr(attack, "num_steps", None)
    if not isinstance(attack, BallAttack) or steps is None:
        return None
    if isinstance(attack, PGD):
        return attack
    return PGD(
        norm=attack.norm,
        radius=attack.radius,
        step_size=attack.radius / 4,
        num_steps=steps,
        eot=attack.eot,
    )


def num_gradients(
    subject: Subject, suspect: Suspect, variations: Variations, shape: Sequence[int]
) -> int:
    """Returns how many gradients and queries the checks take per image, to size a progress bar."""
    planned = attacks(subject, suspect, variations, shape)
    return sum(attack.num_gradients for attack in planned.values())


def attacks(
    subject: Subject, suspect: Suspect, variations: Variations, shape: Sequence[int]
) -> dict[str, Attack]:
    """Returns the attack under suspicion and all that it is held against, by what they are."""
    attack, more, eot = suspect.attack, variations.more, suspect.attack.eot
    few, many = max(attack.num_steps // more, 1), attack.num_steps * more
    reach = whole(attack.norm, shape)
    found: dict[str, Attack] = {
        "attack": attack,
        "fewer steps": dataclasses.replace(attack, num_steps=few),
        "more steps": dataclasses.replace(attack, num_steps=many),
        "half the radius": within(attack, attack.radius / 2),
        "twice the radius": within(attack, min(2 * attack.radius, reach)),
        # A random start in the whole cube would be noise: a broken image, but not by the attack.
        "unbounded": dataclasses.replace(
            attack,
            radius=reach,
            step_size=reach * max(0.5 / attack.num_steps, 4 / 255),
            random_start=False,
            num_restarts=1,
        ),
    }
    if suspect.surrogate.is_random and eot.draws != "enumerated":
        if eot.num_samples > 1:
            found["one draw"] = dataclasses.replace(attack, eot=with_draws(eot, 1))
        found["more draws"] = dataclasses.replace(
            attack, eot=with_draws(eot, eot.num_samples * more)
        )
    if subject.pipeline.defended and ClassifierAlone().of(subject.pipeline) is not None:
        found["blind"] = dataclasses.replace(attack, eot=EOT())
    if attack.norm != "l1":  # of which Square has no version
        found["queries"] = Square(
            norm=attack.norm,
            radius=attack.radius,
            num_queries=variations.num_queries,
            eot=EOT(min(eot.num_samples, 4) if subject.pipeline.is_random else 1, chunk_size=1),
            paired=subject.pipeline.is_random,
        )
    return found


def within(attack: Any, radius: float) -> Any:
    """Returns an attack in a ball of another radius, with the step that belongs to it, if any."""
    step = getattr(attack, "step_size", None)
    changes = {} if step is None else {"step_size": step * radius / attack.radius}
    return dataclasses.replace(attack, radius=radius, **changes)


def whole(norm: str, shape: Sequence[int]) -> float:
    """Returns the radius that spans the whole cube of images."""
    size = math.prod(shape)
    return {"linf": 1.0, "l2": math.sqrt(size), "l1": float(size)}[norm]
