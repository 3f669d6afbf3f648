"""Studies of a linear classifier and a few pictures, which take moments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rainjax.attacks import EOT, PGD
from rainjax.data import ImageSet
from rainjax.defenses import BitDepth, Defense
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    Itself,
    Knowledge,
    Study,
    Subject,
    ThreatModel,
    When,
)
from rainjax.pipeline import Defended
from tests.tiny import Linear

SIZE = 6 * 6 * 3
SOFT = BitDepth(3, rounding="cubic")
RNG = np.random.default_rng(0)
SMALL = RNG.integers(40, 216, size=(16, 6, 6, 3)).astype(np.uint8)
KERNEL = jnp.asarray(RNG.normal(size=(SIZE, 10)), jnp.float32)
# A linear classifier that is right on every image, by construction of its labels.
RIGHT = np.argmax(SMALL.reshape(16, -1) / 255 @ np.asarray(KERNEL), -1)


class Arrays(ImageSet):
    """Pictures in memory."""

    name, split, fingerprint = "arrays", "test", "arrays-1"
    class_names = tuple("0123456789")

    def __init__(self, images, labels):
        self._images, self._labels = images, labels

    def __len__(self):
        return len(self._images)

    def get(self, indices):
        return self._images[indices], self.labels(indices)

    def image(self, index):
        return self._images[index]

    def labels(self, indices):
        return self._labels[indices].astype(np.int32)

    def source_index(self, indices):
        return indices


@dataclasses.dataclass(frozen=True)
class Round(Defense):
    """Rounds to sixteen levels and says that this has no gradient: which is true, and a mask."""

    def apply(self, params, key, image):
        return jnp.round(image * 15) / 15

    @property
    def is_random(self):
        return False


@dataclasses.dataclass(frozen=True)
class Stopped(Round):
    """Does nothing, and hides that."""

    def apply(self, params, key, image):
        return jax.lax.stop_gradient(image)


def linear(defense, name=None):
    return Subject(
        name or type(defense).__name__,
        Defended(defense, Linear(SIZE, 10)),
        {"defense": (), "classifier": {"kernel": KERNEL}},
        {"classifier": "made up"},
    )


def battery(radius=0.05, **options):
    pgd = PGD(radius=radius, step_size=radius / 4, num_steps=4)
    shared = {"num_examples": 8, **options}
    return (
        CLEAN,
        ThreatModel("blind", pgd, ClassifierAlone(), Knowledge.CLASSIFIER),
        ThreatModel("one draw", pgd),
        ThreatModel(
            "averaged", dataclasses.replace(pgd, eot=EOT(3)), When(Itself(), random=True), **shared
        ),
    )


def study_of(*subjects, threats=None, name="small", **options):
    given = {"num_examples": 12, "num_score_draws": 3, "batch_size": 8, "seed": 7} | options
    chosen = threats or battery()
    return Study(name, Arrays(SMALL, RIGHT), subjects, chosen, **given)
