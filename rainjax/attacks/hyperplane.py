"""The shortest step onto a hyperplane for a point that must stay in [0, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax.attacks import balls
from rainjax.typing import Image


def step_onto(point: Image, normal: Image, rise: Float[Array, ""], norm: balls.Norm) -> Image:
    """Returns the shortest step in `norm` by which `sum(normal * point)` grows by `rise`.

    The point stays in [0, 1]. Where it can reach no such hyperplane there, the step leads to
    the corner that comes nearest. A zero `normal` gives a zero step.

    Raises:
        ValueError: the norm is L1.
    """
    if norm == "l1":
        raise ValueError("norm='l1' has no projection here: 'linf' and 'l2' have.")
    scale = jnp.maximum(jnp.max(jnp.abs(normal)), jnp.finfo(normal.dtype).tiny)
    weight, need = jnp.abs(normal) / scale, jnp.abs(rise) / scale
    way = jnp.sign(normal) * jnp.sign(rise)
    room = jnp.where(way > 0, 1.0 - point, point)
    # In L-inf all values move equally far, in L2 in proportion to their weight, until each
    # reaches its border: the rise is concave and piecewise linear in the time they move.
    speed = jnp.sign(weight) if norm == "linf" else weight
    time = _time(weight.ravel(), speed.ravel(), room.ravel(), need)
    return way * jnp.minimum(time * speed, room)


def speeds(slopes: Float[Array, "k h w c"], norm: balls.Norm) -> Float[Array, "k"]:
    """Returns how fast each function grows along its steepest step of norm one: the dual norm.

    Exact for slopes of any size, whose squares may be beyond what a float holds.
    """
    flat = slopes.reshape(len(slopes), -1)
    scale = jnp.maximum(jnp.max(jnp.abs(flat), axis=1), jnp.finfo(flat.dtype).tiny)
    order = {"linf": 1, "l2": 2, "l1": jnp.inf}[norm]
    return scale * jnp.linalg.norm(flat / scale[:, None], ord=order, axis=1)


def _time(
    weight: Float[Array, "n"], speed: Float[Array, "n"], room: Float[Array, "n"],
    need: Float[Array, ""],
) -> Float[Array, ""]:  # fmt: skip
    """Returns the first time at which `sum(weight * min(time * speed, room))` is `need`."""
    arrival = jnp.where(speed > 0, room / jnp.where(speed > 0, speed, 1.0), 0.0)
    order = jnp.argsort(arrival)
    gain, slope = (weight * room)[order], (weight * speed)[order]
    # Line k lets the first k values be at their borders and the others move: the rise is the
    # lowest of these lines, so the time is the latest at which one of them meets the need.
    stopped = jnp.cumsum(gain) - gain
    moving = jnp.cumsum(slope[::-1])[::-1]
    meets = jnp.where(moving > 0, (need - stopped) / jnp.where(moving > 0, moving, 1.0), 0.0)
    return jnp.clip(jnp.max(meets), 0.0, jnp.max(arrival))
