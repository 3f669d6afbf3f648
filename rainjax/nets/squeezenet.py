"""SqueezeNet 1.0 (Iandola et al., 2016; arXiv 1602.07360) for inference."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    check_classes,
    check_standardization,
    choose_classes,
    conv1x1,
    conv3x3,
    max_pool,
    relu,
    standardize,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork

# Squeezed and expanded features of every fire module: table 1 of the paper, where the two halves
# of what is expanded have as many each.
GROUPS = (
    ((16, 64), (16, 64), (32, 128)),
    ((32, 128), (48, 192), (48, 192), (64, 256)),
    ((64, 256),),
)


@dataclasses.dataclass(frozen=True)
class SqueezeNet(FlaxNetwork):
    """Classifies an image: `h w 3` in [0, 1] to `num_classes` logits, at any size.

    The image is first resized to `size` by `size` as Pillow's bilinear filter does, anti-aliased
    where that shrinks it, whatever its own height and width; one of that size stays as it is. The
    resizing is linear in the image, so gradients pass through it to the image that came in.

    A 7x7 convolution with stride 2 and `width` features, then `groups` of fire modules, each group
    behind a 3x3 max pool with stride 2. A fire module is given by its squeezed and its expanded
    features: a 1x1 convolution to the former, then a 1x1 and a 3x3 to the latter, side by side.
    The last layer is a 1x1 convolution, a ReLU and the mean over all places, so no logit is below
    zero. With `class_subset`, only the logits of those classes come back, in that order.

    `size`, `mean` and `std` belong to the weights, and so does the order of colours: `mean` and
    `std` are red first as the image is, and the first convolution takes blue first. The defaults
    are Caffe's, whose images are of 227 squared with values 0..255, less a mean.

    Raises:
        ValueError: there are no groups or no features, the size is too small for so many pools,
            or classes, `mean` and `std` cannot be used.
    """

    num_classes: int = 1000
    class_subset: tuple[int, ...] | None = None
    width: int = 96
    groups: tuple[tuple[tuple[int, int], ...], ...] = GROUPS
    size: int = 227
    mean: tuple[float, ...] = (123 / 255, 117 / 255, 104 / 255)
    std: tuple[float, ...] = (1 / 255, 1 / 255, 1 / 255)

    def __post_init__(self):
        super().__post_init__()
        features = [self.width, *(n for group in self.groups for fire in group for n in fire)]
        if not all(self.groups) or not self.groups or min(features) < 1:
            raise ValueError(
                "A SqueezeNet needs at least one group, and in each at least one fire module and "
                f"one feature, got width={self.width!r}, groups={self.groups!r}."
            )
        least = 2 ** (len(self.groups) + 1) + 5
        if self.size < least:
            raise ValueError(
                f"size={self.size!r} leaves nothing behind {len(self.groups)} pools: give at "
                f"least {least}."
            )
        check_classes(self.num_classes, self.class_subset)
        check_standardization(self.mean, self.std)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _SqueezeNet(self, rngs)


_KERNEL_INIT = uniform_fan_in(2.0)


class _Fire(nnx.Module):
    def __init__(self, features_in: int, squeezed: int, expanded: int, rngs: nnx.Rngs):
        self.squeeze = conv1x1(features_in, squeezed, init=_KERNEL_INIT, rngs=rngs)
        self.expand1x1 = conv1x1(squeezed, expanded, init=_KERNEL_INIT, rngs=rngs)
        self.expand3x3 = conv3x3(squeezed, expanded, init=_KERNEL_INIT, rngs=rngs)

    def __call__(self, x):
        x = relu(self.squeeze(x))
        return jnp.concatenate([relu(self.expand1x1(x)), relu(self.expand3x3(x))], axis=-1)


class _SqueezeNet(nnx.Module):
    def __init__(self, config: SqueezeNet, rngs: nnx.Rngs):
        self.config = config
        self.stem = nnx.Conv(
            len(config.mean),
            config.width,
            (7, 7),
            strides=2,
            padding="VALID",
            kernel_init=_KERNEL_INIT,
            rngs=rngs,
        )
        groups, features_in = [], config.width
        for group in config.groups:
            fires = []
            for squeezed, expanded in group:
                fires.append(_Fire(features_in, squeezed, expanded, rngs))
                features_in = 2 * expanded
            groups.append(nnx.List(fires))
        self.groups = nnx.List(groups)
        self.logits = conv1x1(features_in, config.num_classes, init=_KERNEL_INIT, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x = standardize(images, self.config.mean, self.config.std)
        shape = (len(x), self.config.size, self.config.size, x.shape[-1])
        x = jax.image.resize(
            x, shape, "linear", antialias=True, precision=jax.lax.Precision.HIGHEST
        )
        x = relu(self.stem(x[..., ::-1]))  # Caffe's images are blue first
        for fires in self.groups:
            x = max_pool(x, 3)
            for fire in fires:
                x = fire(x)
        x = relu(self.logits(x)).mean((1, 2))
        return choose_classes(x, self.config.class_subset)
