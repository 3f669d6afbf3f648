"""The residual networks of the CIFAR experiments in He et al. (2016), depth 6n + 2."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    GroupNorm,
    check_standardization,
    conv3x3,
    relu,
    standardize,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork


@dataclasses.dataclass(frozen=True)
class ResNet(FlaxNetwork):
    """Classifies a small image: `h w c` in [0, 1] to `num_classes` logits.

    Three groups of `(depth - 2) / 6` blocks, `width`, `2 width` and `4 width` features; the
    shortcut takes every second pixel and pads with zero channels ("option A").

    `norm="group"` is for networks we train: an image means the same in any batch.
    `norm="batch"` runs published weights in inference mode, running statistics in the
    parameters. `mean` and `std` standardise the input; the published CIFAR-10 weights used the
    constants of ImageNet, which are the default.
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16
    norm: Literal["batch", "group"] = "batch"
    num_groups: int = 8
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"A ResNet's depth is 6n + 2 (8, 14, 20, ...), got {self.depth!r}.")
        if self.num_classes < 1 or self.num_groups < 1:
            raise ValueError(
                "A ResNet needs at least one class and one group, got num_classes="
                f"{self.num_classes!r}, num_groups={self.num_groups!r}."
            )
        if self.norm == "group" and self.width % self.num_groups:
            raise ValueError(
                f"num_groups={self.num_groups!r} does not divide width={self.width!r}."
            )
        if self.width < 2 or self.width % 2:
            raise ValueError(f"A ResNet's width must be even, got {self.width!r}.")
        check_standardization(self.mean, self.std)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _ResNet(self, rngs)


_KERNEL_INIT = uniform_fan_in(2.0)


class _Block(nnx.Module):
    def __init__(self, config: ResNet, features_in: int, features: int, rngs: nnx.Rngs):
        self.stride = 1 if features_in == features else 2
        self.conv1 = _conv(features_in, features, self.stride, rngs)
        self.norm1 = _norm(config, features, rngs)
        self.conv2 = _conv(features, features, 1, rngs)
        self.norm2 = _norm(config, features, rngs)

    def __call__(self, x):
        y = relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        extra = (y.shape[-1] - x.shape[-1]) // 2
        x = x[:, :: self.stride, :: self.stride]
        return relu(y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (extra, extra))))


class _ResNet(nnx.Module):
    def __init__(self, config: ResNet, rngs: nnx.Rngs):
        self.config = config
        self.conv1 = _conv(len(config.mean), config.width, 1, rngs)
        self.norm1 = _norm(config, config.width, rngs)
        blocks, features_in = [], config.width
        for features in (config.width, 2 * config.width, 4 * config.width):
            for _ in range((config.depth - 2) // 6):
                blocks.append(_Block(config, features_in, features, rngs))
                features_in = features
        self.blocks = nnx.List(blocks)
        self.linear = nnx.Linear(
            features_in,
            config.num_classes,
            kernel_init=uniform_fan_in(1.0),
            rngs=rngs,
        )

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x = standardize(images, self.config.mean, self.config.std)
        x = relu(self.norm1(self.conv1(x)))
        for block in self.blocks:
            x = block(x)
        return self.linear(x.mean((1, 2)))


def _conv(features_in: int, features_out: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return conv3x3(
        features_in, features_out, stride=stride, bias=False, init=_KERNEL_INIT, rngs=rngs
    )


def _norm(config: ResNet, features: int, rngs: nnx.Rngs) -> nnx.Module:
    if config.norm == "batch":
        return nnx.BatchNorm(features, use_running_average=True, epsilon=1e-5, rngs=rngs)
    return GroupNorm(features, num_groups=config.num_groups)
