"""Variance tuning: gradients corrected by those of the neighbourhood, for transfer."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls
from rainjax.attacks.momentum import MomentumAttack
from rainjax.attacks.queries import LabelAndTarget, LossGradient
from rainjax.typing import Image, Label, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VMIState:
    """Where one image's attack stands: `point` is asked about next, `moved` is the next iterate.

    `gradient` is that at the iterate, `total` the sum of those at its neighbours so far. Outside
    of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    moved: Float[Array, "*n h w c"]
    point: Float[Array, "*n h w c"]
    momentum: Float[Array, "*n h w c"]
    variance: Float[Array, "*n h w c"]
    gradient: Float[Array, "*n h w c"]
    total: Float[Array, "*n h w c"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VMI(MomentumAttack):
    """MI-FGSM whose gradients are tuned by their variance around the iterate before (VMI-FGSM).

    To each gradient it adds how the mean over `num_neighbors` points around the last iterate
    differed from the gradient there, which steadies the direction and keeps it from fitting the
    source (Wang and He, 2021, algorithm 1 and equation 7). Neighbours are uniform in the ball of
    `beta` times the radius. With `nesterov` the gradient is taken where the momentum leads to,
    and the neighbours stay around the iterate, as in the authors' code (VNI-FGSM). As there,
    points that are asked about may leave [0, 1]; what is handed out does not.

    `radius` and `step_size` are in units of the image's [0, 1] range. `norm` "linf" is the
    published one. The gradient costs one evaluation a step, the variance `num_neighbors` more,
    but for the last step, which no other one follows.

    Raises:
        ValueError: an option is out of range, or `early_stop` is asked for.
    """

    num_neighbors: int = 20
    beta: float = 1.5
    nesterov: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.num_neighbors < 1:
            raise ValueError(
                f"num_neighbors={self.num_neighbors} must be at least 1: without neighbours this "
                "is PGD with a momentum."
            )
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta={self.beta} must be positive and finite.")
        if self.nesterov and not self.momentum:
            raise ValueError(f"nesterov looks ahead along a momentum, and it is {self.momentum}.")

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw."""
        return self.num_steps + (self.num_steps - 1) * self.num_neighbors

    def init(self, key: PRNGKey, image: Image, label: Label) -> VMIState:
        """Returns the state at the image itself."""
        del key
        zeros = jnp.zeros_like(image)
        return VMIState(
            image, image, image, image, zeros, zeros, zeros, zeros, label, jnp.array(0)
        )

    def ask(self, state: VMIState) -> tuple[Image, LabelAndTarget]:
        """Returns the iterate, the point ahead of it, or one of its neighbours."""
        return state.point, LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: VMIState, answer: LossGradient) -> VMIState:
        """Returns the state one neighbour further, after the last of them at the next iterate."""
        place = state.calls % (self.num_neighbors + 1)
        is_own, is_last = place == 0, place == self.num_neighbors
        gradient = jnp.where(is_own, answer.gradient, state.gradient)
        tuned = self.accumulated(state.momentum, answer.gradient + state.variance)
        momentum = jnp.where(is_own, tuned, state.momentum)
        moved = jnp.where(is_own, self.moved(state.origin, state.image, tuned), state.moved)
        total = jnp.where(is_own, 0.0, state.total + answer.gradient)
        variance = jnp.where(is_last, total / self.num_neighbors - gradient, state.variance)
        image = jnp.where(is_last, moved, state.image)
        away = balls.random_point(key, image, self.norm, self.beta * self.radius)
        ahead = self.step_size * self.momentum * momentum if self.nesterov else 0.0
        return VMIState(
            origin=state.origin,
            image=image,
            moved=moved,
            point=image + jnp.where(is_last, ahead, away),
            momentum=momentum,
            variance=variance,
            gradient=gradient,
            total=total,
            label=state.label,
            calls=state.calls + 1,
        )

    def result(self, state: VMIState) -> Image:
        """Returns the last iterate."""
        return state.moved
