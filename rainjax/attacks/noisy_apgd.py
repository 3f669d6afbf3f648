"""Auto-PGD for random pipelines: a step size set from means that the draws' noise leaves alone."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls
from rainjax.attacks._base import BallAttack
from rainjax.attacks.apgd import checkpoints
from rainjax.attacks.queries import LabelAndTarget, LossAndGradient, LossGradient
from rainjax.typing import Image, Label, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoisyAPGDState:
    """Where one image's attack stands.

    `total` and `count` add up the losses since the last checkpoint, `before` is their mean over
    the period before that. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    momentum: Float[Array, "*n h w c"]
    step_size: Float[Array, "*n"]
    total: Float[Array, "*n"]
    count: Int[Array, "*n"]
    before: Float[Array, "*n"]
    found: Float[Array, "*n h w c"]
    found_value: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyAPGD(BallAttack):
    """Auto-PGD as it has to be where every loss and gradient is an estimate.

    On a random pipeline APGD mistakes luck for height: the highest of many noisy losses is a
    lucky one, to which it keeps returning, and steps are halved on comparisons of single
    estimates. This attack keeps APGD's plan, a step of twice the radius halved at the same
    checkpoints up to the last fifth, but (1) climbs the accumulated gradient, in which the noise
    of the draws averages out over steps as well; (2) halves where the mean loss of a whole
    period is not above that of the period before; (3) never goes back; and (4) hands out the
    last point, of the restart whose last period was the highest. Our own; `APGD` is the
    published rule.
    """

    loss: Literal["cross_entropy", "margin", "dlr", "logit"] = "cross_entropy"
    num_steps: int = 100
    num_restarts: int = 1
    momentum: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if self.num_steps < 1 or self.num_restarts < 1:
            raise ValueError(
                f"num_steps={self.num_steps} and num_restarts={self.num_restarts} must be at "
                "least 1."
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1).")

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw."""
        return self.num_restarts * (self.num_steps + 1)

    @property
    def query(self) -> LossAndGradient:
        """The loss and its gradient."""
        return LossAndGradient(self.loss, self.targeted)

    @property
    def _checkpoints(self) -> tuple[bool, ...]:
        """APGD's, but for those of the last fifth: its mean compares the restarts."""
        least = self.num_steps // 5
        found = enumerate(checkpoints(self.num_steps))
        return tuple(checks and self.num_steps - made >= least for made, checks in found)

    def init(self, key: PRNGKey, image: Image, label: Label) -> NoisyAPGDState:
        """Returns the state at the first start."""
        lowest = jnp.array(-jnp.inf, image.dtype)
        return NoisyAPGDState(
            origin=image,
            image=self._start(key, image),
            momentum=jnp.zeros_like(image),
            step_size=jnp.array(2 * self.radius, image.dtype),
            total=jnp.zeros_like(lowest),
            count=jnp.array(0),
            before=lowest,
            found=image,
            found_value=lowest,
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: NoisyAPGDState) -> tuple[Image, LabelAndTarget]:
        """Returns the current point."""
        return state.image, LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: NoisyAPGDState, answer: LossGradient) -> NoisyAPGDState:
        """Returns the state one step further, or at the next start."""
        made = state.calls % (self.num_steps + 1)
        ends = made == self.num_steps
        scale = jnp.maximum(jnp.mean(jnp.abs(answer.gradient)), 1e-30)
        momentum = self.momentum * state.momentum + answer.gradient / scale
        total, count = state.total + answer.value, state.count + 1
        mean = total / count
        checks = jnp.asarray(self._checkpoints)[made]
        step_size = jnp.where(checks & (mean <= state.before), 0.5, 1.0) * state.step_size
        uphill = momentum
        if self.norm == "l1":
            uphill = jnp.where(balls.stuck(state.image, uphill), 0.0, uphill)
        moved = state.image + step_size * balls.steepest(uphill, self.norm)
        moved = balls.into_box(state.origin, moved, self.norm, self.radius)
        better = ends & (mean > state.found_value)
        fresh = lambda start, now: jnp.where(ends, start, now)
        return dataclasses.replace(
            state,
            image=fresh(self._start(key, state.origin), moved),
            momentum=fresh(0.0, momentum),
            step_size=fresh(2 * self.radius, step_size),
            total=jnp.where(ends | checks, 0.0, total),
            count=jnp.where(ends | checks, 0, count),
            before=fresh(-jnp.inf, jnp.where(checks, mean, state.before)),
            found=jnp.where(better, state.image, state.found),
            found_value=jnp.where(better, mean, state.found_value),
            calls=state.calls + 1,
        )

    def result(self, state: NoisyAPGDState) -> Image:
        """Returns the end of the best run."""
        return state.found

    def _start(self, key: PRNGKey, image: Image) -> Image:
        delta = balls.random_point(key, image, self.norm, self.radius)
        return balls.into_box(image, image + delta, self.norm, self.radius)
