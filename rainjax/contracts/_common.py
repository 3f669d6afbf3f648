"""What the checks of promises share: a verdict in one sentence, three images and their keys."""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._values import check_value
from rainjax.typing import Images, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Promises:
    """Refuses what does not hold, in the name of the class it is of."""

    of: str

    def __call__(self, holds: Any, sentence: str) -> None:
        if not holds:
            raise AssertionError(f"{self.of} {sentence}.")

    def traced(self, method: Callable, params: Params, key: PRNGKey, image: Array) -> Any:
        """Returns the shape and the type of what a method returns, without computing it.

        Raises:
            AssertionError: it cannot be traced, or it fails.
        """
        name = f"{self.of}.{method.__name__}"
        try:
            return jax.eval_shape(method, params, key, image)
        except jax.errors.JAXTypeError as error:
            raise AssertionError(
                f"{name} cannot be traced by jax.jit: compute with jax.numpy, and let no Python "
                "condition depend on the image or the key."
            ) from error
        except Exception as error:
            raise AssertionError(
                f"{name} failed on an image of shape {image.shape} with "
                f"{type(error).__name__}: {first_line(error)}"
            ) from error

    def image(self, output: Float[np.ndarray, "..."]) -> None:
        low, high = output.min(), output.max()
        self(output.dtype == np.float32, f"returned {output.dtype}: return float32")
        self(np.isfinite(output).all(), "returned NaN or infinite values for images in [0, 1]")
        self(
            low >= 0 and high <= 1,
            f"returned values in [{low:.9g}, {high:.9g}]: end with jnp.clip(image, 0.0, 1.0)",
        )


def check_equality(value: Any, promise: Promises) -> None:
    check_value(value)
    copy = dataclasses.replace(value)
    promise(
        copy == value and hash(copy) == hash(value),
        "is not equal to a copy of itself, or has another hash: decorate it with "
        "@dataclasses.dataclass(frozen=True), and keep what it holds in its fields",
    )
    promise(type(value).__name__ in repr(value), "does not say its name in its repr")


def three_images(shape: tuple[int, int, int]) -> Images:
    """Returns three random images, two of them with rows of 0 and of 1.

    Raises:
        ValueError: that is no shape of an image.
    """
    given = shape if isinstance(shape, tuple | list) else ()
    if len(given) != 3 or not all(isinstance(n, numbers.Integral) and n > 0 for n in given):
        raise ValueError(
            f"image_shape={shape!r} must be the height, width and channels of an image, such as "
            "(32, 32, 3)."
        )
    images = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
    images[0, :2], images[1, :2] = 0.0, 1.0  # corners of the cube belong to the domain
    return jnp.asarray(images)


def three_keys(seed: int) -> Array:
    return jax.random.split(jax.random.key(seed), 3)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").strip()


def each(program: Callable, *rows: Any) -> np.ndarray:
    return np.stack([program(*row) for row in zip(*rows, strict=True)])


def close(given: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(given - wanted).max() <= tolerance)
