"""What attacks by scores share: a budget of queries, and draws that differences have in common."""

import abc
import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Array, Int

from rainjax.attacks._base import Attack, BallAttack
from rainjax.attacks._watch import Watch
from rainjax.attacks.queries import LossOnly
from rainjax.typing import PRNGKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreAttack(Attack):
    """An attack that asks for scores, one forward pass for each call and draw, within a budget.

    A query is a forward pass: a call of an attack with `eot=EOT(K)` is K of them. No image costs
    more than `num_queries`, and what the last step would leave unfinished is not asked.

    On a random pipeline the difference of two values is mostly that of two draws. So with
    `paired` the calls whose answers are subtracted, or compared, ask on the same draws: what a
    draw does to both cancels, at no cost where each side is asked anyway. Without it every call
    asks on draws of its own, as attacks that were written for deterministic networks do; on such
    a network the two are the same attack, but for SimBA, which asks about its incumbent again.

    Raises:
        ValueError: the budget does not pay for one step, or the draws are to grow.
    """

    num_queries: int = 10_000
    paired: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.eot.first is not None:
            raise ValueError(
                f"first={self.eot.first} lets the draws grow, and both sides of a difference need "
                "the same: leave it out."
            )
        least = self._least_calls * self.num_draws
        if self.num_queries < least:
            raise ValueError(
                f"num_queries={self.num_queries} does not pay for a step of "
                f"{type(self).__name__} with draws={self.num_draws}: it takes {least} at least."
            )

    @property
    @abc.abstractmethod
    def _least_calls(self) -> int:
        """How many calls it takes before the attack can move."""

    @property
    def _affordable(self) -> int:
        """How many calls the budget pays for."""
        return self.num_queries // self.num_draws

    def _opening(self, call: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Returns the call on whose draws `call` asks where `paired`: the first of a group."""
        return call

    def keys(self, loop_key: PRNGKey, call: int | Int[Array, ""]) -> tuple[PRNGKey, PRNGKey]:
        """Returns the keys of one call: that of its group's draws, and the update's own."""
        draw_key, update_key = super().keys(loop_key, call)
        if self.paired:
            draw_key, _ = super().keys(loop_key, self._opening(call))
        return draw_key, update_key

    def spent(self, watch: Watch) -> Int[np.ndarray, "*n"]:
        """Returns how many queries each image cost, from what `watched_attack` saw.

        That is less than `num_gradients` where an image was done with before the budget was.
        """
        return np.asarray(watch.num_logits) * self.num_draws


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreBallAttack(ScoreAttack, BallAttack):
    """An attack by scores that looks for the highest `loss` within an L-inf or an L2 ball.

    Raises:
        ValueError: the norm is L1, or as `ScoreAttack`.
    """

    loss: Literal["margin", "cross_entropy", "dlr", "logit"] = "margin"

    def __post_init__(self):
        super().__post_init__()
        if self.norm == "l1":
            raise ValueError(
                f"norm='l1' is none of {type(self).__name__}'s, which knows 'linf' and 'l2'."
            )

    @property
    def query(self) -> LossOnly:
        """The loss, without its gradient."""
        return LossOnly(self.loss, self.targeted)
