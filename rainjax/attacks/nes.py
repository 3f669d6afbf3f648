"""NES: natural evolution strategies, ascent along Gaussian differences (Ilyas et al., 2018)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls
from rainjax.attacks.finite_differences import FiniteDifferences
from rainjax.typing import Image, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NESMemory:
    """What NES hands on: its momentum and its step, and the losses since the step changed.

    Outside of `vmap` it holds a batch.
    """

    momentum: Float[Array, "*n h w c"]
    step_size: Float[Array, "*n"]
    values: Float[Array, "*n k"]
    seen: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NES(FiniteDifferences):
    """Projected ascent on the gradient of evolution strategies (Ilyas et al., 2018, algorithm 1).

    Directions are Gaussian and come in antithetic pairs; `probe_size` is their sigma. The
    estimate joins a momentum, `momentum` times the old one and the rest of the new; in L-inf the
    iterate moves by its sign, in L2 along it, by `step_size` either way. Where the mean loss of
    the probes is below what it was `plateau_length` steps ago, the step is divided by
    `plateau_drop`, down to `min_step_size`, and the count begins anew; 1 never divides it.

    The defaults are those of the authors' program, whose sigma and steps are in units of the
    [0, 1] range too. Theirs divides the step where the loss rises, which an attack that is not
    targeted wants; here it is where the attack loses, either way.
    """

    loss: Literal["margin", "cross_entropy", "dlr", "logit"] = "cross_entropy"
    momentum: float = 0.9
    plateau_length: int = 5
    plateau_drop: float = 2.0
    min_step_size: float = 5e-5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1).")
        if self.plateau_length < 1:
            raise ValueError(f"plateau_length={self.plateau_length} must be at least 1.")
        if not 1 <= self.plateau_drop < float("inf"):
            raise ValueError(
                f"plateau_drop={self.plateau_drop} must be finite and at least 1: steps shrink."
            )
        balls.check_size("min_step_size", self.min_step_size, self.norm)

    def _draw(self, key: PRNGKey, image: Image) -> Image:
        return jax.random.normal(key, image.shape, image.dtype)

    def _remember(self, image: Image) -> NESMemory:
        return NESMemory(
            momentum=jnp.zeros_like(image),
            step_size=jnp.array(self.step_size, image.dtype),
            values=jnp.zeros(self.plateau_length, image.dtype),
            seen=jnp.array(0),
        )

    def _climb(
        self, memory: NESMemory, gradient: Image, value: Float[Array, ""]
    ) -> tuple[Image, NESMemory]:
        momentum = self.momentum * memory.momentum + (1 - self.momentum) * gradient
        values = jnp.append(memory.values[1:], value)
        seen = memory.seen + 1
        fell = (seen >= self.plateau_length) & (values[-1] < values[0])
        shrinks = fell & (memory.step_size > self.min_step_size)
        smaller = jnp.maximum(memory.step_size / self.plateau_drop, self.min_step_size)
        step_size = jnp.where(shrinks, smaller, memory.step_size)
        step = step_size * balls.steepest(momentum, self.norm)
        return step, NESMemory(momentum, step_size, values, jnp.where(fell, 0, seen))
