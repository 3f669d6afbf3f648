"""EAD: sparse perturbations from an elastic net (Chen et al., 2018)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls
from rainjax.attacks.minimum_norm import ConstantSearch, Nearest, PenaltyAttack
from rainjax.attacks.queries import LabelAndTarget, LossGradient
from rainjax.typing import Image, Label, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ElasticNetState:
    """Where one image's attack stands: the last iterate, and the one its momentum leads to.

    Outside of `vmap` it holds a batch.
    """

    best: Nearest
    search: ConstantSearch
    image: Float[Array, "*n h w c"]
    ahead: Float[Array, "*n h w c"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElasticNet(PenaltyAttack):
    """Makes `beta` times the L1 norm plus the squared L2 norm small (EAD, Chen et al., 2018).

    FISTA: a gradient step on the hinge and the squared norm, a shrinkage of every value's
    change by `beta`, and a look ahead along the last change; the step falls from `step_size`
    with the root of what is left of a round, and the constant is bisected between rounds.
    `beta` is what a step takes off, as in the paper's algorithm 1, whatever its length. Of the
    successes that with the smallest L1 norm or elastic net is handed out, as `decision` says.

    A step takes two calls: one for the gradient where the look ahead leads, one to judge the
    iterate behind it, which is sparser. Both points are candidates.

    On a random pipeline give `eot` many draws: with one a lucky draw is taken for a success.
    """

    beta: float = 1e-3
    decision: Literal["l1", "en"] = "en"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"beta={self.beta} must be finite and not negative.")

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw: two a step."""
        return 2 * super().num_calls

    @property
    def norm(self) -> balls.Norm:
        """The norm that is made small: L1, beside some of L2."""
        return "l1"

    def measure(self, delta: Image) -> Float[Array, ""]:
        """Returns the size by which perturbations are compared."""
        absolute = jnp.sum(jnp.abs(delta))
        return absolute if self.decision == "l1" else self.beta * absolute + jnp.sum(delta**2)

    def init(self, key: PRNGKey, image: Image, label: Label) -> ElasticNetState:
        """Returns the state at the image itself; it needs no randomness of its own."""
        del key
        return ElasticNetState(
            best=Nearest.none(image),
            search=ConstantSearch.start(self.initial_const),
            image=image,
            ahead=image,
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: ElasticNetState) -> tuple[Image, LabelAndTarget]:
        """Returns the point that the momentum leads to, and every second time the iterate."""
        point = jnp.where(state.calls % 2 == 0, state.ahead, state.image)
        return point, LabelAndTarget(state.label, state.label)

    def update(
        self, key: PRNGKey, state: ElasticNetState, answer: LossGradient
    ) -> ElasticNetState:
        """Returns the state after half a step, at the image itself where a round ends."""
        point, _ = self.ask(state)
        best, success = self.judge(state.best, point, answer)
        moves, step = state.calls % 2 == 0, state.calls // 2 % self.num_steps
        ends = ~moves & (step == self.num_steps - 1)
        image, ahead = self._step(state, step, answer.gradient)
        choose = lambda moved, old: jnp.where(ends, best.origin, jnp.where(moves, moved, old))
        return ElasticNetState(
            best=best,
            search=state.search.after(success, ends),
            image=choose(image, state.image),
            ahead=choose(ahead, state.ahead),
            label=state.label,
            calls=state.calls + 1,
        )

    def _step(
        self, state: ElasticNetState, step: Int[Array, ""], gradient: Image
    ) -> tuple[Image, Image]:
        """Returns the next iterate, and where its momentum leads to."""
        origin = state.best.origin
        slope = 2 * (state.ahead - origin) - state.search.constant * gradient
        length = self.step_size * jnp.sqrt(1 - step / self.num_steps)
        change = state.ahead - length * slope - origin
        change = jnp.sign(change) * jnp.maximum(jnp.abs(change) - self.beta, 0.0)
        image = jnp.clip(origin + change, 0.0, 1.0)
        ahead = image + step / (step + 3) * (image - state.image)
        return image, jnp.clip(ahead, 0.0, 1.0)
