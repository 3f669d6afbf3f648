"""The networks and images on which our attacks and other people's are compared."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from rainjax import zoo
from rainjax.attacks import Attack
from rainjax.defenses import Identity
from rainjax.devices import data_mesh
from rainjax.evaluation import run_attack, score
from rainjax.nets import ResNet, ResNet4b
from rainjax.pipeline import Defended

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NETWORKS = {"resnet4b_adv2": ResNet4b(), "resnet20": ResNet(20)}
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What an attack made of some images: their labels, the change, and the logits after it."""

    labels: np.ndarray
    delta: np.ndarray
    logits: jax.Array

    @property
    def stands(self) -> np.ndarray:
        """Which images are still classified right."""
        return np.asarray(self.logits).argmax(-1) == self.labels

    def norms(self, norm: str) -> np.ndarray:
        """Returns the norm of each change, infinite where it is no success."""
        lengths = np.linalg.norm(self.delta.reshape(len(self.delta), -1), ORDERS[norm], axis=1)
        return np.where(self.stands, np.inf, lengths)


def attack_cifar10(
    shared_data: pathlib.Path, name: str, attack: Attack, rows: np.ndarray
) -> Attacked:
    """Attacks the test images `rows` on a published network."""
    network = NETWORKS[name]
    classifier = zoo.load_torch(shared_data / "weights" / f"cifar10_{name}.npz", network)
    target, params = Defended(Identity(), network), {"defense": (), "classifier": classifier}
    with np.load(shared_data / "cifar10_test.npz") as data:
        images = data["images"][rows].astype(np.float32) / 255
        labels = data["labels"][rows].astype(np.int32)
    keys, mesh = jax.random.split(jax.random.key(0), len(rows)), data_mesh(batch_size=len(rows))
    found = run_attack(target, attack, params, keys, images, labels, mesh=mesh)
    logits = score(target, params, keys, found, num_draws=1, mesh=mesh)[:, 0]
    return Attacked(labels, np.asarray(found, np.float64) - images, jnp.asarray(logits))
