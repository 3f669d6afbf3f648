"""Square: random search with squares, for which a pipeline is asked but never differentiated."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import balls
from rainjax.attacks._base import BallAttack
from rainjax.attacks.queries import LabelAndTarget, LossOnly, LossValue
from rainjax.typing import Draw, Image, Label, LogitsFn, PRNGKey

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
_TINY = 1e-12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rivalry:
    """What a proposal is told apart by: the label, and the incumbent it is to replace.

    Outside of `vmap` it holds a batch.
    """

    aim: LabelAndTarget
    incumbent: Float[Array, "*n h w c"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Contest:
    """The mean loss of a proposal, the share of draws it beat, and the incumbent's mean loss.

    Outside of `vmap` it holds a batch.
    """

    value: Float[Array, "*n"]
    success: Float[Array, "*n"]
    held: Float[Array, "*n"]


@dataclasses.dataclass(frozen=True)
class Duel:
    """Asks for the loss of a proposal and of the incumbent, both on the same draw."""

    level: LossOnly

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: Rivalry
    ) -> Contest:
        """Returns the answer of one draw."""
        proposed = self.level(logits_fn, draw, image, query_args.aim)
        held = self.level(logits_fn, draw, query_args.incumbent, query_args.aim)
        return Contest(proposed.value, proposed.success, held.value)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SquareState:
    """Where one image's attack stands; `image` is the incumbent, `asked` the next question.

    Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    value: Float[Array, "*n"]
    asked: Float[Array, "*n h w c"]
    best: Float[Array, "*n h w c"]
    best_value: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Square(BallAttack):
    """Random search over squares (Andriushchenko et al., 2020): scores, and no gradient.

    Each call proposes to move one square of the incumbent to the border of the ball (L-inf,
    their algorithm 2), or to carry the perturbation of one square over to another (L2, their
    algorithm 4); the proposal becomes the incumbent if the mean loss over the draws is higher.
    A gradient that is masked hides nothing from it, which makes it the check on the others.

    `num_queries` calls are made per start. The square covers the share `p_init` of the image at
    first, half as much after each of nine fractions of the queries, as in AutoAttack. L-inf
    starts from vertical stripes, L2 from a grid of tiles. `num_restarts` keeps the start that
    ended highest.

    On a random pipeline values from different draws cannot be compared: an incumbent is there
    because its estimate was the highest of many, so the estimate is too high, and one lucky
    draw would end the search (the winner's curse). So with `paired` no value is kept: every
    call asks about incumbent and proposal on the same fresh draws, two forward passes for each
    draw, and what a draw does to both cancels. (To measure the incumbent again now and then
    would end the bias, but not the noise: the search then wanders.) Where every call sees the
    same draws, `EOT(common=True)`, or all outcomes, `"enumerated"`, values can be compared and
    no pairs are asked. On a deterministic pipeline `paired=False` finds the same image with
    half the forward passes.

    >>> from rainjax.attacks import Square
    >>> Square(num_queries=100, num_restarts=2).num_calls  # of two passes each, being paired
    200

    Raises:
        ValueError: the norm is L1, or an option is out of range.
    """

    loss: Literal["margin", "cross_entropy", "dlr", "logit"] = "margin"
    num_queries: int = 5000
    p_init: float = 0.8
    num_restarts: int = 1
    paired: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.norm == "l1":
            raise ValueError("norm='l1' has no squares here: Square knows 'linf' and 'l2'.")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init={self.p_init} must be a share of the image in (0, 1].")
        if self.num_queries < 1 or self.num_restarts < 1:
            raise ValueError(
                f"num_queries={self.num_queries} and num_restarts={self.num_restarts} must be "
                "at least 1."
            )

    @property
    def num_calls(self) -> int:
        """Queries per image: each is one forward pass per draw, and two where they are pairs."""
        return self.num_restarts * self.num_queries

    @property
    def query(self) -> LossOnly | Duel:
        """The loss, without its gradient, of the proposal alone or of both."""
        level = LossOnly(self.loss, self.targeted)
        return Duel(level) if self._pairs else level

    @property
    def passes_per_draw(self) -> int:
        """Two where the incumbent is asked about as well."""
        return 2 if self._pairs else 1

    @property
    def _pairs(self) -> bool:
        same = self.eot.draws == "enumerated" or (self.eot.common and self.eot.first is None)
        return self.paired and not same

    def init(self, key: PRNGKey, image: Image, label: Label) -> SquareState:
        """Returns the state at the first start."""
        return SquareState(
            origin=image,
            image=image,
            value=jnp.array(-jnp.inf, image.dtype),
            asked=self._start(key, image),
            best=image,
            best_value=jnp.array(-jnp.inf, image.dtype),
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: SquareState) -> tuple[Image, LabelAndTarget | Rivalry]:
        """Returns the proposal, and the incumbent where the two are compared on the same draws."""
        aim = LabelAndTarget(state.label, state.label)
        return state.asked, Rivalry(aim, state.image) if self._pairs else aim

    def update(self, key: PRNGKey, state: SquareState, answer: LossValue | Contest) -> SquareState:
        """Returns the state with the better of incumbent and proposal, and the next proposal."""
        held = answer.held if isinstance(answer, Contest) else state.value
        begins = state.calls % self.num_queries == 0
        wins = begins | (answer.value > held)
        image = jnp.where(wins, state.asked, state.image)
        value = jnp.where(wins, answer.value, held)

        calls = state.calls + 1
        ends = calls % self.num_queries == 0
        better = ends & (value > state.best_value)
        start, proposal = self._start(key, state.origin), self._propose(key, state, image, calls)
        return dataclasses.replace(
            state,
            image=image,
            value=value,
            asked=jnp.where(ends, start, proposal),
            best=jnp.where(better, image, state.best),
            best_value=jnp.where(better, value, state.best_value),
            calls=calls,
        )

    def result(self, state: SquareState) -> Image:
        """Returns the incumbent with the highest mean loss among those that starts ended with."""
        return state.best

    def share(self, step: int) -> float:
        """Returns p, the share of the image that the square of call `step` of a start covers."""
        return self.p_init / 2 ** sum(step >= first for first in self._halvings)

    def side(self, step: int, height: int, width: int) -> int:
        """Returns the side of the square of call `step`, in pixels; for L2 odd, and 3 at least."""
        return self._side(self.share(step), height, width)

    @property
    def _halvings(self) -> list[int]:
        # The schedule's 10 is passed by the first call that is 11 ten-thousandths of all.
        return [math.ceil((after + 1) * self.num_queries / 10_000) for after in _HALVINGS]

    def _side(self, share: float, height: int, width: int) -> int:
        side, most = round(math.sqrt(share * height * width)), min(height, width)
        if self.norm == "linf":
            return min(max(side, 1), most)
        odd = max(side, 3) // 2 * 2 + 1
        return min(odd, most - (most % 2 == 0) if most > 2 else most)

    def _start(self, key: PRNGKey, image: Image) -> Image:
        height, width, channels = image.shape
        if self.norm == "linf":
            delta = self.radius * jax.random.rademacher(key, (1, width, channels), image.dtype)
            return jnp.clip(image + delta, 0.0, 1.0)
        sign_key, turn_key = jax.random.split(key)
        side = max(min(height, width) // 5, 1)
        rows, columns = height // side, width // side
        tile = _pyramids(np.arange(side), np.arange(side), side)
        turned = jax.random.bernoulli(turn_key, 0.5, (rows, 1, columns, 1))
        tiles = jnp.where(turned, tile.T[None, :, None, :], tile[None, :, None, :])[..., None]
        signs = jax.random.rademacher(sign_key, (rows, 1, columns, 1, channels), image.dtype)
        grid = (signs * tiles).reshape(rows * side, columns * side, channels)
        above, left = (height - rows * side) // 2, (width - columns * side) // 2
        delta = jnp.zeros_like(image)
        delta = delta.at[above : above + rows * side, left : left + columns * side].set(grid)
        return self._into_ball(image, self.radius * balls.steepest(delta, "l2"))

    def _propose(
        self, key: PRNGKey, state: SquareState, image: Image, calls: Int[Array, ""]
    ) -> Image:
        """Returns the incumbent with one square changed, of the size that is due."""
        height, width, _ = image.shape
        sides = [
            self._side(self.p_init / 2**halved, height, width)
            for halved in range(len(_HALVINGS) + 1)
        ]
        step = calls % self.num_queries
        side = jnp.array(sides)[jnp.sum(step >= jnp.array(self._halvings))]
        propose = self._fill if self.norm == "linf" else self._carry
        return propose(key, state.origin, image, side)

    def _fill(self, key: PRNGKey, origin: Image, image: Image, side: Int[Array, ""]) -> Image:
        """Moves each channel of a square to the border of the L-inf ball."""
        place_key, sign_key = jax.random.split(key)
        square = _Square.random(place_key, side, image.shape)
        sign = jax.random.rademacher(sign_key, (1, 1, image.shape[2]), image.dtype)
        fill = lambda sign: jnp.where(
            square.mask, jnp.clip(origin + self.radius * sign, 0.0, 1.0), image
        )
        # One in eight of the smallest squares has these colours already: no call is spent on it.
        filled = fill(sign)
        return jnp.where((filled == image).all(), fill(-sign), filled)

    def _carry(self, key: PRNGKey, origin: Image, image: Image, side: Int[Array, ""]) -> Image:
        """Carries the perturbation of one square to another, shaped by a pair of pyramids."""
        to_key, from_key, turn_key, sign_key = jax.random.split(key, 4)
        to = _Square.random(to_key, side, image.shape)
        emptied = _Square.random(from_key, side, image.shape).mask
        sign = jax.random.rademacher(sign_key, (1, 1, image.shape[2]), image.dtype)
        turned = jax.random.bernoulli(turn_key)
        pyramids = jnp.where(to.mask[..., 0], to.pyramids(turned), 0.0)[..., None]

        delta = image - origin
        unused = jnp.maximum(self.radius**2 - jnp.sum(delta**2), 0.0) / image.shape[2]
        budget = jnp.sqrt(_squares(jnp.where(to.mask | emptied, delta, 0.0)) + unused)
        old = jnp.where(to.mask, delta, 0.0)
        shape = sign * _unit(pyramids) + _unit(old)
        carried = budget * _unit(shape)
        moved = jnp.where(to.mask, carried, jnp.where(emptied, 0.0, delta))
        return self._into_ball(origin, moved)

    def _into_ball(self, origin: Image, delta: Image) -> Image:
        return balls.into_box(origin, origin + delta, self.norm, self.radius)


@dataclasses.dataclass(frozen=True)
class _Square:
    """A square by its traced corner and side: masks over the whole image keep shapes static."""

    rows: Int[Array, "h"]  # counted from its top
    columns: Int[Array, "w"]  # counted from its left
    side: Int[Array, ""]

    @classmethod
    def random(cls, key: PRNGKey, side: Int[Array, ""], shape: tuple[int, ...]) -> "_Square":
        row_key, column_key = jax.random.split(key)
        top = jax.random.randint(row_key, (), 0, shape[0] - side + 1)
        left = jax.random.randint(column_key, (), 0, shape[1] - side + 1)
        return cls(jnp.arange(shape[0]) - top, jnp.arange(shape[1]) - left, side)

    @property
    def mask(self) -> Bool[Array, "h w 1"]:
        inside = lambda at: (at >= 0) & (at < self.side)
        return (inside(self.rows)[:, None] & inside(self.columns)[None, :])[..., None]

    def pyramids(self, turned: Bool[Array, ""]) -> Float[Array, "h w"]:
        upright = _pyramids(self.rows, self.columns, self.side)
        return jnp.where(turned, _pyramids(self.columns, self.rows, self.side).T, upright)


def _pyramids(rows, columns, side):
    """Returns eta: a pyramid in the upper half of a square, and one upside down in the lower.

    From the middle of its half, at the distance d, its height is the sum of 1 / j**2 over
    j = d + 1 .. side // 2 + 1. Only the values within the square have a meaning.
    """
    upper = side // 2
    half = jnp.where(rows < upper, upper, side - upper)  # the height of the half
    within = jnp.where(rows < upper, rows, rows - upper)
    far = jnp.maximum(jnp.abs(within - half // 2)[:, None], jnp.abs(columns - side // 2)[None, :])
    # What is left of the series after j terms, added up from its end: nothing cancels.
    terms = 1.0 / np.arange(1, max(len(rows), len(columns)) + 2) ** 2
    left = jnp.array(np.append(np.cumsum(terms[::-1])[::-1], 0.0), jnp.float32)
    height = left.at[far].get(mode="clip") - left.at[upper + 1].get(mode="clip")
    return jnp.where(rows < upper, 1.0, -1.0)[:, None] * height


def _squares(values: Image) -> Float[Array, "1 1 c"]:
    return jnp.sum(values**2, axis=(0, 1), keepdims=True)


def _unit(values: Image) -> Image:
    """Returns each channel at length one, or zero where it is zero."""
    return values / jnp.maximum(jnp.sqrt(_squares(values)), _TINY)
