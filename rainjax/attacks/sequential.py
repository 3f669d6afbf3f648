"""Sequential testing: a question by labels is asked again until its answers decide it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rainjax._values import Value


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Votes:
    """The draws that were asked about one point so far, and the successes among them.

    Outside of `vmap` it holds a batch.
    """

    successes: Float[Array, "*n"]
    draws: Float[Array, "*n"]

    @classmethod
    def none(cls) -> "Votes":
        """Returns what is known of a point before the first answer."""
        return cls(jnp.zeros(()), jnp.zeros(()))

    def after(self, share: Float[Array, ""], draws: int) -> "Votes":
        """Returns the votes after one more answer, the `share` of successes among its draws."""
        return Votes(self.successes + draws * share, self.draws + draws)

    @property
    def share(self) -> Float[Array, "*n"]:
        """The share of successes."""
        return self.successes / jnp.maximum(self.draws, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialTest(Value):
    """Wald's sequential probability ratio test (1945) of whether a point is a success.

    It tells a share of successes of `margin` below the one that counts as a success from one of
    `margin` above: it follows the logarithm of the ratio of their likelihoods from draw to draw,
    and ends once that leaves the interval within which either mistake is likelier than `error`.
    After `max_draws` the likelier of the two is taken, so that a point on the boundary itself
    does not eat up all queries; there the error is larger than stated, as it must be.

    With `error=0.05`, `margin=0.25` and a majority for a success three draws more on one side
    than on the other decide.

    Raises:
        ValueError: an option is out of range.
    """

    error: float = 0.05
    margin: float = 0.25
    max_draws: int = 15

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.error < 0.5:
            raise ValueError(
                f"error={self.error} must lie in (0, 0.5): it is how often a test may be wrong."
            )
        if not 0 < self.margin < 0.5:
            raise ValueError(
                f"margin={self.margin} must lie in (0, 0.5): it is added to a share of draws, and "
                "taken from it."
            )
        if self.max_draws < 1:
            raise ValueError(f"max_draws={self.max_draws} must be at least 1.")

    def check_share(self, share: float) -> None:
        """Refuses a share of draws that the margin leads out of (0, 1).

        Raises:
            ValueError: with both, and the mend.
        """
        if not self.margin < share < 1 - self.margin:
            raise ValueError(
                f"success_share={share} is told from {self.margin} more and less by the test: "
                "lower its margin, so that both lie in (0, 1)."
            )

    def evidence(self, votes: Votes, share: float) -> Float[Array, "*n"]:
        """Returns the logarithm of the ratio of likelihoods, of a success over of none."""
        low, high = share - self.margin, share + self.margin
        for_it, against = math.log(high / low), math.log((1 - low) / (1 - high))
        return for_it * votes.successes - against * (votes.draws - votes.successes)

    def decides(self, votes: Votes, share: float) -> Bool[Array, "*n"]:
        """Returns whether no further draw is needed, or allowed."""
        enough = math.log((1 - self.error) / self.error)
        told = jnp.abs(self.evidence(votes, share)) >= enough
        return told | (votes.draws >= self.max_draws)
