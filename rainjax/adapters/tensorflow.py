"""TensorFlow: models as classifiers."""

import dataclasses
import functools
from typing import Any

import numpy as np

from rainjax._extras import require
from rainjax.adapters._foreign import Foreign

_require = functools.partial(require, "tensorflow", name="TensorFlow", extra="tensorflow")


def from_tensorflow(model: Any, num_classes: int) -> Foreign:
    """Returns a TensorFlow classifier as the `classifier` of `Defended`, with parameters `()`.

    `model` maps images `n h w c` in [0, 1] to logits: a normalisation belongs into it, a
    softmax does not. A Keras model is called with `training=False`, anything else just so. It
    is taken for a function, without randomness.

    Raises:
        ImportError: TensorFlow is not installed.
        TypeError: `model` cannot be called.
        ValueError: `num_classes` is below 2.
    """
    _require()
    if not callable(model):
        raise TypeError(f"from_tensorflow takes a model to call, not {type(model).__name__}.")
    return TensorFlowClassifier(model, num_classes)


@dataclasses.dataclass(frozen=True)
class TensorFlowClassifier(Foreign):
    """A TensorFlow classifier as a network; made by `from_tensorflow`."""

    def host_logits(self, images: np.ndarray) -> np.ndarray:
        return self._logits(self._tensor(images)).numpy()

    def host_gradients(self, images: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        tf = _require()
        inputs = self._tensor(images)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            logits = self._logits(inputs)
        weights = tf.constant(np.array(cotangents))
        return tape.gradient(logits, inputs, output_gradients=weights).numpy()

    def _tensor(self, images: np.ndarray) -> Any:
        return _require().constant(np.array(images))  # a copy: XLA may reuse the buffer

    def _logits(self, inputs: Any) -> Any:
        is_keras = isinstance(self.model, _require().keras.Model)
        logits = self.model(inputs, **({"training": False} if is_keras else {}))
        self.check_logits(tuple(logits.shape), len(inputs))
        return logits
