"""SimBA: one direction of an orthonormal basis after the other, each way (Guo et al., 2019)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls
from rainjax.attacks.queries import LabelAndTarget, LossValue
from rainjax.attacks.scores import ScoreBallAttack
from rainjax.transforms.blocks import dct_matrix
from rainjax.typing import Image, Label, PRNGKey

_GROUP = 3  # calls on the same draws: the incumbent, and two proposals


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SimBAState:
    """Where one image's attack stands.

    `image` is the incumbent and `value` its loss; `order` are the numbers of the directions, and
    `tried` counts the proposals that were turned down or, twice each, accepted: `tried // 2` is
    the place in the order of the next direction. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    value: Float[Array, "*n"]
    order: Int[Array, "*n d"]
    tried: Int[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimBA(ScoreBallAttack):
    """Adds or subtracts `step_size` times one direction of a basis, if that raises the loss.

    Guo et al. (2019), algorithm 1. The directions are the values of single pixels and channels, or
    with `basis="dct"` the two-dimensional cosines of the whole image, channel by channel, of
    which the `low_frequencies` lowest of each axis are used; by default, as theirs, one in eight
    of the image's height and width. They are taken at random without replacement, and once all
    have been, again in the same order.

    The first query asks about the image, and each direction takes one query if adding it is
    enough, and two if not. Theirs lowers the label's probability, which on one draw is to raise
    the cross-entropy; and is bounded by the number of its steps, where here a proposal that leaves
    the ball is projected to it, as it is to [0, 1]. Their cosines' L-inf bound does the same.

    Where draws differ, the loss of an incumbent is that of the draws that favoured it, and one
    lucky draw would end the search. So with `paired` every third call asks about the incumbent,
    and two about proposals on the same draws. Where nothing is random that call is lost: give
    `paired=False` there.

    Raises:
        ValueError: an option is out of range, or as `ScoreBallAttack`; for an image, that it has
            no such frequencies.
    """

    loss: Literal["margin", "cross_entropy", "dlr", "logit"] = "cross_entropy"
    basis: Literal["pixel", "dct"] = "pixel"
    step_size: float = 0.2
    low_frequencies: int | None = None

    def __post_init__(self):
        super().__post_init__()
        balls.check_size("step_size", self.step_size, self.norm, positive=True)
        if self.low_frequencies is None:
            return
        if self.basis == "pixel":
            raise ValueError(
                f"low_frequencies={self.low_frequencies} are of basis='dct', and basis='pixel' "
                "has none: leave it out."
            )
        if self.low_frequencies < 1:
            raise ValueError(f"low_frequencies={self.low_frequencies} must be at least 1.")

    @property
    def num_calls(self) -> int:
        """Queries per image and draw."""
        return self._affordable

    @property
    def _least_calls(self) -> int:
        return 2

    @property
    def _renews(self) -> bool:
        same = self.eot.draws == "enumerated" or self.eot.common
        return self.paired and not same

    def _opening(self, call: int | Int[Array, ""]) -> int | Int[Array, ""]:
        return call - call % _GROUP

    def _asks_incumbent(self, calls: Int[Array, ""]) -> Array:
        return calls % _GROUP == 0 if self._renews else calls == 0

    def init(self, key: PRNGKey, image: Image, label: Label) -> SimBAState:
        """Returns the state before the image itself is asked about."""
        rows, columns = self._frequencies(image)
        num = rows * columns * image.shape[2]
        return SimBAState(
            origin=image,
            image=image,
            value=jnp.array(-jnp.inf, image.dtype),
            order=jax.random.permutation(key, num),
            tried=jnp.array(0),
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: SimBAState) -> tuple[Image, LabelAndTarget]:
        """Returns the proposal, or the incumbent where its loss is to be known."""
        proposal = self._propose(state)
        asked = jnp.where(self._asks_incumbent(state.calls), state.image, proposal)
        return asked, LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: SimBAState, answer: LossValue) -> SimBAState:
        """Returns the state with the better of incumbent and proposal."""
        del key
        incumbent = self._asks_incumbent(state.calls)
        wins = ~incumbent & (answer.value > state.value)
        following = jnp.where(wins, state.tried // 2 * 2 + 2, state.tried + 1)
        return dataclasses.replace(
            state,
            image=jnp.where(wins, self._propose(state), state.image),
            value=jnp.where(wins | incumbent, answer.value, state.value),
            tried=jnp.where(incumbent, state.tried, following),
            calls=state.calls + 1,
        )

    def result(self, state: SimBAState) -> Image:
        """Returns the incumbent."""
        return state.image

    def _propose(self, state: SimBAState) -> Image:
        number = state.order[state.tried // 2 % state.order.shape[0]]
        sign = 1.0 - 2.0 * (state.tried % 2)
        moved = state.image + sign * self.step_size * self._direction(number, state.origin)
        return balls.into_box(state.origin, moved, self.norm, self.radius)

    def _direction(self, number: Int[Array, ""], like: Image) -> Image:
        """Returns the direction of a number: rows first, then columns, then channels."""
        height, width, channels = like.shape
        shape = (*self._frequencies(like), channels)
        row, column, channel = jnp.unravel_index(number, shape)
        only = jax.nn.one_hot(channel, channels, dtype=like.dtype)
        if self.basis == "pixel":
            down = jax.nn.one_hot(row, height, dtype=like.dtype)
            across = jax.nn.one_hot(column, width, dtype=like.dtype)
        else:
            down = jnp.asarray(dct_matrix(height), like.dtype)[row]
            across = jnp.asarray(dct_matrix(width), like.dtype)[column]
        return down[:, None, None] * across[None, :, None] * only[None, None, :]

    def _frequencies(self, image: Image) -> tuple[int, int]:
        """Returns how many rows and columns of the basis are used."""
        height, width, _ = image.shape
        if self.basis == "pixel":
            return height, width
        if self.low_frequencies is None:
            return max(height // 8, 1), max(width // 8, 1)
        if self.low_frequencies > min(height, width):
            raise ValueError(
                f"low_frequencies={self.low_frequencies} are more than an image of {height} x "
                f"{width} has: take {min(height, width)} at most."
            )
        return self.low_frequencies, self.low_frequencies
