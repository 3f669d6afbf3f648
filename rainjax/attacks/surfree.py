"""SurFree: arcs in random planes, without an estimate of the boundary (Maho et al., 2021)."""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import balls
from rainjax.attacks.labels import Bisection, LabelAttack
from rainjax.typing import Image, PRNGKey

SIGNS, EXTENDS, HALVES = range(3)  # what a question is for
_MOST_DEGREES = 90.0  # there the arc is back at the image


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arc:
    """Where the search stands in the plane of the iterate and of `across`, in degrees.

    `earlier` are the latest directions, the oldest of them replaced by the next; `number` is that
    of the angle that is tried, or of the halvings so far. The success of the arc is `held`, as far
    as there is one. Outside of `vmap` it holds a batch.
    """

    part: Int[Array, "*n"]
    image: Float[Array, "*n h w c"]
    across: Float[Array, "*n h w c"]
    earlier: Float[Array, "*n k h w c"]
    directions: Int[Array, "*n"]
    widest: Float[Array, "*n"]
    number: Int[Array, "*n"]
    sign: Float[Array, "*n"]
    way: Bisection
    held: Float[Array, "*n h w c"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurFree(LabelAttack):
    """Moves along an arc towards the image in a random plane, as far as it is a success.

    The arc begins at the iterate, in a direction orthogonal to the way to the image and to the
    `num_orthogonal` directions before it; at an angle of theta the distance to the image is
    cos(theta) of what it was. Angles of both signs are tried, from the widest to one of
    `num_angles` parts of it; from the first success on the angle is extended until it fails, and
    bisected, until 1 - cos(theta) is known to `tolerance` or after ten halvings. Where none is a
    success the widest angle shrinks by `shrinkage`, and grows by it where one is (Maho et al.,
    2021, section 3, with the numbers of the authors' code). Their bisection looks at the other
    sign now and then as well; this one does not.

    Directions are random in the frequencies of a DCT of the whole image, -1, 0 or 1 each in the
    lowest `frequency_share` of them, as in their code with `dct_type="full"` and
    `function="constant"`; or, with `basis="pixels"`, Gaussian noise.
    """

    norm: Literal["l2"] = "l2"
    widest_degrees: float = 30.0
    num_angles: int = 3
    shrinkage: float = 0.98
    num_orthogonal: int = 100
    tolerance: float = 0.01
    basis: Literal["dct", "pixels"] = "dct"
    frequency_share: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.widest_degrees < _MOST_DEGREES:
            raise ValueError(
                f"widest_degrees={self.widest_degrees} must lie in (0, 90): at 90 degrees an arc "
                "is back at the image."
            )
        for name in ("shrinkage", "frequency_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in (0, 1].")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance={self.tolerance} must lie in (0, 1).")
        if self.num_angles < 1 or self.num_orthogonal < 1:
            raise ValueError(
                f"num_angles={self.num_angles} and num_orthogonal={self.num_orthogonal} must be "
                "at least 1."
            )

    def begin(self, origin: Image, point: Image) -> Arc:
        """Returns the search before its first plane."""
        zero, one = jnp.array(0), jnp.ones((), origin.dtype)
        earlier = jnp.zeros((self.num_orthogonal, *origin.shape), origin.dtype)
        return Arc(
            part=zero + SIGNS,
            image=point,
            across=point,
            earlier=earlier,
            directions=zero,
            widest=one * self.widest_degrees,
            number=zero,
            sign=one,
            way=Bisection(one, one),
            held=point,
        )

    def move(
        self,
        origin: Image,
        search: Arc,
        asked: Image,
        success: Bool[Array, ""],
        share: Float[Array, ""],
    ) -> Arc:
        """Returns the search after the verdict on one point."""
        del share
        part, number = search.part, search.number
        tries, extends, halves = part == SIGNS, part == EXTENDS, part == HALVES
        part_of = search.widest / self.num_angles
        angle = self._angle(search)

        lost = tries & ~success & (number + 1 >= 2 * self.num_angles)
        found = tries & success
        begins = found & (number < 2)  # at the widest angle there may be wider ones
        # A narrower one failed one part further, and so it is with one that was extended.
        further = jnp.minimum(jnp.where(extends & ~success, angle, angle + part_of), _MOST_DEGREES)
        ways = [
            (halves, search.way.after(success)),
            (found, Bisection(further, angle)),
            (extends & success, Bisection(further, angle)),
            (extends & ~success, Bisection(angle, search.way.holds)),
        ]
        way = search.way
        for there, other in ways:
            way = jax.tree.map(lambda a, b, there=there: jnp.where(there, a, b), other, way)
        edge = way.fails >= _MOST_DEGREES  # not asked about: the image itself
        extended = (begins | (extends & success)) & ~edge
        bisects = (found & ~begins) | (extends & ~success) | ((begins | extends) & edge) | halves
        halvings = jnp.where(halves, number + 1, 0)
        close = jnp.abs(_cos(way.fails) - _cos(way.holds)) <= self.tolerance
        ends = bisects & (close | (halvings >= 10))
        bisects &= ~ends

        held = jnp.where(success, asked, search.held)
        size = lambda image: balls.length(image - origin, "l2")
        nearer = ends & (size(held) < size(search.image))
        widest = jnp.where(lost, search.widest * self.shrinkage, search.widest)
        widest = jnp.where(found, jnp.minimum(widest / self.shrinkage, _MOST_DEGREES), widest)
        image, turns = jnp.where(nearer, held, search.image), ends | lost
        return dataclasses.replace(
            search,
            part=jnp.where(extended, EXTENDS, jnp.where(bisects, HALVES, SIGNS)),
            image=image,
            widest=widest,
            number=jnp.where(bisects, halvings, jnp.where(extended | turns, 0, number + 1)),
            sign=jnp.where(tries, self._sign(number), search.sign),
            way=way,
            held=jnp.where(turns, image, held),
        )

    def pose(self, key: PRNGKey, origin: Image, search: Arc) -> tuple[Arc, Image]:
        """Returns the search, in another plane where it begins one, and a point of its arc."""
        arc = self._turned(key, origin, search, (search.part == SIGNS) & (search.number == 0))
        angle = self._angle(arc)
        sign = jnp.where(arc.part == SIGNS, self._sign(arc.number), arc.sign)
        outward = arc.image - origin
        distance = balls.length(outward, "l2")
        turned = _cos(angle) * outward + sign * distance * _sin(angle) * arc.across
        return arc, jnp.clip(origin + _cos(angle) * turned, 0.0, 1.0)

    def _sign(self, number: Int[Array, ""]) -> Float[Array, ""]:
        return 1.0 - 2.0 * (number % 2)

    def _angle(self, arc: Arc) -> Float[Array, ""]:
        """Returns the angle that is asked about, without its sign."""
        share = 1 - (arc.number // 2) / self.num_angles
        halfway = jnp.where(arc.part == EXTENDS, arc.way.fails, arc.way.middle)
        return jnp.where(arc.part == SIGNS, share * arc.widest, halfway)

    def _turned(self, key: PRNGKey, origin: Image, arc: Arc, turns: Bool[Array, ""]) -> Arc:
        """Returns the search in another random plane, where it `turns`."""
        noise = self._random(key, origin)
        weights = jnp.einsum("khwc,hwc->k", arc.earlier, noise)
        noise -= jnp.einsum("k,khwc->hwc", weights, arc.earlier)
        outward = balls.steepest(arc.image - origin, "l2")
        noise -= jnp.sum(noise * outward) * outward
        across = jnp.where(turns, balls.steepest(noise, "l2"), arc.across)
        place = (arc.directions - ~turns) % self.num_orthogonal
        return dataclasses.replace(
            arc,
            across=across,
            earlier=arc.earlier.at[place].set(across),
            directions=arc.directions + turns,
        )

    def _random(self, key: PRNGKey, like: Image) -> Image:
        if self.basis == "pixels":
            return jax.random.normal(key, like.shape, like.dtype)
        height, width, _ = like.shape
        drawn = jnp.floor(jax.random.uniform(key, like.shape, like.dtype, -1.0, 2.0))
        drawn = jnp.minimum(drawn, 1.0)
        low = _lowest(height, width, self.frequency_share).astype(like.dtype)
        rows, columns = _dct(height).astype(like.dtype), _dct(width).astype(like.dtype)
        return jnp.einsum("uh,vw,uvc->hwc", rows, columns, drawn * low[..., None])


def _cos(degrees: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.cos(degrees * (math.pi / 180))


def _sin(degrees: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.sin(degrees * (math.pi / 180))


@functools.cache
def _dct(size: int) -> Float[np.ndarray, "n n"]:
    """Returns the orthonormal DCT-II of `size` values: row `k` is the cosine of frequency `k`."""
    n, k = np.arange(size), np.arange(size)[:, None]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (2 * n + 1) * k / (2 * size))
    matrix[0] = np.sqrt(1 / size)
    return matrix


@functools.cache
def _lowest(height: int, width: int, share: float) -> Bool[np.ndarray, "h w"]:
    """Returns which frequencies are among the lowest: by diagonals, each from its side in turn."""
    rows, columns = np.indices((height, width))
    diagonal = rows + columns
    along = np.where(diagonal % 2, rows, columns)
    order = np.lexsort((along.ravel(), diagonal.ravel()))
    mask = np.zeros(height * width, bool)
    mask[order[: max(1, int(share * height * width))]] = True
    return mask.reshape(height, width)
