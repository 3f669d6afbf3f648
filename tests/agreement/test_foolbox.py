"""DeepFool, Carlini-Wagner and EAD against the norms that Foolbox's find."""

import numpy as np
import pytest

from rainjax.attacks import CarliniWagner, DeepFool, ElasticNet
from tests.agreement.published import GOLDEN, attack_cifar10
from tests.golden.minimum_norm_foolbox import BETA, CANDIDATES, SEARCH

pytestmark = pytest.mark.optimized

ADV, PLAIN = "resnet4b_adv2", "resnet20"
NUM = 128  # of the 256 images that theirs were asked of: a point is one image


def _norms(shared_data, network, name, attack, norm):
    """Returns the norm that each image needs by ours, and by theirs."""
    theirs = np.load(GOLDEN / "minimum_norm_foolbox.npz")[f"{network}/{name}"][:NUM]
    return attack_cifar10(shared_data, network, attack, np.arange(len(theirs))).norms(norm), theirs


@pytest.mark.parametrize(
    ("network", "norm", "radii"),
    [
        (PLAIN, "l2", (0.03, 0.06, 0.1, 0.15, 0.2, 0.3)),
        (PLAIN, "linf", (0.001, 0.002, 0.003, 0.005, 0.008)),
        (ADV, "l2", (0.1, 0.2, 0.4, 0.6, 0.9)),
        (ADV, "linf", (0.004, 0.008, 0.016, 0.024, 0.04)),
    ],
)
def test_deepfool(shared_data, network, norm, radii):
    attack = DeepFool(norm=norm, num_candidates=CANDIDATES)
    _agree(*_norms(shared_data, network, f"deepfool_{norm}", attack, norm), radii)


@pytest.mark.parametrize(
    ("network", "radii"),
    [(PLAIN, (0.05, 0.1, 0.2, 0.3, 0.5)), (ADV, (0.1, 0.2, 0.4, 0.6, 0.9))],
)
def test_carlini_wagner(shared_data, network, radii):
    attack = CarliniWagner(**SEARCH)
    _agree(*_norms(shared_data, network, "carlini_wagner", attack, "l2"), radii)


def _agree(ours, theirs, radii):
    """At every radius the robust accuracies are within one point on as many images."""
    assert len(ours) == len(theirs) == NUM
    accuracies = np.array([[(norms > r).mean() for r in radii] for norms in (ours, theirs)])
    assert accuracies[1, 0] > 0.5 > accuracies[1, -1] + 0.2  # radii that tell
    np.testing.assert_allclose(*accuracies, atol=0.01)
    np.testing.assert_allclose(np.median(ours), np.median(theirs), rtol=0.01)


def test_elastic_net(shared_data):
    attack = ElasticNet(**SEARCH, beta=BETA, decision="l1")
    ours, theirs = _norms(shared_data, PLAIN, "elastic_net", attack, "l1")
    assert np.isfinite(ours).all()
    assert np.median(ours) < 1.02 * np.median(theirs)
    some = theirs > 0
    assert np.median(ours[some] / theirs[some]) > 0.9  # the same attack, not another measure
