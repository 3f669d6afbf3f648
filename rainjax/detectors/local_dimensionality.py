"""The local intrinsic dimensionality of features (Ma et al., ICLR 2018)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax.detectors._base import Detector
from rainjax.detectors._fitting import check_num_features, num_features, rows_of
from rainjax.nets import Features, Network
from rainjax.typing import Image, Params, PRNGKey

# References nearer than this share of the features' length count as the image itself: the rounding
# of float32 in another program is far below.
_SAME = 1e-4

# The mean logarithm of the distances' ratios at least, so that neighbours which are all equally
# far have a finite dimension, of a million.
_LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class LocalIntrinsicDimensionality(Detector):
    """Suspects an image around which clean images fill a space of many dimensions.

    The score is the maximum-likelihood estimate `-1 / mean(log(r_i / r_k))` from the distances
    `r_1 <= ... <= r_k` of its features to the nearest `num_neighbours` of `num_references` clean
    images. A reference that is the image itself, up to rounding, is passed over: so a clean image
    may be scored that was fit on. The features are those of the last layer's input
    (`rainjax.nets.Features`). The paper takes a minibatch of 100 as references and 20 neighbours,
    estimates of every layer, and learns from attacks how to weigh them; this learns nothing from
    attacks. `num_features` is asked from the network where it is None.

    Parameters are `{"network": ..., "references": [num_references, features]}`. Until `fit`, the
    references are random numbers.

    >>> import jax, numpy as np
    >>> from rainjax import nets
    >>> from rainjax.detectors import LocalIntrinsicDimensionality
    >>> network = nets.ResNet(depth=8, norm="group")
    >>> detector = LocalIntrinsicDimensionality(network, num_neighbours=5, num_references=20)
    >>> params = detector.init(jax.random.key(0))
    >>> clean = np.random.default_rng(0).uniform(size=(40, 16, 16, 3)).astype(np.float32)
    >>> params = detector.fit({"network": params["network"]}, clean)
    >>> params["references"].shape
    (20, 64)

    Raises:
        ValueError: the network has no features, or there are fewer than two neighbours, or no more
            references than neighbours.
    """

    network: Network
    num_neighbours: int = 20
    num_references: int = 500
    num_features: int | None = None

    def __post_init__(self):
        super().__post_init__()
        Features(self.network)
        if self.num_neighbours < 2:
            raise ValueError(f"num_neighbours={self.num_neighbours} must be at least 2.")
        if self.num_references <= self.num_neighbours:
            raise ValueError(
                f"num_references={self.num_references} must be above num_neighbours="
                f"{self.num_neighbours}, for one of them may be the image itself."
            )
        if (self.num_features or 1) < 1:
            raise ValueError(f"num_features={self.num_features} must be at least 1.")

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network, and random references."""
        network_key, references_key = jax.random.split(key)
        size = num_features(self.network, self.num_features)
        return {
            "network": self.network.init(network_key),
            "references": jax.random.normal(references_key, (self.num_references, size)),
        }

    def fit(self, params: Params, images, labels=None) -> Params:
        """Returns the parameters with references from all over the clean images, evenly spaced.

        Raises:
            ValueError: they are no images of floats, or fewer than `num_references`.
        """
        del labels
        owner, features = type(self).__name__, Features(self.network).apply
        images = np.asarray(images)
        if len(images) > self.num_references:
            places = np.linspace(0, len(images) - 1, self.num_references).round().astype(int)
            images = images[places]
        values = rows_of(owner, self.num_references, features, params["network"], images)
        check_num_features(owner, values, num_features(self.network, self.num_features))
        return {"network": params["network"], "references": jnp.asarray(values, jnp.float32)}

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the estimated number of dimensions, a million at most."""
        del key
        features = Features(self.network).apply(params["network"], image)
        squared = jnp.sum(jnp.square(params["references"] - features[None]), axis=1)
        same = squared <= _SAME**2 * jnp.sum(jnp.square(features))
        # Squared distances of the nearest, ascending; of the image itself none is left over.
        nearest = jnp.sort(jnp.where(same, jnp.inf, squared))[: self.num_neighbours]
        known = jnp.isfinite(nearest)
        logs = jnp.log(jnp.where(known, nearest, 1.0)) / 2
        farthest = jnp.max(jnp.where(known, logs, -jnp.inf), initial=-jnp.inf)
        farthest = jnp.where(known.any(), farthest, 0.0)
        number = jnp.maximum(jnp.sum(known), 1)
        mean = jnp.sum(jnp.where(known, farthest - logs, 0.0)) / number
        return 1 / jnp.maximum(mean, _LEAST)
