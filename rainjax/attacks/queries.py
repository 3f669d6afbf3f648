"""What attacks ask of a pipeline, one draw at a time."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax._types import Draw, Image, Label, Logits, LogitsFn
from rainjax.attacks import losses


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Aim:
    """The label of an image, and the class that a loss with two of them aims at.

    Outside of `vmap` it holds a batch.
    """

    label: Int[Array, "*n"]
    target: Int[Array, "*n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ascent:
    """The mean loss at a point, its gradient, and the share of draws that were a success.

    Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    gradient: Float[Array, "*n h w c"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """The mean loss at a point, and the share of draws that were a success.

    Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@dataclasses.dataclass(frozen=True)
class Slope:
    """Asks for the loss and its gradient: what every gradient attack climbs.

    A value of its own, so that attacks that differ in radius or step size alone share one
    compiled gradient. With `targeted` the label is a class to be reached, and what is climbed
    the loss with its sign turned.
    """

    loss: str
    targeted: bool = False

    def __call__(self, logits_fn: LogitsFn, draw: Draw, image: Image, about: Aim) -> Ascent:
        """Returns the answer of one draw."""

        def climbed(image):
            logits = logits_fn(draw, image)
            value = losses.evaluate(self.loss, logits, about.label, about.target)
            return -value if self.targeted else value, logits

        (value, logits), gradient = jax.value_and_grad(climbed, has_aux=True)(image)
        return Ascent(value, gradient, succeeds(logits, about.label, self.targeted), logits)


@dataclasses.dataclass(frozen=True)
class Level:
    """Asks for the loss alone, without a gradient: what a black-box attack is given."""

    loss: str
    targeted: bool = False

    def __call__(self, logits_fn: LogitsFn, draw: Draw, image: Image, about: Aim) -> Ascent:
        """Returns the answer of one draw, its gradient zero."""
        logits = logits_fn(draw, image)
        value = losses.evaluate(self.loss, logits, about.label, about.target)
        return Ascent(
            -value if self.targeted else value,
            jnp.zeros_like(image),
            succeeds(logits, about.label, self.targeted),
            logits,
        )


def succeeds(logits: Logits, label: Label, targeted: bool) -> Float[Array, ""]:
    """Returns 1 where the attacker has what he wants, 0 where not, NaN where logits are."""
    reached = (jnp.argmax(logits) == label) == targeted
    return jnp.where(jnp.isnan(logits).any(), jnp.nan, reached.astype(logits.dtype))


def highest_wrong(num: int, logits: Logits, label: Label) -> Int[Array, "num"]:
    """Returns the `num` wrong classes with the highest logits, over again where there are fewer.

    Raises:
        ValueError: there is no class beside the label.
    """
    count = min(num, logits.shape[0] - 1)
    if count < 1:
        raise ValueError(f"{num} wrong classes are to be aimed at, and there is only one class.")
    wrong = jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits)
    highest = jax.lax.top_k(wrong, count)[1].astype(label.dtype)
    return highest[jnp.arange(num) % count]
