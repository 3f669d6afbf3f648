"""A Flax module seen as two pure functions over a plain dict of arrays."""

import abc
import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from rainjax._types import Params, PRNGKey
from rainjax.nets._named import check_shapes, flatten


@dataclasses.dataclass(frozen=True)
class Network(abc.ABC):
    """An architecture: its hyperparameters are the fields, its numbers live with the caller."""

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module, which maps `n h w c` to the network's output."""

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters as a nested dict of arrays."""
        return nnx.to_pure_dict(nnx.state(self.build(nnx.Rngs(key))))

    def apply(self, params: Params, *inputs: Array) -> Array:
        """Runs the network on one example: no batch axis goes in, none comes out.

        Raises:
            ValueError: an input is not one image of floats, or `params` are not this network's;
                names the first that differs.
        """
        for x in inputs:
            if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
                raise ValueError(
                    f"The network takes one image `h w c` of floats in [0, 1], got {x.dtype} of "
                    f"shape {x.shape}: divide integers by 255, and use jax.vmap for a batch."
                )
        want, given = (
            {name: leaf.shape for name, leaf in flatten(tree).items()}
            for tree in (_shapes(self), params)
        )
        check_shapes(given, want, source="The tree of parameters")
        graphdef, state = _abstract(self)
        state = jax.tree.map(lambda leaf: leaf, state)  # the next line mutates it
        nnx.replace_by_pure_dict(state, params)
        module = nnx.merge(graphdef, state)
        return module(*(x[None] for x in inputs))[0]

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Returns `init`'s tree with `jax.ShapeDtypeStruct` leaves, without computing it."""
        return jax.tree.map(lambda leaf: leaf, _shapes(self))  # a tree of the caller's own


@functools.cache
def _abstract(network: Network):
    return nnx.split(nnx.eval_shape(lambda: network.build(nnx.Rngs(0))))


@functools.cache
def _shapes(network: Network):
    return jax.eval_shape(network.init, jax.random.key(0))
