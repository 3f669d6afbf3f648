"""A low-pass filter in JPEG's transform: what JPEG takes away, without its rounding."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from rainjax import transforms
from rainjax.defenses._base import Deterministic
from rainjax.typing import Image


@dataclasses.dataclass(frozen=True)
class LowPass(Deterministic):
    """Keeps the low frequencies of the 8x8 block DCT, channel by channel, and drops the rest.

    A position of vertical frequency `u` and horizontal frequency `v`, each in 0..7, stays where
    `u + v < cutoff`. The transform is that of blocks, not of the image, to stand beside `JPEG`
    and `FeatureDistillation`: whatever those do beyond it is owed to rounding. `cutoff` 5 keeps
    the fifteen positions that the latter's paper draws as accuracy-sensitive; 15 keeps all 64.
    Sides that are no multiples of 8 are padded with their edge, and cropped back.

    Linear in the image but for clipping to [0, 1] at the end; the gradient is exact, so it hides
    nothing from an attacker.

    Raises:
        ValueError: `cutoff` is no whole number in 1..15.
    """

    cutoff: int = 5

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.cutoff <= 15:
            raise ValueError(f"cutoff={self.cutoff} must lie in 1..15.")

    def purify(self, image: Image) -> Image:
        """Returns the image without its high frequencies."""
        low = np.add(*np.indices((8, 8))) < self.cutoff
        coefficients = transforms.block_dct(transforms.pad_to_blocks(image))
        kept = coefficients * jnp.asarray(low, image.dtype)[None, None, :, :, None]
        whole = transforms.inverse_block_dct(kept)
        return jnp.clip(whole[: image.shape[0], : image.shape[1]], 0.0, 1.0)
