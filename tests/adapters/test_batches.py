"""Batches of any size, seeds and missing frameworks: what every adapter promises."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import adapters
from rainjax.adapters._batched import Batched
from tests.adapters.common import IMAGES, MARKS, keys_of, linear
from tests.tiny import unchecked

pytestmark = MARKS


def test_padding_and_neighbours_change_nothing(network):
    _, (pipeline, params) = network
    batched = Batched(pipeline, params, seed=3, fresh=False)
    images = jnp.asarray(IMAGES)
    every, pullback = batched.logits_and_pullback(images)
    gradients = pullback(jnp.ones_like(every))
    assert batched._sizes == {(8, 8, 3): {12}}
    fewer, pullback = batched.logits_and_pullback(images[:7])
    np.testing.assert_allclose(fewer, every[:7], atol=1e-4)
    np.testing.assert_allclose(pullback(jnp.ones_like(fewer)), gradients[:7], atol=1e-4)
    assert batched._sizes == {(8, 8, 3): {12}}  # seven were padded to twelve,
    np.testing.assert_allclose(batched.logits(images[:1]), every[:1], atol=1e-4)
    assert batched._sizes == {(8, 8, 3): {1, 12}}  # but not one
    expected = jax.vmap(pipeline.logits, (None, 0, 0))(params, keys_of(3, 0, 12), images)
    np.testing.assert_allclose(every, expected, atol=1e-4)


def test_bad_seeds_are_refused():
    with unchecked(), pytest.raises(ValueError, match="seed=-1 must be a whole number"):
        Batched(*linear(), seed=-1, fresh=True)


@pytest.mark.parametrize(
    ("framework", "extra", "make"),
    [
        ("torch", "torch", lambda: adapters.as_torch_module(*linear())),
        ("torch", "torch", lambda: adapters.from_torch_module(None, 10)),
        ("tensorflow", "tensorflow", lambda: adapters.from_tensorflow(None, 10)),
        ("foolbox", "foolbox", lambda: adapters.as_foolbox_model(*linear())),
        (
            "art",
            "art",
            lambda: adapters.as_art_classifier(*linear(), num_classes=4, image_shape=(8, 8, 3)),
        ),
    ],
)
def test_a_missing_framework_is_named(monkeypatch, framework, extra, make):
    loaded = [name for name in sys.modules if name.split(".")[0] == framework]
    for name in {framework, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'not installed: pip install "rainjax\[{extra}\]"'):
        make()
