"""A network's features: what its last layer takes in, for whoever looks behind the logits."""

import contextvars
import dataclasses
import functools
from typing import Any

import jax
import jax.errors
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array, Float

from rainjax._checks import check_image
from rainjax.nets._inference import call_for_inference
from rainjax.nets._network import FlaxNetwork, Network
from rainjax.nets.own import FlaxModule, LinenModule
from rainjax.typing import Image, Logits, Params, PRNGKey

_NNX_LAYERS = (nnx.Linear, nnx.Conv)
_LINEN_LAYERS = (linen.Dense, linen.Conv)


@dataclasses.dataclass(frozen=True)
class Features(Network):
    """A classifier up to its last layer: one image to the numbers that its logits are made of.

    They are the input of the linear layer or convolution that is called last; where that has a
    height and a width, its mean over them. So of a network that ends in a linear layer the logits
    are `features @ kernel + bias`, and of one that ends in a 1x1 convolution and the mean over all
    places as well. The parameters are the network's own.

    >>> import jax
    >>> from rainjax import nets
    >>> network = nets.ResNet(depth=8, norm="group")
    >>> features = nets.Features(network)
    >>> params, image = network.init(jax.random.key(0)), jax.numpy.ones((16, 16, 3))
    >>> features.apply(params, image).shape
    (64,)

    Raises:
        ValueError: the network is no module of Flax; or, at a call, no linear layer and no
            convolution of `flax.nnx` or `flax.linen` gives its logits, or a transform of Flax's
            hides it.
    """

    network: Network

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.network, FlaxNetwork | FlaxModule | LinenModule):
            raise ValueError(
                f"Features cannot look into {type(self.network).__name__}, which is no module of "
                "Flax: make the network by rainjax.nets.from_flax or from_linen, or give the "
                "function that returns its features to from_function."
            )

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters, the network's."""
        return self.network.init(key)

    def shapes(self) -> Any:
        """Returns the network's tree with `jax.ShapeDtypeStruct` leaves."""
        return self.network.shapes()

    def apply(self, params: Params, *inputs: Array) -> Float[Array, "features"]:
        """Returns the features of one image."""
        return self.features_and_logits(params, *inputs)[0]

    def features_and_logits(
        self, params: Params, image: Image
    ) -> tuple[Float[Array, "features"], Logits]:
        """Returns the features of one image and its logits, from one pass."""
        check_image(image, "The network")
        calls: list[_Call] = []
        given = _RECORD.set(calls)
        try:
            logits = self._logits(params, image)
        finally:
            _RECORD.reset(given)
        name = type(self.network).__name__
        if not calls:
            raise ValueError(
                f"{name} calls no linear layer and no convolution of Flax, so it has no features: "
                "give another network, or from_function of one that returns them."
            )
        taken, made = calls[-1]
        if made.shape[-1] not in self._num_outputs(logits):
            raise ValueError(
                f"The layer that {name} calls last makes {made.shape[-1]} numbers, and not its "
                f"{logits.shape[0]} logits: give a network that ends in a linear layer or a "
                "convolution of Flax."
            )
        try:
            return taken.reshape(-1, taken.shape[-1]).mean(0), logits
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                f"The last layer of {name} is called under a transform such as nnx.jit or "
                "nnx.remat, which hides what it takes: call it outside of it."
            ) from error

    @functools.cached_property
    def num_features(self) -> int:
        """How many features there are.

        Raises:
            ValueError: the network takes no image of 32 or 224 squared, so it cannot be told.
        """
        channels = len(getattr(self.network, "mean", (0, 0, 0)))
        sizes = dict.fromkeys((getattr(self.network, "size", 32), 32, 224))
        problem = None
        for size in sizes:
            image = jax.ShapeDtypeStruct((size, size, channels), jnp.float32)
            try:
                return jax.eval_shape(self.apply, self.shapes(), image).shape[0]
            except (TypeError, ValueError) as error:
                problem = problem or error
        raise ValueError(
            f"How many features {type(self.network).__name__} has cannot be told from images of "
            f"{' or '.join(f'{s}x{s}x{channels}' for s in sizes)}: give num_features, the length "
            "of Features(network).apply(params, image)."
        ) from problem

    def _logits(self, params: Params, image: Image) -> Logits:
        network = self.network
        if isinstance(network, LinenModule):
            with linen.intercept_methods(_intercept):
                return network.apply(params, image)
        assert isinstance(network, FlaxNetwork | FlaxModule)
        # A module of our own, so that its parts may be changed.
        module = network.bound_module(params, image)
        name = type(module if isinstance(network, FlaxModule) else network).__name__
        for _, part in nnx.iter_modules(module):
            if isinstance(part, _NNX_LAYERS):
                object.__setattr__(part, "__class__", _recording(type(part)))
        outputs = call_for_inference(module, [image[None]], name)
        return network.logits(outputs, name) if isinstance(network, FlaxModule) else outputs[0]

    def _num_outputs(self, logits: Logits) -> tuple[int, ...]:
        """Returns how many numbers the last layer may make, for so many logits."""
        if getattr(self.network, "sigmoid", False):
            return (1,)
        if getattr(self.network, "class_subset", None) is not None:
            return (getattr(self.network, "num_classes", 0),)
        return logits.shape


_Call = tuple[Array, Array]
_RECORD: contextvars.ContextVar[list[_Call]] = contextvars.ContextVar("record")


@functools.cache
def _recording(kind: type) -> type:
    """Returns a class of layers like `kind`, which keep what they take and make."""

    def called(self, inputs, *args, **kwargs):
        outputs = kind.__call__(self, inputs, *args, **kwargs)
        _RECORD.get().append((inputs, outputs))
        return outputs

    return type(kind.__name__, (kind,), {"__call__": called})


def _intercept(next_fn, args, kwargs, context):
    """Does the same for layers of Linen."""
    outputs = next_fn(*args, **kwargs)
    if isinstance(context.module, _LINEN_LAYERS) and context.method_name == "__call__":
        _RECORD.get().append((args[0], outputs))
    return outputs
