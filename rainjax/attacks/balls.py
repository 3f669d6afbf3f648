"""The perturbations a threat model allows: random points, projections, steepest directions.

Each function takes one perturbation or gradient, shaped like the image.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from rainjax._types import Image, PRNGKey

Norm = Literal["linf", "l2"]
_TINY = 1e-12  # keeps 0 / 0 from being NaN; far below any gradient of a float32 network


def check(norm: str, radius: float) -> None:
    """Refuses an unknown norm and a radius that is negative or not finite.

    Raises:
        ValueError: with the offending value.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"{norm=} is neither 'linf' nor 'l2'.")
    if not 0 <= radius < float("inf"):
        raise ValueError(f"{radius=} must be finite and not negative.")


def random_point(key: PRNGKey, like: Image, norm: Norm, radius: float) -> Image:
    """Returns a perturbation drawn uniformly from the ball."""
    if norm == "linf":
        return jax.random.uniform(key, like.shape, like.dtype, -radius, radius)
    direction_key, length_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, like.shape, like.dtype)
    length = jax.random.uniform(length_key) ** (1 / like.size)
    return radius * length * steepest(direction, "l2")


def project(delta: Image, norm: Norm, radius: float) -> Image:
    """Returns the point of the ball nearest to `delta`."""
    if norm == "linf":
        return jnp.clip(delta, -radius, radius)
    return delta * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(delta), _TINY))


def steepest(gradient: Image, norm: Norm) -> Image:
    """Returns the unit step that raises a linear function most; zero for a zero gradient."""
    if norm == "linf":
        return jnp.sign(gradient)
    return gradient / jnp.maximum(jnp.linalg.norm(gradient), _TINY)
