"""Fixtures of the adapters' tests."""

import pytest

from rainjax.defenses import RAIN, Identity
from rainjax.pipeline import Defended
from tests.adapters.common import IMAGES, LABELS, peer
from tests.tiny import EDSR_TINY, RESNET_TINY, edsr_params, resnet_params


@pytest.fixture(scope="module")
def torch():
    return peer("torch")


@pytest.fixture(scope="module")
def network():
    """An undefended ResNet that knows its twelve images, and RAIN before the same one."""
    params = resnet_params(IMAGES, LABELS)
    plain = Defended(Identity(), RESNET_TINY), {"defense": (), "classifier": params}
    rain = Defended(RAIN(EDSR_TINY, shift_fraction=0.25), RESNET_TINY)
    return plain, (rain, {"defense": edsr_params(), "classifier": params})
