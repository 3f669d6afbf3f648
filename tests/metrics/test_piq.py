"""The golden file of quality measures is what piq measures; `make test-peers` installs it."""

import importlib.util

import numpy as np
import pytest

from tests.golden import quality_piq


def test_golden_file_is_what_piq_measures():
    pytest.importorskip("torch", reason="needs PyTorch, which rainjax does not require")
    if importlib.util.find_spec("piq") is None:
        pytest.skip("needs piq, which rainjax does not require: make test-peers installs it")
    live = quality_piq.measured()
    with np.load(quality_piq.GOLDEN) as stored:
        assert stored.keys() == live.keys()
        for name, values in live.items():
            np.testing.assert_allclose(stored[name], values, atol=1e-6, err_msg=name)
