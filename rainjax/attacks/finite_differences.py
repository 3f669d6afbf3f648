"""Ascent along gradients that are made of differences between pairs of probes."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls
from rainjax.attacks._base import Run
from rainjax.attacks.queries import LabelAndTarget, LossValue
from rainjax.attacks.scores import ScoreBallAttack
from rainjax.typing import Image, Label, PRNGKey

_ROUNDING = 1e-6  # by how much a point of the ball may seem to lie outside


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProbingState:
    """Where one image's attack stands.

    `direction` leads from the iterate `image` to the probes of the pair under way, and `ahead` is
    the value at the first of them. `gradient` and `value` are sums over the pairs of this step,
    and `memory` is what steps hand on. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    direction: Float[Array, "*n h w c"]
    ahead: Float[Array, "*n"]
    gradient: Float[Array, "*n h w c"]
    value: Float[Array, "*n"]
    memory: Any
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiniteDifferences(ScoreBallAttack):
    """Climbs a gradient estimated from `num_pairs` pairs of probes in random directions.

    A pair `u` asks for the loss at `x + probe_size * u` and at `x - probe_size * u`; the mean over
    the pairs of half their difference, over `probe_size` and times `u`, is the estimate. Two
    queries a pair; with `early_stop` or `ask_iterate` one more a step asks about the iterate
    itself, since the probes mostly lie outside of the ball. `ask_iterate` alone does not stop
    there: it is how an attack that goes on learns when it first had a success. A step that the
    budget pays for in part is made of fewer pairs.

    Only images can be asked about: probes are clipped to [0, 1], which the authors' programs do
    not do, so at black and at white a slope is taken for up to half of what it is.
    """

    num_pairs: int = 25
    probe_size: float = 0.001
    step_size: float = 0.01
    ask_iterate: bool = False

    def __post_init__(self):
        super().__post_init__()
        balls.check_size("step_size", self.step_size, self.norm, positive=True)
        if not 0 < self.probe_size <= 1:
            raise ValueError(f"probe_size={self.probe_size} must lie in (0, 1], as images do.")
        if self.num_pairs < 1:
            raise ValueError(f"num_pairs={self.num_pairs} must be at least 1.")

    @abc.abstractmethod
    def _draw(self, key: PRNGKey, image: Image) -> Image:
        """Returns the random direction of a pair."""

    @abc.abstractmethod
    def _remember(self, image: Image) -> Any:
        """Returns the memory before the first step."""

    @abc.abstractmethod
    def _climb(self, memory: Any, gradient: Image, value: Float[Array, ""]) -> tuple[Image, Any]:
        """Returns the step to add to the iterate, and the memory after it.

        `gradient` is the estimate, and `value` the mean loss at the probes.
        """

    @property
    def num_calls(self) -> int:
        """Queries per image and draw: what the budget pays for, in whole pairs."""
        steps, rest = divmod(self._affordable, self._calls_per_step)
        pairs = max(rest - self._checks, 0) // 2
        return steps * self._calls_per_step + (self._checks + 2 * pairs if pairs else 0)

    @property
    def _least_calls(self) -> int:
        return self._checks + 2

    @property
    def _checks(self) -> int:
        return int(self.early_stop or self.ask_iterate)

    @property
    def _calls_per_step(self) -> int:
        return self._checks + 2 * self.num_pairs

    def _place(self, calls: int | Int[Array, ""]) -> int | Int[Array, ""]:
        """Returns which probe of its step is asked about: -1 for the iterate itself."""
        return calls % self._calls_per_step - self._checks

    def _opening(self, call: int | Int[Array, ""]) -> int | Int[Array, ""]:
        place = self._place(call)
        return call - jnp.where(place > 0, place % 2, 0)

    def init(self, key: PRNGKey, image: Image, label: Label) -> ProbingState:
        """Returns the state at the image itself, with the direction of the first pair."""
        zero = jnp.zeros((), image.dtype)
        return ProbingState(
            origin=image,
            image=image,
            direction=self._draw(key, image),
            ahead=zero,
            gradient=jnp.zeros_like(image),
            value=zero,
            memory=self._remember(image),
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: ProbingState) -> tuple[Image, LabelAndTarget]:
        """Returns one probe of a pair, or the iterate."""
        place = self._place(state.calls)
        sign = jnp.where(place < 0, 0.0, 1.0 - 2.0 * (place % 2))
        probe = state.image + sign * self.probe_size * state.direction
        return jnp.clip(probe, 0.0, 1.0), LabelAndTarget(state.label, state.label)

    def advance(self, key: PRNGKey, run: Run, answer: LossValue) -> Run:
        """Returns the attack after the answer; a success outside of the ball is none."""
        away = balls.length(self.ask(run.state)[0] - run.state.origin, self.norm)
        inside = away <= self.radius + _ROUNDING
        success = answer.success * inside  # NaN stays NaN
        return super().advance(key, run, dataclasses.replace(answer, success=success))

    def update(self, key: PRNGKey, state: ProbingState, answer: LossValue) -> ProbingState:
        """Returns the state with one more probe known, a step further where it was the last."""
        place = self._place(state.calls)
        pairs = (place + 1) // 2  # that this step has after this call
        closes = (place >= 0) & (place % 2 == 1)
        slope = 0.5 * (state.ahead - answer.value) / self.probe_size
        gradient = state.gradient + jnp.where(closes, slope, 0.0) * state.direction
        middle = 0.5 * (state.ahead + answer.value)
        value = state.value + jnp.where(closes, middle, 0.0)

        calls = state.calls + 1
        ends = (calls % self._calls_per_step == 0) | (calls == self.num_calls)
        count = jnp.maximum(pairs, 1)
        step, memory = self._climb(state.memory, gradient / count, value / count)
        moved = balls.into_box(state.origin, state.image + step, self.norm, self.radius)
        opens = closes | (place < 0)  # what is asked next
        return dataclasses.replace(
            state,
            image=jnp.where(ends, moved, state.image),
            direction=jnp.where(opens, self._draw(key, state.origin), state.direction),
            ahead=answer.value,
            gradient=jnp.where(ends, 0.0, gradient),
            value=jnp.where(ends, 0.0, value),
            memory=jax.tree.map(lambda new, old: jnp.where(ends, new, old), memory, state.memory),
            calls=calls,
        )

    def result(self, state: ProbingState) -> Image:
        """Returns the last iterate."""
        return state.image
