"""A Flax module seen as two pure functions over a plain dict of arrays."""

import abc
import dataclasses
import functools
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, PyTree

from rainjax._checks import check_image
from rainjax._values import Value
from rainjax.nets._inference import (
    call_for_inference,
    check_inference,
    merge_random,
    split_random,
)
from rainjax.nets._named import check_shapes, flatten
from rainjax.typing import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Network(Value):
    """Two pure functions: a value whose hyperparameters are fields, its numbers with the caller.

    `nets.from_flax`, `from_linen` and `from_function` make one of what somebody has already.
    """

    @abc.abstractmethod
    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters."""

    @abc.abstractmethod
    def apply(self, params: Params, *inputs: Array) -> Array:
        """Runs the network on one example: no batch axis goes in, none comes out."""

    def apply_in_training(
        self, params: Params, *inputs: Array, axis_name: str
    ) -> tuple[Array, Params]:
        """Runs it as in training, on one of a batch; see `FlaxNetwork`.

        Raises:
            ValueError: the network has no batch norm.
        """
        del params, inputs, axis_name
        raise ValueError(_no_batch_norm(self))

    @property
    def has_batch_norm(self) -> bool:
        """Whether there are running statistics, so that `apply_in_training` has a meaning."""
        return False

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Returns `init`'s tree with `jax.ShapeDtypeStruct` leaves, without computing it."""
        return jax.tree.map(lambda leaf: leaf, _shapes(self))  # a tree of the caller's own


@dataclasses.dataclass(frozen=True)
class FlaxNetwork(Network):
    """An architecture in Flax NNX; `build` makes the module, in inference mode.

    All its variables are parameters but random state, which nothing draws from in inference.

    Raises:
        ValueError: at the first use, the module normalises by the batch, or drops at random.
    """

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module, which maps `n h w c` to the network's output."""

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters as a nested dict of arrays."""
        return nnx.to_pure_dict(split_random(self.build(nnx.Rngs(key)))[-1])

    def apply(self, params: Params, *inputs: Array) -> Array:
        """Runs the network on one example: no batch axis goes in, none comes out.

        Raises:
            ValueError: an input is not one image of floats, or `params` are not this network's
                (names the first that differs), or a call puts the module into training mode.
        """
        module, batch = self.bound_module(params, *inputs), [x[None] for x in inputs]
        return call_for_inference(module, batch, type(self).__name__)[0]

    def apply_in_training(
        self, params: Params, *inputs: Array, axis_name: str
    ) -> tuple[Array, Params]:
        """Runs the network on one of a batch of examples, as PyTorch's training mode would.

        Batch norm takes mean and variance over the batch, which is the axis that `jax.vmap` or
        `jax.pmap` calls `axis_name`; of the running ones 9/10 stay (PyTorch's `momentum=0.1`) and
        the rest is the batch's, the same for every example; its variance is the biased one, where
        PyTorch's running variance follows the unbiased. Differentiable, through the batch's
        statistics too.

        Returns:
            The output, and `params` with the running statistics moved: nothing else differs.

        Raises:
            ValueError: as `apply`, or the network has no batch norm (it may be folded away).
        """
        module = self.bound_module(params, *inputs)
        norms = _batch_norms(module)
        if not norms:
            raise ValueError(_no_batch_norm(self))
        for norm in norms:
            norm.use_running_average, norm.axis_name, norm.momentum = False, axis_name, 0.9
        batch, name = [x[None] for x in inputs], type(self).__name__
        output = call_for_inference(module, batch, name, moves_statistics=True)[0]
        return output, nnx.to_pure_dict(split_random(module)[-1])

    @property
    def has_batch_norm(self) -> bool:
        """Whether there are running statistics, so that `apply_in_training` has a meaning."""
        return bool(_batch_norms(merge_random(*_abstract(self))))

    def bound_module(self, params: Params, *inputs: Array) -> Any:
        """Returns a module of the caller's own that holds `params`, for examples like `inputs`.

        Raises:
            ValueError: as `apply`.
        """
        for x in inputs:
            check_image(x, "The network")
        want, given = (
            {name: leaf.shape for name, leaf in flatten(tree).items()}
            for tree in (_shapes(self), params)
        )
        check_shapes(given, want, source="The tree of parameters")
        graphdef, random, state = _abstract(self)
        state = jax.tree.map(lambda leaf: leaf, state)  # the next line mutates it
        nnx.replace_by_pure_dict(state, params)
        return merge_random(graphdef, random, state)


def _batch_norms(module: nnx.Module) -> list[nnx.BatchNorm]:
    return [part for _, part in nnx.iter_modules(module) if isinstance(part, nnx.BatchNorm)]


def _no_batch_norm(network: Network) -> str:
    return (
        f"This {type(network).__name__} has no batch norm whose statistics could follow the data: "
        "it has group norm, or it was folded into the convolutions."
    )


def check_doubles(network: Network, whose: str) -> None:
    """Refuses a network that does not make an image twice as large, by its field `scale`.

    Raises:
        ValueError: with its scale, if it has any.
    """
    name, scale = type(network).__name__, getattr(network, "scale", None)
    if scale is None:
        raise ValueError(
            f"{whose} wants a network that doubles an image, and {name} has no scale."
        )
    if scale != 2:
        raise ValueError(
            f"{whose} wants a network that doubles an image, and this one scales by {scale}: give "
            f"{name} with scale=2."
        )


@functools.cache
def _abstract(network: FlaxNetwork):
    module = nnx.eval_shape(lambda: network.build(nnx.Rngs(0)))
    check_inference(module, type(network).__name__)
    return split_random(module)


@functools.cache
def _shapes(network: Network):
    return jax.eval_shape(network.init, jax.random.key(0))
