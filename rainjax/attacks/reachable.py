"""Attacks on defenses that round: a choice, cell by cell, among the outputs they can be led to."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rainjax import gradients
from rainjax.attacks import balls
from rainjax.attacks._base import BallAttack
from rainjax.attacks._cells import Cell, Grid, cell_sums, grid_shape, spread, within_budget
from rainjax.attacks.queries import Aim, Ascent, Slope
from rainjax.defenses._base import (
    Candidates,
    Defense,
    Quantizer,
    apply_draw,
    quantizes,
    stratifies,
)
from rainjax.typing import Image, Label, PRNGKey

# Prices from 1e-6 to 1e6, to one part in a million.
_NUM_BISECTIONS = 24
_JITTER = 0.9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What each candidate changes in the input, and in the output, beside the original image's.

    Half precision: they are many, and only rank the candidates. Outside of `vmap` it holds a
    batch.
    """

    moves: Float[Array, "*n k h w c"]
    changes: Float[Array, "*n k h w c"]
    cell: Cell = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReachableState:
    """Where one image's attack stands; `point` is asked about, `image` the best of this start.

    Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    purified: Float[Array, "*n h w c"]
    outcomes: tuple[Outcomes, ...]
    draw_key: Key[Array, "*n"]
    point: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    gradient: Float[Array, "*n h w c"]
    value: Float[Array, "*n"]
    share: Float[Array, "*n"]
    best: Float[Array, "*n h w c"]
    best_value: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReachableOutputs(BallAttack):
    """Searches the outputs that a defense can be led to, where it rounds cell by cell.

    Within a small ball a rounding returns few different cells, and hardly any direction in the
    input leads to another one: so gradients of whatever stands in for the rounding mislead. Here
    the `defense` lists inputs for all cells at once (`Quantizer.reachable`), and they are pushed
    through it. Asked for is the gradient at its *output*: give the attack a surrogate with the
    identity's gradient, `BPDA(defense, Identity())`. Each cell then takes the output with the
    largest inner product, and so the input that gives it; steps of signed gradient (BPDA's) are
    among the candidates. What raises the margin is kept: all the cells that gain are changed
    at once, after a step that fails half as many, those that gain most, after one that succeeds
    twice as many. In L2 a price on squared length is set so that the radius is just spent.

    The first start is the image itself, the others are random choices of candidates. The outputs
    of a random defense are means over `num_output_draws` draws, as its gradient is by `eot`.
    Without a `defense`, or without candidates, only the signed gradient is left. Memory: two
    bytes per value of the image for each candidate's input and output, some MiB for 32x32 pixels.

    After the attack on Feature Distillation's two passes described in this library's README; like
    coordinate ascent over a product of finite sets.

    Raises:
        ValueError: an option is out of range; the norm is L1; the defense does not round, or has
            parameters.
    """

    defense: Defense | None = None
    num_steps: int = 30
    num_restarts: int = 4
    num_output_draws: int = 4

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_steps", "num_restarts", "num_output_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.norm == "l1":
            raise ValueError("norm='l1' is no norm of ReachableOutputs: take 'linf' or 'l2'.")
        if self.defense is not None and not quantizes(self.defense):
            raise ValueError(
                f"defense={self.defense} has no reachable outputs to list: give a Quantizer "
                "without parameters, such as FeatureDistillation(), or None."
            )

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw."""
        return self.num_restarts * self.num_steps

    @property
    def query(self) -> Slope:
        """The margin and its gradient."""
        return Slope("margin", self.targeted)

    def init(self, key: PRNGKey, image: Image, label: Label) -> ReachableState:
        """Returns the state at the image itself, with the outputs that can be reached from it."""
        purified = self._apply(key, image)
        lowest = jnp.array(-jnp.inf, image.dtype)
        return ReachableState(
            origin=image,
            purified=purified,
            outcomes=tuple(self._outcomes(key, image, purified, c) for c in self._listed(image)),
            draw_key=key,
            point=image,
            image=image,
            gradient=jnp.zeros_like(image),
            value=lowest,
            share=jnp.array(1.0, image.dtype),
            best=image,
            best_value=lowest,
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: ReachableState) -> tuple[Image, Aim]:
        """Returns the image proposed last."""
        return state.point, Aim(state.label, state.label)

    def update(self, key: PRNGKey, state: ReachableState, answer: Ascent) -> ReachableState:
        """Returns the state with the next proposal, from the better one of the last two images."""
        choose_key, start_key = jax.random.split(key)
        better = answer.value > state.value
        best = answer.value > state.best_value
        factor = jnp.where(better, 2.0, 0.5)
        state = dataclasses.replace(
            state,
            image=jnp.where(better, state.point, state.image),
            gradient=jnp.where(better, answer.gradient, state.gradient),
            value=jnp.where(better, answer.value, state.value),
            share=jnp.minimum(factor * state.share, 1.0),
            best=jnp.where(best, state.point, state.best),
            best_value=jnp.where(best, answer.value, state.best_value),
            calls=state.calls + 1,
        )
        ends = state.calls % self.num_steps == 0
        proposal = self._proposal(choose_key, state)
        if self.num_restarts > 1:
            proposal = jnp.where(ends, self._random(start_key, state), proposal)
        return dataclasses.replace(
            state,
            point=proposal,
            value=jnp.where(ends, -jnp.inf, state.value),
            share=jnp.where(ends, 1.0, state.share),
        )

    def result(self, state: ReachableState) -> Image:
        """Returns the image with the highest mean margin of all that were asked about."""
        return state.best

    def _listed(self, image: Image) -> tuple[Candidates, ...]:
        if not isinstance(self.defense, Quantizer):
            return ()
        return self.defense.reachable(image, self.radius, self.norm)

    def _outcomes(self, key, image: Image, purified: Image, listed: Candidates) -> Outcomes:
        outputs = jax.vmap(lambda x: self._apply(key, x))(listed.inputs)
        halved = lambda x: x.astype(jnp.float16)
        return Outcomes(
            halved(listed.inputs - image[None]), halved(outputs - purified[None]), listed.cell
        )

    def _apply(self, key: PRNGKey, image: Image) -> Image:
        """Returns the mean output of the defense, over the same draws for every image."""
        if self.defense is None:
            return image
        params = self.defense.init(key)  # empty: see __post_init__
        if not self.defense.is_random:
            return apply_draw(self.defense, params, key, image)
        one = lambda draw, x: apply_draw(self.defense, params, draw, x)
        draws = "stratified" if stratifies(self.defense) else "independent"
        return gradients.expectation(one, self.num_output_draws, draws=draws)(key, image)

    def _proposal(self, key: PRNGKey, state: ReachableState) -> Image:
        """Returns the next image to ask about: the present one with better cells put in."""
        origin, present = state.origin, state.image - state.origin
        here = self._apply(state.draw_key, state.image) - state.purified
        groups = (*state.outcomes, self._signed_steps(state))
        tables = [_Table.of(group, state.gradient, here, present) for group in groups]
        cell = groups[-1].cell
        price = self._price(tables, cell, present)
        gain, which, _ = _best_of(tables, cell, price)
        jitter = jax.random.uniform(key, gain.shape, gain.dtype, 1 - _JITTER, 1.0)
        rank = jnp.argsort(jnp.argsort(-(gain * jitter).ravel())).reshape(gain.shape)
        changed = (rank < jnp.ceil(state.share * gain.size)) & (gain > 0)
        delta, change = present, here
        for number, table in enumerate(tables):
            here_too = spread(changed & (which == number), cell, origin.shape)
            delta, change = table.put(price, here_too, delta, change)
        if self.norm == "l2":
            worth = cell_sums(state.gradient * change, cell)
            kept = within_budget(worth, cell_sums(delta**2, cell), self.radius**2)
            delta = jnp.where(spread(kept, cell, origin.shape), delta, 0.0)
        return balls.into_box(origin, origin + delta, self.norm, self.radius)

    def _signed_steps(self, state: ReachableState) -> Outcomes:
        """Returns a long and a short step of the signed gradient, as further candidates."""
        steps = self.radius * jnp.array([2.0, 0.5])[:, None, None, None]
        ahead = state.image[None] + steps * balls.steepest(state.gradient, self.norm)[None]
        into = lambda x: balls.into_box(state.origin, x, self.norm, self.radius)
        ahead = jax.vmap(into)(ahead)
        outputs = jax.vmap(lambda x: self._apply(state.draw_key, x))(ahead)
        origin, purified = state.origin[None], state.purified[None]
        return Outcomes(ahead - origin, outputs - purified, _common_cell(state.outcomes))

    def _price(self, tables: list["_Table"], cell: Cell, present: Image) -> Float[Array, ""]:
        """Returns the price on squared length at which the best choices just spend the radius."""
        if self.norm != "l2":
            return jnp.array(0.0)
        left = self.radius**2 - jnp.sum(present**2)

        def halve(_, bounds):
            low, high = bounds
            price = jnp.sqrt(low * high)
            dear = _best_of(tables, cell, price)[2].sum() > left
            return jnp.where(dear, price, low), jnp.where(dear, high, price)

        return jax.lax.fori_loop(0, _NUM_BISECTIONS, halve, (jnp.array(1e-6), jnp.array(1e6)))[1]

    def _random(self, key: PRNGKey, state: ReachableState) -> Image:
        """Returns the image with a random candidate in half of its cells."""
        origin, delta = state.origin, jnp.zeros_like(state.origin)
        if not state.outcomes:
            delta = balls.random_point(key, origin, self.norm, self.radius)
        for number, group in enumerate(state.outcomes):
            which_key, on_key, order_key = jax.random.split(jax.random.fold_in(key, number), 3)
            grid = grid_shape(origin.shape, group.cell)
            which = jax.random.randint(which_key, grid, 0, len(group.moves))
            on = jax.random.bernoulli(on_key, 0.5, grid)
            move = _taken(group.moves, which, group.cell)
            delta = jnp.where(spread(on, group.cell, origin.shape), move, delta)
            if self.norm == "l2":
                order = jax.random.uniform(order_key, grid)
                cost = cell_sums(delta**2, group.cell)
                kept = within_budget(order * cost, cost, self.radius**2)
                delta = jnp.where(spread(kept, group.cell, origin.shape), delta, 0.0)
        return balls.into_box(origin, origin + delta, self.norm, self.radius)


@dataclasses.dataclass(frozen=True)
class _Table:
    """What each candidate of a group would gain and cost in each cell, beside the present one.

    `cell` is that of the whole choice, of which the group's own cells are parts.
    """

    group: Outcomes
    gain: Float[Array, "k rows cols planes"]
    cost: Float[Array, "k rows cols planes"]

    @classmethod
    def of(cls, group: Outcomes, gradient: Image, here: Image, present: Image) -> "_Table":
        wide = lambda x: x.astype(gradient.dtype)
        gained = cell_sums(wide(group.changes) * gradient[None], group.cell)
        longer = cell_sums(wide(group.moves) ** 2, group.cell)
        now, length = (cell_sums(x, group.cell) for x in (here * gradient, present**2))
        return cls(group, gained - now[None], longer - length[None])

    def best(self, price) -> tuple[Grid, Int[Array, "rows cols planes"], Grid]:
        """Returns the largest gain after cost of each own cell, or 0, whose, and its cost."""
        net = self.gain - price * self.cost
        which = jnp.argmax(net, axis=0)
        top = jnp.max(net, axis=0)
        cost = jnp.take_along_axis(self.cost, which[None], axis=0)[0]
        return jnp.maximum(top, 0.0), which, jnp.where(top > 0, cost, 0.0)

    def put(self, price, where, delta: Image, change: Image) -> tuple[Image, Image]:
        """Returns the input's and the output's change with the best candidates put in."""
        gain, which, _ = self.best(price)
        where &= spread(gain > 0, self.group.cell, delta.shape)
        taken = (_taken(x, which, self.group.cell) for x in (self.group.moves, self.group.changes))
        return tuple(
            jnp.where(where, new, old) for new, old in zip(taken, (delta, change), strict=True)
        )


def _best_of(
    tables: list[_Table], cell: Cell, price
) -> tuple[Grid, Int[Array, "rows cols planes"], Grid]:
    """Returns the largest gain after cost of each cell, the number of its table, and its cost."""
    gains, costs = [], []
    for table in tables:
        gain, _, cost = table.best(price)
        parts = tuple(whole // own for whole, own in zip(cell, table.group.cell, strict=True))
        gains.append(cell_sums(gain, parts))
        costs.append(cell_sums(cost, parts))
    which = jnp.argmax(jnp.stack(gains), axis=0)
    taken = lambda x: jnp.take_along_axis(jnp.stack(x), which[None], axis=0)[0]
    return taken(gains), which, taken(costs)


def _taken(
    images: Float[Array, "k h w c"], which: Int[Array, "rows cols planes"], cell: Cell
) -> Image:
    """Returns the image put together of the cells chosen."""
    whole = spread(which, cell, images.shape[1:])
    return jnp.take_along_axis(images, whole[None], axis=0)[0].astype(jnp.float32)


def _common_cell(groups: tuple[Outcomes, ...]) -> Cell:
    """Returns the cell that holds a cell of every group."""
    sides = [max(sizes) for sizes in zip(*(g.cell for g in groups), strict=True)] or [1, 1, 1]
    return sides[0], sides[1], sides[2]
