"""ART's attacks on our pipelines."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import adapters
from tests.adapters.common import IMAGES, LABELS, MARKS, SIZE, linear, masked, peer

pytestmark = MARKS


@pytest.fixture(scope="module")
def art():
    return peer("art", "art.attacks.evasion")


def test_art_fools_the_undefended_network(art, network):
    (pipeline, params), _ = network
    model = adapters.as_art_classifier(pipeline, params, num_classes=10, image_shape=(8, 8, 3))
    attack = art.ProjectedGradientDescent(
        model, eps=0.06, eps_step=0.015, max_iter=10, batch_size=12, verbose=False
    )
    attacked = attack.generate(IMAGES, LABELS)
    assert np.abs(attacked - IMAGES).max() <= 0.06 + 1e-6
    assert (np.argmax(model.predict(IMAGES, batch_size=12), 1) == LABELS).all()
    assert (np.argmax(model.predict(attacked), 1) == LABELS).mean() < 0.1


def test_art_gradients_are_those_of_jax(art):
    pipeline, params = linear()
    model = adapters.as_art_classifier(pipeline, params, num_classes=4, image_shape=(8, 8, 3))
    kernel, images, labels = np.asarray(params["classifier"]["kernel"]), IMAGES[:3], np.arange(3)
    logits = lambda x: x.reshape(len(x), -1) @ kernel
    np.testing.assert_allclose(model.predict(images), logits(images), atol=1e-4)

    losses = lambda x: -jax.nn.log_softmax(logits(x))[jnp.arange(3), labels]
    slope = jax.grad(lambda x: losses(x).sum())(jnp.asarray(images))
    one_hot = np.eye(4)[labels]
    np.testing.assert_allclose(model.compute_loss(images, labels), losses(images), atol=1e-4)
    np.testing.assert_allclose(model.loss_gradient(images, labels), slope, atol=1e-5)
    np.testing.assert_allclose(model.loss_gradient(images, one_hot), slope, atol=1e-5)
    np.testing.assert_allclose(model.loss_gradient(images, 2 * one_hot), 2 * slope, atol=1e-5)

    classes = np.broadcast_to(kernel.T.reshape(1, 4, 8, 8, 3), (3, 4, 8, 8, 3))
    np.testing.assert_allclose(model.class_gradient(images), classes, atol=1e-5)
    np.testing.assert_allclose(model.class_gradient(images, 2), classes[:, 2:3], atol=1e-5)
    found = model.class_gradient(images, np.array([3, 0, 1]))
    np.testing.assert_allclose(found[:, 0], classes[0, [3, 0, 1]], atol=1e-5)


def test_art_draws_anew(art):
    shape = {"num_classes": SIZE, "image_shape": (8, 8, 3)}
    model = adapters.as_art_classifier(*masked(), **shape)
    images = np.full((3, 8, 8, 3), 0.5, np.float32)
    masks = np.concatenate([2 * model.predict(images), 2 * model.predict(images)])
    assert len(np.unique(masks, axis=0)) == 6
    frozen = adapters.as_art_classifier(*masked(), **shape, fresh=False)
    slope = frozen.class_gradient(images, 0)[:, 0, 0, 0, 0]
    np.testing.assert_array_equal(slope, 2 * frozen.predict(images)[:, 0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_for_art_draws_on_from_where_it_is(art, copied):
    shape = {"num_classes": SIZE, "image_shape": (8, 8, 3)}
    model = adapters.as_art_classifier(*masked(), **shape)
    model.predict(IMAGES)
    twin = copied(model)
    np.testing.assert_array_equal(twin.predict(IMAGES), model.predict(IMAGES))


def test_art_is_told_what_is_wrong(art):
    shape = {"num_classes": 4, "image_shape": (8, 8, 3)}
    model = adapters.as_art_classifier(*linear(), **shape)
    with pytest.raises(ValueError, match=r"floats in \[0, 1\] of shape \(n, 8, 8, 3\), got"):
        model.predict(np.moveaxis(IMAGES, -1, 1))
    with pytest.raises(ValueError, match="got uint8"):
        model.predict((IMAGES * 255).astype(np.uint8))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        model.loss_gradient(2 * IMAGES, LABELS % 4)
    with pytest.raises(TypeError, match="not trained through ART"):
        model.fit(IMAGES, LABELS)
    with pytest.raises(ValueError, match="num_classes=10, but the pipeline has 4 classes"):
        adapters.as_art_classifier(*linear(), **{**shape, "num_classes": 10})
    with pytest.raises(ValueError, match="takes no images of height 9"):
        adapters.as_art_classifier(*linear(), **{**shape, "image_shape": (9, 8, 3)})
