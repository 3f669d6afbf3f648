"""What a defense is, and the two ways to make one out of others or out of nothing."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax._arrays import check_key
from rainjax._checks import check_image
from rainjax._values import Value
from rainjax.keys import split_stratum
from rainjax.typing import Draw, Image, Params, PRNGKey, Stratum


@dataclasses.dataclass(frozen=True)
class Defense(Value):
    """A purifier: hyperparameters as fields, randomness through the key of `apply`.

    Where an attacker can do better than to draw keys, a defense says so: `Stratified` spreads
    the draws of a set evenly, `Enumerable` lists its outcomes. `Quantizer` lists what it can be
    made to return where it rounds. `Iterative` shows its steps, to be looked at.

    Raises:
        ValueError: a field is not of the type it is declared with, or equality does not see
            it; `apply` is given something else than one image of floats, in every defense there
            is.
    """

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters; `()` for a defense that has none."""
        del key
        return ()

    @property
    def is_random(self) -> bool:
        """Whether another key may give another image: how many draws a score takes."""
        return True

    def smooth(self) -> "Defense":
        """Returns the defense whose gradient an attacker should follow; by default this one.

        One that rounds, or that no pixel moves, names a soft twin or a stand-in with the same
        parameters. The values that an attack meets are the true defense's all the same.
        """
        return self

    def mean_field(self) -> "Defense | None":
        """Returns the mean of this defense over its draws, as a defense; None for no such one."""
        return None

    @abc.abstractmethod
    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the purified image, float32 in [0, 1], of the shape that came in."""


@dataclasses.dataclass(frozen=True)
class Stratified(Defense):
    """A random purifier that spreads the draws of a set evenly over what it can do."""

    @property
    def stratifies(self) -> bool:
        """Whether it does so with these fields."""
        return True

    @abc.abstractmethod
    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns the image purified with one draw of a set, distributed as `apply`'s."""


@dataclasses.dataclass(frozen=True)
class Enumerable(Defense):
    """A random purifier whose outcomes are few enough to be asked for by number."""

    @abc.abstractmethod
    def num_outcomes(self, height: int) -> int | None:
        """Returns how many outcomes an image `height` high has; None for no list of them."""

    @abc.abstractmethod
    def apply_outcome(self, params: Params, number: Int[Array, ""], image: Image) -> Image:
        """Returns the image under outcome `number`, of 0..num_outcomes - 1, all equally likely."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """Inputs that an attacker can choose from for each cell of an image by itself.

    `inputs[k]` changes every cell of `cell` (height, width, channels) in the `k`-th way; cells at
    the lower and right edge may be cut off. Outside of `vmap` it holds a batch.
    """

    inputs: Float[Array, "*n k h w c"]
    cell: tuple[int, int, int] = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Sample:
    """Which candidates to list where all of them are too many: a share of them, by a key."""

    key: PRNGKey
    share: float

    def rows(self, array: Float[Array, "k ..."], salt: int = 0) -> Float[Array, "few ..."]:
        """Returns that share of an array's rows, one at least; another `salt`, other rows."""
        few = max(1, int(self.share * len(array)))
        order = jax.random.permutation(jax.random.fold_in(self.key, salt), len(array))
        return array[order[:few]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LevelBounds:
    """The lowest and the highest level that each value can be rounded to, both whole numbers.

    `low` and `high` are tuples of arrays of equal shapes, one for each kind of plane. Outside of
    `vmap` they hold a batch.
    """

    low: tuple[Int[Array, "..."], ...]
    high: tuple[Int[Array, "..."], ...]


@dataclasses.dataclass(frozen=True)
class Quantizer(Defense):
    """A purifier that rounds each cell of an image by itself.

    Its gradient says nothing, but within a small ball it returns few different cells.
    """

    @property
    def quantizes(self) -> bool:
        """Whether it does so with these fields."""
        return True

    @abc.abstractmethod
    def reachable(
        self, image: Image, radius: float, norm: str, *, sample: Sample | None = None
    ) -> tuple[Candidates, ...]:
        """Returns inputs in [0, 1] whose every cell alone is within `radius` of the image's.

        Pushed through `apply`, they give outputs that the defense can be made to return: all of
        them, or those that matter. In `norm` "linf" each input is in the ball as a whole as well;
        in "l2" each cell moves just over a boundary of the rounding, or not at all where that is
        further than `radius`. With a `sample` it lists a share of them, never all at any time, so
        that large images need little memory; where they are few that may be ignored.

        Raises:
            ValueError: `norm` is another one.
        """

    def level_bounds(self, image: Image, radius: float, norm: str) -> LevelBounds | None:
        """Returns bounds on every level within the ball, by which a prediction can be proved.

        They hold for every image in [0, 1] within `radius`, the rounding of float32 included.
        None, the default, says that there are none, and so no proof.
        """
        del image, radius, norm
        return None

    def from_levels(self, levels: tuple[Array, ...], shape: tuple[int, ...]) -> Image:
        """Returns what `apply` makes of an image of `shape` whose values have these levels.

        Raises:
            TypeError: `level_bounds` gives none.
        """
        raise TypeError(f"{type(self).__name__} bounds no levels, so no image is made of them.")


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

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns `purify(image)`; `params` and `key` are ignored."""
        del params, key
        check_image(image, type(self).__name__)
        return self.purify(image)


@dataclasses.dataclass(frozen=True)
class Iterative(Defense):
    """A purifier that repeats a step, without randomness, and shows what each step made."""

    @abc.abstractmethod
    def iterates(self, params: Params, image: Image) -> Float[Array, "t h w c"]:
        """Returns the image and what every step made of it, in order; the last is `apply`'s."""


@dataclasses.dataclass(frozen=True)
class Identity(Deterministic):
    """Does nothing: the undefended pipeline, and the backward pass of plain BPDA."""

    def purify(self, image: Image) -> Image:
        """Returns `image`."""
        return image


@dataclasses.dataclass(frozen=True)
class Chain(Stratified, Quantizer):
    """Applies `stages` left to right, each with its own key and parameters.

    It counts as a `Quantizer` where its last stage does and no stage has parameters.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax import Chain, JPEG
    >>> from rainjax.defenses import BitDepth
    >>> both = Chain((JPEG(75), BitDepth(4)))
    >>> image = both.apply(both.init(jax.random.key(0)), jax.random.key(1), jnp.ones((16, 16, 3)))
    >>> image.shape, both.is_random
    ((16, 16, 3), False)
    """

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
        return all(stratifies(stage) for stage in self.stages)

    @property
    def quantizes(self) -> bool:
        """Whether the last stage rounds, and all are free of parameters."""
        return quantizes(self.stages[-1]) if self.stages else False

    def reachable(
        self, image: Image, radius: float, norm: str, *, sample: Sample | None = None
    ) -> tuple[Candidates, ...]:
        """Returns the moves that the last stage names, of `image` itself.

        They are the right ones as far as the other stages are nearly the identity; elsewhere
        they are guesses.
        """
        *before, last = self.stages
        if not isinstance(last, Quantizer):
            return ()
        seen = image
        for stage in before:
            seen = apply_draw(stage, stage.init(jax.random.key(0)), jax.random.key(0), seen)
        return tuple(
            Candidates(jnp.clip(image[None] + (found.inputs - seen[None]), 0.0, 1.0), found.cell)
            for found in last.reachable(seen, radius, norm, sample=sample)
        )

    def smooth(self) -> "Chain":
        """Returns the chain of what each stage names."""
        return dataclasses.replace(self, stages=smooth_stages(self.stages))

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns the last stage's image.

        Raises:
            ValueError: `params` are not a tuple with those of each stage.
        """
        return self._apply(params, jax.random.split(key, len(self.stages)), image)

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns the last stage's image, with a stratum for each; raises as `apply`."""
        return self._apply(params, split_stratum(stratum, len(self.stages)), image)

    def _apply(self, params: Params, draws, image: Image) -> Image:
        check_image(image, type(self).__name__)
        check_stages(self.stages, params)
        for stage, p, draw in zip(self.stages, params, draws, strict=True):
            image = apply_draw(stage, p, draw, image)
        return image


def apply_draw(defense: Defense, params: Params, draw: Draw, image: Image) -> Image:
    """Returns the purified image under a key, a stratum, or an outcome's number.

    Raises:
        TypeError: the defense does not know such draws.
        ValueError: the draw is none, but several keys, or a key of another kind.
    """
    if isinstance(draw, Stratum):
        if isinstance(defense, Stratified) and defense.stratifies:
            return defense.apply_stratum(params, draw, image)
        if not defense.is_random:
            return defense.apply(params, draw.key, image)
        raise TypeError(
            f"{type(defense).__name__} does not spread its draws: draw keys, not {draw}."
        )
    if not is_number(draw):
        check_key(draw, type(defense).__name__)
        return defense.apply(params, draw, image)
    if isinstance(defense, Enumerable):
        return defense.apply_outcome(params, draw, image)
    if not defense.is_random:
        return defense.apply(params, jax.random.key(0), image)
    raise TypeError(
        f"{type(defense).__name__} does not list its outcomes: draw keys, not number {draw}."
    )


def is_number(draw: Draw) -> bool:
    """Returns whether a draw is the number of an outcome."""
    if isinstance(draw, Stratum) or getattr(draw, "shape", None) != ():
        return False
    return jnp.issubdtype(draw.dtype, jnp.integer)


def stratifies(defense: Defense) -> bool:
    """Returns whether stratified draws of a defense are spread evenly: if it draws, or does so."""
    return not defense.is_random or (isinstance(defense, Stratified) and defense.stratifies)


def quantizes(defense: Defense) -> bool:
    """Returns whether a defense lists what it can be made to return, and takes no parameters."""
    if not isinstance(defense, Quantizer) or not defense.quantizes:
        return False
    return not jax.tree.leaves(jax.eval_shape(defense.init, jax.random.key(0)))


def num_outcomes(defense: Defense, height: int) -> int | None:
    """Returns how many outcomes can be asked for by number; None where there is no list."""
    return defense.num_outcomes(height) if isinstance(defense, Enumerable) else None


def smooth_stages(stages: tuple[Defense, ...]) -> tuple[Defense, ...]:
    """Returns what each stage names for an attacker to follow."""
    return tuple(stage.smooth() for stage in stages)


def check_stages(stages: tuple[Defense, ...], params: Params) -> None:
    """Raises ValueError unless `params` are a tuple, or a list, with those of each stage."""
    listed = isinstance(params, tuple | list)
    if not listed or len(params) != len(stages):
        given = len(params) if listed else type(params).__name__
        raise ValueError(
            f"Parameters of {len(stages)} stages are a tuple of as many, () for a stage that has "
            f"none, got {given}: `init` makes such a tuple."
        )
