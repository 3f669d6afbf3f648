"""The attacks of Carlini and Wagner (2017) in L2 and in L-inf."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import balls
from rainjax.attacks.minimum_norm import ConstantSearch, Nearest, PenaltyAttack
from rainjax.attacks.queries import LabelAndTarget, LossGradient
from rainjax.typing import Image, Label, PRNGKey

_WITHIN = 0.999999  # keeps arctanh finite, as in the authors' code
_SLOWEST = 0.1  # how much a value moves, at least, per unit of its variable; mid-grey moves 0.5
_SHARE = 0.3  # of the limit, which the first steps of a round may not exceed
_DECAY, _DECAY_SQUARE, _TINY = 0.9, 0.999, 1e-8  # of Adam, as Kingma and Ba (2015) set them


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Descent:
    """Adam at work on `offset`, which is added to the image in the space of arctanh.

    There every number is an image in [0, 1]. In the authors' space black and white lie where
    tanh is flat: they move by millionths in a hundred steps, and Adam takes their gradients for
    noise. So where a value would move slower than `_SLOWEST`, its tanh is stretched until it moves
    that fast, and cut off at the border. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    offset: Float[Array, "*n h w c"]
    mean: Float[Array, "*n h w c"]
    square: Float[Array, "*n h w c"]
    steps: Int[Array, "*n"]

    @classmethod
    def start(cls, origin: Image, offset: Image) -> "Descent":
        """Returns Adam before its first step."""
        zeros = jnp.zeros_like(origin)
        return cls(origin, offset, zeros, zeros, jnp.array(0))

    @property
    def image(self) -> Image:
        """The image the offset stands for: the origin itself, to the bit, where it is zero."""
        moved = jnp.clip(0.5 * (self._tanh / _squeeze(self.origin) + 1), 0.0, 1.0)
        return jnp.where(jnp.any(self.offset != 0), moved, self.origin)

    def step(self, slope: Image, step_size: float | Float[Array, ""]) -> "Descent":
        """Returns Adam one step down the `slope` that a function of the image has."""
        squeeze = _squeeze(self.origin)
        slope = slope * 0.5 * (1 - self._tanh**2) / squeeze
        steps = self.steps + 1
        mean = _DECAY * self.mean + (1 - _DECAY) * slope
        square = _DECAY_SQUARE * self.square + (1 - _DECAY_SQUARE) * slope**2
        root = jnp.sqrt(square / (1 - _DECAY_SQUARE**steps)) + _TINY
        offset = self.offset - step_size * mean / (1 - _DECAY**steps) / root
        # Beyond the border nothing moves, and the way back would only get longer.
        start, border = self._start, jnp.arctanh(squeeze)
        offset = jnp.clip(start + offset, -border, border) - start
        return Descent(self.origin, offset, mean, square, steps)

    @property
    def _tanh(self) -> Image:
        return jnp.tanh(self._start + self.offset)

    @property
    def _start(self) -> Image:
        return _arctanh(self.origin, self.origin)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CarliniWagnerState:
    """Where one image's attack stands.

    Outside of `vmap` it holds a batch.
    """

    best: Nearest
    search: ConstantSearch
    descent: Descent
    label: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarliniWagner(PenaltyAttack):
    """Makes the squared L2 norm small (Carlini and Wagner, 2017, section VI.A).

    Adam descends on the squared norm plus a constant times the hinge, in the space of arctanh,
    from the image itself; between rounds the constant is bisected. Rounds have all their
    `num_steps`: none is given up early, as the authors' code does.

    On a random pipeline give `eot` many draws: with one a lucky draw is taken for a success.

    >>> from rainjax.attacks import CarliniWagner
    >>> CarliniWagner(num_search_steps=5, num_steps=200).num_gradients
    1000
    """

    @property
    def norm(self) -> balls.Norm:
        """The norm that is made small."""
        return "l2"

    def init(self, key: PRNGKey, image: Image, label: Label) -> CarliniWagnerState:
        """Returns the state at the image itself; it needs no randomness of its own."""
        del key
        descent = Descent.start(image, jnp.zeros_like(image))
        search = ConstantSearch.start(self.initial_const)
        return CarliniWagnerState(Nearest.none(image), search, descent, label)

    def ask(self, state: CarliniWagnerState) -> tuple[Image, LabelAndTarget]:
        """Returns the current image."""
        return state.descent.image, LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: CarliniWagnerState, answer: LossGradient):
        """Returns the state after one more step, at the image itself where a round ends."""
        point = state.descent.image
        best, success = self.judge(state.best, point, answer)
        slope = 2 * (point - best.origin) - state.search.constant * answer.gradient
        descent = state.descent.step(slope, self.step_size)
        ends = descent.steps == self.num_steps
        fresh = Descent.start(best.origin, jnp.zeros_like(point))
        search = state.search.after(success, ends)
        return CarliniWagnerState(best, search, _either(ends, fresh, descent), state.label)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CarliniWagnerLinfState:
    """Where one image's attack stands: `limit` is the change beyond which a value is penalised.

    Outside of `vmap` it holds a batch.
    """

    best: Nearest
    descent: Descent
    constant: Float[Array, "*n"]
    limit: Float[Array, "*n"]
    label: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarliniWagnerLinf(PenaltyAttack):
    """Makes the L-inf norm small (Carlini and Wagner, 2017, section VI.C).

    Adam descends on the sum of what changes exceed a limit by, plus a constant times the hinge.
    A round with a success within the limit lowers it to `decrease` times the smallest norm
    found. Any other raises it half-way to that norm, and multiplies the constant by
    `const_factor`, up to `largest_const`. Both go on from the best image so far.

    The authors double the constant until a limit is met, and stop at the first that is not;
    here every round has its `num_steps`, none is given up early, and a limit that was too low
    is bisected. Their steps are of one length, coarser than the perturbations that a plain
    network needs; these fall to zero over a round, from `step_size` or a share of the limit.

    On a random pipeline give `eot` many draws: with one a lucky draw is taken for a success.
    """

    initial_const: float = 1e-2
    num_search_steps: int = 20
    num_steps: int = 100
    decrease: float = 0.9
    const_factor: float = 2.0
    largest_const: float = 20.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.decrease < 1:
            raise ValueError(f"decrease={self.decrease} must lie in (0, 1): it shrinks the limit.")
        if not 1 < self.const_factor < float("inf"):
            raise ValueError(f"const_factor={self.const_factor} must be finite and above 1.")
        if not self.initial_const <= self.largest_const < float("inf"):
            raise ValueError(
                f"largest_const={self.largest_const} must be finite and at least initial_const="
                f"{self.initial_const}."
            )

    @property
    def norm(self) -> balls.Norm:
        """The norm that is made small."""
        return "linf"

    def init(self, key: PRNGKey, image: Image, label: Label) -> CarliniWagnerLinfState:
        """Returns the state at the image itself; it needs no randomness of its own."""
        del key
        descent = Descent.start(image, jnp.zeros_like(image))
        one = jnp.ones((), image.dtype)
        constant = one * self.initial_const
        return CarliniWagnerLinfState(Nearest.none(image), descent, constant, one, label)

    def ask(self, state: CarliniWagnerLinfState) -> tuple[Image, LabelAndTarget]:
        """Returns the current image."""
        return state.descent.image, LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: CarliniWagnerLinfState, answer: LossGradient):
        """Returns the state after one more step, at the best image where a round ends."""
        point = state.descent.image
        best, _ = self.judge(state.best, point, answer)
        change = point - best.origin
        excess = jnp.where(jnp.abs(change) > state.limit, jnp.sign(change), 0.0)
        slope = excess - state.constant * answer.gradient
        left = 1 - state.descent.steps / self.num_steps
        step_size = left * jnp.minimum(self.step_size, _SHARE * state.limit)
        descent = state.descent.step(slope, step_size)
        ends = descent.steps == self.num_steps
        constant, limit = self._next(state, best)
        return CarliniWagnerLinfState(
            best=best,
            descent=_either(ends, _at(best), descent),
            constant=jnp.where(ends, constant, state.constant),
            limit=jnp.where(ends, limit, state.limit),
            label=state.label,
        )

    def _next(self, state: CarliniWagnerLinfState, best: Nearest):
        """Returns the constant and the limit of the next round."""
        kept = best.size <= state.limit
        between = jnp.minimum(0.5 * (state.limit + best.size), 1.0)  # no success yet: no limit
        grown = jnp.minimum(self.const_factor * state.constant, self.largest_const)
        return (
            jnp.where(kept, state.constant, grown),
            jnp.where(kept, self.decrease * best.size, between),
        )


def _at(best: Nearest) -> Descent:
    return Descent.start(
        best.origin, _arctanh(best.image, best.origin) - _arctanh(best.origin, best.origin)
    )


def _arctanh(image: Image, origin: Image) -> Image:
    """Returns the variables of an image, in the space that its origin decides."""
    return jnp.arctanh(_squeeze(origin) * (2 * image - 1))


def _squeeze(origin: Image) -> Image:
    """Returns what values between -1 and 1 are multiplied by, so that arctanh is finite and moves.

    At the origin `x` the image moves by `(1 - (s * u)**2) / (2 * s)`, where `u = 2 * x - 1`: that
    is `_SLOWEST` for this `s`.
    """
    u = 2 * origin - 1
    return jnp.minimum(_WITHIN, 1 / (_SLOWEST + jnp.sqrt(_SLOWEST**2 + u**2)))


def _either(first: Bool[Array, ""], one: Descent, other: Descent) -> Descent:
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
