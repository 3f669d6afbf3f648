"""The generated pictures as an `ImageSet`: made when first asked for, kept in memory."""

import functools

import numpy as np
from jaxtyping import Int, UInt8

from rainjax.data import generated
from rainjax.data._base import ImageSet

NAME = "builtin"
_BLOCK = 250


class BuiltinSet(ImageSet):
    """A split of the built-in set; two objects for the same split share their pictures."""

    def __init__(self, split: str):
        if split not in generated.SPLITS:
            raise ValueError(
                f"{NAME!r} has no split {split!r}; it has {', '.join(generated.SPLITS)}."
            )
        self.name = NAME
        self.split = split
        self.class_names = generated.CLASS_NAMES
        self.fingerprint = "builtin-v1"
        self._range = generated.SPLITS[split]

    def __len__(self) -> int:
        return len(self._range)

    def get(
        self, indices: Int[np.ndarray, "n"]
    ) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
        """Returns pictures and labels, making the blocks of 250 that they lie in."""
        self.check_indices(indices)
        images = np.empty((len(indices), generated.SIZE, generated.SIZE, 3), np.uint8)
        labels = np.empty(len(indices), np.int32)
        blocks = indices // _BLOCK
        for block in np.unique(blocks):
            made, classes = _block(self._range.start + int(block) * _BLOCK)
            chosen = blocks == block
            images[chosen] = made[indices[chosen] % _BLOCK]
            labels[chosen] = classes[indices[chosen] % _BLOCK]
        return images, labels

    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Returns one picture, 32x32."""
        return self.get(np.array([index]))[0][0]

    def labels(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns labels without making the pictures."""
        return np.asarray(generated.picture_label(self.source_index(indices)), np.int32)

    def source_index(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns positions in the endless sequence that the splits are pieces of."""
        self.check_indices(indices)
        return self._range.start + indices.astype(np.int64)


@functools.cache
def _block(start):
    images, labels = generated.pictures(generated.SEED, np.arange(start, start + _BLOCK))
    images.flags.writeable = labels.flags.writeable = False
    return images, labels
