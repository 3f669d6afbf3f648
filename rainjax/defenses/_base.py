"""What a defense is, and the two ways to make one out of others or out of nothing."""

import abc
import dataclasses
import functools
from typing import Any

import jax

from rainjax._checks import check_fields, check_image
from rainjax._values import Value
from rainjax.keys import split_draw
from rainjax.typing import Draw, Image, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Defense(Value):
    """A purifier: hyperparameters as fields, randomness through the key of `apply`.

    Raises:
        ValueError: a field is not of the type it is declared with, or equality does not see
            it; `apply` is given something else than one image of floats, in every defense there
            is.
    """

    def __post_init__(self):
        check_fields(self)

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        own = cls.__dict__.get("apply")
        if own is None:
            return

        @functools.wraps(own)
        def apply(self, params, key, image):
            check_image(image, type(self).__name__)
            return own(self, params, key, image)

        cls.apply = apply

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters; `()` for a defense that has none."""
        del key
        return ()

    def num_outcomes(self, height: int) -> int | None:
        """Returns how many outcomes `apply` can be asked for by number; None for no such list."""
        del height
        return None

    @property
    def is_random(self) -> bool:
        """Whether another key may give another image: how many draws a score takes."""
        return True

    def smooth(self) -> "Defense":
        """Returns the defense whose gradient an attacker should follow: by default its own."""
        return self

    def mean_field(self) -> "Defense | None":
        """Returns the mean of this defense over its draws, as a defense; None for no such one."""
        return None

    @property
    def stratifies(self) -> bool:
        """Whether `apply` spreads stratified draws evenly over what it can do."""
        return not self.is_random

    @abc.abstractmethod
    def apply(self, params: Params, key: Draw, image: Image) -> Image:
        """Returns the purified image, float32 in [0, 1], of the shape that came in."""


@dataclasses.dataclass(frozen=True)
class Deterministic(Defense):
    """A purifier that is a function of the image alone: no parameters, no randomness."""

    @property
    def is_random(self) -> bool:
        """False, whatever the key."""
        return False

    @abc.abstractmethod
    def purify(self, image: Image) -> Image:
        """Returns the purified image, float32 in [0, 1], of the shape that came in."""

    def apply(self, params: Params, key: Draw, image: Image) -> Image:
        """Returns `purify(image)`; `params` and `key` are ignored."""
        del params, key
        return self.purify(image)


@dataclasses.dataclass(frozen=True)
class Identity(Deterministic):
    """Does nothing: the undefended pipeline, and the backward pass of plain BPDA."""

    def purify(self, image: Image) -> Image:
        """Returns `image`."""
        return image


@dataclasses.dataclass(frozen=True)
class Chain(Defense):
    """Applies `stages` left to right, each with its own key and parameters."""

    stages: tuple[Defense, ...]

    def init(self, key: PRNGKey) -> Params:
        """Returns a tuple with the parameters of each stage."""
        keys = jax.random.split(key, len(self.stages))
        return tuple(s.init(k) for s, k in zip(self.stages, keys, strict=True))

    @property
    def is_random(self) -> bool:
        """Whether a stage is."""
        return any(stage.is_random for stage in self.stages)

    @property
    def stratifies(self) -> bool:
        """Whether every stage spreads stratified draws evenly."""
        return all(stage.stratifies for stage in self.stages)

    def apply(self, params: Params, key: Draw, image: Image) -> Image:
        """Returns the last stage's image.

        Raises:
            ValueError: `params` are not a tuple with those of each stage.
        """
        check_stages(self.stages, params)
        keys = split_draw(key, len(self.stages))
        for stage, p, k in zip(self.stages, params, keys, strict=True):
            image = stage.apply(p, k, image)
        return image


def check_stages(stages: tuple[Defense, ...], params: Params) -> None:
    """Raises ValueError unless `params` are a tuple, or a list, with those of each stage."""
    listed = isinstance(params, tuple | list)
    if not listed or len(params) != len(stages):
        given = len(params) if listed else type(params).__name__
        raise ValueError(
            f"Parameters of {len(stages)} stages are a tuple of as many, () for a stage that has "
            f"none, got {given}: `init` makes such a tuple."
        )
