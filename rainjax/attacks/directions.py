"""How the gradients of single draws become the direction that an attack climbs."""

import abc
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax import gradients
from rainjax._values import Value
from rainjax.typing import Draw, Image, LogitsFn


@dataclasses.dataclass(frozen=True)
class Direction(Value):
    """What takes the place of each draw's gradient before they are averaged.

    `EOT(16, direction=...)` hands it to any attack that climbs a gradient; by default gradients
    are averaged as they are. Losses, successes and logits stay means over the draws.
    """

    @abc.abstractmethod
    def of_draw(self, gradient: Image, value: Float[Array, ""]) -> Image:
        """Returns what is averaged, from the gradient and the loss of one draw."""


@dataclasses.dataclass(frozen=True)
class UnitGradients(Direction):
    """Divides each draw's gradient by its norm, so that none outweighs the others in the mean.

    `norm` "l1" is the sum of magnitudes, by which MI-FGSM divides gradients (Dong et al., 2018),
    "l2" the Euclidean length. A gradient of zeros stays one.
    """

    norm: Literal["l1", "l2"] = "l1"

    def of_draw(self, gradient: Image, value: Float[Array, ""]) -> Image:
        """Returns the gradient with a norm of 1."""
        del value
        # A saturated loss has gradients whose squares are no float32 any more.
        tiny = jnp.finfo(gradient.dtype).tiny
        gradient = gradient / jnp.maximum(jnp.max(jnp.abs(gradient)), tiny)
        size = jnp.linalg.norm(gradient) if self.norm == "l2" else jnp.sum(jnp.abs(gradient))
        return gradient / jnp.maximum(size, 1e-12)


@dataclasses.dataclass(frozen=True)
class JointDirection(Value):
    """A direction that is made of all draws together, such as one that chooses among them.

    It holds the gradients of all draws, each as large as the image, but the passes through the
    pipeline of one chunk alone.
    """

    @abc.abstractmethod
    def of_all(self, gradients: Float[Array, "k h w c"], values: Float[Array, "k"]) -> Image:
        """Returns the direction, from the gradients and the losses of `k` draws."""


@dataclasses.dataclass(frozen=True)
class OfDraw:
    """A query whose gradient is what a `Direction` makes of it."""

    asked: Any
    direction: Direction

    def __call__(self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: Any) -> Any:
        answer = self.asked(logits_fn, draw, image, query_args)
        _check_gradient(answer, self.direction)
        changed = self.direction.of_draw(answer.gradient, answer.value)
        return dataclasses.replace(answer, gradient=changed)


@dataclasses.dataclass(frozen=True)
class OfAll:
    """A query of one outer draw: means over draws grown from it, and their joint direction."""

    asked: Any
    direction: JointDirection
    num_samples: int
    chunk_size: int
    draws: gradients.Draws

    def __call__(self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: Any) -> Any:
        key: Any = draw  # outer draws are keys

        def one(number):
            return self.asked(
                logits_fn, gradients.draw(key, number, self.draws), image, query_args
            )

        def chunk(_, start):
            return None, jax.vmap(one)(start + jnp.arange(self.chunk_size))

        starts = jnp.arange(0, self.num_samples, self.chunk_size)
        on_cpu = jax.default_backend() == "cpu"  # convolutions crawl inside its loops
        _, answers = jax.lax.scan(chunk, None, starts, unroll=on_cpu)
        answers = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), answers)
        _check_gradient(answers, self.direction)
        mean = jax.tree.map(lambda x: x.mean(0), answers)
        joint = self.direction.of_all(answers.gradient, answers.value)
        return dataclasses.replace(mean, gradient=joint)


def _check_gradient(answer: Any, direction: Any) -> None:
    if not hasattr(answer, "gradient"):
        raise ValueError(
            f"direction={direction} changes the gradient that an attack climbs, and "
            f"{type(answer).__name__} has none: leave it out."
        )
