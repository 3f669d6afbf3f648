"""Feature squeezers: fewer levels, and the median of neighbours (Xu et al., NDSS 2018)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from rainjax import transforms
from rainjax.defenses._base import Candidates, Deterministic, LevelBounds, Quantizer, Sample
from rainjax.defenses._levels import value_bounds
from rainjax.defenses._rounding import level_candidates
from rainjax.transforms import Rounding
from rainjax.typing import Image


@dataclasses.dataclass(frozen=True)
class BitDepth(Deterministic, Quantizer):
    """Rounds every value to one of `2**bits` evenly spaced levels.

    Three bits are those of Guo et al. (2018). The true gradient is zero; `rounding` is the
    attacker's choice: see `transforms.rounded`.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax.defenses import BitDepth
    >>> image = jnp.full((1, 1, 3), 0.4)
    >>> BitDepth(1).apply((), jax.random.key(0), image).ravel().tolist()
    [0.0, 0.0, 0.0]

    Raises:
        ValueError: an option is unknown or out of range.
    """

    bits: int = 3
    rounding: Rounding = "true"

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.bits <= 16:
            raise ValueError(f"bits={self.bits} must lie in 1..16.")

    def purify(self, image: Image) -> Image:
        """Returns the image with fewer levels."""
        most = 2**self.bits - 1
        return transforms.rounded(image * most, self.rounding) / most

    @property
    def quantizes(self) -> bool:
        """Whether it returns rounded values; soft rounding does not."""
        return self.rounding in ("true", "straight_through")

    def reachable(
        self, image: Image, radius: float, norm: str, *, sample: Sample | None = None
    ) -> tuple[Candidates, ...]:
        """Returns moves of every value; in L-inf as far as the ball goes, and half as far."""
        del sample  # they are few
        inputs = level_candidates(image, radius, norm, levels=2**self.bits - 1)
        return (Candidates(inputs, (1, 1, 1)),)

    def level_bounds(self, image: Image, radius: float, norm: str) -> LevelBounds | None:
        """Returns bounds on the number of the level that every value is rounded to."""
        if not self.quantizes:
            return None
        return value_bounds(image, radius, norm, levels=2**self.bits - 1)

    def from_levels(self, levels: tuple[Array, ...], shape: tuple[int, ...]) -> Image:
        """Returns the image whose values have these levels."""
        return levels[0].reshape(shape) / jnp.float32(2**self.bits - 1)

    def smooth(self) -> "BitDepth":
        """Returns the same with soft rounding."""
        return dataclasses.replace(self, rounding="cubic")


@dataclasses.dataclass(frozen=True)
class MedianFilter(Deterministic):
    """Replaces every value by the median of a square of `size` around it, channel by channel.

    Borders are mirrored, and squares of an even side lie towards the upper left, and take the
    upper of two medians, as SciPy's `median_filter` does; those of two are the paper's for
    ImageNet. The gradient goes to the value taken. A NaN in the square is passed on, not
    outvoted.

    Raises:
        ValueError: the size is below 1.
    """

    size: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1.")

    def purify(self, image: Image) -> Image:
        """Returns the filtered image."""
        before = self.size // 2
        after = self.size - 1 - before
        wide = jnp.pad(image, ((before, after), (before, after), (0, 0)), mode="symmetric")
        height, width, _ = image.shape
        shifted = [
            wide[i : i + height, j : j + width] for i in range(self.size) for j in range(self.size)
        ]
        ordered = jnp.sort(jnp.stack(shifted), axis=0)  # NaN comes last
        return jnp.where(jnp.isnan(ordered[-1]), jnp.nan, ordered[self.size**2 // 2])
