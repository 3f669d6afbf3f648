"""What every defense promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rainjax._checks import check_kind
from rainjax.contracts._common import (
    Promises,
    check_equality,
    close,
    each,
    three_images,
    three_keys,
)
from rainjax.defenses import Defense
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DefenseOutputs:
    """What a defense returned for three images, for further checks."""

    params: Params
    images: Float[np.ndarray, "n h w c"]
    purified: Float[np.ndarray, "n h w c"]
    other_keys: Float[np.ndarray, "n h w c"]
    """The images purified with other keys."""
    gradient: Float[np.ndarray, "h w c"] | None
    """That of the sum of squares of the last purified image, unless it was left out."""

    def __repr__(self) -> str:
        return f"DefenseOutputs of {len(self.images)} images of {self.images.shape[1:]}"


def check_defense(
    defense: Defense,
    *,
    image_shape: tuple[int, int, int] = (16, 16, 3),
    params: Params | None = None,
    tolerance: float = 1e-5,
    differentiable: bool = True,
) -> DefenseOutputs:
    """Checks what every defense promises, on three images, and returns what it computed.

    It is a value, equal to a copy of itself. It returns an image like the one that came in:
    finite, float32, in [0, 1], of the same shape. The same key gives the same image, plainly and
    under `jit` and `vmap`, whatever else is in the batch, up to `tolerance`, for the rounding
    of convolutions: pass 0.0 where nothing is summed. Other keys give another image exactly
    where `is_random` says so. The gradient is finite; `differentiable=False` leaves it out, for a
    defense that an attacker has to meet by BPDA. `params` are by default those that `init` makes.
    What it makes of something else than an image is no promise: `Defended` refuses that.

    >>> import dataclasses, jax, jax.numpy as jnp
    >>> from rainjax import Defense, check_defense
    >>> @dataclasses.dataclass(frozen=True)
    ... class Unbounded(Defense):
    ...     def apply(self, params, key, image):
    ...         return image + jax.random.normal(key, image.shape)
    >>> check_defense(Unbounded())
    Traceback (most recent call last):
        ...
    AssertionError: Unbounded returned values in [...]: end with jnp.clip(image, 0.0, 1.0).

    Raises:
        AssertionError: a promise is broken, or `apply` fails; says which, and what to do.
        ValueError: `defense` is no value of a defense, or `image_shape` no shape of an image.
    """
    check_kind(defense, Defense, "check_defense(defense=...)")
    promise = Promises(type(defense).__name__)
    check_equality(defense, promise)
    images, keys, others = three_images(image_shape), three_keys(0), three_keys(1)
    if params is None:
        params = jax.jit(defense.init)(jax.random.key(7))
    given = promise.traced(defense.apply, params, keys[0], images[0])
    promise(
        getattr(given, "shape", None) == images[0].shape and given.dtype == jnp.float32,
        f"returned {given} for an image of shape {images[0].shape}: return float32 of that shape",
    )
    program, batch = jax.jit(defense.apply), jax.jit(jax.vmap(defense.apply, (None, 0, 0)))
    plain = np.asarray(defense.apply(params, keys[0], images[0]))
    alone = lambda key, image: program(params, key, image)
    purified, again = (each(alone, keys, images) for _ in range(2))
    other_keys = each(alone, others, images)
    batched = np.asarray(batch(params, keys, images))
    for output in (plain, purified, other_keys, batched):
        promise.image(output)
    promise(
        close(purified[0], plain, tolerance),
        "returns another image under jax.jit than without, for the same key: draw with "
        "jax.random from the key alone (np.random is drawn once, when it is compiled)",
    )
    promise(
        close(batched, purified, tolerance),
        "returns another image under jax.vmap, among others in a batch, than alone: compute "
        "each image by itself",
    )
    promise(
        np.array_equal(again, purified),
        "returns another image for the same key at a second call: draw from the key alone",
    )
    varies = not np.array_equal(other_keys, purified)
    promise(
        varies or not defense.is_random,
        "says is_random=True, and returns the same image for other keys: draw with jax.random "
        "from the key that `apply` is given, or let is_random return False",
    )
    promise(
        defense.is_random or not varies,
        "says is_random=False, and returns other images for other keys: let is_random return True",
    )
    gradient = None
    if differentiable:
        total = lambda image: jnp.sum(defense.apply(params, keys[2], image) ** 2)
        gradient = np.asarray(jax.jit(jax.grad(total))(images[2]))
        promise(
            np.isfinite(gradient).all(),
            "has a gradient that is NaN or infinite: look for a root or a quotient at zero, and "
            "guard what goes into it by jnp.where",
        )
    return DefenseOutputs(params, np.asarray(images), purified, other_keys, gradient)
