"""What attacks share that look for the nearest image a classifier gets wrong."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rainjax.attacks import balls
from rainjax.attacks._base import Attack, Run
from rainjax.attacks.queries import CWLoss
from rainjax.typing import Image


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nearest:
    """What to hand out: the nearest success or, before one, the strongest attempt.

    `size` is that of the nearest success, infinite before one; `margin` that of the strongest
    attempt. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    size: Float[Array, "*n"]
    margin: Float[Array, "*n"]

    @classmethod
    def none(cls, image: Image) -> "Nearest":
        """Returns what is known of an image before the first answer."""
        infinite = jnp.array(jnp.inf, image.dtype)
        return cls(image, image, infinite, -infinite)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinimumNormAttack(Attack):
    """An attack that looks for the smallest perturbation with success, not for the highest loss.

    A visited point is a success where the share `success_share` of the draws of the mean were
    classified as the attacker wants: all of them by default, which on a random pipeline needs
    `eot` to take many, since what one draw got wrong another may get right. The success of the
    smallest norm is handed out; an image never beaten at its strongest attempt, the visited
    point of the largest mean margin, and not unharmed. With `radius` the result is brought into
    the ball of that radius, in units of the image's [0, 1] range; None leaves it where it is.

    The state of such an attack has a field `best`, a `Nearest`.
    """

    radius: float | None = None
    success_share: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        balls.check(self.norm, 0.0 if self.radius is None else self.radius)
        if not 0 < self.success_share <= 1:
            raise ValueError(
                f"success_share={self.success_share} must lie in (0, 1]: it is a share of draws."
            )

    @property
    @abc.abstractmethod
    def norm(self) -> balls.Norm:
        """The norm that is made small."""

    def measure(self, delta: Image) -> Float[Array, ""]:
        """Returns the size by which perturbations are compared: their norm."""
        return balls.length(delta, self.norm)

    def judge(
        self,
        best: Nearest,
        point: Image,
        answer,
    ) -> tuple[Nearest, Bool[Array, ""]]:
        """Returns what to hand out after the answer at `point`, and whether that was a success.

        `answer` has the mean margin as `value`, and `success`.
        """
        success = answer.success >= self.success_share
        size = self.measure(point - best.origin)
        nearer = success & (size < best.size)
        # The untouched image is no attempt, whatever its margin.
        stronger = (best.size == jnp.inf) & (size > 0) & (answer.value > best.margin)
        kept = Nearest(
            origin=best.origin,
            image=jnp.where(nearer | stronger, point, best.image),
            size=jnp.where(nearer, size, best.size),
            margin=jnp.where(stronger, answer.value, best.margin),
        )
        return kept, success

    def sees_success(self, asked, state, answer) -> Bool[Array, ""]:
        """Returns whether the nearest success so far lies within the radius, or anywhere."""
        del asked, answer
        best = state.best
        found = best.size < jnp.inf
        if self.radius is None:
            return found
        return found & (balls.length(best.image - best.origin, self.norm) <= self.radius + 1e-6)

    def result(self, state) -> Image:
        """Returns the nearest success, or the strongest attempt, within the radius."""
        return self._within(state.best.origin, state.best.image)

    def finish(self, run: Run) -> Image:
        """Returns the adversarial image of a finished run, within the radius."""
        return self._within(run.state.best.origin, super().finish(run))

    def _within(self, origin: Image, image: Image) -> Image:
        if self.radius is None:
            return image
        inside = balls.into_box(origin, image, self.norm, self.radius)
        # A success may lie so close to the boundary that adding its own distance undoes it.
        return jnp.where(balls.length(image - origin, self.norm) <= self.radius, image, inside)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PenaltyAttack(MinimumNormAttack):
    """A minimum-norm attack on the sum of a size and of a constant times a hinge on the margin.

    The hinge of a draw is what its margin lacks to `confidence`; a draw counts as a success
    from that margin on. `num_search_steps` rounds of `num_steps` calls each, the first with
    `initial_const`, find the constant. With `targeted` the label is the class to be reached.
    """

    targeted: bool = False
    confidence: float = 0.0
    initial_const: float = 1e-3
    num_search_steps: int = 9
    num_steps: int = 1000
    step_size: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.confidence < float("inf"):
            raise ValueError(f"confidence={self.confidence} must be finite and not negative.")
        if not 0 < self.initial_const < float("inf"):
            raise ValueError(
                f"initial_const={self.initial_const} must be finite and positive, to grow."
            )
        if not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size={self.step_size} must be finite and positive.")
        if self.num_search_steps < 1 or self.num_steps < 2:
            raise ValueError(
                f"num_search_steps={self.num_search_steps} must be at least 1 and num_steps="
                f"{self.num_steps} at least 2: the first call of a round is spent on its start."
            )

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw."""
        return self.num_search_steps * self.num_steps

    @property
    def query(self) -> CWLoss:
        """The margin, and the gradient of the hinge on it."""
        return CWLoss(self.confidence, self.targeted)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConstantSearch:
    """A bisection for the smallest constant whose round has a success.

    Before the first success the constant grows tenfold from round to round. `found` says
    whether the present round had one. Outside of `vmap` it holds a batch.
    """

    constant: Float[Array, "*n"]
    low: Float[Array, "*n"]
    high: Float[Array, "*n"]
    found: Bool[Array, "*n"]

    @classmethod
    def start(cls, constant: float) -> "ConstantSearch":
        """Returns the search in its first round."""
        zero = jnp.zeros(())
        return cls(zero + constant, zero, zero + jnp.inf, jnp.array(False))

    def after(self, success: Bool[Array, ""], ends: Bool[Array, ""]) -> "ConstantSearch":
        """Returns the search after one answer, in the next round where this one `ends`."""
        found = self.found | success
        high = jnp.where(ends & found, self.constant, self.high)
        low = jnp.where(ends & ~found, self.constant, self.low)
        following = jnp.where(jnp.isinf(high), 10 * self.constant, 0.5 * (low + high))
        constant = jnp.where(ends, following, self.constant)
        return ConstantSearch(constant, low, high, found & ~ends)
