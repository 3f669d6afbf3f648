"""The free energy of the logits (Liu et al., NeurIPS 2020)."""

import dataclasses
import math

import jax
from jaxtyping import Array, Float

from rainjax.detectors._base import Detector
from rainjax.nets import Network
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Energy(Detector):
    """Suspects an image whose logits are all small: `-T logsumexp(logits / T)`.

    The paper's score, there with out-of-distribution images in mind, and its `temperature` of 1.
    An attack that raises a wrong logit far enough lowers it.

    Parameters are `{"network": ...}`; nothing is fit.

    >>> import jax
    >>> from rainjax import nets
    >>> from rainjax.detectors import Energy
    >>> detector = Energy(nets.ResNet(depth=8, norm="group"))
    >>> params = detector.init(jax.random.key(0))
    >>> detector.score(params, jax.random.key(1), jax.numpy.ones((16, 16, 3))).shape
    ()

    Raises:
        ValueError: the temperature is not positive and finite.
    """

    network: Network
    temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be positive and finite.")

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network."""
        return {"network": self.network.init(key)}

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the energy."""
        del key
        logits = self.network.apply(params["network"], image)
        return -self.temperature * jax.nn.logsumexp(logits / self.temperature)
