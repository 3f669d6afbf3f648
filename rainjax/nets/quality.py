"""A compact network that judges an image without a reference: quality, risk and classes.

The architecture is ours, in the spirit of the abstract of Feng and Cai's "Towards Robust
Classification with Image Quality Assessment" (arXiv 2004.06288), which is all of that paper that
is public.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from rainjax.nets._layers import (
    check_standardization,
    conv3x3,
    relu,
    standardize,
    uniform_fan_in,
)
from rainjax.nets._network import FlaxNetwork


class QualityOutputs(NamedTuple):
    """What `QualityNet` says of an image; `QualityNet.split` makes it of the network's output.

    Attributes:
        quality: The predicted quality, 1 for a perfect image; nothing keeps it within [0, 1].
        risk: The logit of the chance that the protected network errs on the image.
        change: The predicted change of the protected network's features, 0 for a perfect image.
        class_logits: What the protected network would answer on the perfect image; divided by the
            temperature of the training, their softmax is the distilled distribution.
    """

    quality: Float[Array, "*batch"]
    risk: Float[Array, "*batch"]
    change: Float[Array, "*batch"]
    class_logits: Float[Array, "*batch classes"]


@dataclasses.dataclass(frozen=True)
class QualityNet(FlaxNetwork):
    """Judges an image: `h w c` in [0, 1] to the `3 + num_classes` numbers of `QualityOutputs`.

    Beside the colours it sees their `residuals`, as `arcsinh(residual_gain * residual)`: linear in
    residuals of about a grey level, where small perturbations stand out, and logarithmic beyond,
    where an image's own edges are. `num_stages` stages
    of `blocks` residual blocks each follow, the first at the resolution that `stem_stride` leaves,
    each further one at half the resolution and with twice the features of the one before. Of every
    stage the mean and the standard deviation over the image, channel by channel, go to a hidden
    layer of `hidden` features, and from there to the outputs.

    There is no normalisation: the energy of the residual is the evidence, and dividing by it would
    take it away. A block adds its branch times a learned factor that starts small, near the 0
    of De and Smith (2020), which trains without.

    With `num_features > 0` the network takes a second input: the features of the protected network
    as a picture of one pixel, `1 1 num_features`, which go to the hidden layer too.
    """

    num_classes: int = 10
    width: int = 16
    num_stages: int = 3
    blocks: int = 1
    stem_stride: int = 1
    hidden: int = 64
    num_features: int = 0
    residual_gain: float = 255.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_classes", "width", "num_stages", "blocks", "stem_stride", "hidden"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"A QualityNet's {name}={value!r} must be at least 1.")
        if self.num_features < 0:
            raise ValueError(
                f"num_features={self.num_features!r} must be at least 0: 0 for a network that "
                "sees the image alone."
            )
        if not 0 < self.residual_gain < float("inf"):
            raise ValueError(f"residual_gain={self.residual_gain!r} must be positive and finite.")
        check_standardization(self.mean, self.std)

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _QualityNet(self, rngs)

    def split(self, outputs: Float[Array, "*batch outputs"]) -> QualityOutputs:
        """Returns the parts of this network's output, of one image or of a batch.

        Raises:
            ValueError: it has not `3 + num_classes` numbers an image.
        """
        if outputs.shape[-1:] != (3 + self.num_classes,):
            raise ValueError(
                f"This QualityNet returns {3 + self.num_classes} numbers an image, not an array "
                f"of shape {outputs.shape}."
            )
        return QualityOutputs(outputs[..., 0], outputs[..., 1], outputs[..., 2], outputs[..., 3:])


_KERNEL_INIT = uniform_fan_in(2.0)


def residuals(images: Float[Array, "n h w c"]) -> Float[Array, "n h w c_out"]:
    """Returns three high passes of images: along columns, along rows, and along both.

    Along an axis it is a pixel minus the mean of its two neighbours, halved; the third is a pixel
    minus the 3x3 binomial blur around it. Beyond the border pixels repeat.
    """
    down, across = _blurred(images, 1), _blurred(images, 2)
    both = _blurred(down, 2)
    return jnp.concatenate([images - down, images - across, images - both], axis=-1)


def _blurred(images, axis):
    pads = [(0, 0)] * 4
    pads[axis] = (1, 1)
    wide = jnp.pad(images, pads, mode="edge")
    first, middle, last = (
        jax.lax.slice_in_dim(wide, i, i + images.shape[axis], axis=axis) for i in range(3)
    )
    return 0.25 * first + 0.5 * middle + 0.25 * last


class _Block(nnx.Module):
    def __init__(self, features: int, rngs: nnx.Rngs):
        self.conv1, self.conv2 = (
            conv3x3(features, features, init=_KERNEL_INIT, rngs=rngs) for _ in range(2)
        )
        self.factor = nnx.Param(jnp.full((1,), 0.1))

    def __call__(self, x):
        return x + self.factor[...][None, None, None] * self.conv2(relu(self.conv1(relu(x))))


class _QualityNet(nnx.Module):
    def __init__(self, config: QualityNet, rngs: nnx.Rngs):
        self.config = config
        planes, features, stages, downs = 4 * len(config.mean), config.width, [], []
        for stage in range(config.num_stages):
            stride = 2 if stage else config.stem_stride
            downs.append(conv3x3(planes, features, stride=stride, init=_KERNEL_INIT, rngs=rngs))
            stages.append(nnx.List([_Block(features, rngs) for _ in range(config.blocks)]))
            planes, features = features, 2 * features
        self.downs, self.stages = nnx.List(downs), nnx.List(stages)
        pooled = 2 * config.width * (2**config.num_stages - 1) + config.num_features
        init = uniform_fan_in(1.0)
        self.hidden = nnx.Linear(pooled, config.hidden, kernel_init=init, rngs=rngs)
        self.linear = nnx.Linear(
            config.hidden, 3 + config.num_classes, kernel_init=init, rngs=rngs
        )

    def __call__(
        self, images: Float[Array, "n h w c"], *features: Float[Array, "n 1 1 f"]
    ) -> Float[Array, "n outputs"]:
        config = self.config
        wanted = [(1, 1, config.num_features)] if config.num_features else []
        if [f.shape[1:] for f in features] != wanted:
            raise ValueError(
                f"This QualityNet has num_features={config.num_features}, and takes an image and "
                f"{'arrays' if wanted else 'nothing'} of shape {wanted or '()'} besides, not "
                f"{[f.shape[1:] for f in features]}."
            )
        colours = standardize(images, config.mean, config.std)
        fine = jnp.arcsinh(config.residual_gain * residuals(images))
        x = jnp.concatenate([colours, fine], axis=-1)
        pooled = [f[:, 0, 0] for f in features]
        for down, blocks in zip(self.downs, self.stages, strict=True):
            x = down(x)
            for block in blocks:
                x = block(x)
            x = relu(x)
            mean = x.mean((1, 2))
            variance = jnp.square(x - mean[:, None, None]).mean((1, 2))
            # The root of 0 has an infinite slope.
            pooled += [mean, jnp.sqrt(variance + 1e-6)]
        return self.linear(relu(self.hidden(jnp.concatenate(pooled, axis=-1))))
