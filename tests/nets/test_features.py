"""Features beside the logits that they make, and networks that have none."""

import dataclasses

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rainjax.nets import (
    Features,
    ImageNetResNet,
    MobileNetV2,
    ResNet,
    ResNet4b,
    SqueezeNet,
    TinyDarknet,
    from_flax,
    from_function,
    from_linen,
)
from tests.golden import seeded
from tests.tiny import Linear, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

STAGES = ((1, 8, 1, 1), (4, 12, 2, 2))
SQUEEZE_GROUPS = (((4, 8), (4, 8)), ((4, 8),))
DARK_GROUPS = (((3, 4),), ((1, 4), (3, 8)))

# A network, the name of its last layer, and how many features it has.
NETWORKS = [
    (ResNet(depth=8), "linear", 64),
    (ResNet(depth=8, width=8, norm="group"), "linear", 32),
    (ResNet4b(size=16, width=4, hidden=12, num_classes=3), "linear2", 12),
    (MobileNetV2(num_classes=7, stages=STAGES), "logits", 1280),
    (MobileNetV2(num_classes=7, class_subset=(6, 2), stages=STAGES), "logits", 1280),
    (ImageNetResNet(blocks=(1, 1), width=4, num_classes=6, class_subset=(5, 2)), "linear", 32),
    (TinyDarknet(num_classes=7, class_subset=(6, 2), groups=DARK_GROUPS), "logits", 8),
]
IMAGE = jnp.asarray(seeded.picture(16, 16, seed=3))


def _random(network):
    """Random numbers for all of the parameters, biases too; variances are positive."""
    rng = np.random.default_rng(1)
    drawn = lambda path, a: jnp.asarray(
        np.abs(rng.normal(1, 0.3, a.shape))
        if path[-1].key in ("var", "scale")
        else rng.normal(0, 0.3, a.shape),
        jnp.float32,
    )
    return jax.tree_util.tree_map_with_path(drawn, network.shapes())


@pytest.mark.parametrize(("network", "layer", "size"), NETWORKS, ids=lambda x: type(x).__name__)
def test_the_last_layer_makes_the_logits_of_the_features(network, layer, size):
    params, features = _random(network), Features(network)
    found, logits = jax.jit(features.features_and_logits)(params, IMAGE)
    assert found.shape == (size,)
    assert features.num_features == size
    kernel, bias = (np.asarray(params[layer][name], np.float64) for name in ("kernel", "bias"))
    wanted = np.asarray(found, np.float64) @ kernel.reshape(size, -1) + bias
    wanted = wanted[list(getattr(network, "class_subset", None) or range(len(wanted)))]
    scale = np.abs(wanted).max()
    assert scale > 0
    np.testing.assert_allclose(logits / scale, wanted / scale, atol=1e-4)
    np.testing.assert_allclose(logits, jax.jit(network.apply)(params, IMAGE), atol=1e-5 * scale)
    batch = jax.jit(jax.vmap(features.apply, (None, 0)))(params, jnp.stack([IMAGE, IMAGE**2]))
    unit = np.abs(found).max()
    np.testing.assert_allclose(batch[0] / unit, found / unit, atol=1e-5)
    assert np.abs(batch[1] - batch[0]).max() > 1e-4 * unit


def test_of_squeezenet_they_are_the_mean_before_its_last_convolution():
    """There a ReLU follows: with a kernel and a bias of positive numbers it changes nothing."""
    network = SqueezeNet(num_classes=7, width=6, groups=SQUEEZE_GROUPS, size=24)
    params = jax.tree.map(jnp.abs, _random(network))
    # Its input is not below zero either, once the mean of Caffe's images is left out.
    network = dataclasses.replace(network, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    found, logits = Features(network).features_and_logits(params, IMAGE)
    assert found.shape == (16,)
    last = params["logits"]
    wanted = np.asarray(found) @ np.asarray(last["kernel"])[0, 0] + np.asarray(last["bias"])
    np.testing.assert_allclose(logits, wanted, rtol=1e-4)


def test_published_networks_have_as_many_as_their_papers_say():
    assert Features(ResNet()).num_features == 64
    assert Features(SqueezeNet()).num_features == 512
    assert Features(TinyDarknet()).num_features == 128
    assert Features(ResNet4b()).num_features == 100


def test_parameters_are_the_networks_own():
    network, key = ResNet(depth=8, width=8, norm="group"), jax.random.key(5)
    own, given = network.init(key), Features(network).init(key)
    assert jax.tree.structure(own) == jax.tree.structure(given)
    jax.tree.map(np.testing.assert_array_equal, own, given)
    assert Features(network).shapes() == network.shapes()


def test_a_gradient_goes_through():
    """That of the sum of the features is what a last layer of ones has."""
    network = ResNet(depth=8, width=8, norm="group", num_classes=2)
    params = _random(network)
    ones = {**params, "linear": {"kernel": jnp.ones((32, 2)), "bias": jnp.zeros(2)}}
    total = lambda image: Features(network).apply(params, image).sum()
    given = jax.jit(jax.grad(total))(IMAGE)
    wanted = jax.jit(jax.grad(lambda image: network.apply(ones, image)[0]))(IMAGE)
    np.testing.assert_allclose(given, wanted, atol=1e-4 * np.abs(wanted).max())
    assert np.abs(wanted).max() > 0


class Small(nnx.Module):
    """Two layers; `how` says what stands around the last one."""

    def __init__(self, how, rngs):
        self.first = nnx.Linear(16 * 16 * 3, 5, rngs=rngs)
        self.last = nnx.Linear(5, 1 if how == "sigmoid" else 4, rngs=rngs)
        self.own = nnx.Param(jnp.ones((4, 3)))
        self.how = how

    def __call__(self, images):
        hidden = jnp.tanh(self.first(images.reshape(len(images), -1)))
        if self.how == "remat":
            return nnx.remat(lambda module, x: module(x))(self.last, hidden)
        logits = self.last(hidden)
        return logits @ self.own[...] if self.how == "matrix" else logits


@pytest.mark.parametrize("how", ["plain", "sigmoid"])
def test_a_module_of_ones_own_has_features(how):
    model = from_flax(Small(how, nnx.Rngs(0)), sigmoid=how == "sigmoid")
    found, logits = Features(model.network).features_and_logits(model.params, IMAGE)
    first = model.params["first"]
    wanted = np.tanh(np.asarray(IMAGE).reshape(-1) @ np.asarray(first["kernel"]) + first["bias"])
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(logits, model.network.apply(model.params, IMAGE), atol=1e-6)


def test_a_module_of_linen_has_features():
    class Small(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, images):
            x = flax.linen.Conv(6, (3, 3))(images)
            return flax.linen.Dense(4)(x.mean((1, 2)))

    variables = Small().init(jax.random.key(0), IMAGE[None])
    model = from_linen(Small(), variables)
    found, logits = Features(model.network).features_and_logits(model.params, IMAGE)
    last = variables["params"]["Dense_0"]
    assert found.shape == (6,)
    np.testing.assert_allclose(logits, found @ last["kernel"] + last["bias"], atol=1e-6)


def test_networks_without_features_are_refused():
    function = from_function(lambda params, image: image.mean((0, 1)))
    with unchecked():
        for network in (function.network, Linear(192, 4)):
            with pytest.raises(ValueError, match=f"cannot look into {type(network).__name__}, "):
                Features(network)
        for how, sentence in [
            ("matrix", "calls last makes 4 numbers, and not its 3 logits: give a network that"),
            ("remat", "called under a transform such as nnx.jit .*: call it outside of it"),
        ]:
            model = from_flax(Small(how, nnx.Rngs(0)))
            with pytest.raises(ValueError, match=sentence):
                Features(model.network).apply(model.params, IMAGE)


class Bare(nnx.Module):
    """A linear classifier of its own making."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((48, 4)))

    def __call__(self, images):
        return images.reshape(len(images), -1) @ self.kernel[...]


def test_a_module_without_a_layer_of_flax_is_refused():
    model = from_flax(Bare())
    with pytest.raises(ValueError, match="calls no linear layer and no convolution of Flax"):
        Features(model.network).apply(model.params, jnp.ones((4, 4, 3)))
    with pytest.raises(ValueError, match=r"has cannot be told from images of 32x32x3 or 224x2"):
        _ = Features(model.network).num_features
