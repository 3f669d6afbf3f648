"""The residual networks of the ImageNet experiments in He et al. (2016), for inference."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    check_classes,
    check_standardization,
    choose_classes,
    conv3x3,
    relu,
    standardize,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork


@dataclasses.dataclass(frozen=True)
class ImageNetResNet(FlaxNetwork):
    """Classifies an image: `h w c` in [0, 1] to `num_classes` logits, at any size.

    A 7x7 convolution and a max pool, each with stride 2, then groups of `blocks` residual blocks
    with `width`, `2 width`, ... features; all groups but the first halve the image. The default
    is ResNet-50. Its blocks are bottlenecks whose output has four times the features, with the
    stride on the 3x3 convolution, where torchvision and timm have it and the paper has not
    ("v1.5"). `blocks=(2, 2, 2, 2), bottleneck=False` is ResNet-18, and (3, 4, 6, 3) ResNet-34.

    Batch norm runs in inference mode, its running statistics in the parameters, to take weights
    published under torchvision's names. With `class_subset`, only the logits of those classes
    come back, in that order.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    num_classes: int = 1000
    class_subset: tuple[int, ...] | None = None
    width: int = 64
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        super().__post_init__()
        if not self.blocks or min(self.blocks) < 1 or self.width < 1:
            raise ValueError(
                "An ImageNetResNet needs at least one group, and in each at least one block and "
                f"one feature, got blocks={self.blocks!r}, width={self.width!r}."
            )
        check_classes(self.num_classes, self.class_subset)
        check_standardization(self.mean, self.std)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _ImageNetResNet(self, rngs)


_KERNEL_INIT = uniform_fan_in(2.0)


class _Basic(nnx.Module):
    """Two 3x3 convolutions; the first has the stride."""

    growth = 1

    def __init__(self, features_in: int, width: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv3x3(features_in, width, stride, rngs)
        self.norm1 = _norm(width, rngs)
        self.conv2 = _conv3x3(width, width, 1, rngs)
        self.norm2 = _norm(width, rngs)

    def __call__(self, x):
        return self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))


class _Bottleneck(nnx.Module):
    """A 3x3 convolution, which has the stride, between two 1x1."""

    growth = 4

    def __init__(self, features_in: int, width: int, stride: int, rngs: nnx.Rngs):
        self.conv1 = _conv1x1(features_in, width, 1, rngs)
        self.norm1 = _norm(width, rngs)
        self.conv2 = _conv3x3(width, width, stride, rngs)
        self.norm2 = _norm(width, rngs)
        self.conv3 = _conv1x1(width, self.growth * width, 1, rngs)
        self.norm3 = _norm(self.growth * width, rngs)

    def __call__(self, x):
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.conv2(x)))
        return self.norm3(self.conv3(x))


class _Block(nnx.Module):
    def __init__(self, kind, features_in: int, width: int, stride: int, rngs: nnx.Rngs):
        self.residual = kind(features_in, width, stride, rngs)
        features = kind.growth * width
        self.projects = stride > 1 or features_in != features
        if self.projects:
            self.shortcut = _conv1x1(features_in, features, stride, rngs)
            self.shortcut_norm = _norm(features, rngs)

    def __call__(self, x):
        shortcut = self.shortcut_norm(self.shortcut(x)) if self.projects else x
        return relu(self.residual(x) + shortcut)


class _ImageNetResNet(nnx.Module):
    def __init__(self, config: ImageNetResNet, rngs: nnx.Rngs):
        self.config = config
        self.conv1 = nnx.Conv(
            len(config.mean),
            config.width,
            (7, 7),
            strides=2,
            padding=((3, 3), (3, 3)),
            use_bias=False,
            kernel_init=_KERNEL_INIT,
            rngs=rngs,
        )
        self.norm1 = _norm(config.width, rngs)
        kind = _Bottleneck if config.bottleneck else _Basic
        groups, features_in = [], config.width
        for group, num_blocks in enumerate(config.blocks):
            width, blocks = config.width * 2**group, []
            for index in range(num_blocks):
                stride = 2 if group and not index else 1
                blocks.append(_Block(kind, features_in, width, stride, rngs))
                features_in = kind.growth * width
            groups.append(nnx.List(blocks))
        self.groups = nnx.List(groups)
        self.linear = nnx.Linear(
            features_in, config.num_classes, kernel_init=uniform_fan_in(1.0), rngs=rngs
        )

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        x = standardize(images, self.config.mean, self.config.std)
        x = relu(self.norm1(self.conv1(x)))
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )
        for blocks in self.groups:
            for block in blocks:
                x = block(x)
        return choose_classes(self.linear(x.mean((1, 2))), self.config.class_subset)


def _conv3x3(features_in: int, features: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return conv3x3(features_in, features, stride=stride, bias=False, init=_KERNEL_INIT, rngs=rngs)


def _conv1x1(features_in: int, features: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        features_in,
        features,
        (1, 1),
        strides=stride,
        padding="VALID",
        use_bias=False,
        kernel_init=_KERNEL_INIT,
        rngs=rngs,
    )


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, use_running_average=True, epsilon=1e-5, rngs=rngs)
