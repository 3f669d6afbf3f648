"""The images of a split after its first ones, so that nothing is reported where it was chosen."""

import numpy as np
from jaxtyping import Int, UInt8

from rainjax.data import ImageSet


class Later(ImageSet):
    """The images of another set from position `skip` on, which is position 0 here.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, images: ImageSet, skip: int):
        if skip >= len(images):
            raise ValueError(
                f"skip={skip} leaves none of the {len(images)} images of {images.name!r}, split "
                f"{images.split!r}: lower it."
            )
        self.name, self.split = f"{images.name}, from {skip} on", images.split
        self.class_names = images.class_names
        self.fingerprint = f"{images.fingerprint}, from {skip} on"
        self._images, self._skip = images, skip

    def __len__(self) -> int:
        return len(self._images) - self._skip

    def get(
        self, indices: Int[np.ndarray, "n"]
    ) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
        """Returns pictures and labels; raises as the other set does."""
        return self._images.get(self._there(indices))

    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Returns one picture."""
        return self._images.image(int(self._there(np.array([index]))[0]))

    def labels(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns labels; raises as the other set does."""
        return self._images.labels(self._there(indices))

    def source_index(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns the positions that the other set says; raises as it does."""
        return self._images.source_index(self._there(indices))

    def _there(self, indices: np.ndarray) -> np.ndarray:
        self.check_indices(indices)
        return indices + self._skip
