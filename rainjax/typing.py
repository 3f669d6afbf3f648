"""The names that public signatures are written in."""

import dataclasses
from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

Image = Float[Array, "h w c"]
Images = Float[Array, "n h w c"]
Logits = Float[Array, "classes"]
Label = Int[Array, ""]
PRNGKey = Key[Array, ""]
Params = PyTree[Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stratum:
    """Draw `number` of a set of draws that `key` spreads evenly over the possible outcomes.

    Outside of `vmap` it holds a batch.
    """

    key: Key[Array, "*n"]
    number: Int[Array, "*n"]


# What fixes one outcome of a randomised pipeline: a key; where the outcomes are few enough to
# be enumerated, the number of one of them; or a draw that belongs to an even set.
Draw = PRNGKey | Int[Array, ""] | Stratum
LogitsFn = Callable[[Draw, Image], Logits]


@dataclasses.dataclass(frozen=True)
class Part:
    """A draw, of part `number` alone of a pipeline of several, such as one member of an ensemble.

    Attacks and their queries never meet it: who asks about parts hands it to the pipeline.
    """

    draw: Draw
    number: int
