"""CARN-M, a super-resolution network for small machines (Ahn et al., 2018)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    conv1x1,
    conv3x3,
    pixel_shuffle,
    relu,
    standardize,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork
from rainjax.nets.edsr import STAGES

_STEPS = 3  # of a cascade, outside and within each block


@dataclasses.dataclass(frozen=True)
class CARNM(FlaxNetwork):
    """Enlarges an image `scale` times: `h w c` in [0, 1] to `scale*h scale*w c`, not clipped.

    The mobile variant of CARN (arXiv 1803.08664): cascades, in which every step sees the outputs
    of all before it, of residual units with grouped convolutions, one unit used three times in
    every block. `mean` is subtracted first and added back last.
    """

    num_features: int = 64
    num_groups: int = 4
    scale: int = 2
    mean: tuple[float, ...] = (0.4488, 0.4371, 0.4040)

    def __post_init__(self):
        super().__post_init__()
        if self.scale not in STAGES:
            raise ValueError(f"CARN-M enlarges by 2, 3 or 4, got scale={self.scale!r}.")
        if min(self.num_features, self.num_groups) < 1 or self.num_features % self.num_groups:
            raise ValueError(
                f"CARN-M's num_groups={self.num_groups!r} must divide "
                f"num_features={self.num_features!r}, both at least 1."
            )
        if not self.mean or not all(map(math.isfinite, self.mean)):
            raise ValueError(f"CARN-M's mean must be some finite numbers, got {self.mean!r}.")

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _CARNM(self, rngs)


_KERNEL_INIT = uniform_fan_in(1 / 3)  # PyTorch's default


class _Grouped(nnx.Module):
    """A 3x3 convolution of each group of channels by itself, padded by one pixel."""

    def __init__(self, features_in: int, features_out: int, num_groups: int, rngs: nnx.Rngs):
        shape = (3, 3, features_in // num_groups, features_out)
        self.kernel = nnx.Param(_KERNEL_INIT(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(features_out))

    def __call__(self, x):
        return grouped_conv(x, self.kernel[...]) + self.bias[...][None, None, None]


class _Unit(nnx.Module):
    """A residual unit whose 3x3 convolutions are grouped; the 1x1 one mixes the groups."""

    def __init__(self, config: CARNM, rngs: nnx.Rngs):
        features = config.num_features
        self.conv1 = _grouped(config, features, rngs)
        self.conv2 = _grouped(config, features, rngs)
        self.conv3 = conv1x1(features, features, init=_KERNEL_INIT, rngs=rngs)

    def __call__(self, x):
        return relu(self.conv3(relu(self.conv2(relu(self.conv1(x))))) + x)


class _Block(nnx.Module):
    def __init__(self, config: CARNM, rngs: nnx.Rngs):
        self.unit = _Unit(config, rngs)
        self.merges = nnx.List(_merges(config, rngs))

    def __call__(self, x):
        return _cascade(x, [self.unit] * _STEPS, self.merges)


class _CARNM(nnx.Module):
    def __init__(self, config: CARNM, rngs: nnx.Rngs):
        channels, features = len(config.mean), config.num_features
        self.config = config
        self.head = conv3x3(channels, features, init=_KERNEL_INIT, rngs=rngs)
        self.blocks = nnx.List([_Block(config, rngs) for _ in range(_STEPS)])
        self.merges = nnx.List(_merges(config, rngs))
        self.upsample = nnx.List(
            [_grouped(config, features * factor**2, rngs) for factor in STAGES[config.scale]]
        )
        self.tail = conv3x3(features, channels, init=_KERNEL_INIT, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        mean = self.config.mean
        x = self.head(standardize(images, mean, (1.0,) * len(mean)))
        x = _cascade(x, self.blocks, self.merges)
        for conv, factor in zip(self.upsample, STAGES[self.config.scale], strict=True):
            x = pixel_shuffle(relu(conv(x)), factor)
        return self.tail(x) + jnp.asarray(mean, x.dtype)[None, None, None]


def _cascade(x, steps, merges):
    """Runs `steps`, after each of which a 1x1 convolution joins all that there is so far."""
    joined = x
    for step, merge in zip(steps, merges, strict=True):
        joined = jnp.concatenate([joined, step(x)], -1)
        x = relu(merge(joined))
    return x


def _merges(config: CARNM, rngs: nnx.Rngs) -> list[nnx.Conv]:
    features = config.num_features
    return [
        conv1x1((step + 2) * features, features, init=_KERNEL_INIT, rngs=rngs)
        for step in range(_STEPS)
    ]


def _grouped(config: CARNM, features_out: int, rngs: nnx.Rngs) -> _Grouped:
    return _Grouped(config.num_features, features_out, config.num_groups, rngs)


def grouped_conv(
    x: Float[Array, "n h w c_in"], kernel: Float[Array, "3 3 c_group c_out"]
) -> Float[Array, "n h w c_out"]:
    """Returns the 3x3 convolution, zero-padded, of each group of channels with its own kernels.

    One plain convolution after the other: XLA's grouped ones have no fast path on CPU, and took
    six times as long for four groups of 16 channels, 17 times with the gradient.
    """
    num_groups = x.shape[-1] // kernel.shape[2]
    parts = [
        jax.lax.conv_general_dilated(
            part, own, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        for part, own in zip(
            jnp.split(x, num_groups, -1), jnp.split(kernel, num_groups, -1), strict=True
        )
    ]
    return jnp.concatenate(parts, -1)
