"""The perturbations a threat model allows: random points, projections, steepest directions.

Each function takes one perturbation or gradient, shaped like the image.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rainjax._checks import as_plain, check_option
from rainjax.typing import Image, PRNGKey

Norm = Literal["linf", "l2", "l1"]
_TINY = 1e-12  # keeps 0 / 0 from being NaN
_L1_SHARE = 0.01  # of the values move in an L1 step (SLIDE: Tramer and Boneh, 2019)


def check(norm: str, radius: float) -> None:
    """Refuses an unknown norm and a radius that is negative or not finite; for L-inf, above 1.

    Every image is within 1 of every other in L-inf, however large; in L2 and L1 that depends on
    its size.

    Raises:
        ValueError: with the offending value.
    """
    check_option("norm", norm, Norm)
    check_size("radius", radius, norm)


def check_size(name: str, size: float, norm: str, *, positive: bool = False) -> None:
    """Refuses a radius or a step that is negative, not finite, or in L-inf wider than [0, 1].

    With `positive` zero is refused too: an attack that does not move makes any defense look
    strong.

    Raises:
        ValueError: with its `name` and, where it looks like grey levels, what they are here.
    """
    size = as_plain(name, size)
    if not 0 <= size < float("inf") or (positive and size == 0):
        wanted = "positive, for the attack to move" if positive else "not negative"
        raise ValueError(f"{name}={size} must be finite and {wanted}.")
    if norm == "linf" and size > 1:
        raise ValueError(
            f"{name}={size} must lie in [0, 1], as images do: {size:g}/255 is {size / 255:.4g}."
        )


def length(delta: Image, norm: Norm) -> Float[Array, ""]:
    """Returns the norm of a perturbation."""
    if norm == "linf":
        return jnp.max(jnp.abs(delta))
    return jnp.linalg.norm(delta) if norm == "l2" else jnp.sum(jnp.abs(delta))


def random_point(key: PRNGKey, like: Image, norm: Norm, radius: float) -> Image:
    """Returns a perturbation drawn uniformly from the ball."""
    if norm == "linf":
        return jax.random.uniform(key, like.shape, like.dtype, -radius, radius)
    direction_key, length_key = jax.random.split(key)
    reach = radius * jax.random.uniform(length_key) ** (1 / like.size)
    if norm == "l2":
        return reach * steepest(jax.random.normal(direction_key, like.shape, like.dtype), "l2")
    # Laplace numbers over their sum lie uniformly on the sphere of L1.
    direction = jax.random.laplace(direction_key, like.shape, like.dtype)
    return reach * direction / jnp.maximum(length(direction, "l1"), _TINY)


def project(delta: Image, norm: Norm, radius: float) -> Image:
    """Returns the point of the ball nearest to `delta`."""
    if norm == "linf":
        return jnp.clip(delta, -radius, radius)
    if norm == "l2":
        return delta * jnp.minimum(1.0, radius / jnp.maximum(jnp.linalg.norm(delta), _TINY))
    # All values shrink by one threshold, to zero at most (Duchi et al., 2008).
    sizes = jnp.sort(jnp.abs(delta).ravel())[::-1]
    thresholds = (jnp.cumsum(sizes) - radius) / jnp.arange(1, delta.size + 1)
    threshold = jnp.max(thresholds)  # the largest is that of the values that stay
    shrunk = jnp.sign(delta) * jnp.maximum(jnp.abs(delta) - jnp.maximum(threshold, 0.0), 0.0)
    return shrunk


def into_box(origin: Image, image: Image, norm: Norm, radius: float) -> Image:
    """Returns a point near `image` in the ball around `origin` and in [0, 1]."""
    # Clipping to [0, 1] only moves a point closer to the origin, which lies there too.
    return jnp.clip(origin + project(image - origin, norm, radius), 0.0, 1.0)


def steepest(gradient: Image, norm: Norm) -> Image:
    """Returns the unit step that raises a linear function; zero for a zero gradient.

    It is the steepest one for L-inf and L2. For L1, where that would move a single value, the
    hundredth part of the values with the largest gradients move equally far.
    """
    if norm == "linf":
        return jnp.sign(gradient)
    if norm == "l2":
        # A saturated loss has gradients whose squares are no float32 any more.
        tiny = jnp.finfo(gradient.dtype).tiny
        gradient = gradient / jnp.maximum(jnp.max(jnp.abs(gradient)), tiny)
        return gradient / jnp.maximum(jnp.linalg.norm(gradient), _TINY)
    sizes = jnp.abs(gradient)
    least = jax.lax.top_k(sizes.ravel(), max(1, round(_L1_SHARE * gradient.size)))[0][-1]
    chosen = jnp.where(sizes >= least, jnp.sign(gradient), 0.0)
    return chosen / jnp.maximum(length(chosen, "l1"), _TINY)


def stuck(image: Image, direction: Image) -> Bool[Array, "h w c"]:
    """Returns where a move along `direction` would only leave [0, 1]."""
    return ((image >= 1) & (direction > 0)) | ((image <= 0) & (direction < 0))


def check_block(image: Image, block: int) -> None:
    """Refuses an image that has no whole number of `block` x `block` cells.

    Raises:
        ValueError: with its size.
    """
    height, width, _ = image.shape
    if height % block or width % block:
        raise ValueError(f"{block=} does not divide an image of {height} x {width} into cells.")


def blockwise(values: Image, block: int) -> Image:
    """Returns the image with every `block` x `block` cell replaced by its mean."""
    if block == 1:
        return values
    height, width, channels = values.shape
    shape = (height // block, block, width // block, block, channels)
    mean = jnp.mean(values.reshape(shape), axis=(1, 3), keepdims=True)
    return jnp.broadcast_to(mean, shape).reshape(values.shape)
