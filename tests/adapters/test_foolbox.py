"""Foolbox's attacks on our pipelines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import adapters
from rainjax.evaluation import score
from tests.adapters.common import IMAGES, LABELS, MARKS, keys_of, linear, masked, peer

pytestmark = MARKS


@pytest.fixture
def foolbox():
    foolbox = peer("foolbox")
    with jax.numpy_rank_promotion("allow"):  # Foolbox's own arithmetic
        yield foolbox


def test_foolbox_fools_the_undefended_network(foolbox, network):
    (pipeline, params), _ = network
    model = adapters.as_foolbox_model(pipeline, params)
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    assert foolbox.accuracy(model, images, labels) == 1.0
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.015, steps=10)
    _, attacked, success = attack(model, images, labels, epsilons=0.06)
    assert np.abs(attacked - images).max() <= 0.06 + 1e-6
    logits = score(pipeline, params, keys_of(9, 0, 12), np.asarray(attacked), num_draws=1)
    wrong = np.argmax(logits[:, 0], 1) != LABELS
    np.testing.assert_array_equal(wrong, success)
    assert wrong.mean() > 0.9


def test_foolbox_draws_anew_and_differentiates_its_draw(foolbox):
    model = adapters.as_foolbox_model(*masked())
    images = jnp.full((3, 8, 8, 3), 0.5)
    masks = []
    for _ in range(2):
        slope, logits = jax.grad(lambda x: (model(x).sum(), model(x))[::1], has_aux=True)(images)
        masks.append(np.asarray(slope).reshape(3, -1))
        masks.append(2 * np.asarray(logits))
    assert len(np.unique(np.concatenate(masks), axis=0)) == 12  # no two calls, no two images
    assert set(np.unique(masks)) == {0, 1}
    frozen = adapters.as_foolbox_model(*masked(), fresh=False)
    np.testing.assert_array_equal(frozen(images), frozen(images))
    slope = jax.grad(lambda x: frozen(x).sum())(images)
    np.testing.assert_array_equal(np.asarray(slope).reshape(3, -1), 2 * frozen(images))


def test_foolbox_is_told_what_is_wrong(foolbox):
    model = adapters.as_foolbox_model(*linear())
    images = jnp.asarray(IMAGES[:2])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], these in"):
        model(images * 255)
    with pytest.raises(ValueError, match=r"batch `n h w c` of float32 .* shape \(8, 8, 3\)"):
        model(images[0])
    with pytest.raises(ValueError, match="jit or vmap would freeze the draw"):
        jax.jit(model)(images)
