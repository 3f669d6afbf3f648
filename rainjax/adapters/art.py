"""The Adversarial Robustness Toolbox (ART): the pipeline as one of its estimators."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from rainjax._extras import require
from rainjax.adapters._batched import Batched
from rainjax.pipeline import Defended
from rainjax.typing import Params

_require = functools.partial(require, name="The Adversarial Robustness Toolbox", extra="art")


def as_art_classifier(
    defended: Defended,
    params: Params,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    seed: int = 0,
    fresh: bool = True,
) -> Any:
    """Returns an ART classifier of images `n h w c` in [0, 1], with gradients of every kind.

    `image_shape` is `(h, w, c)`. `predict` returns logits. Every call draws anew for every
    image, as a function of `seed` and of how many calls there were; with `fresh=False` every
    call has the same draws. `loss_gradient` is that of each image's own cross-entropy. Training
    it is refused.

    Args:
        defended: The pipeline; its defense draws anew at every call.
        params: Its parameters.
        num_classes: The number of its logits.
        image_shape: `(h, w, c)`.
        seed: The root of every draw.
        fresh: Whether every call has draws of its own.

    Raises:
        ImportError: ART is not installed.
        ValueError: the pipeline takes no such images or knows another number of classes, or
            `seed` is not in 0..2**32-1. The classifier raises it for images that are not as
            above, and FloatingPointError for NaN in the logits or in a gradient.
    """
    cls = _classifier_class()
    batched = Batched(defended, params, seed=seed, fresh=fresh)
    there = batched.num_classes(tuple(image_shape))
    if there != num_classes:
        raise ValueError(f"{num_classes=}, but the pipeline has {there} classes.")
    return cls(batched, num_classes, tuple(image_shape))


def _unfilled_classifier() -> Any:
    cls = _classifier_class()
    return cls.__new__(cls)


def _classifier_class() -> Any:
    module = _require("art.estimators.classification.classifier")
    return _class_of(module.ClassifierNeuralNetwork, _require("art.utils"))


@functools.cache
def _class_of(base: Any, utils: Any) -> type:
    """Returns the estimator's class, which cannot be written before ART is imported."""

    class DefendedClassifier(base):
        """A defended pipeline of JAX."""

        def __init__(self, batched: Batched, num_classes: int, image_shape: tuple):
            super().__init__(
                model=batched, clip_values=(0.0, 1.0), preprocessing=None, channels_first=False
            )
            self.nb_classes = num_classes
            self._input_shape = image_shape

        @property
        def input_shape(self) -> tuple:
            return self._input_shape

        def predict(self, x, batch_size: int = 128, **kwargs):
            rows = self._rows(x)
            starts = range(0, len(rows), batch_size)
            logits = [self.model.logits(rows[i : i + batch_size]) for i in starts]
            return self._apply_postprocessing(np.concatenate(logits), fit=False)

        def compute_loss(self, x, y, reduction: str = "none", **kwargs):
            logits, targets = self.predict(x), self._targets(y)
            losses = -(targets * _log_softmax(logits)).sum(axis=1)
            reduce = {"none": np.asarray, "mean": np.mean, "sum": np.sum}
            return reduce[reduction](losses)

        def loss_gradient(self, x, y, **kwargs):
            logits, pullback = self.model.logits_and_pullback(self._rows(x))
            targets = self._targets(y)
            likely = np.exp(_log_softmax(np.asarray(logits)))
            cotangents = likely * targets.sum(axis=1, keepdims=True) - targets
            gradients = np.array(pullback(jnp.asarray(cotangents, jnp.float32)))
            return self._apply_preprocessing_gradient(x, gradients)

        def class_gradient(self, x, label=None, **kwargs):
            _, pullback = self.model.logits_and_pullback(self._rows(x))
            if label is None:
                wanted = [np.full(len(x), i) for i in range(self.nb_classes)]
            else:
                wanted = [np.broadcast_to(np.asarray(label).ravel(), len(x))]
            one_hot = np.eye(self.nb_classes, dtype=np.float32)
            gradients = [np.asarray(pullback(jnp.asarray(one_hot[i]))) for i in wanted]
            gradients = np.stack(gradients, axis=1)
            return self._apply_preprocessing_gradient(x, gradients)

        def fit(self, x, y, batch_size: int = 128, nb_epochs: int = 20, **kwargs):
            raise TypeError(
                "A defended pipeline is not trained through ART: train its parts in JAX."
            )

        def get_activations(self, x, layer, batch_size: int = 128, framework: bool = False):
            raise TypeError("A defended pipeline shows its logits, no layer before them.")

        def save(self, filename: str, path: str | None = None):
            raise TypeError("Save the pipeline's parameters, from JAX.")

        def __reduce__(self):
            return _unfilled_classifier, (), self.__dict__  # pickle does not find this by name

        def _rows(self, x):
            x, _ = self._apply_preprocessing(np.asarray(x), y=None, fit=False)
            if x.shape[1:] != self.input_shape or not np.issubdtype(x.dtype, np.floating):
                raise ValueError(
                    f"The classifier takes floats in [0, 1] of shape (n, "
                    f"{', '.join(map(str, self.input_shape))}), got {x.dtype} of shape {x.shape}."
                )
            return jnp.asarray(x, jnp.float32)

        def _targets(self, y):
            return utils.check_and_transform_label_format(np.asarray(y), self.nb_classes)

    return DefendedClassifier


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
