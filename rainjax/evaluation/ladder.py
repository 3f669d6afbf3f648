"""The strength ladder: an attack that is given twice as much until that changes nothing."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax.attacks import Attack
from rainjax.attacks._base import BallAttack
from rainjax.evaluation.effort import growing, grown
from rainjax.evaluation.rejections import check_answers

# A ladder is flat when so many doublings in a row, at least, changed nothing.
_FLAT = 2


@dataclasses.dataclass(frozen=True)
class Rung:
    """One step of a ladder: the attack, and what it has twice as much of as the one before."""

    attack: Any
    doubled: str | None = None


@dataclasses.dataclass(frozen=True)
class Ladder(metaclass=Named):
    """An attack whose steps (or queries), draws and restarts are doubled until it is flat.

    A threat model takes it in the place of an attack. On every rung the images that still stand
    are attacked anew, from the original, by an attack with twice as much of one thing; the worst
    version found of each is kept, so an image that is broken stays broken and costs nothing more.
    What stands is decided as in `run_ensemble`, by the pipeline that is scored, under
    `num_select_draws` draws of its own; the rungs are compared on as many others.

    The ladder is *flat* when the last two doublings changed the accuracy by no more than the
    standard error of the change on the same images, each and both together, and everything that
    can be doubled was; or when nothing stands any more. It ends there, or before the rung with
    which all of them would cost more than `max_gradients` per image. An accuracy from a ladder
    that is not flat is an upper bound that was still falling.

    Each rung costs twice the one before at most, and so the ladder at most twice its last rung.

    On a random pipeline the first rung takes more draws than the attack has, where its gradient
    needs them: they are doubled until the means of two independent sets of them point the same
    way, to a cosine of `stability` over the images, or until a ladder that is flat at once would
    not fit the budget. None takes the attack's draws.

    `kinds` are what is doubled, in this order: of "steps", "queries", "draws" and "restarts" all
    that the attack has, by default, and draws where its surrogate is random. Where some are left
    out the record says so, and a ladder that is flat in the others lifts no bound.

    >>> from rainjax import PGD
    >>> ladder = Ladder(PGD(num_steps=10), max_gradients=160, kinds=("steps", "restarts"))
    >>> [(rung.doubled, rung.attack.num_gradients) for rung in ladder.rungs()]
    [(None, 10), ('steps', 20), ('restarts', 42), ('steps', 82)]

    Raises:
        ValueError: the attack is not bounded by a ball, has nothing to double, or costs more than
            the budget; or an option is out of range.
    """

    attack: Attack
    max_gradients: int = 20_000
    stability: float | None = 0.9
    num_select_draws: int = 8
    kinds: tuple[str, ...] | None = None

    def __post_init__(self):
        check_fields(self)
        attack = self.attack
        if not isinstance(attack, BallAttack):
            raise ValueError(
                f"Ladder(attack=...) compares rungs within one ball, and {type(attack).__name__} "
                "looks for the nearest success: give an attack with a radius."
            )
        check_answers(attack, "A ladder")
        if self.num_select_draws < 1:
            raise ValueError(f"num_select_draws={self.num_select_draws} must be at least 1.")
        if self.stability is not None and not 0 < self.stability < 1:
            raise ValueError(
                f"stability={self.stability} is a cosine, and must lie between 0 and 1."
            )
        if attack.num_gradients > self.max_gradients:
            raise ValueError(
                f"max_gradients={self.max_gradients} does not pay for the first rung of a ladder, "
                f"which costs {attack.num_gradients} an image: raise it."
            )
        there = growing(attack, True)
        if not there:
            raise ValueError(
                f"{type(attack).__name__} has no steps, queries, draws or restarts to double: a "
                "ladder needs some."
            )
        wrong = [kind for kind in self.kinds or () if kind not in there]
        if wrong or self.kinds == ():
            raise ValueError(
                f"kinds={self.kinds} must name some of what this attack has to double: {there}."
            )

    @property
    def norm(self) -> str:
        """The norm of the ball."""
        return self._ball.norm

    @property
    def radius(self) -> float:
        """The radius of the ball, in units of the image's [0, 1] range."""
        return self._ball.radius

    @property
    def targeted(self) -> bool:
        """Whether the attack is: a threat model refuses it."""
        return self._ball.targeted

    @property
    def num_draws(self) -> int:
        """How many draws the attack averages over before anything is doubled."""
        return self.attack.num_draws

    @property
    def num_steps(self) -> int:
        """How many steps, or calls, the attack takes before anything is doubled."""
        return getattr(self.attack, "num_steps", self.attack.num_calls)

    @property
    def num_gradients(self) -> int:
        """The most that the ladder may cost per image; it may end long before."""
        return self.max_gradients

    @property
    def _ball(self) -> BallAttack:
        assert isinstance(self.attack, BallAttack)
        return self.attack

    def on(self, *, is_random: bool) -> "Ladder":
        """Returns the ladder for a surrogate, with the `kinds` that make a difference there.

        Raises:
            ValueError: none of its kinds does.
        """
        there = growing(self.attack, is_random)
        kinds = tuple(kind for kind in self.kinds or there if kind in there)
        if not kinds:
            raise ValueError(
                f"A Ladder of {type(self.attack).__name__} with kinds={self.kinds} doubles "
                f"nothing on this surrogate, where {there or 'nothing'} makes a difference."
            )
        stability = self.stability if "draws" in kinds else None
        return dataclasses.replace(self, kinds=kinds, stability=stability)

    def rungs(self, first: Attack | None = None) -> Iterator[Rung]:
        """Yields the rungs that the budget pays for, from `first`, by default the attack."""
        attack, kinds = first or self.attack, self.kinds or growing(self.attack, True)
        spent = attack.num_gradients
        yield Rung(attack)
        for kind in itertools.cycle(kinds):
            attack = grown(attack, kind)
            spent += attack.num_gradients
            if spent > self.max_gradients:
                return
            yield Rung(attack, kind)

    def pays_for(self, first: Attack) -> bool:
        """Tells whether the budget pays for a ladder from `first` that is flat at once."""
        num = 1 + max(_FLAT, len(self.kinds or growing(self.attack, True)))
        return len(list(itertools.islice(self.rungs(first), num))) == num


def is_flat(
    kinds: Sequence[str], doubled: Sequence[str | None], shares: Float[np.ndarray, "n rungs"]
) -> bool:
    """Tells whether the last doublings changed nothing, and none of the `kinds` was left out.

    `doubled` is what was doubled for each rung, None for the first, and `shares` are each image's
    shares of right answers on every rung. A change counts where it is beyond its standard error
    on these images.
    """
    if len(doubled) <= _FLAT or not set(kinds) <= set(doubled):
        return False
    last = shares[:, -_FLAT - 1 :].T
    pairs = [*itertools.pairwise(last), (last[0], last[-1])]
    return all(not fell(before, after) for before, after in pairs)


def fell(before: Float[np.ndarray, "n"], after: Float[np.ndarray, "n"]) -> bool:
    """Tells whether shares of the same images fell by more than the change's standard error."""
    change, error = paired_change(before, after)
    return change + error < -1e-9  # one image of a deterministic pipeline is one standard error


def paired_change(
    before: Float[np.ndarray, "n"], after: Float[np.ndarray, "n"]
) -> tuple[float, float]:
    """Returns the mean rise over images and its standard error, 0 for a single image."""
    rise = after - before
    error = rise.std(ddof=1) / np.sqrt(len(rise)) if len(rise) > 1 else 0.0
    return float(rise.mean()), float(error)
