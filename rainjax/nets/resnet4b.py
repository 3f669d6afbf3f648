"""A small residual network without batch norm, made to be verified (Wang et al., 2021)."""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import check_standardization, conv3x3, relu, standardize, uniform_fan_in
from rainjax.nets._network import FlaxNetwork


@dataclasses.dataclass(frozen=True)
class ResNet4b(FlaxNetwork):
    """Classifies a small square image: `size size c` in [0, 1] to `num_classes` logits.

    A convolution with stride 2 and `width` features, four blocks with `2 width`, of which the
    first and the third halve the picture again, and two linear layers, `hidden` between them.
    It is small, and an adversarially trained one is published for CIFAR-10: a network on which
    an attack does not simply win. `mean` and `std` standardise the input; the defaults are
    those of the published weights (alpha-beta-CROWN's cifar10_resnet models).
    """

    num_classes: int = 10
    size: int = 32
    width: int = 16
    hidden: int = 100
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, ...] = (0.2471, 0.2435, 0.2616)

    def __post_init__(self):
        super().__post_init__()
        if min(self.num_classes, self.size, self.width, self.hidden) < 1:
            raise ValueError(
                f"A ResNet4b needs num_classes={self.num_classes!r}, size={self.size!r}, "
                f"width={self.width!r} and hidden={self.hidden!r} to be at least 1."
            )
        check_standardization(self.mean, self.std)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _ResNet4b(self, rngs)


_KERNEL_INIT = uniform_fan_in(2.0)


class _Block(nnx.Module):
    def __init__(self, features_in: int, features: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv(features_in, features, stride, rngs)
        self.conv2 = _conv(features, features, 1, rngs)
        self.halves = stride > 1
        if self.halves:
            self.shortcut = nnx.Conv(
                features_in,
                features,
                (1, 1),
                strides=stride,
                padding="VALID",
                kernel_init=uniform_fan_in(1.0),
                rngs=rngs,
            )

    def __call__(self, x):
        y = self.conv2(relu(self.conv1(x)))
        return relu(y + (self.shortcut(x) if self.halves else x))


class _ResNet4b(nnx.Module):
    def __init__(self, config: ResNet4b, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.conv1 = _conv(len(config.mean), width, 2, rngs)
        self.blocks = nnx.List(
            [
                _Block(width, 2 * width, 2, rngs),
                _Block(2 * width, 2 * width, 1, rngs),
                _Block(2 * width, 2 * width, 2, rngs),
                _Block(2 * width, 2 * width, 1, rngs),
            ]
        )
        cells = math.ceil(config.size / 8) ** 2
        linear = lambda features_in, features, gain: nnx.Linear(
            features_in, features, kernel_init=uniform_fan_in(gain), rngs=rngs
        )
        self.linear1 = linear(2 * width * cells, config.hidden, 2.0)
        self.linear2 = linear(config.hidden, config.num_classes, 1.0)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x = standardize(images, self.config.mean, self.config.std)
        if x.shape[1:3] != (self.config.size, self.config.size):
            raise ValueError(
                f"This ResNet4b takes images of size={self.config.size} squared, got shape "
                f"{images.shape[1:]} (h w c)."
            )
        x = relu(self.conv1(x))
        for block in self.blocks:
            x = block(x)
        # PyTorch's order: all cells of a channel, then the next channel.
        x = jnp.transpose(x, (0, 3, 1, 2)).reshape(len(x), -1)
        return self.linear2(relu(self.linear1(x)))


def _conv(features_in: int, features_out: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return conv3x3(features_in, features_out, stride=stride, init=_KERNEL_INIT, rngs=rngs)
