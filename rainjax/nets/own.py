"""Classifiers that somebody has already, as networks: Flax NNX, Flax Linen, plain functions."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jaxtyping import Array, PyTree

from rainjax._checks import check_image
from rainjax.nets._inference import (
    call_for_inference,
    check_inference,
    check_takes,
    merge_random,
    split_random,
)
from rainjax.nets._layers import num_params
from rainjax.nets._made import Made, kind_of
from rainjax.nets._named import check_shapes, flatten
from rainjax.nets._network import Network
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network with its parameters: the two go into `Defended` and into its parameters."""

    network: Network
    params: Params

    def __repr__(self) -> str:
        return f"Model({self.network!r}, {num_params(self.params):,} parameters)"


def from_flax(module: nnx.Module, *, sigmoid: bool = False) -> Model:
    """Returns a Flax NNX module, images `n h w c` in [0, 1] to logits, as network and parameters.

    The module is in inference mode (`module.eval()`), and is copied: what happens to it later
    changes nothing here. All its variables become parameters, running statistics too, but not
    random state, which nothing may draw from. Networks of modules that were built apart may be
    unequal, and then compile apart. For `sigmoid` see `from_function`.

    >>> from flax import nnx
    >>> import jax
    >>> from rainjax import Defended, Identity, nets
    >>> class Linear(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.layer = nnx.Linear(48, 10, rngs=rngs)
    ...     def __call__(self, images):
    ...         return self.layer(images.reshape(len(images), -1))
    >>> model = nets.from_flax(Linear(nnx.Rngs(0)))
    >>> pipeline = Defended(Identity(), model.network)
    >>> params = {"defense": (), "classifier": model.params}
    >>> pipeline.logits(params, jax.random.key(0), jax.numpy.ones((4, 4, 3))).shape
    (10,)

    Raises:
        TypeError: it is no NNX module.
        ValueError: a layer is in training mode, or a call takes more than images; and, at the
            first call, the call itself puts a layer into training mode, or draws; says which.
    """
    if isinstance(module, type) or not isinstance(module, nnx.Module):
        raise TypeError(
            f"from_flax takes an NNX module, not {kind_of(module)}: for a Linen one there is "
            "from_linen(module, variables), for a function from_function(fn, params)."
        )
    name = type(module).__name__
    check_inference(module, name)
    _check_call(module)
    graphdef, random, state = split_random(nnx.clone(module))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    parts = {}
    for place, part in nnx.iter_graph(module):
        name = ".".join(map(str, place))
        if isinstance(part, nnx.Pytree):
            parts[name] = type(part)
        elif not (isinstance(part, nnx.Variable | jax.Array) or "_pytree__" in name):
            parts[name] = part
    graph = _Graph(graphdef, random, abstract, parts)
    return Model(FlaxModule(graph, sigmoid), jax.tree.map(jnp.asarray, nnx.to_pure_dict(state)))


def from_linen(module: Any, variables: Any, *, sigmoid: bool = False) -> Model:
    """Returns a Flax Linen module, `n h w c` in [0, 1] to logits, as network and parameters.

    `variables` is what `module.init` returned, or what was restored: `{"params": ...}` and, with
    batch norm, `"batch_stats"`. The module must be made for inference: an argument of its call,
    such as `train`, has a default, and that is False. Fields may be arrays. For `sigmoid` see
    `from_function`.

    >>> import flax.linen as nn, jax, jax.numpy as jnp
    >>> from rainjax import nets
    >>> class Linear(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images):
    ...         return nn.Dense(10)(images.reshape(len(images), -1))
    >>> module = Linear()
    >>> variables = module.init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    >>> model = nets.from_linen(module, variables)
    >>> model.network.apply(model.params, jnp.ones((4, 4, 3))).shape
    (10,)

    Raises:
        TypeError: it is no Linen module.
        ValueError: the variables are none, or a call takes more than images; and, at the first
            call, the module is in training mode, or the variables are not its own.
    """
    if isinstance(module, type) or not isinstance(module, linen.Module):
        raise TypeError(
            f"from_linen takes a Linen module, not {kind_of(module)}: for an NNX one there is "
            "from_flax(module), for a function from_function(fn, params)."
        )
    if not hasattr(variables, "keys") or "params" not in variables:
        raise ValueError(
            "variables must be what module.init returned, a dict with 'params', got "
            f"{kind_of(variables)}"
            + (f" with {sorted(variables)}." if hasattr(variables, "keys") else ".")
        )
    _check_call(module)
    return Model(LinenModule(_Linen(module), sigmoid), _arrays(dict(variables), "variables"))


def from_function(
    fn: Callable[..., Any], params: Params = (), *, batched: bool = False, sigmoid: bool = False
) -> Model:
    """Returns a function as network and parameters: `fn(params, image)`, one image to its logits.

    With `batched` the function takes `n h w c` and returns `n classes`, each image by itself. It
    must be pure, and differentiable where an attacker is to follow it. Functions are equal to
    themselves alone.

    With `sigmoid` it tells two classes apart by one number `z`, of shape `()` or `(1,)`, whose
    sigmoid is the probability of class 1: the two logits are 0 and `z`, whose softmax is that
    same probability. Give `z` itself, as it is before the sigmoid, where gradients do not fade.

    >>> import jax.numpy as jnp
    >>> from rainjax import nets
    >>> kernel = jnp.ones((48, 10))
    >>> model = nets.from_function(lambda kernel, image: image.reshape(-1) @ kernel, kernel)
    >>> model.network.apply(model.params, jnp.ones((4, 4, 3))).shape
    (10,)
    >>> one = nets.from_function(lambda params, image: image.mean() - 0.5, sigmoid=True)
    >>> one.network.apply(one.params, jnp.ones((4, 4, 3))).tolist()
    [0.0, 0.5]

    Raises:
        TypeError: it is no function.
        ValueError: it takes something else than parameters and an image, or `params` are no tree
            of arrays.
    """
    if isinstance(fn, nnx.Module | linen.Module) or not callable(fn):
        raise TypeError(
            f"from_function takes a function of parameters and an image, not {kind_of(fn)}: for a "
            "module of Flax there are from_flax(module) and from_linen(module, variables)."
        )
    name = getattr(fn, "__name__", type(fn).__name__)
    check_takes(fn, (params, None), name, f"fn(params, image{'s' if batched else ''})")
    return Model(Function(fn, batched, sigmoid), _arrays(params, "params"))


@dataclasses.dataclass(frozen=True)
class FlaxModule(Made):
    """A Flax NNX module, made by `from_flax`."""

    graph: "_Graph"
    sigmoid: bool = False

    def apply(self, params: Params, *inputs: Array) -> Array:
        """Returns the logits of one image.

        Raises:
            ValueError: the input is not one image of floats, `params` are not this module's, or
                a call puts the module into training mode.
        """
        module = self.bound_module(params, *inputs)
        name = type(module).__name__
        return self.logits(call_for_inference(module, [x[None] for x in inputs], name), name)

    def bound_module(self, params: Params, *inputs: Array) -> Any:
        """Returns a module of the caller's own that holds `params`, for images like `inputs`.

        Raises:
            ValueError: an input is not one image of floats, or `params` are not this module's.
        """
        for image in inputs:
            check_image(image, "The network")
        state = self.graph.state()  # a copy, for the next lines mutate it
        want, given = (
            {name: leaf.shape for name, leaf in flatten(tree).items()}
            for tree in (nnx.to_pure_dict(state), params)
        )
        check_shapes(given, want, source="The tree of parameters")
        nnx.replace_by_pure_dict(state, params)
        return self.graph.merged(state)

    def shapes(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Returns the tree of parameters with `jax.ShapeDtypeStruct` leaves."""
        return nnx.to_pure_dict(self.graph.state())


class _Graph:
    """A module without its numbers: equal where structure, fields and shapes are."""

    def __init__(self, graphdef: Any, random: Any, abstract: Any, parts: dict[str, Any]):
        self._graphdef, self._random, self._abstract = graphdef, random, abstract
        self._parts = parts
        leaves = flatten(nnx.to_pure_dict(abstract)).items()
        self._shapes = tuple((name, leaf.shape, str(leaf.dtype)) for name, leaf in leaves)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Graph):
            return NotImplemented
        return self._graphdef == other._graphdef and self._shapes == other._shapes

    def __hash__(self) -> int:
        return hash((self._graphdef, self._shapes))

    def __repr__(self) -> str:
        kinds = {part.__name__ for part in self._parts.values() if isinstance(part, type)}
        return f"<{' '.join(sorted(kinds))}>"

    def decided_by(self) -> Any:
        """Returns what tells modules apart in any process: classes, fields and shapes."""
        return self._parts, self._shapes

    def state(self) -> Any:
        """Returns the variables' shapes, as a tree of the caller's own."""
        return jax.tree.map(lambda leaf: leaf, self._abstract)

    def merged(self, state: Any) -> Any:
        """Returns a module of its own with these variables."""
        return merge_random(self._graphdef, self._random, state)


@dataclasses.dataclass(frozen=True)
class LinenModule(Made):
    """A Flax Linen module, made by `from_linen`."""

    held: "_Linen"
    sigmoid: bool = False

    def apply(self, params: Params, *inputs: Array) -> Array:
        """Returns the logits of one image.

        Raises:
            ValueError: the input is not one image of floats, the module is in training mode, or
                the variables are not its own.
        """
        for image in inputs:
            check_image(image, "The network")
        module = self.held.module
        name = type(module).__name__
        try:
            outputs = module.apply(params, *(x[None] for x in inputs))
        except flax.errors.ModifyScopeVariableError as error:
            raise ValueError(
                f"{name} is in training mode, and would normalise each image by itself instead of "
                "by its running statistics: build it with use_running_average=True, and let an "
                "argument such as train be False by default."
            ) from error
        except flax.errors.InvalidRngError as error:
            raise ValueError(
                f"{name} draws random numbers, as dropout does in training: build it with "
                "deterministic=True, and let an argument such as train be False by default."
            ) from error
        except flax.errors.FlaxError as error:
            said = re.sub(r"\s*\(https?://\S*\)$", "", str(error)).rstrip(".")
            raise ValueError(
                f"{name} cannot be applied with these variables to an image of shape "
                f"{inputs[0].shape} ({said}): give those that module.init returned for images of "
                "this size, batch_stats too."
            ) from error
        return self.logits(outputs, name)


class _Linen:
    """A Linen module as a value: equal where class and fields are, arrays by their content."""

    def __init__(self, module: Any):
        self._module = module

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Linen):
            return NotImplemented
        return _same(self._module, other._module)

    def __hash__(self) -> int:
        try:
            return hash(self._module)
        except TypeError:  # a field that has no hash
            return hash(type(self._module))

    def __repr__(self) -> str:
        return f"<{type(self._module).__name__}>"

    @property
    def module(self) -> Any:
        """The module itself."""
        return self._module

    def decided_by(self) -> Any:
        """Returns what tells modules apart in any process: classes and fields."""
        return _linen_fields(self._module)


@dataclasses.dataclass(frozen=True)
class Function(Made):
    """A function as a network, made by `from_function`."""

    fn: Callable[..., Any]
    batched: bool = False
    sigmoid: bool = False

    def apply(self, params: Params, *inputs: Array) -> Array:
        """Returns the logits of one image.

        Raises:
            ValueError: the input is not one image of floats, or what comes out is no logits.
        """
        for image in inputs:
            check_image(image, "The network")
        name = getattr(self.fn, "__name__", type(self.fn).__name__)
        if self.batched:
            return self.logits(self.fn(params, *(x[None] for x in inputs)), name)
        outputs = self.fn(params, *inputs)
        if hasattr(outputs, "shape"):
            outputs = jnp.asarray(outputs)[None]
        return self.logits(outputs, name)


def _check_call(module: Any) -> None:
    """Refuses a module that is not called with images alone."""
    name = type(module).__name__
    if not callable(module):
        raise ValueError(f"{name} has no __call__: a classifier maps images to logits there.")
    check_takes(module.__call__, (None,), f"{name}.__call__", "module(images)")


def _arrays(params: Any, name: str) -> Params:
    try:
        return jax.tree.map(jnp.asarray, params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a tree of arrays: {error}") from error


def _same(one: Any, other: Any) -> bool:
    """Returns whether two fields are equal; `==` of two arrays would be an array."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if hasattr(one, "dtype"):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, linen.Module):
        names = [f.name for f in dataclasses.fields(one) if f.name != "parent"]
        return all(_same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _linen_fields(value: Any) -> Any:
    """Returns a Linen module as its class and its fields, and so the modules among these."""
    if isinstance(value, linen.Module):
        names = [f.name for f in dataclasses.fields(value) if f.name not in ("parent", "name")]
        return type(value), {name: _linen_fields(getattr(value, name)) for name in names}
    if isinstance(value, list | tuple):
        return [_linen_fields(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _linen_fields(item) for name, item in value.items()}
    return value
