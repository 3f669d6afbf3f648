"""Parameters as a flat dict of named arrays, and the check that the names and shapes are right."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from rainjax.typing import Params


def flatten(params: PyTree) -> dict:
    """Returns the leaves of a nested dict under "/"-joined keys, in the tree's own order."""
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    return {
        "/".join(str(getattr(entry, "key", entry)) for entry in path): leaf for path, leaf in paths
    }


def unflatten(named: Mapping, shapes: PyTree[jax.ShapeDtypeStruct], *, source: str) -> Params:
    """Returns `named` as float32 arrays in the tree of `shapes`, keys of `flatten`.

    Keys that were integers, which no file format keeps, are integers again.
    Raises ValueError as `as_float32` does.
    """
    expected = flatten(shapes)
    arrays = as_float32(
        named, {name: leaf.shape for name, leaf in expected.items()}, source=source
    )
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def as_float32(
    named: Mapping, shapes: Mapping[str, tuple[int, ...]], *, source: str
) -> dict[str, np.ndarray]:
    """Returns the arrays in float32.

    Raises ValueError for the first that is missing, unexpected, mis-shaped or, in float32, not
    finite; `source` says in the message where `named` came from.
    """
    check_shapes({name: np.shape(leaf) for name, leaf in named.items()}, shapes, source=source)
    return {name: finite_float32(name, named[name], source=source) for name in shapes}


def finite_float32(name: str, values: ArrayLike, *, source: str) -> np.ndarray:
    """Returns an array in float32; raises ValueError if it has no finite numbers there."""
    array = np.asarray(values)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iu"):
        raise ValueError(
            f"{source}: array {name!r} holds {array.dtype}, not real numbers: store it as float32."
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{source}: array {name!r} holds values that are not finite in float32.")
    return array


def check_shapes(
    given: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], *, source: str
) -> None:
    """Raises ValueError for the first name that is missing, unexpected or has another shape."""
    hint = f"{source} does not fit this network"
    for name, shape in shapes.items():
        if name not in given:
            raise ValueError(f"{hint}: array {name!r} of shape {tuple(shape)} is missing.")
    for name in given:
        if name not in shapes:
            raise ValueError(f"{hint}: it has no place for array {name!r}.")
    for name, shape in shapes.items():
        if tuple(given[name]) != tuple(shape):
            raise ValueError(
                f"{hint}: array {name!r} has shape {tuple(given[name])}, "
                f"the network needs {tuple(shape)}."
            )
