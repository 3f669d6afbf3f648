"""What a set of labelled pictures is to the rest of the library, whatever it is stored in."""

import abc

import numpy as np
from jaxtyping import Int, UInt8


class DamagedPicture(ValueError):
    """One picture of a set that cannot be read or decoded; the others may be well."""


class ImageSet(abc.ABC):
    """Pictures in a fixed order, uint8 RGB, with labels where there are any.

    Attributes:
        name: What the set was asked for by.
        split: The part of it, such as "train" or "test".
        class_names: One name per class; empty for unlabelled pictures.
        fingerprint: Identifies the content, for records and cards.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for unlabelled pictures, whose labels are all -1."""
        return len(self.class_names)

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def get(
        self, indices: Int[np.ndarray, "n"]
    ) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
        """Returns pictures and int32 labels at these positions.

        Raises:
            IndexError: a position is outside the set.
            ValueError: the pictures differ in size, are damaged, or have impossible labels.
        """

    @abc.abstractmethod
    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Returns one picture, of whatever size it has."""

    def example(self, index: int) -> tuple[UInt8[np.ndarray, "h w c"], int]:
        """Returns one picture, of whatever size it has, and its label; -1 if there is none.

        Raises:
            IndexError: the position is outside the set.
            DamagedPicture: the picture cannot be decoded.
            ValueError: the label is impossible.
        """
        return self.image(index), int(self.labels(np.array([index]))[0])

    @abc.abstractmethod
    def labels(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns the int32 labels at these positions, without decoding pictures."""

    @abc.abstractmethod
    def source_index(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns the positions that these pictures had in the set they were taken from.

        Raises:
            ValueError: the set does not say.
        """

    def check_indices(self, indices: np.ndarray) -> None:
        """Checks positions, naming the first that is not in the set.

        Raises:
            ValueError: these are not a line of integers.
            IndexError: one of them is outside the set.
        """
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(
                f"positions must be a line of integers, not {indices.dtype} {indices.shape}."
            )
        outside = (indices < 0) | (indices >= len(self))
        if outside.any():
            raise IndexError(
                f"position {indices[outside][0]} is outside {self.name!r}, split {self.split!r},"
                f" whose {len(self)} pictures are numbered 0 to {len(self) - 1}."
            )

    def __repr__(self) -> str:
        return f"<{self.name}/{self.split}: {len(self)} pictures, {self.num_classes} classes>"
