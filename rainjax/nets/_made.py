"""What networks share that came with their parameters: what counts as logits, and no others."""

import dataclasses
from typing import Any, NoReturn

import jax.numpy as jnp
from jaxtyping import Array

from rainjax.nets._network import Network
from rainjax.typing import PRNGKey


@dataclasses.dataclass(frozen=True)
class Made(Network):
    """A network that came with its parameters, and knows no others."""

    def init(self, key: PRNGKey) -> NoReturn:
        """Raises ValueError."""
        del key
        raise ValueError(
            f"A {type(self).__name__} has no fresh parameters: it came with its own, in the Model."
        )

    def logits(self, outputs: Any, name: str) -> Array:
        """Returns the logits of the one image of a batch, or refuses what is none."""
        shape, sigmoid = getattr(outputs, "shape", None), getattr(self, "sigmoid", False)
        if shape is None:
            raise ValueError(
                f"{name} returned {kind_of(outputs)}: a classifier returns an array of logits."
            )
        if sigmoid and tuple(shape) not in ((1,), (1, 1)):
            raise ValueError(
                f"{name} returned an array of shape {tuple(shape)} for one image: with "
                "sigmoid=True it returns one number for an image, the logit of class 1."
            )
        if sigmoid:
            of_class_1 = outputs.reshape(())
            return jnp.stack([jnp.zeros_like(of_class_1), of_class_1])
        if len(shape) != 2 or shape[0] != 1 or shape[1] < 2:
            raise ValueError(
                f"{name} returned an array of shape {tuple(shape)} for one image: a classifier "
                "returns (1, classes), with two classes or more; if the one output is the logit "
                "of class 1, give sigmoid=True, and the two logits 0 and z are made of it."
            )
        return outputs[0]


def kind_of(thing: Any) -> str:
    """Returns what something is, in a word or two."""
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__
