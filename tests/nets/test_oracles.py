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
from rainjax.nets import (
    CARNM,
    EDSR,
    EDSR_BASELINE,
    IMDN,
    ImageNetResNet,
    ResNet,
    SqueezeNet,
    TinyDarknet,
    from_torch,
    num_params,
    to_torch,
)
from rainjax.nets._layers import GroupNorm, max_pool, pixel_shuffle
from rainjax.nets.carn_m import grouped_conv
from rainjax.nets.mobilenet import depthwise
from tests.golden import seeded

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


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
    ("name", "kind", "network"),
    [
        ("squeezenet", "enlarged", SqueezeNet(size=64)),
        ("squeezenet", "shrunk", SqueezeNet(size=64)),
        ("tinydarknet", "as_it_is", TinyDarknet()),
    ],
)
def test_squeezenet_and_tiny_darknet_agree_with_pytorch(name, kind, network):
    stored = _stored("squeezenet_darknet_torch.npz")
    shapes, seed = json.loads(stored[f"{name}/shapes"].item()), int(stored[f"{name}/seed"])
    arrays = seeded.weights(shapes, seed=seed)
    if name == "tinydarknet":  # in Keras's order of axes
        arrays = {k: a.transpose(2, 3, 1, 0) if a.ndim == 4 else a for k, a in arrays.items()}
    gradient = stored[f"{name}/{kind}/gradient"]
    image = seeded.picture(*gradient.shape[:2], seed=seed)
    loss = lambda y: -jax.nn.log_softmax(y)[3]
    logits, slope = _run(network, from_torch(network, arrays), image, loss)
    _assert_close(logits, stored[f"{name}/{kind}/logits"], 1e-5)
    _assert_close(slope, gradient, 1e-4)


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


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("size", [(8, 7), (5, 2), (3, 4)])
def test_max_pool_is_the_loop_over_its_windows(window, size):
    """A window starts wherever it reaches the image beyond what those before it have seen."""
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    starts = [[s for s in range(0, n, 2) if s == 0 or s + window - 2 < n] for n in size]
    expected = [
        [x[:, i : i + window, j : j + window].max((1, 2)) for j in starts[1]] for i in starts[0]
    ]
    found = max_pool(jnp.asarray(x), window)
    np.testing.assert_array_equal(found, np.moveaxis(np.array(expected), 2, 0))


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


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_grouped_conv_is_xlas_and_so_are_its_gradients(num_groups):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 3, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 8 // num_groups, 12)), jnp.float32)

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=num_groups,
        )

    def run(convolve):
        output, vjp = jax.vjp(convolve, x, kernel)
        return output, *vjp(jnp.cos(output))

    for actual, expected in zip(run(grouped_conv), run(grouped), strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-5)


class _Loops:
    """Super-resolution networks in NumPy, from arrays under their published names."""

    def __init__(self, network, seed):
        rng = np.random.default_rng(seed)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), network.shapes())
        self.arrays = {
            name: array if "mean" in name else rng.normal(0, 0.2, array.shape)
            for name, array in to_torch(network, zeros).items()
        }
        self.params = from_torch(network, self.arrays)

    def conv(self, name, x, num_groups=1):
        weight, bias = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]
        out, _, size, _ = weight.shape
        padded = np.pad(x, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
        result = np.tile(bias, (*x.shape[:2], 1))
        for o in range(out):
            group = o // (out // num_groups)
            own = slice(group * weight.shape[1], (group + 1) * weight.shape[1])
            for i in range(x.shape[0]):
                for j in range(x.shape[1]):
                    window = padded[i : i + size, j : j + size, own]
                    result[i, j, o] += (window * weight[o].transpose(1, 2, 0)).sum()
        return result

    def imdn(self, network, x):
        kept = network.num_features // 4
        leaky = lambda x: np.maximum(x, 0) + 0.05 * np.minimum(x, 0)
        x = head = self.conv("fea_conv", x)
        outputs = []
        for block in range(1, network.num_blocks + 1):
            name, parts, rest = f"IMDB{block}", [], x
            for number in (1, 2, 3):
                y = leaky(self.conv(f"{name}.c{number}", rest))
                parts.append(y[..., :kept])
                rest = y[..., kept:]
            y = np.concatenate([*parts, self.conv(f"{name}.c4", rest)], -1)
            summary = (y.std((0, 1)) + y.mean((0, 1)))[None, None]
            summary = np.maximum(self.conv(f"{name}.cca.conv_du.0", summary), 0)
            y = y / (1 + np.exp(-self.conv(f"{name}.cca.conv_du.2", summary)))
            x = x + self.conv(f"{name}.c5", y)
            outputs.append(x)
        x = self.conv("LR_conv", leaky(self.conv("c.0", np.concatenate(outputs, -1)))) + head
        return _shuffled(self.conv("upsampler.0", x), network.scale)

    def carn_m(self, network, x):
        positive = lambda x: np.maximum(x, 0)

        def cascade(prefix, x, step):
            joined, out = x, x
            for number in (1, 2, 3):
                joined = np.concatenate([joined, step(number, out)], -1)
                out = positive(self.conv(f"{prefix}c{number}.body.0", joined))
            return out

        def unit(prefix, x):
            y = positive(self.conv(f"{prefix}b1.body.0", x, network.num_groups))
            y = positive(self.conv(f"{prefix}b1.body.2", y, network.num_groups))
            return positive(self.conv(f"{prefix}b1.body.4", y) + x)

        mean = np.array(network.mean)
        block = lambda n, x: cascade(f"b{n}.", x, lambda _, y: unit(f"b{n}.", y))
        x = cascade("", self.conv("entry", x - mean), block)
        for place, factor in {2: [(0, 2)], 3: [(0, 3)], 4: [(0, 2), (3, 2)]}[network.scale]:
            name = f"upsample.up{network.scale}.body.{place}"
            x = _shuffled(positive(self.conv(name, x, network.num_groups)), factor)
        return self.conv("exit", x) + mean


def _shuffled(x, factor):
    height, width, channels = x.shape
    out = np.empty((height * factor, width * factor, channels // factor**2))
    for i in range(factor):
        for j in range(factor):
            out[i::factor, j::factor] = x[..., i * factor + j :: factor**2]
    return out


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_carn_m_is_its_description_in_numpy(scale):
    network = CARNM(num_features=4, num_groups=2, scale=scale)
    loops, image = _Loops(network, seed=scale), seeded.picture(5, 4, seed=0)
    found = jax.jit(network.apply)(loops.params, jnp.asarray(image))
    _assert_close(found, loops.carn_m(network, image), 1e-5)


@pytest.mark.parametrize("scale", [2, 3])
def test_imdn_is_its_description_in_numpy(scale):
    network = IMDN(num_blocks=2, num_features=16, scale=scale)
    loops, image = _Loops(network, seed=scale), seeded.picture(5, 4, seed=0)
    found = jax.jit(network.apply)(loops.params, jnp.asarray(image))
    _assert_close(found, loops.imdn(network, image), 1e-5)


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
