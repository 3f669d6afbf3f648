"""A network whose output at a pixel never sees that pixel: FBI-Net (Byun, Cha and Moon, 2021).

"FBI-Denoiser: Fast Blind Image Denoiser for Poisson-Gaussian Noise" (CVPR 2021, arXiv 2105.10967);
masks, layers and their order are those of the authors' published code.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from rainjax._values import Value
from rainjax.nets._layers import check_channels, conv1x1, uniform_fan_in
from rainjax.nets._network import FlaxNetwork


@dataclasses.dataclass(frozen=True)
class Mask(Value):
    """Which taps a convolution keeps: rows of 0 and 1, of odd numbers, its taps `dilation` apart.

    Raises:
        ValueError: the rows are no rectangle of odd sides, hold something else than 0 and 1, or
            keep nothing; or the dilation is below 1.
    """

    rows: tuple[tuple[int, ...], ...]
    dilation: int = 1

    def __post_init__(self):
        super().__post_init__()
        widths = {len(row) for row in self.rows}
        if len(self.rows) % 2 == 0 or len(widths) != 1 or min(widths) % 2 == 0:
            raise ValueError(
                "A Mask's rows must be an odd number of rows of one odd length, got lengths "
                f"{tuple(map(len, self.rows))}."
            )
        values = {value for row in self.rows for value in row}
        if not values <= {0, 1} or values == {0}:
            raise ValueError(
                f"A Mask's rows hold 1 for what is kept, once at least, and 0: got {self.rows}."
            )
        if self.dilation < 1:
            raise ValueError(f"dilation={self.dilation} must be at least 1.")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return len(self.rows), len(self.rows[0])

    @property
    def reach(self) -> tuple[int, int]:
        """How many pixels the kernel reaches up and down, and left and right."""
        height, width = self.shape
        return self.dilation * (height // 2), self.dilation * (width // 2)

    @property
    def offsets(self) -> tuple[tuple[int, int], ...]:
        """Where the kept taps lie, in pixels down and right of the output's."""
        down, right = self.reach
        return tuple(
            (self.dilation * i - down, self.dilation * j - right)
            for i, row in enumerate(self.rows)
            for j, kept in enumerate(row)
            if kept
        )


# FBI-Net's: for its first layer, for its second, and for all that follow.
FBI_MASKS = (
    Mask(((1, 1, 1), (1, 0, 1), (1, 1, 1))),
    Mask(
        (
            (0, 1, 0, 1, 0),
            (1, 0, 0, 0, 1),
            (0, 0, 1, 0, 0),
            (1, 0, 0, 0, 1),
            (0, 1, 0, 1, 0),
        )
    ),
    Mask(((1, 0, 1), (0, 1, 0), (1, 0, 1)), dilation=3),
)


# What is seen is computed when a network is made: beyond these it would take long.
_MOST_LAYERS, _FURTHEST = 500, 500


@dataclasses.dataclass(frozen=True)
class BlindSpot(FlaxNetwork):
    """Predicts each pixel from others: `h w in_channels` to `h w out_channels`, not clipped.

    One chain of masked convolutions moves information between pixels, and each layer of it feeds
    a second chain that stays within the pixel; the mean of the second chain's layers is the
    output. With the default masks the output at a pixel depends on the square of radius
    `3 + 3 (num_layers - 2)` around it, except for the offsets `(3a, 3b)` with an even `a + b`, the
    pixel itself among them: `receptive_field` tells. Borders are padded with zeros. Its gradient
    is exact.

    Layer `k` takes `masks[k]`, and all that follow the last one take that as well. Unlike the
    authors' network, which returns the two coefficients of an affine function of the pixel
    itself, this one returns values that are blind to it. Kernels are stored whole, and what a
    mask drops of them counts for nothing, whatever is loaded or learned there.

    Raises:
        ValueError: there are no channels, features or masks, fewer layers than masks, or more
            than 500 of them or pixels within reach; or the masks together would let the output
            see its own pixel.
    """

    num_layers: int = 17
    num_features: int = 64
    in_channels: int = 3
    out_channels: int = 3
    masks: tuple[Mask, ...] = FBI_MASKS

    def __post_init__(self):
        super().__post_init__()
        for field in ("num_features", "in_channels", "out_channels"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if not 1 <= len(self.masks) <= self.num_layers <= _MOST_LAYERS:
            raise ValueError(
                f"A BlindSpot has at least one mask, a layer for each, and at most {_MOST_LAYERS} "
                f"layers: got num_layers={self.num_layers} and {len(self.masks)} masks."
            )
        reaches = zip(*(mask.reach for mask in self.layer_masks), strict=True)
        if (reach := max(map(sum, reaches))) > _FURTHEST:
            raise ValueError(
                f"The masks of num_layers={self.num_layers} reach {reach} pixels together, and at "
                f"most {_FURTHEST} are of use: take fewer layers, or a smaller dilation."
            )
        seen_from = _receptive_field(self.layer_masks)[1]
        if seen_from is not None:
            raise ValueError(
                f"These masks let the output see its own pixel from layer {seen_from} on: drop "
                "the tap that leads back to it, or choose another dilation."
            )

    @property
    def layer_masks(self) -> tuple[Mask, ...]:
        """The mask of each layer."""
        return self.masks + (self.num_layers - len(self.masks)) * self.masks[-1:]

    def receptive_field(self) -> Bool[np.ndarray, "height width"]:
        """Returns which offsets the output sees; the middle of the array is its own pixel."""
        return _receptive_field(self.layer_masks)[0].copy()

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the Flax module for a batch of images."""
        return _BlindSpot(self, rngs)


@functools.cache
def _receptive_field(
    masks: tuple[Mask, ...],
) -> tuple[Bool[np.ndarray, "height width"], int | None]:
    """Returns which offsets the output sees, and the first layer that sees its own pixel.

    An offset is seen if it is a sum of one tap from every layer up to some layer.
    """
    radius = tuple(sum(reach) for reach in zip(*(mask.reach for mask in masks), strict=True))
    reached = np.zeros([2 * r + 1 for r in radius], bool)
    reached[radius] = True
    seen, seen_from = np.zeros_like(reached), None
    for layer, mask in enumerate(masks, start=1):
        # Nothing is rolled over an edge: the array is as large as all layers reach together.
        rolled = (np.roll(reached, offset, (0, 1)) for offset in mask.offsets)
        reached = functools.reduce(np.logical_or, rolled)
        seen |= reached
        if seen[radius] and seen_from is None:
            seen_from = layer
    return seen, seen_from


BLIND_SPOT = BlindSpot()
BLIND_SPOT_SMALL = BlindSpot(num_layers=8, num_features=32)

# Slopes start at zero, where a PReLU is a ReLU: He et al. (2015) keep the variance by this.
# PyTorch's default, a sixth of it and for all taps, learns later: 150 steps of Adam with 17 layers
# of 16 features took it to 16.5 dB, and this to 17.8 dB.
_KERNEL_INIT = uniform_fan_in(2.0)


class _MaskedConv(nnx.Module):
    def __init__(self, features_in: int, features_out: int, mask: Mask, rngs: nnx.Rngs):
        height, width = mask.shape
        # The fan-in is that of the taps that are kept.
        init = uniform_fan_in(2.0 * height * width / len(mask.offsets))
        shape = (height, width, features_in, features_out)
        self.kernel = nnx.Param(init(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.mask = mask

    def __call__(self, x):
        # A convolution with the whole kernel. A matrix product for each kept tap was at most
        # twice as fast on CPU (64 features, 32 pixels: the gradient by the input), but half as
        # fast at 224, and twice as slow where the kernel's gradient is wanted.
        kernel = self.kernel[...]
        kept = jnp.asarray(self.mask.rows, kernel.dtype)[:, :, None, None]
        (down, right), dilation = self.mask.reach, self.mask.dilation
        y = jax.lax.conv_general_dilated(
            x,
            kernel * kept,
            (1, 1),
            ((down, down), (right, right)),
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[None, None, None]


class _PReLU(nnx.Module):
    def __init__(self, features: int):
        self.slope = nnx.Param(jnp.zeros(features))

    def __call__(self, x):
        return _prelu(x, self.slope[...])


@jax.custom_jvp
def _prelu(x, slope):
    return jnp.where(x <= 0, slope[None, None, None] * x, x)  # NaN stays NaN


@_prelu.defjvp
def _prelu_jvp(primals, tangents):
    """The plain derivative, with the slope's part as a product of its own.

    Left to itself, JAX multiplies after it selects, and XLA on CPU sums that over all pixels so
    slowly that the small network's gradient takes 2.5 times as long, by all of its parameters and
    on 32 patches of 32 pixels. With the part as a contraction it takes as long as here on those,
    and eight times as long on 8 patches of 64.
    """
    (x, slope), (x_dot, slope_dot) = primals, tangents
    low = x <= 0
    of_slope = jnp.where(low, x, 0) * slope_dot[None, None, None]
    return _prelu(x, slope), jnp.where(low, slope[None, None, None] * x_dot, x_dot) + of_slope


class _Residual(nnx.Module):
    def __init__(self, features: int, rngs: nnx.Rngs):
        self.conv1 = conv1x1(features, features, init=_KERNEL_INIT, rngs=rngs)
        self.conv2 = conv1x1(features, features, init=_KERNEL_INIT, rngs=rngs)
        self.activation1, self.activation2 = _PReLU(features), _PReLU(features)

    def __call__(self, x):
        return self.activation2((x + self.conv2(self.activation1(self.conv1(x)))) / 2)


class _BlindSpot(nnx.Module):
    def __init__(self, config: BlindSpot, rngs: nnx.Rngs):
        features, num = config.num_features, config.num_layers
        channels = (config.in_channels, *(num - 1) * (features,))
        self.config = config
        self.convs = nnx.List(
            [
                _MaskedConv(channels_in, features, mask, rngs)
                for channels_in, mask in zip(channels, config.layer_masks, strict=True)
            ]
        )
        self.activations = nnx.List([_PReLU(features) for _ in range(num)])
        self.merges = nnx.List([_PReLU(features) for _ in range(num - 1)])
        self.residuals = nnx.List([_Residual(features, rngs) for _ in range(num)])
        self.mean_activation = _PReLU(features)
        self.mean_residual = _Residual(features, rngs)
        self.tail = conv1x1(features, config.out_channels, init=uniform_fan_in(1.0), rngs=rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h w c_out"]:
        check_channels(images, self.config.in_channels)
        between, outputs = images, []
        for layer, (conv, activation) in enumerate(zip(self.convs, self.activations, strict=True)):
            between = activation(conv(between))  # the only step from one pixel to another
            within = between
            if layer:
                within = self.merges[layer - 1]((between + outputs[-1]) / 2)
            outputs.append(self.residuals[layer](within))
        mean = self.mean_activation(sum(outputs[1:], outputs[0]) / len(outputs))
        return self.tail(self.mean_residual(mean))
