"""IMDN, a light super-resolution network that sets features aside (Hui et al., 2019)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    check_channels,
    conv1x1,
    conv3x3,
    leaky_relu,
    pixel_shuffle,
    relu,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork

_CHANNELS = 3
# How many times fewer features are set aside, and decide the attention.
_DISTILLED, _REDUCTION = 4, 16


@dataclasses.dataclass(frozen=True)
class IMDN(FlaxNetwork):
    """Enlarges an image `scale` times: `h w 3` in [0, 1] to `scale*h scale*w 3`, not clipped.

    Every block keeps a quarter of the features from each of three convolutions and hands the rest
    to the next (arXiv 1909.11856). Its contrast-aware attention weighs channels by their mean and
    standard deviation over the whole image, so that a crop of the output is not the output of a
    crop.
    """

    num_blocks: int = 6
    num_features: int = 64
    scale: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.scale not in (2, 3, 4):
            raise ValueError(f"IMDN enlarges by 2, 3 or 4, got scale={self.scale!r}.")
        if self.num_blocks < 1:
            raise ValueError(f"IMDN needs at least one block, got num_blocks={self.num_blocks!r}.")
        if self.num_features < _REDUCTION or self.num_features % _REDUCTION:
            raise ValueError(
                f"IMDN's num_features must be a multiple of {_REDUCTION}, got "
                f"{self.num_features!r}."
            )

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _IMDN(self, rngs)


_KERNEL_INIT = uniform_fan_in(1 / 3)  # PyTorch's default


class _Attention(nnx.Module):
    """A weight in (0, 1) for every channel, from its mean and standard deviation."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        self.down = _conv1x1(features, features // _REDUCTION, rngs)
        self.up = _conv1x1(features // _REDUCTION, features, rngs)

    def __call__(self, x):
        mean = x.mean((1, 2), keepdims=True)
        variance = jnp.square(x - mean).mean((1, 2), keepdims=True)
        # The slope of a root is infinite at zero, which a constant channel has; NaN stays NaN.
        flat = variance == 0
        contrast = jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, variance)))
        return x * jax.nn.sigmoid(self.up(relu(self.down(contrast + mean))))


class _Block(nnx.Module):
    def __init__(self, features: int, rngs: nnx.Rngs):
        self.kept = features // _DISTILLED
        rest = features - self.kept
        sizes = ((features, features), (rest, features), (rest, features), (rest, self.kept))
        self.convs = nnx.List([_conv3x3(*size, rngs) for size in sizes])
        self.attention = _Attention(features, rngs)
        self.merge = _conv1x1(features, features, rngs)

    def __call__(self, x):
        kept, rest = [], x
        for conv in self.convs[:-1]:
            y = leaky_relu(conv(rest), 0.05)
            kept.append(y[..., : self.kept])
            rest = y[..., self.kept :]
        kept.append(self.convs[-1](rest))
        return x + self.merge(self.attention(jnp.concatenate(kept, -1)))


class _IMDN(nnx.Module):
    def __init__(self, config: IMDN, rngs: nnx.Rngs):
        features, num = config.num_features, config.num_blocks
        self.config = config
        self.head = _conv3x3(_CHANNELS, features, rngs)
        self.blocks = nnx.List([_Block(features, rngs) for _ in range(num)])
        self.merge = _conv1x1(num * features, features, rngs)
        self.body_end = _conv3x3(features, features, rngs)
        self.upsample = _conv3x3(features, _CHANNELS * config.scale**2, rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        check_channels(images, _CHANNELS)
        x = head = self.head(images)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = leaky_relu(self.merge(jnp.concatenate(outputs, -1)), 0.05)
        return pixel_shuffle(self.upsample(self.body_end(x) + head), self.config.scale)


def _conv3x3(features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Conv:
    return conv3x3(features_in, features_out, init=_KERNEL_INIT, rngs=rngs)


def _conv1x1(features_in: int, features_out: int, rngs: nnx.Rngs) -> nnx.Conv:
    return conv1x1(features_in, features_out, init=_KERNEL_INIT, rngs=rngs)
