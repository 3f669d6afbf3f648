"""The distance to the nearest class in the space of features (Lee et al., NeurIPS 2018)."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._arrays import as_array
from rainjax.detectors._base import Detector
from rainjax.detectors._fitting import (
    check_num_features,
    check_shrinkage,
    num_features,
    rows_of,
    whitened,
    whitening,
)
from rainjax.nets import Features, Network
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Mahalanobis(Detector):
    """Suspects an image whose features are far from those of every class.

    The score is the squared Mahalanobis distance to the nearest class mean, all classes sharing
    one covariance (Lee et al.'s confidence score, with the other sign). The features are those of
    the last layer's input (`rainjax.nets.Features`); the paper also takes those of earlier layers,
    disturbs the image, and learns from attacks how to weigh the layers, which this does not.

    The parameters have a place for each of `num_classes`, so that their shapes do not depend on
    what they are fit on. A class of which no clean image was given counts as infinitely far: of a
    network with 1,000 classes those that occur are enough, and an image of another class then
    looks suspicious. The covariance is shrunk towards its diagonal by `shrinkage`, so that there
    may be fewer images than features. `num_features` is asked from the network where it is None.

    Parameters are `{"network": ..., "mean": [features], "whitening": [features, features],
    "centres": [num_classes, features], "counts": [num_classes]}`: the centres are the whitened
    means of the classes. Until `fit`, all classes are at 0 and the covariance is the identity.

    >>> import jax, numpy as np
    >>> from rainjax import nets
    >>> from rainjax.detectors import Mahalanobis
    >>> detector = Mahalanobis(nets.ResNet(depth=8, norm="group"))
    >>> params = detector.init(jax.random.key(0))
    >>> clean = np.random.default_rng(0).uniform(size=(20, 16, 16, 3)).astype(np.float32)
    >>> params = detector.fit({"network": params["network"]}, clean, np.arange(20) % 10)
    >>> params["centres"].shape
    (10, 64)

    Raises:
        ValueError: the network has no features, or an option is out of range.
    """

    network: Network
    num_classes: int = 10
    shrinkage: float = 0.1
    num_features: int | None = None

    def __post_init__(self):
        super().__post_init__()
        Features(self.network)
        check_shrinkage(self.shrinkage)
        if self.num_classes < 1 or (self.num_features or 1) < 1:
            raise ValueError(
                f"num_classes={self.num_classes} and num_features={self.num_features} must be at "
                "least 1."
            )

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network, and classes without a difference."""
        size = num_features(self.network, self.num_features)
        return {
            "network": self.network.init(key),
            "mean": jnp.zeros(size),
            "whitening": jnp.eye(size),
            "centres": jnp.zeros((self.num_classes, size)),
            "counts": jnp.ones(self.num_classes),
        }

    def fit(self, params: Params, images, labels=None) -> Params:
        """Returns the parameters with the classes' means and the covariance of clean images.

        Raises:
            ValueError: there are no labels, or not one of a class for each image; or as few as
                one image.
        """
        owner = type(self).__name__
        numbers = self._labels(labels, len(as_array("images", images)))
        features = Features(self.network).apply
        values = rows_of(owner, 2, features, params["network"], images)
        check_num_features(owner, values, num_features(self.network, self.num_features))
        values = values.astype(np.float64)
        counts = np.bincount(numbers, minlength=self.num_classes)
        sums = np.zeros((self.num_classes, values.shape[1]))
        np.add.at(sums, numbers, values)
        means, mean = sums / np.maximum(counts, 1)[:, None], values.mean(0)
        matrix = whitening(values - means[numbers], self.shrinkage)
        # A class without images stays at 0, and its count says that it is none.
        centres = np.where(counts[:, None] > 0, (means - mean) @ np.asarray(matrix).T, 0.0)
        return {
            "network": params["network"],
            "mean": jnp.asarray(mean, jnp.float32),
            "whitening": matrix,
            "centres": jnp.asarray(centres, jnp.float32),
            "counts": jnp.asarray(counts, jnp.float32),
        }

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the squared distance to the nearest class."""
        del key
        features = Features(self.network).apply(params["network"], image)
        place = whitened(params["whitening"], features - params["mean"])
        distances = jnp.sum(jnp.square(place[None] - params["centres"]), axis=1)
        return jnp.min(jnp.where(params["counts"] > 0, distances, jnp.inf))

    def _labels(self, labels, num: int) -> np.ndarray:
        if labels is None:
            raise ValueError(
                "Mahalanobis.fit needs the class of every image: give labels, or the classes that "
                "the network predicts."
            )
        numbers = np.asarray(as_array("labels", labels))
        if numbers.shape != (num,) or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"labels must be {num} whole numbers, one for each image, got {numbers.dtype} of "
                f"shape {numbers.shape}."
            )
        wrong = numbers[(numbers < 0) | (numbers >= self.num_classes)]
        if len(wrong):
            raise ValueError(
                f"labels hold {wrong[0]}, and num_classes={self.num_classes} has classes 0 to "
                f"{self.num_classes - 1}: give num_classes=..., or other labels."
            )
        return numbers
