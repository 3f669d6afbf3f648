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

# Pixels of an image's side. Two are close: a number of logits that depends on the size shows.
COMMON_SIDES = (32, 224, 256)


@dataclasses.dataclass(frozen=True)
class Foreign(Network):
    """A classifier of another framework, seen as the two pure functions of a `Network`.

    Its parameters are `()`: the numbers live in `model`, and are looked up at every call. It
    works under `jit`, `grad` and `vmap`, where a batch is one call of the model; the gradient
    runs the model forward once more. There is no second derivative. One gray image of every shape
    is tried before the first batch. A batch spread over devices is gathered first. Equal is what
    holds the same object; `content_digest` tells contents apart.
    """

    held: "Held"
    num_classes: int

    def __post_init__(self):
        super().__post_init__()
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
            ValueError: the input is not one image of floats, there are `params`, or the model
                does not take such images or returns something else than logits for them.
        """
        (image,) = inputs
        if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                f"The network takes one image `h w c` of floats in [0, 1], got {image.dtype} of "
                f"shape {image.shape}: divide integers by 255, and use jax.vmap for a batch."
            )
        if jax.tree.leaves(params):
            raise ValueError(f"{type(self).__name__} holds its numbers itself: its params are ().")
        self.try_shape(image.shape)
        return _logits(self, image.astype(jnp.float32))

    @abc.abstractmethod
    def likely_shapes(self) -> list[tuple[int, int, int]]:
        """Returns shapes `h w c` of images of which the model probably takes one."""

    def try_likely_shapes(self) -> None:
        """Refuses what would serve for images of no size, before there are any.

        Sizes that the model does not take are passed over, and so is a number of logits that
        depends on the size.

        Raises:
            UnusableModel: the outputs are no logits, or of another number than `num_classes`.
        """
        wrong = []
        for shape in self.likely_shapes():
            try:
                self.host_logits(_gray(shape))
                return
            except WrongShape as error:
                wrong.append(error)
            except UnusableModel:
                raise
            except Exception:  # the model does not take this size: any error of its framework
                continue
        if len({str(error) for error in wrong}) == 1:
            raise wrong[0]

    def try_shape(self, shape: tuple[int, ...], *, gradient: bool = False) -> None:
        """Calls the model on one image, once for every shape `h w c`.

        XLA would bury what the model says in pages of its own.

        Raises:
            UnusableModel: the model does not take such an image, returns no logits, or, with
                `gradient`, has none.
        """
        call = (shape, gradient, self.num_classes)
        if call in self.held.tried:
            return
        image, name = _gray(shape), type(self.model).__name__
        try:
            logits = self.host_logits(image)
            if gradient:
                self.host_gradients(image, np.ones_like(logits))
        except UnusableModel:
            raise
        except Exception as error:
            what = "cannot be differentiated at" if gradient else "cannot take"
            height, width, channels = shape
            said = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise UnusableModel(
                f"{name} {what} a float32 image of {height} x {width} x {channels}: {said}."
            ) from error
        self.held.tried.add(call)

    def check_logits(self, outputs: Any, count: int) -> None:
        """Refuses outputs that are not `count classes` logits; says what to return instead.

        Raises:
            UnusableModel: they are no tensor, or in half precision.
            WrongShape: they have another shape.
        """
        name = type(self.model).__name__
        if not hasattr(outputs, "shape") or not hasattr(outputs, "dtype"):
            raise UnusableModel(
                f"{name} returns a {type(outputs).__name__}, not a tensor of logits: wrap it in a "
                f"model that returns {_logits_among(outputs)}."
            )
        kind = str(getattr(outputs.dtype, "name", outputs.dtype)).removeprefix("torch.")
        if kind not in ("float32", "float64"):
            raise UnusableModel(
                f"{name} returns logits in {kind}, where small gradients vanish: turn it to "
                "float32, as .float() does in PyTorch."
            )
        shape, wanted = tuple(outputs.shape), (count, self.num_classes)
        if shape == wanted:
            return
        if len(shape) != 2 or shape[0] != count:
            mend = "return one row of logits for each image"
        elif shape[1] == 1:
            mend = "of a single output p make the two logits 0 and p"
        else:
            mend = f"give num_classes={shape[1]}"
        raise WrongShape(f"{name} returns logits of shape {shape}, not {wanted}: {mend}.")


class UnusableModel(ValueError):
    """A model that is no classifier as `Foreign` calls one."""


class WrongShape(UnusableModel):
    """A model whose outputs have another shape."""


class Held:
    """A model of another framework: equal where it is the same object, printed by its class."""

    def __init__(self, model: Any):
        self._model = model
        self._tried: set[tuple[tuple[int, ...], bool, int]] = set()

    @property
    def tried(self) -> set[tuple[tuple[int, ...], bool, int]]:
        """The calls of `Foreign.try_shape` that went well."""
        return self._tried

    @property
    def model(self) -> Any:
        """The model itself."""
        return self._model

    def decided_by(self) -> None:
        """Returns nothing: in a record `Foreign.content_digest` speaks for the model."""

    def __eq__(self, other: object) -> bool:
        return self._model is other._model if isinstance(other, Held) else NotImplemented

    def __hash__(self) -> int:
        return id(self._model)

    def __repr__(self) -> str:
        return f"<{type(self._model).__name__}>"


def _gray(shape: tuple[int, ...]) -> np.ndarray:
    return np.full((1, *shape), 0.5, np.float32)


def _logits_among(outputs: Any) -> str:
    """Returns how the logits are probably reached in what a model returned."""
    if hasattr(outputs, "logits"):
        return "outputs.logits"
    if isinstance(outputs, dict) and outputs:
        return f"outputs[{'logits' if 'logits' in outputs else next(iter(outputs))!r}]"
    return "outputs[0]" if isinstance(outputs, tuple | list) else "its logits"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logits(network: Foreign, image):
    return _call(_OnHost(network, "host_logits"), (network.num_classes,), image)


def _logits_fwd(network: Foreign, image):
    network.try_shape(image.shape, gradient=True)
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
