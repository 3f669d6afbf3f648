"""A batch of images with its labels and keys: whether they fit, and can be evaluated."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rainjax._arrays import as_array, check_keys, is_staged, is_traced
from rainjax._checks import channels_first, check_kind, check_num_classes
from rainjax.pipeline import Pipeline
from rainjax.typing import Images, Params

Keys = Key[Array, "n"]
Labels = Int[Array | np.ndarray, "n"]
ImageBatch = Float[Array | np.ndarray, "n h w c"]

# What resizing and the like add to a border of [0, 1]: it is cut off.
_ROUNDING = 1e-6


def refuse_traced(whose: str, *given: Any) -> None:
    """Refuses to be traced by `jax.jit`, `jax.vmap` or `jax.grad`.

    Raises:
        ValueError: a part of what is `given` is traced; names what to call instead.
    """
    if is_traced(*given) or is_staged():
        raise ValueError(
            f"{whose} is driven from the host, and jax.jit, jax.vmap or jax.grad cannot trace it: "
            "use attack_batch within them, which is a pure function."
        )


def check_batch(
    pipeline: Pipeline,
    params: Params,
    keys: Keys,
    images: ImageBatch,
    labels: Labels | None = None,
) -> Images:
    """Returns the images in [0, 1], or refuses a batch whose parts do not fit.

    Of what is traced, only shapes and types are looked at.

    Raises:
        ValueError: the parts do not belong together or are out of range; says which.
    """
    check_kind(pipeline, Pipeline, "An evaluation")
    images = as_array("images", images)
    if images.ndim != 4:
        raise ValueError(f"Images must be a batch `n h w c`, not of shape {images.shape}.")
    if channels_first(images.shape):
        raise ValueError(
            f"Images must be a batch `n h w c`, and those of shape {images.shape} have their "
            "channels first: give jnp.moveaxis(images, 1, -1)."
        )
    count = len(images)
    if not images.size:
        raise ValueError(f"There are no images in shape {images.shape}: give at least one.")
    pipeline.check_params(params)
    check_keys(keys)
    if labels is not None:
        labels = as_array("labels", labels)
        if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                f"Labels must be one whole number per image, of shape ({count},), not "
                f"{labels.dtype} of shape {labels.shape}."
            )
    if len(keys) != count or (labels is not None and len(labels) != count):
        others = f"{len(keys)} keys" + ("" if labels is None else f" and {len(labels)} labels")
        raise ValueError(f"{count} images came with {others}: each image needs one of its own.")
    if images.dtype != jnp.float32:
        how = "use .astype(np.float32)" if _is_floating(images) else "divide by 255"
        raise ValueError(f"Images must be float32 in [0, 1], not {images.dtype}: {how}.")
    if not is_traced(images):
        images = in_range(images)
    if labels is not None:
        num_classes = pipeline.num_classes(params, images[0])
        check_num_classes(num_classes, type(pipeline).__name__)
        _check_classes(labels, num_classes)
    return jnp.asarray(images)


def check_score_keys(keys: Keys, count: int) -> None:
    """Refuses scoring keys that are not one for each of `count` images.

    Raises:
        ValueError: saying what they are.
    """
    check_keys(keys, "Scoring keys")
    if len(keys) != count:
        raise ValueError(
            f"{count} images came with {len(keys)} scoring keys: each image needs one of its own."
        )


def in_range(images: Any, what: str = "Images") -> Any:
    """Returns images in [0, 1], of which values within 1e-6 of it are clipped.

    Raises:
        ValueError: `what` they are leaves [0, 1] further, or holds NaN.
    """
    values = np.asarray(images)  # XLA's own minimum passes over NaN on CPU
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:  # NaN compares false
        return images
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return images.clip(0, 1)
    if np.isnan(low):
        mend = f"number {np.isnan(values).reshape(len(values), -1).any(1).argmax()} holds NaN"
    elif low >= 0 and 2 < high <= 255:
        mend = "divide them by 255"
    else:
        mend = "clip them, or undo what standardized them"
    raise ValueError(f"{what} must lie in [0, 1], these in [{low:.7g}, {high:.7g}]: {mend}.")


def _check_classes(labels: Array | np.ndarray, num_classes: int) -> None:
    if is_traced(labels):
        return
    low, high = int(np.asarray(labels).min()), int(np.asarray(labels).max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"Labels lie in {low}..{high}, but the classifier has {num_classes} classes."
        )


def _is_floating(values: Any) -> bool:
    return jnp.issubdtype(values.dtype, jnp.floating)
