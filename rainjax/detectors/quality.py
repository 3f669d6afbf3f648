"""A detector that a teacher with references taught: it judges quality and risk of an image alone.

The architecture is ours, in the spirit of the abstract of Feng and Cai's "Towards Robust
Classification with Image Quality Assessment" (arXiv 2004.06288), which is all of that paper that
is public. `python -m train.iqa` trains one, `zoo.load("cifar10_quality")` is one that ships.
"""

import dataclasses

from jaxtyping import Array, Float

from rainjax.detectors._base import Detector
from rainjax.nets import Network
from rainjax.nets.quality import QualityNet, QualityOutputs
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class ImageQuality(Detector):
    """Scores an image by the student's logit of the chance that the protected network errs.

    Its parameters are `{"student": ...}`, the student's; `fit` changes nothing, for what clean
    images teach is the threshold alone, which `calibrate` finds. A student with `num_features > 0`
    also sees the penultimate features of the protected network: then `features` returns them,
    `network` is that network and the parameters are `{"student": ..., "network": ...}`.

    >>> import jax
    >>> from rainjax import zoo
    >>> from rainjax.detectors import ImageQuality
    >>> entry = zoo.load("builtin_quality")
    >>> detector = ImageQuality(entry.network)
    >>> image = jax.numpy.full((32, 32, 3), 0.5)
    >>> detector.score({"student": entry.params}, jax.random.key(0), image).shape
    ()

    Raises:
        ValueError: a student with `num_features > 0` has no network to take them from, or the
            other way round.
    """

    student: QualityNet
    network: Network | None = None

    def __post_init__(self):
        super().__post_init__()
        if bool(self.student.num_features) != (self.network is not None):
            raise ValueError(
                f"A student with num_features={self.student.num_features} "
                + (
                    "sees the protected network's features: give network=nets.Features(...)."
                    if self.student.num_features
                    else "sees the image alone: leave network out."
                )
            )

    def init(self, key: PRNGKey) -> Params:
        """Returns a student that has learned nothing, and a fresh network where there is one."""
        params = {"student": self.student.init(key)}
        return params if self.network is None else {**params, "network": self.network.init(key)}

    def score(self, params: Params, key: PRNGKey, image: Image) -> Float[Array, ""]:
        """Returns the logit of the predicted chance that the protected network errs."""
        del key
        return self.judge(params, image).risk

    def judge(self, params: Params, image: Image) -> QualityOutputs:
        """Returns all that the student says of an image: quality, risk, change and classes."""
        inputs = [image]
        if self.network is not None:
            inputs.append(self.network.apply(params["network"], image).reshape(1, 1, -1))
        return self.student.split(self.student.apply(params["student"], *inputs))

    def quality(self, params: Params, image: Image) -> Float[Array, ""]:
        """Returns the predicted quality: 1 for a perfect image, less for a poor one."""
        return self.judge(params, image).quality
