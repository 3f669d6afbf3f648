"""Where attacks by labels begin: at images of another class, which have to be found first."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rainjax._values import Value
from rainjax.typing import Image, PRNGKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start(Value):
    """Images that are tried one after the other until one is a success; each try is a query.

    What was found is drawn towards the image by `num_halvings` halvings of the way between them,
    a query each: ten leave a thousandth of it, as HopSkipJump's authors have it.
    """

    num_halvings: int = 10

    def __post_init__(self):
        super().__post_init__()
        if self.num_halvings < 0:
            raise ValueError(f"num_halvings={self.num_halvings} must not be negative.")

    @property
    @abc.abstractmethod
    def most_tries(self) -> int:
        """How many images are tried at most."""

    @abc.abstractmethod
    def point(self, key: PRNGKey, origin: Image, number: Int[Array, ""]) -> Image:
        """Returns image `number`, in [0, 1] and of the shape of `origin`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformNoise(Start):
    """Images of uniform noise (Brendel et al., 2018, section 2.1)."""

    num_tries: int = 100

    def __post_init__(self):
        super().__post_init__()
        if self.num_tries < 1:
            raise ValueError(f"num_tries={self.num_tries} must be at least 1.")

    @property
    def most_tries(self) -> int:
        """How many images are tried at most."""
        return self.num_tries

    def point(self, key: PRNGKey, origin: Image, number: Int[Array, ""]) -> Image:
        """Returns fresh noise."""
        del number
        return jax.random.uniform(key, origin.shape, origin.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenImages(Start):
    """Images of the attacker's own, tried in their order: `GivenImages.of(images)`."""

    pixels: bytes = dataclasses.field(repr=False, metadata={"by_content": True})
    shape: tuple[int, ...]

    @classmethod
    def of(cls, images: Float[Array | np.ndarray, "n h w c"], **options) -> "GivenImages":
        """Returns the start at these images, in [0, 1].

        Raises:
            ValueError: they are no batch of images, or a value lies outside of [0, 1].
        """
        array = np.asarray(images, np.float32)
        if array.ndim != 4 or not len(array):
            raise ValueError(
                f"GivenImages.of takes a batch `n h w c`, not an array of shape {array.shape}: "
                "give images[None] for a single one."
            )
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError(
                f"GivenImages.of takes images in [0, 1], these lie in [{array.min():.4g}, "
                f"{array.max():.4g}]: divide integers by 255."
            )
        return cls(pixels=array.tobytes(), shape=array.shape, **options)

    @property
    def most_tries(self) -> int:
        """How many images are tried at most: as many as there are."""
        return self.shape[0]

    def point(self, key: PRNGKey, origin: Image, number: Int[Array, ""]) -> Image:
        """Returns the image of that number.

        Raises:
            ValueError: it is of another shape than the one that is attacked.
        """
        del key
        if self.shape[1:] != origin.shape:
            raise ValueError(
                f"GivenImages of shape {self.shape[1:]} cannot start an attack on an image of "
                f"shape {origin.shape}: give images of its shape."
            )
        images = np.frombuffer(self.pixels, np.float32).reshape(self.shape)
        return jnp.asarray(images, origin.dtype)[number]
