"""How the tables of Feature Distillation are designed: steps from a budget, bands from data.

Liu et al., CVPR 2019. The paper's formula for the step is not public; `changed_share` stands in
for it, an expectation in closed form under the assumptions it names.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rainjax import transforms
from rainjax._checks import as_plain


def changed_share(radius: float, step: float) -> float:
    """Returns the share of coefficients that a perturbation moves to another multiple of `step`.

    `radius` is that of an L-inf ball, and `step` one of the orthonormal DCT, both in grey levels.
    A coefficient lies anywhere within its step with the same chance, so the change `c` moves it
    with probability `min(1, |c| / step)`; of a perturbation of random signs `c` has standard
    deviation `radius` at every frequency, and is normal, nearly, as a sum of 64.

    Raises:
        ValueError: the radius is negative, the step not positive, or one not finite.
    """
    radius, step = as_plain("radius", radius), as_plain("step", step)
    if not 0 <= radius < math.inf or not 0 < step < math.inf:
        raise ValueError(f"{radius=} must not be negative, {step=} be positive, both finite.")
    if radius == 0:
        return 0.0
    ratio = step / radius
    within = math.sqrt(2 / math.pi) * (1 - math.exp(-ratio * ratio / 2)) / ratio
    return within + math.erfc(ratio / math.sqrt(2))


def defensive_step(radius: float, share: float) -> float:
    """Returns the step at which `changed_share` is `share`: a larger one lets fewer through.

    Raises:
        ValueError: the radius is not positive and finite, or the share not between 0 and 1.
    """
    radius, share = as_plain("radius", radius), as_plain("share", share)
    if not 0 < radius < math.inf or not 0 < share < 1:
        raise ValueError(f"{radius=} must be positive and finite, {share=} between 0 and 1.")
    # Where the share is at least, and at most, what is wanted.
    low, high = 0.0, min(radius / share, sys.float_info.max)
    for _ in range(100):
        middle = low + (high - low) / 2
        low, high = (middle, high) if changed_share(radius, middle) > share else (low, middle)
    return high


def coefficient_spread(
    images: UInt8[Array | np.ndarray, "n h w c"] | Float[Array | np.ndarray, "n h w c"],
) -> Float[np.ndarray, "8 8"]:
    """Returns the standard deviation of each DCT coefficient over blocks, channels and images.

    In grey levels, as what is given: images of 8 bits, or differences of images times 255.
    Blocks that they do not fill are left out. Where it is large the images differ, and a network
    has something to look at: that is what bands are ranked by.

    Raises:
        ValueError: the images are smaller than a block.
    """
    height, width = _whole(images.shape)
    middle = 128.0 if images.dtype == np.uint8 else 0.0  # smaller squares lose less
    total, squares, count = np.zeros((8, 8)), np.zeros((8, 8)), 0
    for start in range(0, len(images), _BATCH):
        batch = jnp.asarray(images[start : start + _BATCH, :height, :width], jnp.float32)
        sums = np.asarray(_sums(batch - middle), np.float64)
        total, squares = total + sums[0], squares + sums[1]
        count += batch.size // 64
    return np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))


def moved_share(
    images: Float[Array | np.ndarray, "n h w c"],
    attacked: Float[Array | np.ndarray, "n h w c"],
    steps: Float[Array | np.ndarray, "8 8"],
) -> Float[np.ndarray, "8 8"]:
    """Returns the share of each DCT coefficient that an attack moved to another multiple.

    `changed_share` measured: over blocks, channels and images, which are in [0, 1], on the grid
    of `FeatureDistillation(steps)`. Blocks that the images do not fill are left out.

    Raises:
        ValueError: the two differ in shape, or are smaller than a block.
    """
    if images.shape != attacked.shape:
        raise ValueError(f"{attacked.shape} adversarial images for originals of {images.shape}.")
    height, width = _whole(images.shape)
    moved, count = np.zeros((8, 8)), 0
    for start in range(0, len(images), _BATCH):
        rows = np.s_[start : start + _BATCH, :height, :width]
        before, after = (jnp.asarray(x[rows], jnp.float32) for x in (images, attacked))
        moved += np.asarray(_moved(before, after, jnp.asarray(steps, jnp.float32)), np.float64)
        count += before.size // 64
    return moved / count


def ranking(spread: Float[np.ndarray, "8 8"]) -> tuple[int, ...]:
    """Returns the 64 positions, `8 * vertical + horizontal`, the largest spread first.

    The first fifteen are the paper's accuracy-sensitive band: `two_steps(ranking(spread)[:15])`.

    Raises:
        ValueError: the spread is not of 8x8 coefficients.
    """
    spread = np.asarray(spread)
    if spread.shape != (8, 8):
        raise ValueError(f"spread of shape {spread.shape} must be 8x8, one for each coefficient.")
    return tuple(np.argsort(-spread.ravel(), kind="stable").tolist())


_BATCH = 64


def _whole(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the height and the width that whole blocks fill."""
    if len(shape) != 4:
        raise ValueError(f"Images must be a batch `n h w c`, not of shape {shape}.")
    height, width = (side // 8 * 8 for side in shape[1:3])
    if not shape[0] or not height or not width:
        raise ValueError(f"Images of shape {shape} hold no whole 8x8 block.")
    return height, width


@jax.jit
def _sums(images: Float[Array, "n h w c"]) -> Float[Array, "2 8 8"]:
    blocks = jax.vmap(transforms.block_dct)(images)
    return jnp.stack([blocks.sum((0, 1, 2, 5)), jnp.square(blocks).sum((0, 1, 2, 5))])


@jax.jit
def _moved(
    images: Float[Array, "n h w c"], attacked: Float[Array, "n h w c"], steps: Float[Array, "8 8"]
) -> Int[Array, "8 8"]:
    def numbers(image):
        return jnp.round(transforms.block_dct(255 * image) / steps[None, None, :, :, None])

    return (jax.vmap(numbers)(images) != jax.vmap(numbers)(attacked)).sum((0, 1, 2, 5))
