"""A detector that leaves nothing to guess, in front of a linear classifier."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rainjax import Defended, Guarded, Identity
from rainjax.detectors import Detector, calibrate
from rainjax.evaluation import (
    score,
)
from tests.small_studies import KERNEL, SIZE, SMALL
from tests.tiny import Linear

IMAGES = SMALL.astype(np.float32) / 255
KEYS = jax.random.split(jax.random.key(5), len(IMAGES))
PLAIN = Defended(Identity(), Linear(SIZE, 10))
PARAMS = {"defense": (), "classifier": {"kernel": KERNEL}}


@dataclasses.dataclass(frozen=True)
class Linearly(Detector):
    """Scores an image by its values' weighted sum, which leaves nothing to guess."""

    noise: float = 0.0

    def init(self, key):
        return {"weights": jnp.zeros((6, 6, 3))}

    def score(self, params, key, image):
        noise = self.noise * jax.random.normal(key) if self.noise else 0.0
        return jnp.sum(params["weights"] * image) + noise

    @property
    def is_random(self):
        return self.noise > 0


WEIGHTS = {"weights": jnp.asarray(np.random.default_rng(4).normal(size=(6, 6, 3)), jnp.float32)}


def guarded(rate=0.25, pipeline=PLAIN, params=PARAMS, **options):
    noise = options.pop("noise", 0.0)
    detector = Linearly(noise)
    fitted = calibrate(detector, WEIGHTS, IMAGES, false_positive_rate=rate)
    return Guarded(pipeline, detector, **options), {"pipeline": params, **fitted}


def raw(pipeline, params, images=IMAGES):
    return np.asarray(score(pipeline, params, KEYS[: len(images)], images, num_draws=1)[:, 0])
