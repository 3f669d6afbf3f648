"""Image quilting: an image put together anew from patches of other images.

Efros and Freeman, SIGGRAPH 2001, for the seams; Guo et al., ICLR 2018 (arXiv 1711.00117), for
the defense.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from rainjax._checks import as_plain, check_image
from rainjax.defenses._base import Stratified
from rainjax.defenses.low_pass import LowPass
from rainjax.keys import choices, split_stratum
from rainjax.typing import Image, Params, PRNGKey, Stratum

Gradient = Literal["true", "straight_through"]

# Blocks of scores that stay in a core's cache, and are reduced before they leave it.
_POSITIONS = 256
_BLOCK = 2048
_GROUP = 16


@dataclasses.dataclass(frozen=True)
class Quilting(Stratified):
    """Replaces every patch of the image by one like it, and joins them where it shows least.

    1. Patches of `patch_size` lie on a grid and overlap by `overlap`; sides that the grid does
       not fill are padded with their edge, and cropped back.
    2. For each, the `num_neighbours` patches of the bank that are nearest in pixels are found,
       and one of them is picked, all equally likely.
    3. In raster order, each is joined to what lies there already along the minimum-error
       boundary cuts (Efros and Freeman, section 2.1) through its overlaps, left and above.

    Parameters are the bank, `[num_patches, patch_size, patch_size, c]` in [0, 1], which
    `patch_bank` cuts from images that must be none of those to be defended. The defaults are
    those of Guo et al., who take a million patches; the overlap is that of their code, which
    searches by approximation, cuts by maximum flow, and leaves black what its grid does not
    fill. Here the search is exact, to rounding in float32. `num_neighbours` draws that are
    stratified take each neighbour once in every place.

    What comes out is made of the bank, so the true gradient in the image is zero, which stops
    nobody: attack `dataclasses.replace(defense, gradient="straight_through")`, whose gradient is
    that of `BPDA(defense, Identity())`, over many draws. Gradients in the bank are those of the
    patches that were taken. A NaN in the image stays NaN.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    patch_size: int = 5
    overlap: int = 2
    num_neighbours: int = 10
    gradient: Gradient = "true"

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.overlap <= self.patch_size // 2:
            raise ValueError(
                f"overlap={self.overlap} must lie in 1..{self.patch_size // 2}, at most half of "
                f"patch_size={self.patch_size}."
            )
        if self.num_neighbours < 1:
            raise ValueError(f"num_neighbours={self.num_neighbours} must be at least 1.")

    def init(self, key: PRNGKey) -> Params:
        """Refuses: a bank is cut from images.

        Raises:
            ValueError: always.
        """
        raise ValueError("Quilting draws no parameters: give it a bank that patch_bank cut.")

    @property
    def is_random(self) -> bool:
        """False with a single neighbour."""
        return self.num_neighbours > 1

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the image made of the bank's patches.

        Raises:
            ValueError: the bank's patches have another shape, are no floats, or are fewer than
                the neighbours.
        """
        return self._apply(params, jax.random.split(key, 1)[0], image)

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns such an image; every patch's neighbours are taken in turn. Raises as `apply`."""
        return self._apply(params, split_stratum(stratum, 1)[0], image)

    def smooth(self) -> LowPass:
        """Returns a coarse low-pass: what is kept of an image, for no pixel moves a patch."""
        return LowPass(4)

    def _apply(self, params: Params, draw: PRNGKey | Stratum, image: Image) -> Image:
        check_image(image, type(self).__name__)
        bank = self._checked(params, image.shape[-1])
        own = _patches(jax.lax.stop_gradient(image), self.patch_size, self.overlap)
        rows, cols = own.shape[:2]
        flat = lambda patches: patches.reshape(-1, self.patch_size**2 * image.shape[-1])
        near = _nearest(jax.lax.stop_gradient(flat(bank)), flat(own), self.num_neighbours)
        pick = choices(draw, (rows * cols, 1), self.num_neighbours)
        taken = jnp.take_along_axis(near, pick.astype(near.dtype), axis=1, mode="clip")
        whole = _quilted(bank[taken.reshape(rows, cols)], self.overlap)
        # Zero, but for NaN.
        through = image - jax.lax.stop_gradient(image)
        if self.gradient == "true":
            through = jax.lax.stop_gradient(through)
        return whole[: image.shape[0], : image.shape[1]] + through

    def _checked(self, params: Params, channels: int) -> Float[Array, "n p p c"]:
        wanted = self.patch_size, self.patch_size, channels
        shape = getattr(params, "shape", (0,))
        if shape[1:] != wanted:
            raise ValueError(
                f"Parameters of shape {shape} are no patches of {wanted}: patch_bank cuts them."
            )
        if not jnp.issubdtype(params.dtype, jnp.floating):
            raise ValueError(
                f"The bank holds {params.dtype}, not floats in [0, 1]: use patch_bank."
            )
        if shape[0] < self.num_neighbours:
            raise ValueError(
                f"num_neighbours={self.num_neighbours} is more than a bank of {shape[0]} has."
            )
        return jnp.asarray(params)


def patch_bank(
    key: PRNGKey,
    images: UInt8[Array | np.ndarray, "n h w c"],
    num_patches: int,
    patch_size: int = 5,
) -> Float[Array, "num_patches patch_size patch_size c"]:
    """Returns patches in [0, 1], uniform over the images and the places in them, independent.

    Raises:
        ValueError: there are no images, they are smaller than a patch or not of 8 bits, or a
            number is below 1.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"Patches are cut from images in grey levels, uint8, not {images.dtype}.")
    count, height, width, _ = images.shape
    num_patches = as_plain("num_patches", num_patches, int)
    if num_patches < 1 or as_plain("patch_size", patch_size, int) < 1:
        raise ValueError(f"{num_patches=} and {patch_size=} must be at least 1.")
    if count < 1 or min(height, width) < patch_size:
        raise ValueError(f"{patch_size=} fits into none of {count} images of {height}x{width}.")
    ends = count, height - patch_size + 1, width - patch_size + 1
    keys = jax.random.split(key, 3)
    draws = zip(keys, ends, strict=True)
    which, row, col = (jax.random.randint(k, (num_patches, 1, 1), 0, end) for k, end in draws)
    line = jnp.arange(patch_size)
    cut = jnp.asarray(images)[which, row + line[None, :, None], col + line[None, None, :]]
    return cut.astype(jnp.float32) / 255


def _patches(image: Image, size: int, overlap: int) -> Float[Array, "rows cols p p c"]:
    """Returns the patches of a grid that covers the image, padded with its edge."""
    stride = size - overlap
    counts = [1 + max(0, -(-(side - size) // stride)) for side in image.shape[:2]]
    after = [
        (n - 1) * stride + size - side for n, side in zip(counts, image.shape[:2], strict=True)
    ]
    wide = jnp.pad(image, (*((0, extra) for extra in after), (0, 0)), mode="edge")
    rows, cols = (np.arange(n)[:, None] * stride + np.arange(size) for n in counts)
    return wide[rows[:, None, :, None], cols[None, :, None, :]]


def _nearest(
    bank: Float[Array, "n d"], queries: Float[Array, "q d"], num: int
) -> Int[Array, "q num"]:
    """Returns the places in the bank of the `num` nearest to each query, the nearest first.

    The best `num` lie in the `num` groups whose best are best. So of all the scores that products
    of bank and queries give, block by block, only the best of each group is kept; those groups,
    and two more against rounding, are then measured by differences.
    """
    count, width = bank.shape
    positions = min(_POSITIONS, len(queries))
    # Blocks that divide the bank, such as 2000 of a million, save three padded copies of it.
    fits = [size for size in range(_BLOCK, _BLOCK // 2, -_GROUP) if count % size == 0]
    block = fits[0] if fits else min(_BLOCK, -(-count // _GROUP) * _GROUP)
    bank = jnp.pad(bank, ((0, -count % block), (0, 0)))
    outside = jnp.arange(len(bank)) >= count
    # The square of a distance is that of the query, less twice the score. It is the same from
    # any origin, and loses least to rounding from the middle.
    offset = jnp.where(outside, jnp.inf, jnp.sum((bank - 0.5) ** 2, axis=1) / 2)
    blocks = bank.reshape(-1, block, width), offset.reshape(-1, block, 1)
    groups, outside = bank.reshape(-1, _GROUP, width), outside.reshape(-1, _GROUP)

    def find(some):
        columns = some.T - 0.5

        def best_of_groups(_, rows):
            scores = jnp.dot(rows[0], columns, precision="highest") - rows[1]
            return None, scores.reshape(-1, _GROUP, positions).max(axis=1).T

        best = jax.lax.scan(best_of_groups, None, blocks)[1]
        best = best.transpose(1, 0, 2).reshape(positions, -1)
        top = jax.lax.top_k(best, min(num + 2, len(groups)))[1]
        squares = jnp.sum((groups[top] - some[:, None, None]) ** 2, axis=-1)
        squares = jnp.where(outside[top], jnp.inf, squares).reshape(positions, -1)
        near = jax.lax.top_k(-squares, num)[1]
        return jnp.take_along_axis(top, near // _GROUP, axis=1) * _GROUP + near % _GROUP

    chunks = jnp.pad(queries, ((0, -len(queries) % positions), (0, 0)))
    found = jax.lax.map(find, chunks.reshape(-1, positions, width))
    return found.reshape(-1, num)[: len(queries)]


def _quilted(patches: Float[Array, "rows cols p p c"], overlap: int) -> Float[Array, "h w c"]:
    """Returns the picture that the patches make when each is joined to those before it.

    In raster order a patch meets what the one on its left left there, the one above, and the one
    right of that. So row `r` can place its column `t - 2 r` at step `t`, all rows at once.
    """
    rows, cols, size = patches.shape[:3]
    stride = size - overlap
    row = jnp.arange(rows)
    column = jnp.arange(cols + 2 * (rows - 1))[:, None] - 2 * row[None, :]
    turn = patches[row[None, :], jnp.clip(column, 0, cols - 1)]

    def place(placed, now):
        (earlier, last), (patch, column) = placed, now
        flag = lambda which: which[:, None, None, None]
        left = last[:, :, stride:]
        up, up_right = (jnp.roll(blocks, 1, axis=0)[:, stride:] for blocks in (earlier, last))
        above = jnp.concatenate(
            [
                jnp.where(flag(column > 0), left[:, :overlap], up[:, :, :overlap]),
                up[:, :, overlap:stride],
                jnp.where(flag(column < cols - 1), up_right[:, :, :overlap], up[:, :, stride:]),
            ],
            axis=2,
        )
        beside = jnp.concatenate([left[:, overlap:], patch[:, overlap:, overlap:]], axis=2)
        there = jnp.concatenate([above, beside], axis=1)
        error = jnp.sum((there - patch) ** 2, axis=-1)
        keep_left = _before_cut(error[:, :, :overlap]) & (column > 0)[:, None, None]
        keep_above = _before_cut(error[:, :overlap].transpose(0, 2, 1)).transpose(0, 2, 1)
        keep_above = keep_above & (row > 0)[:, None, None]
        keep = jnp.pad(keep_left, ((0, 0), (0, 0), (0, stride)))
        keep = keep | jnp.pad(keep_above, ((0, 0), (0, stride), (0, 0)))
        block = jnp.where(keep[..., None], there, patch)
        return (last, block), block

    nothing = jnp.zeros_like(turn[0])
    blocks = jax.lax.scan(place, (nothing, nothing), (turn, column))[1]
    blocks = blocks[2 * row[:, None] + jnp.arange(cols)[None, :], row[:, None]]
    # Each patch's corner is its own; the last ones' ends are nobody else's.
    strips = blocks[:, :, :, :stride].transpose(0, 2, 1, 3, 4)
    strips = strips.reshape(rows, size, cols * stride, -1)
    strips = jnp.concatenate([strips, blocks[:, -1, :, stride:]], axis=2)
    whole = strips[:, :stride].reshape(rows * stride, *strips.shape[2:])
    return jnp.concatenate([whole, strips[-1, stride:]])


def _before_cut(errors: Float[Array, "n length width"]) -> Bool[Array, "n length width"]:
    """Returns what lies before the cut of the least total error, which takes one of each line.

    From line to line a cut moves by one at most. Of equal cuts the one with less before it is
    taken, and the place of the cut itself is not before it.
    """
    place = jnp.arange(errors.shape[-1])
    totals = [errors[:, 0]]
    for line in range(1, errors.shape[1]):
        near = jnp.abs(place[:, None] - place[None, :]) <= 1
        best = jnp.where(near[None], totals[-1][:, None, :], jnp.inf).min(axis=-1)
        totals.append(errors[:, line] + best)
    cuts = [jnp.argmin(totals[-1], axis=-1)]
    for total in reversed(totals[:-1]):
        near = jnp.abs(place[None, :] - cuts[-1][:, None]) <= 1
        cuts.append(jnp.argmin(jnp.where(near, total, jnp.inf), axis=-1))
    return place[None, None, :] < jnp.stack(cuts[::-1], axis=1)[..., None]
