"""Pictures to measure on: a generated set that is always there, and TFDS sets by name."""

import os
import pathlib

from rainjax._checks import as_plain
from rainjax.data._base import DamagedPicture, ImageSet
from rainjax.data.arrays import ArraySet, from_arrays
from rainjax.data.builtin import NAME as _BUILTIN
from rainjax.data.builtin import BuiltinSet
from rainjax.data.prepared import PreparedSet, default_data_dir, describe, prepared_sets

__all__ = [
    "ArraySet",
    "BuiltinSet",
    "DamagedPicture",
    "ImageSet",
    "default_data_dir",
    "describe",
    "from_arrays",
    "load",
    "prepared_sets",
]


def load(name: str, split: str, *, data_dir: str | os.PathLike | None = None) -> ImageSet:
    """Returns the split of a data set, ready to be read.

    >>> import numpy as np
    >>> from rainjax import data
    >>> images, labels = data.load("builtin", "test").get(np.arange(2))
    >>> images.shape, images.dtype, labels.shape
    ((2, 32, 32, 3), dtype('uint8'), (2,))

    Args:
        name: "builtin", or a TFDS set prepared on this machine: "cifar10", "cifar10:3.0.2",
            "imagenette/160px-v2".
        split: One of the set's own, such as "train" or "test".
        data_dir: Where prepared sets lie; $TFDS_DATA_DIR or TFDS's default folder if None.

    Raises:
        ValueError: no such set or split, or it is damaged or holds no pictures.
        ImportError: the set is there, and TFDS, which reads it, is not installed.
    """
    for option, given in (("name", name), ("split", split)):
        as_plain(option, given, str)
    if name == _BUILTIN:
        return BuiltinSet(split)
    folder = default_data_dir() if data_dir is None else pathlib.Path(data_dir).expanduser()
    return PreparedSet(name, split, folder)
