"""The first of Feature Distillation's two passes: images compressed before anyone attacks them."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from rainjax.data import ImageSet
from rainjax.defenses import FeatureDistillation

_SUFFIX = ", compressed"


def is_compressed(name: str) -> bool:
    """Whether this is the name of a set of compressed images."""
    return name.endswith(_SUFFIX)


class Compressed(ImageSet):
    """The images of another set, each through `defense` and rounded to 8 bits."""

    def __init__(self, images: ImageSet, defense: FeatureDistillation):
        self.name, self.split = f"{images.name}{_SUFFIX}", images.split
        self.class_names = images.class_names
        digest = hashlib.sha256(repr(defense).encode()).hexdigest()[:16]
        self.fingerprint = f"{images.fingerprint}, compressed with {digest}"
        self._images = images
        self._purify = jax.jit(defense.purify)

    def __len__(self) -> int:
        return len(self._images)

    def get(
        self, indices: Int[np.ndarray, "n"]
    ) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
        """Returns compressed pictures and labels; raises as the other set does."""
        pictures, labels = self._images.get(indices)
        return np.stack([self._compressed(picture) for picture in pictures]), labels

    def image(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """Returns one compressed picture."""
        return self._compressed(self._images.image(index))

    def labels(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns the labels of the other set."""
        return self._images.labels(indices)

    def source_index(self, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """Returns the positions that the other set says; raises as it does."""
        return self._images.source_index(indices)

    def _compressed(self, picture: np.ndarray) -> np.ndarray:
        found = self._purify(jnp.asarray(picture, jnp.float32) / 255)
        return np.round(255 * np.asarray(found)).astype(np.uint8)
