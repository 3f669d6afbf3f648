"""What docs/coming-from.md says is written elsewhere can be written there."""

import numpy as np
import pytest

from rainjax import adapters
from tests import equivalents
from tests.adapters.common import MARKS, peer

pytestmark = MARKS

ROWS = equivalents.equivalents()
ART = "Adversarial Robustness Toolbox (ART)"


def _rows(peer):
    rows = [row for row in ROWS if row.peer == peer]
    assert rows
    return pytest.mark.parametrize("row", rows, ids=str)


@_rows("torchattacks")
def test_torchattacks(row, network, torch):
    module = adapters.as_torch_module(*network[0])
    attack = eval(row.theirs, {"torchattacks": peer("torchattacks"), "model": module})
    assert callable(attack)


@_rows("Foolbox")
def test_foolbox(row):
    assert callable(eval(row.theirs, {"foolbox": peer("foolbox")}))


@_rows(ART)
def test_art(row, network):
    names = {**vars(peer("art", "art.attacks.evasion"))}
    names |= vars(peer("art", "art.defences.preprocessor"))
    shape = {"num_classes": 10, "image_shape": (8, 8, 3)}
    estimator = adapters.as_art_classifier(*network[0], **shape)
    assert eval(row.theirs, names | {"estimator": estimator, "np": np})
