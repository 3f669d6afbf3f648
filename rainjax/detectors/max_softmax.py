"""The largest softmax probability (Hendrycks and Gimpel, ICLR 2017)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax.detectors._base import Detector
from rainjax.nets import Network
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class MaxSoftmax(Detector):
    """Suspects an image that the network is unsure of.

    With `p` the largest softmax probability the score is `log((1 - p) / p)`: it orders images as
    the paper's `1 - p` does, but neither it nor its gradient fades where `p` rounds to 1. It is
    computed from the logits, as the `logsumexp` of all but the largest, less that one.

    Parameters are `{"network": ...}`; nothing is fit.

    >>> import jax
    >>> from rainjax import nets
    >>> from rainjax.detectors import MaxSoftmax
    >>> detector = MaxSoftmax(nets.ResNet(depth=8, norm="group"))
    >>> params = detector.init(jax.random.key(0))
    >>> detector.score(params, jax.random.key(1), jax.numpy.ones((16, 16, 3))).shape
    ()
    """

    network: Network

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network."""
        return {"network": self.network.init(key)}

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the logarithm of the odds against the most likely class."""
        del key
        logits = self.network.apply(params["network"], image)
        others = logits.at[jnp.argmax(logits)].set(-jnp.inf)
        return jax.nn.logsumexp(others) - jnp.max(logits)
