"""The few pieces that more than one network is made of."""

import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree


def num_params(params: PyTree) -> int:
    """Returns how many numbers `params` holds; shapes do as well as arrays."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(params))


def pixel_shuffle(
    features: Float[Array, "n h w c_in"], factor: int
) -> Float[Array, "n h_out w_out c_out"]:
    """Returns `features` with each group of `factor**2` channels laid out as a square.

    Channel `c * factor**2 + i * factor + j` goes to row `i`, column `j` of channel `c`,
    PyTorch's order.
    """
    n, h, w, channels = features.shape
    out = channels // factor**2
    cells = features.reshape(n, h, w, out, factor, factor)
    return cells.transpose(0, 1, 4, 2, 5, 3).reshape(n, h * factor, w * factor, out)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `x` where it is positive, else zero; NaN stays NaN.

    Not so `jax.nn.relu`: where XLA on CPU fuses its maximum into a sum, NaN comes out as zero,
    and a broken pipeline would answer like a sound one.
    """
    return jnp.where(x <= 0, 0.0, x)


def leaky_relu(x: Float[Array, "..."], slope: float) -> Float[Array, "..."]:
    """Returns `x` where it is positive, else `slope * x`; NaN stays NaN."""
    return jnp.where(x <= 0, slope * x, x)


def max_pool(x: Float[Array, "n h w c"], window: int) -> Float[Array, "n h_out w_out c"]:
    """Returns the maxima of squares of `window`, at every second row and column.

    The output's size is rounded up: where a last row or column would be left over, a window
    reaches beyond the border at the bottom or right, as Caffe's and Darknet's do.
    """
    pads = ((0, 0), *((0, (size - window) % 2) for size in x.shape[1:3]), (0, 0))
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, window, window, 1), (1, 2, 2, 1), pads
    )


def standardize(
    images: Float[Array, "n h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "n h w c"]:
    """Returns `(images - mean) / std`, channel by channel."""
    check_channels(images, len(mean))
    mean_row, std_row = (jnp.asarray(v, images.dtype)[None, None, None] for v in (mean, std))
    return (images - mean_row) / std_row


def check_channels(images: Float[Array, "n h w c"], num: int) -> None:
    """Raises ValueError for images that do not have `num` channels."""
    if images.shape[-1] != num:
        raise ValueError(
            f"The network takes images of {num} channels, got shape {images.shape[1:]} (h w c)."
        )


def check_standardization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuses constants that `standardize` cannot use.

    Raises:
        ValueError: they are empty, differ in length, or are not finite, or `std` not positive.
    """
    if not mean or len(mean) != len(std):
        raise ValueError(f"mean and std are empty or differ in length: {mean=}, {std=}.")
    if not all(map(math.isfinite, mean)) or not all(0 < s < math.inf for s in std):
        raise ValueError(f"mean must be finite, and std finite and positive: {mean=}, {std=}.")


def check_classes(num_classes: int, class_subset: Sequence[int] | None) -> None:
    """Refuses a number of classes, or some of them, that no classifier has.

    Raises:
        ValueError: there is no class, `class_subset` is empty, or it names one there is not.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes!r} must be at least 1.")
    for label in class_subset or ():
        if not 0 <= operator.index(label) < num_classes:
            raise ValueError(
                f"class_subset has the class {label!r}; classes run from 0 to {num_classes - 1}."
            )
    if class_subset is not None and not class_subset:
        raise ValueError("class_subset is empty; give at least one class, or None for all.")


def choose_classes(
    logits: Float[Array, "n classes"], class_subset: Sequence[int] | None
) -> Float[Array, "n chosen"]:
    """Returns the logits of the classes in `class_subset`, in that order; of all for None."""
    return logits if class_subset is None else logits[:, jnp.asarray(class_subset)]


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He, 2018), as `x * a + b` with one `a` and `b` per channel.

    Returns the numbers of `nnx.GroupNorm`, from parameters of the same names. Channels are pooled
    before they are grouped, because on CPU it costs more than a small convolution to reshape
    the whole array to groups.
    """

    def __init__(self, features: int, *, num_groups: int, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.num_groups, self.epsilon = num_groups, epsilon

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        num, _, _, channels = x.shape
        size = channels // self.num_groups

        def grouped(per_channel):
            mean = per_channel.reshape(num, self.num_groups, size).mean(-1)
            return jnp.repeat(mean, size, axis=-1)

        mean, square = grouped(x.mean((1, 2))), grouped(jnp.square(x).mean((1, 2)))
        variance = jnp.maximum(square - mean * mean, 0.0)
        a = jax.lax.rsqrt(variance + self.epsilon) * self.scale[None]
        b = self.bias[None] - mean * a
        return x * a[:, None, None] + b[:, None, None]


def uniform_fan_in(gain: float) -> nnx.Initializer:
    """Returns an initializer of kernels `... out`: uniform with variance `gain / fan_in`.

    The numbers are drawn flat: XLA takes a second to compile a draw of four axes, for each shape.
    """

    def init(key, shape, dtype=jnp.float32, *_, **__):
        bound = math.sqrt(3 * gain / math.prod(shape[:-1]))
        flat = jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound)
        return flat.reshape(shape)

    return init


def conv3x3(
    features_in: int,
    features_out: int,
    *,
    stride: int = 1,
    bias: bool = True,
    init,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Returns a 3x3 convolution that pads one pixel on every side, as PyTorch's `padding=1`.

    XLA's "SAME" would pad a strided convolution at the bottom and right only.
    """
    return nnx.Conv(
        features_in,
        features_out,
        (3, 3),
        strides=stride,
        padding=((1, 1), (1, 1)),
        use_bias=bias,
        kernel_init=init,
        rngs=rngs,
    )


def conv1x1(features_in: int, features_out: int, *, init, rngs: nnx.Rngs) -> nnx.Conv:
    """Returns a convolution that mixes the channels of each pixel by itself."""
    return nnx.Conv(features_in, features_out, (1, 1), kernel_init=init, rngs=rngs)
