"""Tiny Darknet, the small ImageNet classifier of Darknet (Redmon, 2013-2016), for inference."""

import dataclasses

from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    check_classes,
    check_standardization,
    choose_classes,
    conv1x1,
    leaky_relu,
    max_pool,
    standardize,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork

# Kernel size and features of every convolution but the last: Darknet's tiny.cfg.
GROUPS = (
    ((3, 16),),
    ((3, 32),),
    ((1, 16), (3, 128), (1, 16), (3, 128)),
    ((1, 32), (3, 256), (1, 32), (3, 256)),
    ((1, 64), (3, 512), (1, 64), (3, 512), (1, 128)),
)


@dataclasses.dataclass(frozen=True)
class TinyDarknet(FlaxNetwork):
    """Classifies an image: `h w 3` in [0, 1] to `num_classes` logits, at any size.

    `groups` of convolutions, each given by the size of its kernel, odd, and its features, and
    followed by batch norm and a leaky ReLU of slope 0.1; between groups a 2x2 max pool with stride
    2. The last layer is a 1x1 convolution and the mean over all places. There is no paper: the
    network is that of Darknet's configuration file. Its weights were trained on images of 224
    squared, in [0, 1] as they are: `mean` and `std` are zero and one.

    Batch norm runs in inference mode, its running statistics in the parameters, with Keras's
    epsilon of 1e-3. With `class_subset`, only the logits of those classes come back, in that
    order.

    Raises:
        ValueError: there are no groups, a convolution has no features or a kernel of even size, or
            classes, `mean` and `std` cannot be used.
    """

    num_classes: int = 1000
    class_subset: tuple[int, ...] | None = None
    groups: tuple[tuple[tuple[int, int], ...], ...] = GROUPS
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        layers = [layer for group in self.groups for layer in group]
        if not self.groups or not all(self.groups) or min(min(layer) for layer in layers) < 1:
            raise ValueError(
                "A TinyDarknet needs at least one group, and in each at least one convolution "
                f"with a kernel and features, got groups={self.groups!r}."
            )
        if any(size % 2 == 0 for size, _ in layers):
            raise ValueError(f"Kernels must have odd sizes, got groups={self.groups!r}.")
        check_classes(self.num_classes, self.class_subset)
        check_standardization(self.mean, self.std)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _TinyDarknet(self, rngs)


_KERNEL_INIT = uniform_fan_in(2.0)


class _Layer(nnx.Module):
    def __init__(self, features_in: int, features: int, size: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            features_in,
            features,
            (size, size),
            padding="SAME",
            use_bias=False,
            kernel_init=_KERNEL_INIT,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(features, use_running_average=True, epsilon=1e-3, rngs=rngs)

    def __call__(self, x):
        return leaky_relu(self.norm(self.conv(x)), 0.1)


class _TinyDarknet(nnx.Module):
    def __init__(self, config: TinyDarknet, rngs: nnx.Rngs):
        self.config = config
        groups, features_in = [], len(config.mean)
        for group in config.groups:
            layers = []
            for size, features in group:
                layers.append(_Layer(features_in, features, size, rngs))
                features_in = features
            groups.append(nnx.List(layers))
        self.groups = nnx.List(groups)
        self.logits = conv1x1(features_in, config.num_classes, init=_KERNEL_INIT, rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x = standardize(images, self.config.mean, self.config.std)
        for number, layers in enumerate(self.groups):
            x = max_pool(x, 2) if number else x
            for layer in layers:
                x = layer(x)
        return choose_classes(self.logits(x).mean((1, 2)), self.config.class_subset)
