"""Attacks on a classifier behind a detector that take the two gradients apart."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls, losses
from rainjax.attacks._base import BallAttack, Goal
from rainjax.attacks.queries import LabelAndTarget
from rainjax.typing import Draw, Image, Label, LogitsFn, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TwoGradients:
    """The margin and how far an image is above the threshold, both with their gradients.

    `gradient` is that of the margin. Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    gradient: Float[Array, "*n h w c"]
    above: Float[Array, "*n"]
    above_gradient: Float[Array, "*n h w c"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@dataclasses.dataclass(frozen=True)
class ClassifierAndDetector:
    """Asks for the margin of the classes, for the rejection's lead, and for both gradients.

    One forward pass and two backward passes. A draw is a success where the answer is wrong and
    not rejected.
    """

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: LabelAndTarget
    ) -> TwoGradients:
        """Returns the answer of one draw."""

        def both(image):
            logits = logits_fn(draw, image)
            classes, rejection = logits[:-1], logits[-1]
            margin = losses.margin(classes, query_args.label)
            return jnp.stack([margin, rejection - jnp.max(classes)]), classes

        values, pull, classes = jax.vjp(both, image, has_aux=True)
        gradients = [pull(cotangent)[0] for cotangent in jnp.eye(2, dtype=values.dtype)]
        success = ((values[0] > 0) & (values[1] <= 0)).astype(values.dtype)
        success = jnp.where(jnp.isnan(values).any(), jnp.nan, success)
        return TwoGradients(values[0], gradients[0], values[1], gradients[1], success, classes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SelectiveState:
    """Where one image's attack stands; `best` is what is handed out.

    Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    best: Float[Array, "*n h w c"]
    best_value: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectivePGD(BallAttack):
    """Leads to a wrong answer while there is none, and else below the detector's threshold.

    Each step follows one gradient alone, that of the margin or that of the detector's score, so
    that no weight between the two has to be found (selective projected gradient descent of
    Bryniarski et al., 2021, section 4.1). With `orthogonal` the part of it that lies along the
    other one is taken out, so that a step undoes nothing of what the other was for (orthogonal
    projected gradient descent, their section 4.2). Here the iterate that is handed out is the
    visited one with the largest of min(margin, distance below the threshold), both in their own
    units, which is positive exactly for a success.

    It needs a pipeline that rejects, such as `rainjax.Guarded`; what is gained with a rejection
    makes no difference to it.

    Raises:
        ValueError: an option is out of range, or `targeted` is asked for.
    """

    step_size: float = 1 / 255
    num_steps: int = 100
    num_restarts: int = 1
    orthogonal: bool = True

    def __post_init__(self):
        super().__post_init__()
        balls.check_size("step_size", self.step_size, self.norm, positive=True)
        if self.num_steps < 1 or self.num_restarts < 1:
            raise ValueError(
                f"num_steps={self.num_steps} and num_restarts={self.num_restarts} must be at "
                "least 1."
            )
        if self.targeted:
            raise ValueError("SelectivePGD leads to any wrong answer: leave targeted=False.")

    @property
    def goal(self) -> Goal:
        """A wrong answer that passes."""
        return "evasion"

    @property
    def num_calls(self) -> int:
        """Points that are asked about: one more than steps, for the last."""
        return self.num_restarts * (self.num_steps + 1)

    @property
    def passes_per_draw(self) -> int:
        """Two gradients."""
        return 2

    @property
    def query(self) -> ClassifierAndDetector:
        """The two values and their gradients."""
        return ClassifierAndDetector()

    def init(self, key: PRNGKey, image: Image, label: Label) -> SelectiveState:
        """Returns the state at the image itself, which the first start begins with."""
        del key
        lowest = jnp.array(-jnp.inf, image.dtype)
        return SelectiveState(image, image, image, lowest, label, jnp.array(0))

    def ask(self, state: SelectiveState) -> tuple[Image, LabelAndTarget]:
        """Returns the current iterate."""
        return state.image, LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: SelectiveState, answer: TwoGradients) -> SelectiveState:
        """Returns the state one step further, or at the next start."""
        value = jnp.minimum(answer.value, -answer.above)
        better = value > state.best_value
        margin, above = answer.gradient, -answer.above_gradient
        if self.orthogonal:
            margin, above = _without(margin, above), _without(above, margin)
        uphill = jnp.where(answer.value > 0, above, margin)
        step = self.step_size * balls.steepest(uphill, self.norm)
        moved = balls.into_box(state.origin, state.image + step, self.norm, self.radius)
        calls = state.calls + 1
        delta = balls.random_point(key, state.origin, self.norm, self.radius)
        start = balls.into_box(state.origin, state.origin + delta, self.norm, self.radius)
        return dataclasses.replace(
            state,
            image=jnp.where(calls % (self.num_steps + 1) == 0, start, moved),
            best=jnp.where(better, state.image, state.best),
            best_value=jnp.where(better, value, state.best_value),
            calls=calls,
        )

    def result(self, state: SelectiveState) -> Image:
        """Returns the best iterate."""
        return state.best


def _without(gradient: Image, other: Image) -> Image:
    """Returns the part of a gradient that is orthogonal to another one."""
    # Gradients may be so small that their squares are none any more.
    unit = balls.steepest(other, "l2")
    return gradient - jnp.sum(gradient * unit) * unit
