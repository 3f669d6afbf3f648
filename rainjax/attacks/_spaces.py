"""Smaller images that a change may be made of, which grow in the course of an attack."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rainjax.typing import Image, PRNGKey

_REGIONS = 8  # along each side, for importance sampling
_NEVER = 1e-30  # the probability of what is chosen only where nothing else is left

Change = Float[Array, "a b c"]


@dataclasses.dataclass(frozen=True)
class AttackSpace:
    """The spaces of a change, one after the other: see `ZOO.attack_sizes`.

    Without sizes there is one, the image's own. Shapes must be static, so a change has the shape
    of the largest, and a smaller one lies in its upper left corner. A *stage* is the number of a
    space.
    """

    sizes: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        sizes = self.sizes
        if any(len(pair) != 2 for pair in sizes):
            raise ValueError(f"attack_sizes={sizes} must be pairs of a step and a size.")
        grows = all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(sizes))
        if sizes and (sizes[0][0] != 0 or sizes[0][1] < 1 or not grows):
            raise ValueError(
                f"attack_sizes={sizes} must begin with step 0, and steps and sizes must grow: "
                "((0, 32), (2000, 64)), for instance."
            )

    def shape(self, image: Image) -> tuple[int, int, int]:
        """Returns the shape of a change.

        Raises:
            ValueError: the image is smaller than a space.
        """
        height, width, channels = image.shape
        if not self.sizes:
            return height, width, channels
        largest = self.sizes[-1][1]
        if largest > min(height, width):
            raise ValueError(
                f"attack_sizes={self.sizes} are to be smaller than the image, which is {height} x "
                f"{width}."
            )
        return largest, largest, channels

    def least(self, image: Image) -> int:
        """Returns how many coordinates the smallest space has."""
        if not self.sizes:
            return image.size
        return self.sizes[0][1] ** 2 * image.shape[2]

    def stage(self, step: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the stage of a step."""
        firsts = jnp.array([first for first, _ in self.sizes] or [0])
        return jnp.sum(step >= firsts) - 1

    def to_image(self, change: Change, stage: Int[Array, ""], like: Image) -> Image:
        """Returns the change of the image itself."""
        if not self.sizes:
            return change
        down, across = (
            np.stack([_padded(_resizing(size, side), side, len(change)) for _, size in self.sizes])
            for side in like.shape[:2]
        )
        down, across = (jnp.asarray(m, like.dtype)[stage] for m in (down, across))
        return jnp.einsum("ia,abc,jb->ijc", down, change, across)

    def grown(self, change: Change, stage: Int[Array, ""]) -> Change:
        """Returns a change of the stage before `stage`, which is not the first, in its space."""
        sides = [size for _, size in self.sizes]
        steps = [
            _padded(_resizing(small, large), len(change), len(change))
            for small, large in itertools.pairwise(sides)
        ]
        matrix = jnp.asarray(np.stack(steps), change.dtype)[stage - 1]
        return jnp.einsum("ia,abc,jb->ijc", matrix, change, matrix)

    def choose(
        self, key: PRNGKey, num: int, change: Change, stage: Int[Array, ""], *, importance: bool
    ) -> Int[Array, "num"]:
        """Returns the numbers of `num` coordinates, chosen without replacement.

        They are equally likely, or with `importance` where the space has grown, as likely as
        their region's largest change is large: one of eight by eight, for each channel.
        """
        logits = jnp.zeros(change.shape, change.dtype)
        if self.sizes:
            sides = jnp.array([size for _, size in self.sizes])[stage]
            if importance:
                sizes = _regional_maximum(jnp.abs(change), sides)
                weighty = (stage > 0) & (jnp.sum(sizes) > 0)
                logits = jnp.where(weighty, jnp.log(sizes + _NEVER), logits)
            place = jnp.arange(len(change))
            inside = (place[:, None] < sides) & (place[None, :] < sides)
            logits = jnp.where(inside[..., None], logits, -jnp.inf)
        # The largest of perturbed logarithms are a choice without replacement.
        perturbed = logits + jax.random.gumbel(key, change.shape, change.dtype)
        return jax.lax.top_k(perturbed.ravel(), num)[1]


def _regional_maximum(sizes: Change, side: Int[Array, ""]) -> Change:
    """Returns for each value the largest one of its region."""
    region = jnp.arange(len(sizes)) // jnp.maximum(side // _REGIONS, 1)
    for axis in (0, 1):
        lines = jnp.moveaxis(sizes, axis, 0)
        lines = jax.ops.segment_max(lines, region, num_segments=len(lines))[region]
        sizes = jnp.moveaxis(lines, 0, axis)
    return sizes


def _resizing(small: int, large: int) -> Float[np.ndarray, "large small"]:
    """Returns the matrix of a bilinear interpolation along one axis, constant past the ends."""
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    below = np.minimum(np.floor(at).astype(int), max(small - 2, 0))
    matrix = np.zeros((large, small))
    rows, above = np.arange(large), np.minimum(below + 1, small - 1)
    np.add.at(matrix, (rows, below), 1 - (at - below))
    np.add.at(matrix, (rows, above), at - below)
    return matrix


def _padded(matrix: np.ndarray, rows: int, columns: int) -> Float[np.ndarray, "{rows} {columns}"]:
    return np.pad(matrix, [(0, rows - matrix.shape[0]), (0, columns - matrix.shape[1])])
