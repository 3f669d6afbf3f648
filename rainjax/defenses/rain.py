"""RAIN: random down-sampling, a small random shift, super-resolution (Du et al., 2020).

arXiv 2004.14798; where the paper leaves a detail open, the authors' published code decides.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax import transforms
from rainjax._checks import check_image
from rainjax.defenses._base import Enumerable, Stratified
from rainjax.keys import choice, split_stratum
from rainjax.nets._network import Network, check_doubles
from rainjax.nets.edsr import EDSR
from rainjax.typing import Image, Images, Params, PRNGKey, Stratum


@dataclasses.dataclass(frozen=True)
class RAIN(Stratified):
    """Throws away three pixels in four at random, moves the rest, and restores the detail.

    1. `random_pixel_downsample` halves the image (`downsample` names the authors' ablations);
    2. `random_circular_shift` rolls it by up to `shift_fraction` of its new height;
    3. `network`, an EDSR x2 or any other with a `scale` of 2, brings it back to size, clipped to
       [0, 1].

    Every step is differentiable, so an attacker needs no BPDA, only EOT: the gradient of one
    draw is exact, and for three input values in four it is zero; it is zero as well behind a
    value that was clipped. `shift_fraction` is 0.05 in
    the published code (0.04 in its older ImageNet builds): 2 pixels at 48, 5 at 112, and none
    below 20. Parameters are those of `network`.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax import RAIN, zoo
    >>> enhancer = zoo.load("builtin_edsr_rain")
    >>> rain = RAIN(enhancer.network, shift_fraction=0.0625)  # by up to 1 of 16 pixels
    >>> image = jnp.linspace(0, 1, 32 * 32 * 3).reshape(32, 32, 3)
    >>> draw = lambda seed: rain.apply(enhancer.params, jax.random.key(seed), image)
    >>> first, again, other = draw(0), draw(0), draw(1)
    >>> first.shape, bool((first == again).all()), bool((first == other).all())
    ((32, 32, 3), True, False)
    """

    network: Network = EDSR()
    shift_fraction: float = 0.05
    downsample: Literal["random", "average", "bicubic"] = "random"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.shift_fraction < 1:
            raise ValueError(f"shift_fraction={self.shift_fraction} must lie in [0, 1).")
        check_doubles(self.network, "RAIN")

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of the network."""
        return self.network.init(key)

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the purified image, in [0, 1], of the same even height and width."""
        pick_key, shift_key = jax.random.split(key)
        return self._purify(params, pick_key, shift_key, image)

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns the purified image; picks and shifts are spread evenly over a set."""
        pick, shift = split_stratum(stratum, 2)
        return self._purify(params, pick, shift, image)

    @property
    def is_random(self) -> bool:
        """False without a random pick and a shift."""
        return self.downsample == "random" or self.shift_fraction > 0

    def mean_field(self) -> "MeanFieldRAIN":
        """Returns the mean pixel for the random pick, every shift counted."""
        return MeanFieldRAIN(self)

    def apply_shared_shift(self, params: Params, key: PRNGKey, images: Images) -> Images:
        """Purifies a batch as the authors' code does: one shift for all, own picks for each.

        For parity only. A result that depends on which images share a batch cannot be
        repeated at another batch size; `jax.vmap` over `apply` can.
        """
        pick_key, shift_key = jax.random.split(key)
        pick_keys = jax.random.split(pick_key, images.shape[0])
        purify = lambda k, image: self._purify(params, k, shift_key, image)
        return jax.vmap(purify)(pick_keys, images)

    def mean_shrink(self, image: Image) -> Float[Array, "h//2 w//2 c"]:
        """Returns the halved image: its mean over draws, where the pick is random."""
        if self.downsample == "bicubic":
            return transforms.resize_bicubic(image, image.shape[0] // 2, image.shape[1] // 2)
        return transforms.average_downsample(image)

    def max_shift(self, height: int) -> int:
        """Returns the largest shift, in low-resolution pixels, for an image `height` high."""
        # 0.07 * 100 is 7.000000000000001, and 0.29 * 100 is 28.999999999999996
        return math.floor(self.shift_fraction * (height // 2) + 1e-9)

    def _purify(
        self,
        params: Params,
        pick: PRNGKey | Stratum,
        shift: PRNGKey | Stratum,
        image: Image,
    ) -> Image:
        check_image(image, type(self).__name__)
        if image.shape[0] % 2 or image.shape[1] % 2:
            raise ValueError(
                f"RAIN halves and doubles an image, and {image.shape[0]} x {image.shape[1]} is "
                "odd: crop or pad it to an even height and width."
            )
        small = self._shrink(pick, image)
        max_shift = self.max_shift(image.shape[0])
        small = transforms.random_circular_shift(shift, small, max_shift=max_shift)
        return jnp.clip(self.network.apply(params, small), 0.0, 1.0)

    def _shrink(self, draw: PRNGKey | Stratum, image: Image) -> Float[Array, "h//2 w//2 c"]:
        if self.downsample == "random":
            return transforms.random_pixel_downsample(draw, image)
        return self.mean_shrink(image)


@dataclasses.dataclass(frozen=True)
class MeanFieldRAIN(Enumerable, Stratified):
    """The attacker's picture of RAIN: its mean pixel for the random pick, every shift counted.

    Averaging 2x2 cells is exactly the mean of the random pick, and the few shifts can be
    enumerated, so `expectation(..., num_samples=num_outcomes(h), draws="enumerated")` over this
    surrogate is free of sampling noise. It is biased all the same: the network sees averages
    that RAIN never shows it. Takes RAIN's parameters.

    >>> from rainjax import EOT, PGD, RAIN, MeanFieldRAIN
    >>> surrogate = MeanFieldRAIN(RAIN(shift_fraction=0.0625))
    >>> surrogate.num_outcomes(32)  # -1, 0 or 1 pixels in each direction
    9
    >>> attack = PGD(eot=EOT(surrogate.num_outcomes(32), draws="enumerated"))
    """

    rain: RAIN

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of RAIN's network."""
        return self.rain.init(key)

    def num_outcomes(self, height: int) -> int:
        """Returns the number of shifts of an image `height` high: 25 at 96, 121 at 224."""
        return (2 * self.rain.max_shift(height) + 1) ** 2

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the image under a random shift."""
        return self.apply_outcome(params, choice(key, self.num_outcomes(image.shape[0])), image)

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns the image under one of a set of shifts, none of them twice in a round."""
        number = choice(stratum, self.num_outcomes(image.shape[0]))
        return self.apply_outcome(params, number, image)

    def apply_outcome(self, params: Params, number: Int[Array, ""], image: Image) -> Image:
        """Returns the image under shift `number`."""
        check_image(image, type(self).__name__)
        shift = transforms.numbered_shift(number, self.rain.max_shift(image.shape[0]))
        small = transforms.circular_shift(self.rain.mean_shrink(image), shift)
        return jnp.clip(self.rain.network.apply(params, small), 0.0, 1.0)
