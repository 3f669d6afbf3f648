"""What detectors that learn from clean images share: their features, and a Gaussian of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._arrays import as_array
from rainjax.devices import padded
from rainjax.nets import Features, Network
from rainjax.typing import Params

_BATCH = 64

# The least variance that a number counts with, as a share of the mean one: one that no clean image
# moves, such as a dead feature, would make any other image infinitely far.
_LEAST = 1e-6


def rows_of(
    owner: str, least: int, function: Callable, params: Params, images: Any
) -> Float[np.ndarray, "n d"]:
    """Returns `function(params, image)`, a row of numbers, for each of the images of a fit.

    Raises:
        ValueError: they are no images of floats, fewer than `least`, or a row is not finite.
    """
    images = as_array("images", images)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"{owner}.fit takes images `n h w c` of floats in [0, 1], got {images.dtype} of shape "
            f"{images.shape}: divide integers by 255."
        )
    if len(images) < least:
        raise ValueError(
            f"{owner}.fit takes at least {least} clean images, got {len(images)}: give more."
        )
    size, found = min(_BATCH, len(images)), []
    for start in range(0, len(images), size):
        rows = np.arange(start, min(start + size, len(images)))
        batch = jnp.asarray(np.asarray(images)[padded(rows, size)], jnp.float32)
        found.append(np.asarray(_rows(function, params, batch))[: len(rows)])
    values = np.concatenate(found)
    if not np.isfinite(values).all():
        first = int((~np.isfinite(values)).any(1).argmax())
        raise ValueError(
            f"{owner}.fit: image {first} has features that are not finite: look for NaN in it, or "
            "in the network's parameters."
        )
    return values


@functools.partial(jax.jit, static_argnums=0)
def _rows(function: Callable, params: Params, images):
    return jax.vmap(function, (None, 0))(params, images)


def whitening(centred: Float[np.ndarray, "n d"], shrinkage: float) -> Float[Array, "d d"]:
    """Returns W for which `|W x|**2` is the squared Mahalanobis distance of `x` from 0.

    The covariance is `(1 - shrinkage) * C + shrinkage * diag(C)`, with C the mean of the rows'
    outer products: with fewer rows than columns that is invertible as well. Variances count with
    at least a millionth of their mean.
    """
    rows = centred.astype(np.float64)
    covariance = rows.T @ rows / len(rows)
    variances = np.diag(covariance)
    floor = _LEAST * variances.mean() or 1.0
    deviations = np.sqrt(np.maximum(variances, floor))
    # Of correlations, because a Cholesky factor of variances far apart would lose the small ones.
    correlations = (1 - shrinkage) * covariance / np.outer(deviations, deviations)
    np.fill_diagonal(correlations, 1.0)
    factor = np.linalg.cholesky(correlations)
    inverse = np.linalg.solve(factor, np.diag(1 / deviations))
    return jnp.asarray(inverse, jnp.float32)


def whitened(matrix: Float[Array, "d d"], values: Float[Array, "d"]) -> Float[Array, "d"]:
    """Returns the product, in full precision on every device."""
    return jnp.matmul(matrix, values, precision="highest")


def check_shrinkage(shrinkage: float) -> None:
    """Raises ValueError unless it makes every covariance invertible."""
    if not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage={shrinkage} must lie in (0, 1]: 0.1 is usual.")


def num_features(network: Network, given: int | None) -> int:
    """Returns the number of a network's features, asked from it unless it is given."""
    return Features(network).num_features if given is None else given


def check_num_features(owner: str, values: Float[np.ndarray, "n d"], expected: int) -> None:
    """Raises ValueError where the network has another number of features."""
    if values.shape[1] != expected:
        raise ValueError(
            f"{owner} has num_features={expected}, and its network {values.shape[1]} features: "
            f"give num_features={values.shape[1]}."
        )
