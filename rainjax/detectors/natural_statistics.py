"""How far statistics are from those of clean images (after NIQE, Mittal et al., 2013)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax.detectors._base import Detector
from rainjax.detectors._fitting import check_shrinkage, rows_of, whitened, whitening
from rainjax.metrics import brisque_features
from rainjax.metrics.no_reference import LocalBorder
from rainjax.typing import Image, Params, PRNGKey

_NUM_FEATURES = 36


@dataclasses.dataclass(frozen=True)
class NaturalStatistics(Detector):
    """Suspects an image that does not look like the clean ones, whatever the network says.

    The score is the squared Mahalanobis distance of the 36 features of BRISQUE from a Gaussian
    that is fit to clean images, divided by 36: about 1 for those. NIQE takes the same features of
    patches of 96 squared, those of sharp ones for its Gaussian, and compares two Gaussians; here
    an image is one patch, so that it may be small, and has no covariance of its own.

    `border` is that of `brisque_features`. The covariance is shrunk towards its diagonal by
    `shrinkage`, and is that of clean images of the size that will be looked at.

    Parameters are `{"mean": [36], "whitening": [36, 36]}`, with the inverse of a Cholesky factor
    of the covariance; there is no network. Until `fit`, they are 0 and the identity.

    >>> import jax, numpy as np
    >>> from rainjax.detectors import NaturalStatistics
    >>> clean = np.random.default_rng(0).uniform(size=(50, 32, 32, 3)).astype(np.float32)
    >>> detector = NaturalStatistics()
    >>> params = detector.fit({}, clean)
    >>> bool(detector.score(params, jax.random.key(0), jax.numpy.full((32, 32, 3), 0.5)) > 100)
    True

    Raises:
        ValueError: an option is unknown or out of range; or, at a call, an image is smaller than
            13 pixels.
    """

    border: LocalBorder = "edge"
    shrinkage: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_shrinkage(self.shrinkage)

    def init(self, key: PRNGKey) -> Params:
        """Returns a Gaussian that no image has taught anything."""
        del key
        return {"mean": jnp.zeros(_NUM_FEATURES), "whitening": jnp.eye(_NUM_FEATURES)}

    def fit(self, params: Params, images, labels=None) -> Params:
        """Returns the Gaussian of clean images; a few hundred are enough.

        Raises:
            ValueError: they are no images of floats, or fewer than two.
        """
        del labels, params
        values = rows_of(type(self).__name__, 2, self._features, (), images)
        mean = values.mean(0)
        return {
            "mean": jnp.asarray(mean, jnp.float32),
            "whitening": whitening(values - mean, self.shrinkage),
        }

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the squared distance, over the number of features."""
        del key
        away = whitened(params["whitening"], self._features((), image) - params["mean"])
        return jnp.mean(jnp.square(away))

    def _features(self, params: Params, image: Image) -> Float[Array, "36"]:
        del params
        return brisque_features(image, border=self.border)
