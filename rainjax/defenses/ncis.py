"""NCIS: neural contextual iterative smoothing (Cha, Ko, Yoo and Moon, WACV 2024).

arXiv 2106.11644. No code is published, and what is here is our reading of the abstracts of three
versions; `NCIS` says what they establish.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Iterative
from rainjax.nets._network import Network
from rainjax.nets.blind_spot import BLIND_SPOT
from rainjax.transforms.smoothing import Border, check_gaussian
from rainjax.typing import Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class NCIS(Iterative):
    """Smooths an image and predicts each pixel from its smoothed surroundings, again and again.

    `x_{t+1} = clip(network(G(x_t)), 0, 1)` for `num_iterations` steps from the image `x_0`, where
    `G` is `transforms.gaussian_smooth` with `sigma`, `kernel_size` and `border`, and the identity
    without `smooth_input`.

    What the abstracts establish: perturbations have nearly zero mean and a symmetric distribution,
    so that iterated Gaussian smoothing washes them out; a blind-spot network, trained without
    labels or attacks on general images, restores from the smoothed image the features by which
    the original is recognised; classifiers stay as they are; the attackers that are considered do
    not know of the purifier. Our reading: that smoothing and network take turns, their order, the
    clipping, the network of FBI-Net, which is of the same group, and every default. Nothing there
    suggests that anything is random, and nothing is here.

    Its gradient is exact, and zero only behind a value that was clipped, so whoever knows of it
    needs neither BPDA nor EOT. All iterations but the last are computed again on the way back, so
    that the gradient takes the memory of one. Reverse mode only. Parameters are those of
    `network`.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax import zoo
    >>> from rainjax.defenses import NCIS
    >>> entry = zoo.load("builtin_blind_spot")
    >>> purified = NCIS(entry.network, num_iterations=2).apply(
    ...     entry.params, jax.random.key(0), jnp.full((32, 32, 3), 0.5)
    ... )
    >>> purified.shape
    (32, 32, 3)

    Raises:
        ValueError: there are no iterations, `sigma` is not positive and finite, or `kernel_size`
            not odd and positive; at the call, the image is too small to be mirrored, or the
            network does not take it or returns another shape.
    """

    network: Network = BLIND_SPOT
    num_iterations: int = 3
    sigma: float = 1.0
    kernel_size: int = 5
    border: Border = "reflect"
    smooth_input: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.num_iterations < 1:
            raise ValueError(f"num_iterations={self.num_iterations} must be at least 1.")
        check_gaussian(self.sigma, self.kernel_size)

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network."""
        return self.network.init(key)

    @property
    def is_random(self) -> bool:
        """False, whatever the key."""
        return False

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the last iterate, in [0, 1]."""
        del key
        check_image(image, type(self).__name__)
        before = self._all_but_last(params, image)[0]
        return self.step(params, before)

    def iterates(self, params: Params, image: Image) -> Float[Array, "t h w c"]:
        """Returns the image and every iterate, `num_iterations + 1` of them in order."""
        check_image(image, type(self).__name__)
        before, kept = self._all_but_last(params, image)
        return jnp.concatenate([image[None], kept, self.step(params, before)[None]])

    def step(self, params: Params, image: Image) -> Image:
        """Returns the next iterate."""
        smoothed = image
        if self.smooth_input:
            smoothed = transforms.gaussian_smooth(image, self.sigma, self.kernel_size, self.border)
        predicted = self.network.apply(params, smoothed)
        if predicted.shape != image.shape:
            raise ValueError(
                "NCIS needs a network that keeps the shape of an image, and this "
                f"{type(self.network).__name__} makes {predicted.shape} of {image.shape}: give "
                "one such as BlindSpot."
            )
        return jnp.clip(predicted, 0.0, 1.0)

    def _all_but_last(self, params: Params, image: Image) -> tuple[Image, Float[Array, "t h w c"]]:
        """Returns the last iterate but one, and all up to it, computed again for a gradient.

        Not so the last one, whose gradient is the first to be computed.
        """
        on_cpu = jax.default_backend() == "cpu"  # convolutions crawl inside its loops
        again = (
            functools.partial(_recomputed, self)
            if on_cpu
            else jax.checkpoint(self.step, prevent_cse=False)
        )
        advance = lambda image, _: (again(params, image),) * 2
        return jax.lax.scan(advance, image, length=self.num_iterations - 1, unroll=on_cpu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recomputed(ncis: NCIS, params: Params, image: Image) -> Image:
    """Returns the next iterate; its gradient computes it again, as late as possible.

    So would `jax.checkpoint`, but for when. On CPU, XLA removes the barriers that keep it late
    before it puts the program in order, computes all iterations again at once, and holds them
    all: 394 MiB instead of 53 for eight iterations of a small network at 96 pixels.
    """
    return ncis.step(params, image)


def _recomputed_fwd(ncis, params, image):
    return ncis.step(params, image), (params, image)


def _recomputed_bwd(ncis, saved, cotangent):
    params, image = saved
    # Zero whatever the cotangent is, which XLA does not know: so it must have that one first.
    some = cotangent[0, 0, 0]
    zero = jnp.minimum(jnp.abs(jnp.where(jnp.isnan(some), 0.0, some)), 0.0)
    _, vjp = jax.vjp(ncis.step, params, image + zero)
    return vjp(cotangent)


_recomputed.defvjp(_recomputed_fwd, _recomputed_bwd)
