"""MobileNetV2 (Sandler et al., 2018) for inference, batch norm folded into the convolutions."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    check_classes,
    check_standardization,
    choose_classes,
    conv1x1,
    standardize,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork

# Expansion, features, blocks, stride of the first: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM, _LAST = 32, 1280


@dataclasses.dataclass(frozen=True)
class MobileNetV2(FlaxNetwork):
    """Classifies an image: `h w 3` in [0, 1] to `num_classes` logits, at any size from 32 up.

    With `class_subset`, only the logits of those classes come back, in that order: the ten of
    Imagenette out of ImageNet's thousand, say. A stage is the expansion, the features, the number
    of blocks and the stride of the first.

    `padding`, `mean` and `std` belong to the weights. TensorFlow's networks pad a strided
    convolution as "same" does, at the bottom and right first, and see pixels in [-1, 1]: the
    defaults. PyTorch's pad one pixel on every side ("torch") and standardise, torchvision's and
    timm's by the constants of ImageNet.
    """

    num_classes: int = 1000
    class_subset: tuple[int, ...] | None = None
    stages: tuple[tuple[int, int, int, int], ...] = STAGES
    padding: Literal["same", "torch"] = "same"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        super().__post_init__()
        check_classes(self.num_classes, self.class_subset)
        check_standardization(self.mean, self.std)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _MobileNetV2(self, rngs)


IMAGENETTE_CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)

_KERNEL_INIT = uniform_fan_in(2.0)


class _Depthwise(nnx.Module):
    """A 3x3 convolution of each channel by itself."""

    def __init__(self, features: int, stride: int, padding: str, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_KERNEL_INIT(rngs.params(), (3, 3, 1, features)))
        self.bias = nnx.Param(jnp.zeros(features))
        self.stride, self.padding = stride, padding

    def __call__(self, x):
        y = jnp.asarray(depthwise(x, self.kernel[...], self.stride, self.padding))
        return y + self.bias[...][None, None, None]


class _Block(nnx.Module):
    def __init__(
        self, features_in: int, features: int, expansion: int, stride: int, padding: str, rngs
    ):
        hidden = features_in * expansion
        self.residual = stride == 1 and features_in == features
        if expansion > 1:
            self.expand = _conv1x1(features_in, hidden, rngs)
        self.expands = expansion > 1
        self.depthwise = _Depthwise(hidden, stride, padding, rngs)
        self.project = _conv1x1(hidden, features, rngs)

    def __call__(self, x):
        y = _relu6(self.expand(x)) if self.expands else x
        y = self.project(_relu6(self.depthwise(y)))
        return x + y if self.residual else y


class _MobileNetV2(nnx.Module):
    def __init__(self, config: MobileNetV2, rngs: nnx.Rngs):
        self.config = config
        self.stem = nnx.Conv(
            len(config.mean),
            _STEM,
            (3, 3),
            strides=2,
            padding={"same": "SAME", "torch": ((1, 1), (1, 1))}[config.padding],
            kernel_init=_KERNEL_INIT,
            rngs=rngs,
        )
        blocks, features_in = [], _STEM
        for expansion, features, num_blocks, first_stride in config.stages:
            for index in range(num_blocks):
                stride = first_stride if index == 0 else 1
                blocks.append(
                    _Block(features_in, features, expansion, stride, config.padding, rngs)
                )
                features_in = features
        self.blocks = nnx.List(blocks)
        self.last = _conv1x1(features_in, _LAST, rngs)
        self.logits = _conv1x1(_LAST, config.num_classes, rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x = standardize(images, self.config.mean, self.config.std)
        x = _relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = _relu6(self.last(x)).mean((1, 2), keepdims=True)
        return choose_classes(self.logits(x)[:, 0, 0], self.config.class_subset)


def _conv1x1(features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Conv:
    return conv1x1(features_in, features_out, init=_KERNEL_INIT, rngs=rngs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 1 c"], stride: int, padding: str = "same"
) -> Float[Array, "n h_out w_out c"]:
    """Returns the convolution of each channel with its own 3x3 kernel.

    It is padded as XLA's "SAME" or, with `padding="torch"`, as PyTorch's `padding=1`; both give
    an output of the same size.

    It is a sum of nine shifted products, forward and backward, because XLA has no fast path for
    grouped convolutions on CPU, least of all for their gradient. Differentiable in reverse mode.
    """
    windows = _windows(x, stride, padding)
    products = (window * kernel[i, j][None, None] for (i, j), window in windows.items())
    return functools.reduce(jnp.add, products)


def _depthwise_fwd(x, kernel, stride, padding):
    return depthwise(x, kernel, stride, padding), (x, kernel)


def _depthwise_bwd(stride, padding, saved, cotangent):
    x, kernel = saved
    n, out_h, out_w, c = cotangent.shape
    (top, _), (left, _) = (_padding(size, stride, padding) for size in x.shape[1:3])
    # Row `stride * q + r` of the padded input met kernel row i in output row q - (i - r) / stride,
    # for the i that make this whole: each of the stride**2 phases is a sum of its own.
    steps_h, steps_w = out_h + -(-2 // stride), out_w + -(-2 // stride)
    reach = 2 // stride
    padded = jnp.pad(
        cotangent,
        ((0, 0), (reach, steps_h - out_h), (reach, steps_w - out_w), (0, 0)),
    )

    def phase(r, t):
        return sum(
            padded[:, reach - i // stride :][:, :steps_h, reach - j // stride :][:, :, :steps_w]
            * kernel[i, j][None, None]
            for i in range(r, 3, stride)
            for j in range(t, 3, stride)
        )

    rows = [jnp.stack([phase(r, t) for t in range(stride)], 3) for r in range(stride)]
    full = jnp.stack(rows, 2).reshape(n, stride * steps_h, stride * steps_w, c)
    x_bar = full[:, top : top + x.shape[1], left : left + x.shape[2]]
    kernel_bar = jnp.stack(
        [(window * cotangent).sum((0, 1, 2)) for window in _windows(x, stride, padding).values()]
    )
    return x_bar, kernel_bar.reshape(kernel.shape)


depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)


def _windows(x, stride, padding):
    """Returns what each of the nine kernel entries is multiplied with, by its row and column."""
    (top, bottom), (left, right) = (_padding(size, stride, padding) for size in x.shape[1:3])
    out_h, out_w = (-(-size // stride) for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    stop_h, stop_w = (out_h - 1) * stride + 1, (out_w - 1) * stride + 1
    return {
        (i, j): x[:, i : i + stop_h : stride, j : j + stop_w : stride]
        for i in range(3)
        for j in range(3)
    }


def _padding(size: int, stride: int, padding: str) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    before = 1 if padding == "torch" else total // 2
    return before, max(total - before, 0)  # what no window would reach is left out


def _relu6(x):
    # Not clip: its minimum and maximum lose NaN in sums, see `relu`, and split ties.
    return jnp.where(x <= 0, 0.0, jnp.where(x >= 6, 6.0, x))
