"""Networks against PyTorch's outputs, NumPy loops and XLA's own grouped convolution."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rainjax import zoo
from rainjax.nets import EDSR, EDSR_BASELINE, ImageNetResNet, ResNet, from_torch, num_params
from rainjax.nets._layers import GroupNorm, pixel_shuffle
from rainjax.nets.mobilenet import depthwise
from tests.golden import seeded

GOLDEN = pathlib.Path(__file__).parent / "golden"


def _stored(name):
    with np.load(GOLDEN / name) as archive:
        return dict(archive)


def _assert_close(actual, expected, relative):
    np.testing.assert_allclose(actual, expected, atol=relative * np.abs(expected).max())


def _run(network, params, image, loss):
    """Returns the network's output and the gradient of `loss` of it."""

    @jax.jit
    def run(params, image):
        output, vjp = jax.vjp(lambda x: network.apply(params, x), image)
        return output, vjp(jax.grad(loss)(output))[0]

    return run(params, jnp.asarray(image))


def _half_squared_norm(y):
    return 0.5 * (y**2).sum()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_edsr_agrees_with_pytorch(scale):
    stored = _stored("edsr_torch.npz")
    prefix = f"x{scale}/weights/"
    weights = {k[len(prefix) :]: v for k, v in stored.items() if k.startswith(prefix)}
    network = EDSR(num_blocks=2, num_features=8, scale=scale)
    params = from_torch(network, weights)
    image = stored[f"x{scale}/image"]
    output, gradient = _run(network, params, image, _half_squared_norm)
    _assert_close(output, stored[f"x{scale}/output"], 1e-5)
    _assert_close(gradient, stored[f"x{scale}/gradient"], 1e-5)


def test_edsr_baseline_agrees_with_pytorch():
    stored = _stored("edsr_torch.npz")
    shapes = json.loads(stored["baseline/shapes"].item())
    params = from_torch(EDSR_BASELINE, seeded.weights(shapes, seed=0))
    assert num_params(params) == stored["baseline/num_params"]
    image = seeded.picture(12, 12, seed=0)
    output, gradient = _run(EDSR_BASELINE, params, image, _half_squared_norm)
    _assert_close(output, stored["baseline/output"], 1e-5)
    _assert_close(gradient, stored["baseline/gradient"], 1e-4)


@pytest.mark.parametrize("depth", [8, 20])
def test_resnet_agrees_with_pytorch(depth):
    stored = _stored("resnet_torch.npz")
    network = ResNet(depth=depth)
    shapes = json.loads(stored[f"{depth}/shapes"].item())
    params = from_torch(network, seeded.weights(shapes, seed=depth))
    image = seeded.picture(32, 32, seed=depth)
    logits, gradient = _run(network, params, image, lambda y: -jax.nn.log_softmax(y)[3])
    _assert_close(logits, stored[f"{depth}/logits"], 1e-5)
    _assert_close(gradient, stored[f"{depth}/gradient"], 1e-4)


_MOBILENET = dataclasses.replace(
    zoo.PUBLISHED["mobilenetv2_torchvision"], num_classes=5, stages=((1, 8, 1, 1), (6, 16, 2, 2))
)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("mobilenetv2_torchvision", _MOBILENET),
        ("mobilenetv2_timm", _MOBILENET),
        ("resnet_basic", ImageNetResNet((1, 1, 1, 1), bottleneck=False, num_classes=5)),
        ("resnet_bottleneck", ImageNetResNet((1, 2, 1, 1), num_classes=5)),
    ],
)
def test_imagenet_classifiers_agree_with_torchvision_and_timm(name, network):
    stored = _stored("imagenet_torch.npz")
    shapes, seed = json.loads(stored[f"{name}/shapes"].item()), int(stored[f"{name}/seed"])
    params = from_torch(network, seeded.weights(shapes, seed=seed))
    image = seeded.picture(46, 56, seed=seed)
    logits, gradient = _run(network, params, image, lambda y: -jax.nn.log_softmax(y)[3])
    _assert_close(logits, stored[f"{name}/logits"], 1e-5)
    _assert_close(gradient, stored[f"{name}/gradient"], 1e-4)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("mobilenetv2_torchvision", "mobilenetv2_torchvision"),
        ("mobilenetv2_timm", "mobilenetv2_timm"),
        ("resnet18_torchvision", "resnet18_torchvision"),
        ("resnet34_torchvision", "resnet34_torchvision"),
        ("resnet50_torchvision", "resnet50_torchvision"),
        ("resnet50_torchvision", "resnet50_timm"),
    ],
)
def test_published_architectures_take_whole_state_dicts(architecture, name):
    shapes = json.loads(_stored("imagenet_torch.npz")[f"published/{name}"].item())
    arrays = {k: np.zeros(shape, np.float16) for k, shape in shapes.items()}
    params = from_torch(zoo.PUBLISHED[architecture], arrays)  # refuses what differs anywhere
    kept = {k: shape for k, shape in shapes.items() if not k.endswith("num_batches_tracked")}
    if "mobilenet" in name:  # its norms are folded, and leave a bias
        kept = {k: v for k, v in kept.items() if len(v) > 1 or k.endswith(".bias")}
    assert num_params(params) == sum(map(math.prod, kept.values()))


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_is_the_loop_over_its_definition(factor):
    features = np.random.default_rng(0).normal(size=(2, 3, 4, 5 * factor**2)).astype(np.float32)
    expected = np.empty((2, 3 * factor, 4 * factor, 5), np.float32)
    for c in range(5):
        for i in range(factor):
            for j in range(factor):
                channel = c * factor**2 + i * factor + j
                expected[:, i::factor, j::factor, c] = features[..., channel]
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(features), factor), expected)


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "same"), (2, "torch")])
@pytest.mark.parametrize("size", [(8, 8), (5, 8), (7, 3), (1, 2)])
def test_depthwise_is_a_grouped_convolution_and_so_are_its_gradients(size, stride, padding):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 4)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 1, 4)), jnp.float32)

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            {"same": "SAME", "torch": ((1, 1), (1, 1))}[padding],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )

    def run(convolve):
        output, vjp = jax.vjp(convolve, x, kernel)
        return output, *vjp(jnp.cos(output))

    ours = jax.jit(run, static_argnums=0)(lambda x, k: depthwise(x, k, stride, padding))
    theirs = jax.jit(run, static_argnums=0)(grouped)
    for actual, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-5)


@pytest.mark.parametrize(("features", "groups"), [(16, 8), (12, 4), (6, 1), (6, 6)])
def test_group_norm_is_flaxs_and_so_is_its_gradient(features, groups):
    rng = np.random.default_rng(features)
    x = jnp.asarray(rng.normal(0.3, 2.0, size=(3, 5, 4, features)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    scale, bias = (jnp.asarray(rng.normal(size=features), jnp.float32) for _ in range(2))
    ours = lambda: GroupNorm(features, num_groups=groups)
    theirs = lambda: nnx.GroupNorm(features, num_groups=groups, epsilon=1e-5, rngs=nnx.Rngs(0))

    def run(make, x, scale, bias):
        norm = make()
        norm.scale[...], norm.bias[...] = scale, bias
        return jnp.sum(norm(x) * weight), norm(x)

    slopes = jax.value_and_grad(run, argnums=(1, 2, 3), has_aux=True)
    found = [slopes(make, x, scale, bias) for make in (ours, theirs)]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)
