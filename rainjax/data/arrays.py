"""Pictures and labels that are in memory, as a set to measure on."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from rainjax.data._base import ImageSet

_MOST_CLASSES = 65_535  # without names: one less than the classes up to a -1 in 16 bits
_ROUNDING = 1e-6  # what resizing and the like add to a border of [0, 1]


class ArraySet(ImageSet):
    """Pictures of one size and their labels; made by `from_arrays`."""

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Int[np.ndarray, "n"],
        *,
        name: str,
        split: str,
        class_names: tuple[str, ...],
    ):
        self.name, self.split, self.class_names = name, split, class_names
        self._images, self._labels = images, labels
        content = f"{images.shape}".encode() + images.tobytes() + labels.tobytes()
        self.fingerprint = f"sha256:{hashlib.sha256(content).hexdigest()[:32]}"

    def __len__(self) -> int:
        return len(self._images)

    def get(
        self, indices: Int[np.ndarray, "n"]
    ) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
        self.check_indices(indices)
        return self._images[indices], self._labels[indices]

    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        self.check_indices(np.array([index]))
        return self._images[index]

    def labels(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        self.check_indices(indices)
        return self._labels[indices]

    def source_index(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns the positions themselves: these arrays are the source."""
        self.check_indices(indices)
        return indices


def from_arrays(
    images: Any,
    labels: Any,
    *,
    name: str,
    split: str = "test",
    class_names: Sequence[str] | None = None,
) -> ArraySet:
    """Returns pictures `n h w c` and their labels `n` as a data set, for studies and training.

    Pictures are uint8 in 0..255, or floats in [0, 1] that are multiples of 1/255, as those of a
    file are. The arrays are copied. Without `class_names` there are as many classes as the highest
    label says, called by their numbers: 65,535 at most, for such labels are mostly a -1.

    >>> import numpy as np
    >>> from rainjax import data
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> data.from_arrays(images, [0, 1], name="mine", class_names=["cat", "dog"])
    <mine/test: 2 pictures, 2 classes>

    Raises:
        ValueError: the arrays are of another shape, kind or range, or do not belong together; says
            which, and how to mend it.
    """
    for option, given in (("name", name), ("split", split)):
        if not isinstance(given, str) or not given or os.sep in given:
            raise ValueError(
                f"{option}={given!r} must be a plain name: records and reports show it."
            )
    pictures = _pictures(_array(images, "images", "one size, and be an array `n h w c`"))
    numbers = _labels(_array(labels, "labels", "one kind, a whole number for each picture"))
    if len(numbers) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures came with {len(numbers)} labels.")
    low, most = int(numbers.min()), int(numbers.max())
    names = _numbers(numbers.dtype, most) if class_names is None else _names(class_names)
    if low < 0 or most >= len(names):
        raise ValueError(
            f"labels lie in {low}..{most}, and there are {len(names)} classes: number them from 0 "
            f"to {len(names) - 1}, and leave out pictures of no class."
        )
    if len(names) < 2:
        raise ValueError("All labels are 0: give class_names, for there must be two classes.")
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"Two classes are called {twice!r}: give each its own name.")
    return ArraySet(pictures, numbers.astype(np.int32), name=name, split=split, class_names=names)


def _pictures(images: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"images must be a batch `n h w c`, and hold one, not of shape {images.shape}."
        )
    if images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        raise ValueError(
            f"images of shape {images.shape} have their channels first: give "
            "np.moveaxis(images, 1, -1)."
        )
    if images.dtype == np.uint8:
        return images.copy()
    numeric = np.issubdtype(images.dtype, np.number) or np.issubdtype(images.dtype, np.bool)
    if not numeric or np.issubdtype(images.dtype, np.complexfloating):
        raise ValueError(
            f"images must be uint8 in 0..255, or floats in [0, 1], not {images.dtype}."
        )
    low, high = images.min(), images.max()
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"images must be uint8 in 0..255, or floats in [0, 1], not {images.dtype} in "
            f"{low}..{high}: {_to_uint8(images.dtype, int(low), int(high))}."
        )
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN compares false
        grey = low >= 0 and high <= 255
        raise ValueError(
            f"images of floats must lie in [0, 1], these in [{low:.7g}, {high:.7g}]: "
            + (
                "divide them by 255."
                if grey
                else "bring them back to [0, 1], undoing whatever standardized or rescaled them."
            )
        )
    levels = np.round(images.astype(np.float64) * 255)
    if np.abs(levels - images.astype(np.float64) * 255).max() > 1e-3:
        raise ValueError(
            "images of floats must be multiples of 1/255, as files hold them: round them, "
            "np.round(255 * images).astype(np.uint8), where that is what you want to measure."
        )
    return levels.astype(np.uint8)


def _array(given: Any, name: str, wanted: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:  # a ragged list
        raise ValueError(f"{name} must all be of {wanted}: {error}") from None


def _to_uint8(kind: np.dtype, low: int, high: int) -> str:
    """Returns what brings whole numbers to uint8, which wraps around what does not fit it."""
    if np.issubdtype(kind, np.bool):
        return "use 255 * images.astype(np.uint8)"
    if low >= 0 and high <= 255:
        return "use .astype(np.uint8)"
    if low < 0:
        return "shift and scale them to 0..255 first, then use .astype(np.uint8)"
    if 255 < high <= 65_535 and kind == np.uint16:
        return "scale 16 bits to 8, np.round(images / 257).astype(np.uint8)"
    return f"scale them to 0..255 first, np.round(images * (255 / {high})).astype(np.uint8)"


def _labels(labels: np.ndarray) -> np.ndarray:
    """Returns one whole number for each picture, or refuses what is none."""
    if labels.ndim == 2 and np.issubdtype(labels.dtype, np.number):
        one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()
        if labels.shape[1] == 1:
            mend = ", labels[:, 0]."
        elif one_hot:
            mend = ", labels.argmax(1) of these one-hot ones."
        else:
            mend = "."
        raise ValueError(
            f"labels are of shape {labels.shape}: give one class number for each picture{mend}"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be one whole number for each picture, not {labels.dtype} of shape "
            f"{labels.shape}."
        )
    return labels


def _numbers(kind: np.dtype, most: int) -> tuple[str, ...]:
    """Returns the numbers of the classes as their names, unless the highest is surely none."""
    wrapped = np.issubdtype(kind, np.unsignedinteger) and most == np.iinfo(kind).max
    if wrapped or most >= _MOST_CLASSES:
        said = f", the highest {kind}, which is what -1 becomes" if wrapped else ""
        raise ValueError(
            f"labels reach {most}{said}: leave out pictures of no class, or give class_names if "
            "there are so many."
        )
    return tuple(map(str, range(most + 1)))


def _names(class_names: Any) -> tuple[str, ...]:
    try:
        return tuple(map(str, class_names))
    except TypeError:
        raise ValueError(
            f"class_names={class_names!r} must be a list of names, one for each class."
        ) from None
