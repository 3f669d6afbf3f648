"""TensorFlow: models as classifiers."""

import dataclasses
import functools
from typing import Any

import numpy as np

from rainjax._extras import require
from rainjax.adapters._foreign import COMMON_SIDES, Foreign, Held, UnusableModel
from rainjax.evaluation.describe import content_digest, describe, digest

_require = functools.partial(require, "tensorflow", name="TensorFlow", extra="tensorflow")


def from_tensorflow(model: Any, num_classes: int) -> Foreign:
    """Returns a TensorFlow classifier as the `classifier` of `Defended`, with parameters `()`.

    `model` maps images `n h w c` in [0, 1] to logits: a normalisation belongs into it, a
    softmax does not. A Keras model is called with `training=False`, anything else just so. It
    is taken for a function, without randomness. It is called on gray images of common sizes here,
    and on one of the true size before the first batch, to say early what is wrong with it.

    Raises:
        ImportError: TensorFlow is not installed.
        TypeError: `model` cannot be called.
        ValueError: `model` returns no tensor of logits, in half precision, or of another number
            than `num_classes`, or that is below 2.
    """
    _require()
    if not callable(model):
        raise TypeError(f"from_tensorflow takes a model to call, not {type(model).__name__}.")
    network = TensorFlowClassifier(Held(model), num_classes)
    network.try_likely_shapes()
    return network


@dataclasses.dataclass(frozen=True)
class TensorFlowClassifier(Foreign):
    """A TensorFlow classifier as a network; made by `from_tensorflow`."""

    def content_digest(self) -> str:
        if not hasattr(self.model, "variables"):  # a function
            return digest(describe(self.model))
        # By place, not by name: TensorFlow numbers the names of what it builds in one process.
        numbers = [content_digest(variable.numpy()) for variable in self.model.variables]
        parts = [_described(part) for part in _parts(self.model)]
        return digest({"parts": parts, "numbers": numbers})

    def host_logits(self, images: np.ndarray) -> np.ndarray:
        return self._logits(self._tensor(images)).numpy()

    def host_gradients(self, images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        tf = _require()
        inputs = self._tensor(images)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            logits = self._logits(inputs)
        weights = tf.cast(tf.constant(np.array(cotangents)), logits.dtype)
        gradients = tape.gradient(logits, inputs, output_gradients=weights)
        if gradients is None:
            raise UnusableModel(f"{type(self.model).__name__} has no gradient at its images.")
        return gradients.numpy()

    def _tensor(self, images: np.ndarray) -> Any:
        return _require().constant(np.array(images))  # a copy: XLA may reuse the buffer

    def _logits(self, inputs: Any) -> Any:
        is_keras = isinstance(self.model, _require().keras.Model)
        logits = self.model(inputs, **({"training": False} if is_keras else {}))
        self.check_logits(logits, len(inputs))
        return logits

    def likely_shapes(self) -> list[tuple[int, int, int]]:
        known = getattr(self.model, "input_shape", None)
        if not isinstance(known, tuple) or len(known) != 4:
            known = (None, None, None, 3)
        _, height, width, channels = known
        return [(height or side, width or side, channels or 3) for side in COMMON_SIDES]


def _parts(model: Any) -> list[Any]:
    """Returns a Keras model with its layers, or a module of TensorFlow with those in it."""
    layers = [part for layer in getattr(model, "layers", ()) for part in _parts(layer)]
    return [model, *layers, *getattr(model, "submodules", ())]


def _described(part: Any) -> dict[str, Any]:
    """Returns the class of a module and its options, as plain JSON."""
    own = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    numbers = {name: value for name, value in own.items() if type(value) in (int, float)}
    try:
        config = _nameless(part.get_config())
    except (AttributeError, NotImplementedError):
        config = None  # a subclass without one: its code and what it holds are described
    return {**describe(type(part)), "holds": numbers, "config": config}


def _nameless(config: Any) -> Any:
    """Returns a configuration without the names that TensorFlow numbers."""
    if isinstance(config, dict):
        return {str(key): _nameless(item) for key, item in config.items() if key != "name"}
    if isinstance(config, list | tuple):
        return [_nameless(item) for item in config]
    return describe(config)
