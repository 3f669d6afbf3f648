"""Disagreement among the draws of a random defense, by the mutual information with the class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax.defenses import Defense
from rainjax.detectors._base import Detector
from rainjax.gradients import with_own_gradient
from rainjax.nets import Network
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class DrawDisagreement(Detector):
    """Suspects an image of which the network says something else from draw to draw.

    The score is the mutual information of the draw and the class: the entropy of the mean softmax
    over `num_draws` draws, less the mean of their entropies, in [0, log(num_draws)] nats. The
    measure is that of Smith and Gal (UAI 2018), who draw networks by dropout ("BALD", Houlsby et
    al., 2011); to draw a defense such as RAIN instead is our reading. It is computed as the mean
    Kullback-Leibler divergence from the mean softmax, from the logarithms.

    An image costs `num_draws` passes, in one batch. Values are those of the defense as it is, and
    gradients those that it names itself. Parameters are `{"network": ..., "defense": ...}`;
    nothing is fit.

    >>> import jax
    >>> from rainjax import nets
    >>> from rainjax.defenses import GaussianNoise
    >>> from rainjax.detectors import DrawDisagreement
    >>> detector = DrawDisagreement(nets.ResNet(depth=8, norm="group"), GaussianNoise())
    >>> params = detector.init(jax.random.key(0))
    >>> detector.score(params, jax.random.key(1), jax.numpy.ones((16, 16, 3))).shape
    ()

    Raises:
        ValueError: the defense is not random, or there are fewer than two draws.
    """

    network: Network
    defense: Defense
    num_draws: int = 8

    def __post_init__(self):
        super().__post_init__()
        if not self.defense.is_random:
            name = type(self.defense).__name__
            raise ValueError(
                f"DrawDisagreement takes a random defense, and {name} always does the same: "
                f"give Disagreement(network, ({name}(...),))."
            )
        if self.num_draws < 2:
            raise ValueError(f"num_draws={self.num_draws} must be at least 2.")

    @property
    def is_random(self) -> bool:
        """True, as the defense is."""
        return True

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network and of the defense."""
        network_key, defense_key = jax.random.split(key)
        return {
            "network": self.network.init(network_key),
            "defense": self.defense.init(defense_key),
        }

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the mutual information, in nats."""
        defense = with_own_gradient(self.defense)

        def logits(draw):
            purified = defense.apply(params["defense"], draw, image)
            return self.network.apply(params["network"], purified)

        keys = jax.random.split(key, self.num_draws)
        logs = jax.nn.log_softmax(jax.vmap(logits)(keys))
        mean = jax.nn.logsumexp(logs, axis=0, keepdims=True) - np.log(self.num_draws)
        return jnp.mean(jnp.sum(jnp.exp(logs) * (logs - mean), axis=-1))
