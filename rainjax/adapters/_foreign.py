"""Classifiers of other frameworks as networks, through calls back to the host."""

import abc
import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array

from rainjax.nets import Network
from rainjax.typing import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Foreign(Network):
    """A classifier of another framework, seen as the two pure functions of a `Network`.

    Its parameters are `()`: the numbers live in `model`, and are looked up at every call. It
    works under `jit`, `grad` and `vmap`, where a batch is one call of the model; the gradient
    runs the model forward once more. There is no second derivative. A batch spread over devices
    is gathered first. Equal is what holds the same object; `content_digest` tells contents apart.
    """

    held: "Held"
    num_classes: int

    def __post_init__(self):
        if self.num_classes < 2:
            raise ValueError(f"num_classes={self.num_classes} must be at least 2.")

    @property
    def model(self) -> Any:
        """The classifier as its framework knows it."""
        return self.held.model

    @abc.abstractmethod
    def content_digest(self) -> str:
        """Returns what names the model in a record: a digest of its code, options and numbers.

        It is the same in any process, and another one as soon as a number of the model changes.
        """

    @abc.abstractmethod
    def host_logits(self, images: np.ndarray) -> np.ndarray:
        """Returns logits `n classes` of images `n h w c`, both NumPy."""

    @abc.abstractmethod
    def host_gradients(self, images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        """Returns the gradients `n h w c` that cotangents `n classes` of the logits come to."""

    def init(self, key: PRNGKey) -> Params:
        """Returns `()`."""
        del key
        return ()

    def apply(self, params: Params, *inputs: Array) -> Array:
        """Returns the logits of one image `h w c`.

        Raises:
            ValueError: the input is not one image of floats, or there are `params`.
        """
        (image,) = inputs
        if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                f"The network takes one image `h w c` of floats in [0, 1], got {image.dtype} of "
                f"shape {image.shape}: divide integers by 255, and use jax.vmap for a batch."
            )
        if jax.tree.leaves(params):
            raise ValueError(f"{type(self).__name__} holds its numbers itself: its params are ().")
        return _logits(self, image.astype(jnp.float32))

    def check_logits(self, shape: tuple[int, ...], count: int) -> None:
        """Refuses logits of another shape than `count classes`, naming `shape`."""
        if shape != (count, self.num_classes):
            raise ValueError(
                f"The model's logits of {count} images have shape {tuple(shape)}, not "
                f"({count}, {self.num_classes}): say how many classes there are in num_classes."
            )


class Held:
    """A model of another framework: equal where it is the same object, printed by its class."""

    def __init__(self, model: Any):
        self._model = model

    @property
    def model(self) -> Any:
        """The model itself."""
        return self._model

    def __eq__(self, other: object) -> bool:
        return self._model is other._model if isinstance(other, Held) else NotImplemented

    def __hash__(self) -> int:
        return id(self._model)

    def __repr__(self) -> str:
        return f"<{type(self._model).__name__}>"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logits(network: Foreign, image):
    return _call(_OnHost(network, "host_logits"), (network.num_classes,), image)


def _logits_fwd(network: Foreign, image):
    return _logits(network, image), image


def _logits_bwd(network: Foreign, image, cotangent):
    return (_call(_OnHost(network, "host_gradients"), image.shape, image, cotangent),)


_logits.defvjp(_logits_fwd, _logits_bwd)


@dataclasses.dataclass(frozen=True)
class _OnHost:
    """A method of `network` over any number of leading axes, as NumPy; equal to its likes."""

    network: Foreign
    method: Literal["host_logits", "host_gradients"]

    def __call__(self, images, *cotangents) -> np.ndarray:
        images = np.asarray(images)
        leading = images.shape[:-3]
        images = images.reshape(-1, *images.shape[-3:])
        rows = [np.asarray(c).reshape(len(images), -1) for c in cotangents]
        found = np.asarray(getattr(self.network, self.method)(images, *rows), np.float32)
        return found.reshape(*leading, *found.shape[1:])


@dataclasses.dataclass(frozen=True)
class _InPlace:
    """`on_host`, writing to the buffer that XLA holds for the result."""

    on_host: _OnHost

    def __call__(self, context, out, *arrays) -> None:
        del context
        np.asarray(out)[...] = self.on_host(*arrays)


def _call(on_host: _OnHost, shape: tuple[int, ...], *arrays: Array) -> Array:
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    if jax.default_backend() == "cpu":
        # pure_callback has XLA's threads copy its arguments, one of which runs the callback and
        # waits for the copy: on one core it hangs for ever from 100 kB on (jax 0.10.2).
        call = buffer_callback(_InPlace(on_host), result, vmap_method="broadcast_all")
        return call(*arrays)
    return jax.pure_callback(on_host, result, *arrays, vmap_method="broadcast_all")
