"""EDSR, the super-resolution network that RAIN restores detail with (Lim et al., 2017)."""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import conv3x3, pixel_shuffle, relu, standardize, uniform_fan_in
from rainjax.nets._network import FlaxNetwork

# The pixel-shuffle stages of each scale: 4 is reached by doubling twice.
STAGES = {2: (2,), 3: (3,), 4: (2, 2)}


@dataclasses.dataclass(frozen=True)
class EDSR(FlaxNetwork):
    """Enlarges an image `scale` times: `h w c` in [0, 1] to `scale*h scale*w c`, not clipped.

    Inside, pixels run over `value_range` as in the authors' code, so their learning rates and
    weights carry over; `mean` is subtracted first and added back last. Batch norm is absent.
    """

    num_blocks: int = 16
    num_features: int = 64
    scale: int = 2
    value_range: float = 255.0
    res_scale: float = 1.0
    mean: tuple[float, ...] = (0.4488, 0.4371, 0.4040)

    def __post_init__(self):
        super().__post_init__()
        if self.scale not in STAGES:
            raise ValueError(f"EDSR enlarges by 2, 3 or 4, got scale={self.scale!r}.")
        if self.num_blocks < 1 or self.num_features < 1:
            raise ValueError(
                "EDSR needs at least one block and one feature, got "
                f"num_blocks={self.num_blocks!r}, num_features={self.num_features!r}."
            )
        if not 0 < self.value_range < math.inf:
            raise ValueError(
                f"EDSR's value_range must be positive and finite, got {self.value_range!r}."
            )
        if not all(map(math.isfinite, (self.res_scale, *self.mean))):
            raise ValueError(
                "EDSR's res_scale and mean must be finite, got "
                f"res_scale={self.res_scale!r}, mean={self.mean!r}."
            )

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _EDSR(self, rngs)


EDSR_BASELINE = EDSR()
EDSR_SMALL = EDSR(num_blocks=4, num_features=32)

# PyTorch's default for convolution kernels, uniform with variance 1 / (3 fan_in). It keeps the
# residual branches small at the start, which 16 blocks without normalisation need.
_KERNEL_INIT = uniform_fan_in(1 / 3)


class _Block(nnx.Module):
    def __init__(self, features: int, res_scale: float, rngs: nnx.Rngs):
        self.conv1 = conv3x3(features, features, init=_KERNEL_INIT, rngs=rngs)
        self.conv2 = conv3x3(features, features, init=_KERNEL_INIT, rngs=rngs)
        self.res_scale = res_scale

    def __call__(self, x):
        return x + self.res_scale * self.conv2(relu(self.conv1(x)))


class _EDSR(nnx.Module):
    def __init__(self, config: EDSR, rngs: nnx.Rngs):
        channels, features = len(config.mean), config.num_features
        stages = STAGES[config.scale]
        self.config = config
        self.head = conv3x3(channels, features, init=_KERNEL_INIT, rngs=rngs)
        self.blocks = nnx.List(
            [_Block(features, config.res_scale, rngs) for _ in range(config.num_blocks)]
        )
        self.body_end = conv3x3(features, features, init=_KERNEL_INIT, rngs=rngs)
        self.upsample = nnx.List(
            [conv3x3(features, features * r**2, init=_KERNEL_INIT, rngs=rngs) for r in stages]
        )
        self.tail = conv3x3(features, channels, init=_KERNEL_INIT, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h_out w_out c"]:
        config = self.config
        channels = len(config.mean)
        head = self.head(standardize(images, config.mean, (1 / config.value_range,) * channels))
        x = head
        for block in self.blocks:
            x = block(x)
        x = self.body_end(x) + head
        for conv, factor in zip(self.upsample, STAGES[config.scale], strict=True):
            x = pixel_shuffle(conv(x), factor)
        mean = jnp.asarray(config.mean, x.dtype)[None, None, None]
        return self.tail(x) / config.value_range + mean
