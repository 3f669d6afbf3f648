"""An image as a grid of cells, for attacks that choose for each cell by itself."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

Cell = tuple[int, int, int]
Grid = Float[Array, "rows cols planes"]


def cell_sums(values: Float[Array, "*k h w c"], cell: Cell) -> Float[Array, "*k rows cols planes"]:
    """Returns the sum over each cell; those at the lower and right edge may be smaller."""
    *several, height, width, channels = values.shape
    grid = _grid_shape((height, width, channels), cell)
    wide = [n * side - size for n, side, size in zip(grid, cell, values.shape[-3:], strict=True)]
    values = jnp.pad(values, [(0, 0)] * len(several) + [(0, more) for more in wide])
    pairs = [part for n, side in zip(grid, cell, strict=True) for part in (n, side)]
    return values.reshape(*several, *pairs).sum((-5, -3, -1))


def spread(grid: Shaped[Array, "rows cols planes"], cell: Cell, shape: tuple[int, ...]):
    """Returns an image of `shape` in which every value of a cell is the cell's."""
    for axis, side in enumerate(cell):
        grid = jnp.repeat(grid, side, axis=axis)
    height, width, channels = shape
    return grid[:height, :width, :channels]


def _grid_shape(shape: tuple[int, ...], cell: Cell) -> tuple[int, int, int]:
    """Returns how many cells an image of `shape` has along each axis."""
    rows, cols, planes = (-(-size // side) for size, side in zip(shape, cell, strict=True))
    return rows, cols, planes
