"""A random subset of defenses in random order, in the manner of BaRT (Raff et al., CVPR 2019)."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rainjax._checks import check_image
from rainjax.defenses._base import (
    Defense,
    Stratified,
    check_stages,
    smooth_stages,
)
from rainjax.typing import Image, Params, PRNGKey, Stratum


@dataclasses.dataclass(frozen=True)
class RandomSubset(Stratified):
    """Applies some of `stages`, none of them twice, in an order drawn anew for every key.

    Their number is drawn first, uniformly from `num_min..num_max`, and then the stages and their
    order, all equally likely; `num_max` is by default all of them. In the manner of BaRT, which
    draws a subset of twenty-five transforms, their order and their parameters: here the parameters
    are as random as the stages are, and the default numbers are ours. For a group of which one at
    most is to be applied, let a stage be `RandomSubset(group, 1, 1)`.

    Every place in the order is a switch over all stages. Under `vmap`, where every image has an
    order of its own, a switch computes all its branches and selects one, so that a batch costs
    `num_max * len(stages)` stages an image, and its gradient as many again.

    The gradient is that of the stages that were applied.

    Raises:
        ValueError: there are no stages, or not `0 <= num_min <= num_max <= len(stages)` with a
            `num_max` of at least 1.
    """

    stages: tuple[Defense, ...]
    num_min: int = 1
    num_max: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.stages:
            raise ValueError(f"stages={self.stages} must hold at least one defense.")
        if not 0 <= self.num_min <= self._most <= len(self.stages) or self._most < 1:
            raise ValueError(
                f"num_min={self.num_min} and num_max={self._most} must be in order, with num_max "
                f"in 1..{len(self.stages)}, the number of stages."
            )

    def init(self, key: PRNGKey) -> Params:
        """Returns a tuple with the parameters of each stage."""
        keys = jax.random.split(key, len(self.stages))
        return tuple(s.init(k) for s, k in zip(self.stages, keys, strict=True))

    @property
    def is_random(self) -> bool:
        """False for one stage that is always applied and is not random itself."""
        always_one = len(self.stages) == self.num_min == 1
        return not always_one or self.stages[0].is_random

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the last applied stage's image.

        Raises:
            ValueError: `params` are not a tuple with those of each stage.
        """
        check_image(image, type(self).__name__)
        check_stages(self.stages, params)
        if not self.is_random:
            return self.stages[0].apply(params[0], key, image)
        order_key, *stage_keys = jax.random.split(key, 1 + len(self.stages))
        branches: list[Callable[[Image], Image]] = [
            functools.partial(stage.apply, p, k)
            for stage, p, k in zip(self.stages, params, stage_keys, strict=True)
        ]
        branches.append(lambda image: image)
        for number in self._order(order_key):
            image = jax.lax.switch(number, branches, image)
        return image

    @property
    def stratifies(self) -> bool:
        """False: a subset and its order are drawn; of one fixed stage it is that stage's."""
        return not self.is_random

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns the image of the one stage that is always applied."""
        return self.apply(params, stratum.key, image)

    def smooth(self) -> "RandomSubset":
        """Returns the subset of what each stage names."""
        return dataclasses.replace(self, stages=smooth_stages(self.stages))

    def order(self, key: PRNGKey) -> Int[Array, "places"]:
        """Returns the stages that `apply` applies under `key`, by number, first to last.

        `num_max` numbers: those past the end of a smaller subset are `len(stages)`.
        """
        return self._order(jax.random.split(key, 1 + len(self.stages))[0])

    @property
    def _most(self) -> int:
        return len(self.stages) if self.num_max is None else self.num_max

    def _order(self, key: PRNGKey) -> Int[Array, "places"]:
        count_key, order_key = jax.random.split(key)
        count = jax.random.randint(count_key, (), self.num_min, self._most + 1)
        order = jax.random.permutation(order_key, len(self.stages))[: self._most]
        return jnp.where(jnp.arange(self._most) < count, order, len(self.stages))
