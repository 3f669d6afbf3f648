"""Feature squeezing: what the network says before and after a defense (Xu et al., NDSS 2018)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax._checks import check_option
from rainjax.defenses import BitDepth, Defense, MedianFilter, NonLocalMeans
from rainjax.detectors._base import Detector
from rainjax.gradients import with_own_gradient
from rainjax.nets import Network
from rainjax.typing import Image, Params, PRNGKey

ImageKind = Literal["small", "large"]


@dataclasses.dataclass(frozen=True)
class Disagreement(Detector):
    """Suspects an image of which the network says something else once a defense purified it.

    The score is the largest L1 distance, over the `defenses`, between the softmax of the image and
    that of the purified image: the paper's, in [0, 2]. Where the network is sure of two different
    classes it is nearly 2 and its gradient fades; an attack that follows it needs another loss
    there. An image costs a pass through the network and one more for each defense, in one batch.

    Values are those of the defenses as they are; gradients those that they name themselves, the
    soft twin's where one rounds (`rainjax.gradients.with_own_gradient`).

    Parameters are `{"network": ..., "defenses": (...)}`, one entry for each defense; nothing is
    fit.

    >>> import jax
    >>> from rainjax import nets
    >>> from rainjax.defenses import FeatureDistillation
    >>> from rainjax.detectors import Disagreement
    >>> network = nets.ResNet(depth=8, norm="group")
    >>> detector = Disagreement(network, (FeatureDistillation(),))
    >>> params = detector.init(jax.random.key(0))
    >>> detector.score(params, jax.random.key(1), jax.numpy.ones((16, 16, 3))).shape
    ()

    Raises:
        ValueError: there is no defense.
    """

    network: Network
    defenses: tuple[Defense, ...]

    def __post_init__(self):
        super().__post_init__()
        if not self.defenses:
            raise ValueError(
                "defenses=() has nothing to disagree with: give at least one, or all of Xu et "
                "al.'s by feature_squeezing(network)."
            )

    @property
    def is_random(self) -> bool:
        """Whether one of the defenses is."""
        return any(defense.is_random for defense in self.defenses)

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network and of every defense."""
        network_key, *keys = jax.random.split(key, 1 + len(self.defenses))
        pairs = zip(self.defenses, keys, strict=True)
        return {
            "network": self.network.init(network_key),
            "defenses": tuple(defense.init(k) for defense, k in pairs),
        }

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the largest distance.

        Raises:
            ValueError: `params` have another number of defenses.
        """
        if len(params["defenses"]) != len(self.defenses):
            raise ValueError(
                f'params["defenses"] has {len(params["defenses"])} entries for '
                f"{len(self.defenses)} defenses: give one for each, () where it has none."
            )
        keys = jax.random.split(key, len(self.defenses))
        purified = [
            with_own_gradient(defense).apply(p, k, image)
            for defense, p, k in zip(self.defenses, params["defenses"], keys, strict=True)
        ]
        seen = jnp.stack([image, *purified])
        logits = jax.vmap(self.network.apply, (None, 0))(params["network"], seen)
        probabilities = jax.nn.softmax(logits)
        return jnp.max(jnp.sum(jnp.abs(probabilities[1:] - probabilities[:1]), axis=-1))


def feature_squeezing(network: Network, images: ImageKind = "small") -> Disagreement:
    """Returns the detector with the joint squeezers that Xu et al. found best.

    They are 5 bits, a 2x2 median, and non-local means with patches of 3x3: for "small" images,
    CIFAR-10's, in windows of 13x13 with a strength of 2 grey levels ("13-3-2"), and for "large"
    ones, ImageNet's, of 11x11 with 4 ("11-3-4"). The authors' non-local means is OpenCV's, which
    weighs the pixels of a patch alike, and works on lightness and on colours apart (CIE Lab); ours
    is `NonLocalMeans`, on all channels together.

    >>> from rainjax import nets
    >>> from rainjax.detectors import feature_squeezing
    >>> [type(defense).__name__ for defense in feature_squeezing(nets.ResNet()).defenses]
    ['BitDepth', 'MedianFilter', 'NonLocalMeans']

    Raises:
        ValueError: `images` is none of the two.
    """
    check_option("images", images, ImageKind)
    distance, grey_levels = {"small": (6, 2), "large": (5, 4)}[images]
    means = NonLocalMeans(patch_size=3, patch_distance=distance, h=grey_levels / 255)
    return Disagreement(network, (BitDepth(5), MedianFilter(2), means))
