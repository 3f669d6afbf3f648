"""Minimum-norm attacks against the norms that Foolbox's find, on CIFAR-10 and a published net."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import zoo
from rainjax.attacks import CarliniWagner, DeepFool, ElasticNet
from rainjax.defenses import Identity
from rainjax.devices import data_mesh
from rainjax.evaluation import run_attack, score
from rainjax.nets import ResNet
from rainjax.pipeline import Defended
from tests.golden.minimum_norm_peers import BETA, CANDIDATES, SEARCH

GOLDEN = pathlib.Path(__file__).parent / "golden" / "minimum_norm_peers.npz"
TARGET = Defended(Identity(), ResNet(20))


@pytest.fixture(scope="module")
def norms(shared_data):
    """Returns a function from an attack to the norms it needs, and those stored."""
    stored = np.load(GOLDEN)
    classifier = zoo.load_torch(shared_data / "weights" / "cifar10_resnet20.npz", ResNet(20))
    params = {"defense": (), "classifier": classifier}
    with np.load(shared_data / "cifar10_test.npz") as data:
        pixels, targets = data["images"][:256], data["labels"][:256]

    def both(name, attack, order):
        count = len(stored[name])
        images = (pixels[:count] / 255).astype(np.float32)
        labels = targets[:count].astype(np.int32)
        keys = jax.random.split(jax.random.key(0), count)
        found = run_attack(TARGET, attack, params, keys, images, labels, mesh=data_mesh())
        logits = score(TARGET, params, keys, jnp.asarray(found), num_draws=1)[:, 0]
        beaten = np.asarray(logits).argmax(-1) != labels
        delta = (np.asarray(found, float) - images).reshape(count, -1)
        return np.where(beaten, np.linalg.norm(delta, order, axis=1), np.inf), stored[name]

    return both


@pytest.mark.parametrize(
    ("norm", "radii"),
    [("l2", (0.03, 0.06, 0.1, 0.15, 0.2, 0.3)), ("linf", (0.001, 0.002, 0.003, 0.005, 0.008))],
)
def test_deepfool_leaves_the_robust_accuracies_that_foolbox_does(norms, norm, radii):
    order = {"l2": 2, "linf": np.inf}[norm]
    attack = DeepFool(norm=norm, num_candidates=CANDIDATES)
    ours, theirs = norms(f"deepfool_{norm}", attack, order)
    assert len(ours) == 256
    accuracies = np.array([[(n > r).mean() for r in radii] for n in (ours, theirs)])
    assert accuracies[1, 0] > 0.7 > 0.1 > accuracies[1, -1]  # radii that tell
    np.testing.assert_allclose(*accuracies, atol=0.01)
    np.testing.assert_allclose(np.median(ours), np.median(theirs), rtol=0.01)


@pytest.mark.parametrize(
    ("name", "attack", "order"),
    [
        ("carlini_wagner", CarliniWagner(**SEARCH), 2),
        ("elastic_net", ElasticNet(**SEARCH, beta=BETA, decision="l1"), 1),
    ],
)
def test_optimised_norms_are_not_above_those_of_foolbox(norms, name, attack, order):
    ours, theirs = norms(name, attack, order)
    assert np.isfinite(ours).all()
    assert np.median(ours) < 1.02 * np.median(theirs)
    some = theirs > 0
    assert np.median(ours[some] / theirs[some]) > 0.9  # the same attack, not another measure
