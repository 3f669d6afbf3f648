"""SPSA: Adam along simultaneous perturbations of random signs (Uesato et al., 2018)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks.finite_differences import FiniteDifferences
from rainjax.typing import Image, PRNGKey

_DECAY, _DECAY_SQUARE, _TINY = 0.9, 0.999, 1e-8  # of Adam, as Kingma and Ba (2015) set them


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdamMemory:
    """Adam's means of the gradient and of its square, and the number of its steps.

    Outside of `vmap` it holds a batch.
    """

    mean: Float[Array, "*n h w c"]
    square: Float[Array, "*n h w c"]
    steps: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SPSA(FiniteDifferences):
    """Projected Adam on SPSA's gradient of the margin (Uesato et al., 2018, algorithm 1).

    Directions have entries of -1 and 1, which Spall's estimate divides by: here that is the same
    as to multiply. `probe_size` is their delta. After each step of Adam, `step_size` long, the
    iterate is projected to the ball; it starts at the image, where their algorithm does, and not
    at a random point, as in their code in CleverHans, which the defaults come from: 0.01 for both
    sizes, and 128 queries a step.
    """

    num_pairs: int = 64
    probe_size: float = 0.01

    def _draw(self, key: PRNGKey, image: Image) -> Image:
        return jax.random.rademacher(key, image.shape, image.dtype)

    def _remember(self, image: Image) -> AdamMemory:
        zeros = jnp.zeros_like(image)
        return AdamMemory(zeros, zeros, jnp.array(0))

    def _climb(
        self, memory: AdamMemory, gradient: Image, value: Float[Array, ""]
    ) -> tuple[Image, AdamMemory]:
        del value
        steps = memory.steps + 1
        mean = _DECAY * memory.mean + (1 - _DECAY) * gradient
        square = _DECAY_SQUARE * memory.square + (1 - _DECAY_SQUARE) * gradient**2
        root = jnp.sqrt(square / (1 - _DECAY_SQUARE**steps)) + _TINY
        step = self.step_size * mean / (1 - _DECAY**steps) / root
        return step, AdamMemory(mean, square, steps)
