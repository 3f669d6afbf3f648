"""The names that public signatures are written in."""

from collections.abc import Callable

from jaxtyping import Array, Float, Int, Key, PyTree

Image = Float[Array, "h w c"]
Images = Float[Array, "n h w c"]
Logits = Float[Array, "classes"]
Label = Int[Array, ""]
PRNGKey = Key[Array, ""]
Params = PyTree[Array]

# What fixes one outcome of a randomised pipeline: a key, or, where the outcomes are few
# enough to be enumerated, the number of one of them.
Draw = PRNGKey | Int[Array, ""]
LogitsFn = Callable[[Draw, Image], Logits]
