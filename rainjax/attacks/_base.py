"""What an attack is: a state, a step, and a result, all pure."""

import abc
import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax import gradients
from rainjax._types import Draw, Image, Label, LogitsFn, PRNGKey
from rainjax.attacks import losses

State = Any


class Attack(abc.ABC):
    """An iterative attack on one image: `init`, then `num_calls` times `step`, then `result`.

    The key of call `t` is `fold_in(loop_key, t)`, whoever drives the loop.
    """

    @property
    @abc.abstractmethod
    def num_calls(self) -> int:
        """How many times `step` is called."""

    @abc.abstractmethod
    def init(self, key: PRNGKey, image: Image, label: Label) -> State:
        """Returns the state to start from."""

    @abc.abstractmethod
    def step(self, key: PRNGKey, logits_fn: LogitsFn, state: State) -> State:
        """Returns the next state."""

    @abc.abstractmethod
    def result(self, state: State) -> Image:
        """Returns the adversarial image, in [0, 1] and in the attack's ball."""

    def __call__(self, key: PRNGKey, logits_fn: LogitsFn, image: Image, label: Label) -> Image:
        """Returns the adversarial image: the whole attack as one pure function.

        On CPU prefer `rainjax.evaluation.run_attack`, which drives the same steps from the
        host: XLA runs a convolution several times slower inside a loop there.
        """
        init_key, loop_key = jax.random.split(key)
        state = self.init(init_key, image, label)

        def call(state, t):
            return self.step(jax.random.fold_in(loop_key, t), logits_fn, state), None

        return self.result(jax.lax.scan(call, state, jnp.arange(self.num_calls))[0])


@dataclasses.dataclass(frozen=True)
class Slope:
    """The loss of one draw and its gradient: a draw's share of a step.

    A value of its own, so that attacks that differ in radius or step size alone share one
    compiled gradient.
    """

    loss: str

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, label: Label
    ) -> tuple[Float[Array, ""], Image]:
        """Returns the loss at `image` under one draw, and its gradient."""
        loss_fn = losses.by_name(self.loss)
        return jax.value_and_grad(lambda x: loss_fn(logits_fn(draw, x), label))(image)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientAttack(Attack):
    """An attack whose step is a loss gradient, averaged over draws, and a pure update.

    `num_eot` gradients of the loss are averaged per call, `eot_chunk` at a time (all at once
    for None). With `enumerated` the draws are the numbers `0..num_eot-1`, for a surrogate
    that lists its outcomes, and the mean is exact.
    """

    loss: Literal["cross_entropy", "margin"] = "cross_entropy"
    num_eot: int = 1
    eot_chunk: int | None = None
    enumerated: bool = False

    def __post_init__(self):
        gradients.check_chunk(self.num_eot, self.eot_chunk)
        losses.by_name(self.loss)

    @abc.abstractmethod
    def point(self, state: State) -> Image:
        """Returns the image at which the next gradient is wanted."""

    @abc.abstractmethod
    def update(
        self, key: PRNGKey, state: State, value: Float[Array, ""], gradient: Image
    ) -> State:
        """Returns the next state from the mean loss and gradient at `point(state)`."""

    @property
    def slope(self) -> "Slope":
        """The part of the attack that differentiates the pipeline, and all it depends on."""
        return Slope(self.loss)

    def step(self, key: PRNGKey, logits_fn: LogitsFn, state: State) -> State:
        """Returns the next state, after averaging `num_eot` gradients."""
        draw_key, update_key = jax.random.split(key)
        mean = gradients.expectation(
            functools.partial(self.slope, logits_fn),
            self.num_eot,
            chunk_size=self.eot_chunk,
            enumerated=self.enumerated,
        )
        value, gradient = mean(draw_key, self.point(state), state.label)
        return self.update(update_key, state, value, gradient)
