"""What an attacker puts in front of a surrogate so that the perturbation transfers.

Each is a stage like a defense's, so it composes with any surrogate and any attack:
`Defended(Chain((InputDiversity(), Identity())), classifier)`, attacked with `EOT(K)`, is
DI-FGSM or whatever the attack is. None of them is part of what is scored.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Defense, Deterministic, Enumerable
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class InputDiversity(Defense):
    """Shows the classifier a smaller copy of the image on black, at random (DI).

    With probability `probability` the image is resized by a factor between `smallest` and 1
    and put at a random place on black (Xie et al., 2019, who enlarge the field instead of
    shrinking the image, 0.9 being about their 299 of 330). The size is a scale on a fixed
    field, so that one program serves all; differentiable in the image.
    """

    probability: float = 0.5
    smallest: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability} must lie in [0, 1].")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest={self.smallest} must lie in (0, 1].")

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the image, or a smaller copy of it on black."""
        del params
        check_image(image, type(self).__name__)
        chance_key, scale_key, place_key = jax.random.split(key, 3)
        scale = jax.random.uniform(scale_key, minval=self.smallest, maxval=1.0)
        size = jnp.asarray(image.shape[:2], image.dtype)
        corner = jax.random.uniform(place_key, (2,)) * (1 - scale) * size
        smaller = jax.image.scale_and_translate(
            image, image.shape, (0, 1), jnp.stack([scale, scale]), corner, "linear"
        )
        changed = jax.random.bernoulli(chance_key, self.probability)
        return jnp.where(changed, jnp.clip(smaller, 0.0, 1.0), image)


@dataclasses.dataclass(frozen=True)
class ScaleInvariance(Enumerable):
    """Shows the classifier a darker copy of the image: one of `num_copies`, halved each time (SI).

    The loss averaged over the copies `image / 2**i` is that of SI-NI-FGSM (Lin et al., 2020,
    who take 5): attack `Defended(ScaleInvariance(), classifier)` with `EOT(num_copies,
    draws="enumerated")` for exactly that, or any chain with it, with keys, for random copies.
    """

    num_copies: int = 5

    def __post_init__(self):
        super().__post_init__()
        if self.num_copies < 1:
            raise ValueError(f"num_copies={self.num_copies} must be at least 1.")

    def num_outcomes(self, height: int) -> int:
        """Returns the number of copies, whatever the height."""
        del height
        return self.num_copies

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns one of the copies, drawn at random."""
        number = jax.random.randint(jax.random.split(key, 1)[0], (), 0, self.num_copies)
        return self.apply_outcome(params, number, image)

    def apply_outcome(self, params: Params, number: Int[Array, ""], image: Image) -> Image:
        """Returns copy `number`."""
        del params
        check_image(image, type(self).__name__)
        return image / 2.0**number


@dataclasses.dataclass(frozen=True)
class TranslationInvariance(Deterministic):
    """Passes the image on, and blurs the gradient that comes back (TI).

    A gradient convolved with a Gaussian is nearly the mean of the gradients of shifted copies
    (Dong et al., 2019, who take a kernel of 15 with 3 standard deviations to its edge, for
    images of 299). `size` is the kernel's, odd.
    """

    size: int = 7

    def __post_init__(self):
        super().__post_init__()
        if self.size < 1 or self.size % 2 == 0:
            raise ValueError(f"size={self.size} must be odd and at least 1.")

    def purify(self, image: Image) -> Image:
        """Returns the image."""
        return _blurred_gradient(self.size, image)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blurred_gradient(size: int, image: Image) -> Image:
    return image


def _blurred_gradient_fwd(size: int, image: Image):
    return image, None


def _blurred_gradient_bwd(size: int, _, cotangent: Image):
    return (_blur(cotangent, size),)


_blurred_gradient.defvjp(_blurred_gradient_fwd, _blurred_gradient_bwd)


def _blur(values: Image, size: int) -> Float[Array, "h w c"]:
    """Convolves each channel with a Gaussian, zeros outside: two products, as it is separable."""
    reach = jnp.linspace(-3.0, 3.0, size) if size > 1 else jnp.zeros(1)
    kernel = jnp.exp(-(reach**2) / 2)
    kernel = kernel / kernel.sum()

    def band(length):
        offset = jnp.arange(length)[:, None] - jnp.arange(length)[None, :] + size // 2
        inside = (offset >= 0) & (offset < size)
        return jnp.where(inside, kernel[jnp.clip(offset, 0, size - 1)], 0.0)

    height, width, _ = values.shape
    return transforms.separable(values, band(height), band(width))
