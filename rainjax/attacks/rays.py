"""RayS: the nearest boundary among directions of signs, block by block (Chen and Gu, 2020)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks.labels import Bisection, LabelAttack
from rainjax.typing import Image, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ray:
    """The best direction so far, and the one that is tried in its place.

    The boundary lies at `radius` along `signs`, with `found`; `tried` differs from it in block
    `block` of the `2**level` there are. With `searching` its radius is bisected. Outside of `vmap`
    it holds a batch.
    """

    signs: Float[Array, "*n h w c"]
    radius: Float[Array, "*n"]
    found: Bool[Array, "*n"]
    tried: Float[Array, "*n h w c"]
    level: Int[Array, "*n"]
    block: Int[Array, "*n"]
    searching: Bool[Array, "*n"]
    way: Bisection


@dataclasses.dataclass(frozen=True, kw_only=True)
class RayS(LabelAttack):
    """Turns the signs of one block of values after the other, and keeps what comes nearer.

    A direction is a sign for every value, and its radius the L-inf distance at which the boundary
    lies along it. All values are one block at first, then two, four and so on, in the order of
    the authors' images, channel after channel; the signs of a block are turned, one query tells
    whether that is a success at the radius so far, and only if so its own radius is bisected, up
    to a `tolerance` in L2 along the ray (Chen and Gu, 2020, algorithms 2 and 3). Until a direction
    is a success at all, corners of the cube are tried. No start is needed, and nothing is random.
    """

    norm: Literal["linf"] = "linf"
    tolerance: float = 1e-3

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.tolerance < float("inf"):
            raise ValueError(f"tolerance={self.tolerance} must be finite and positive.")

    @property
    def needs_start(self) -> bool:
        """Rays begin at the image itself."""
        return False

    def begin(self, origin: Image, point: Image) -> Ray:
        """Returns the search at its first direction, with all signs turned."""
        del point
        ones, one, zero = jnp.ones_like(origin), jnp.ones((), origin.dtype), jnp.array(0)
        no = jnp.array(False)
        # Every direction ends in a corner of the cube at a radius of 1.
        way = Bisection(0 * one, one)
        return Ray(ones, one, no, _turned(ones, zero, zero), zero, zero, no, way)

    def move(
        self,
        origin: Image,
        search: Ray,
        asked: Image,
        success: Bool[Array, ""],
        share: Float[Array, ""],
    ) -> Ray:
        """Returns the search after the verdict on one point."""
        del asked, share
        way = search.way.after(success)
        tolerance = self.tolerance / np.sqrt(origin.size)
        ends = search.searching & way.within(tolerance)
        better = ends & ((way.holds < search.radius) | ~search.found)
        signs = jnp.where(better, search.tried, search.signs)
        radius = jnp.where(better, way.holds, search.radius)

        passes = ends | (~search.searching & ~success)  # to the next direction
        level, block = _after(search.level, search.block, origin.size)
        level = jnp.where(passes, level, search.level)
        block = jnp.where(passes, block, search.block)
        whole = Bisection(jnp.zeros_like(radius), radius)
        halves = search.searching & ~ends
        return Ray(
            signs=signs,
            radius=radius,
            found=search.found | better,
            tried=jnp.where(passes, _turned(signs, level, block), search.tried),
            level=level,
            block=block,
            searching=halves | (~search.searching & success),
            way=jax.tree.map(lambda a, b: jnp.where(halves, a, b), way, whole),
        )

    def pose(self, key: PRNGKey, origin: Image, search: Ray) -> tuple[Ray, Image]:
        """Returns the search, and the point at the radius so far, or halfway in a bisection."""
        del key
        at = jnp.where(search.searching, search.way.middle, search.radius)
        return search, jnp.clip(origin + at * search.tried, 0.0, 1.0)


def _sizes(size: int) -> Int[np.ndarray, "levels"]:
    """Returns how many values a block has at every level: in the last ones a single one."""
    return -(-size // 2 ** np.arange(size.bit_length() + 1))


def _turned(signs: Image, level: Int[Array, ""], block: Int[Array, ""]) -> Image:
    """Returns the signs with those of one block turned."""
    height, width, channels = signs.shape
    place = np.arange(signs.size).reshape(channels, height, width).transpose(1, 2, 0)
    of_block = jnp.asarray(place) // jnp.asarray(_sizes(signs.size))[level] == block
    return jnp.where(of_block, -signs, signs)


def _after(
    level: Int[Array, ""], block: Int[Array, ""], size: int
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Returns the next block, after the last one of a level the first of the next level."""
    sizes = _sizes(size)
    last = (block + 1) * jnp.asarray(sizes)[level] >= size
    return (
        jnp.where(last, jnp.minimum(level + 1, len(sizes) - 1), level),
        jnp.where(last, 0, block + 1),
    )
