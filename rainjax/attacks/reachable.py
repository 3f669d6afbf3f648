"""Attacks on defenses that round: a choice, cell by cell, among the outputs they can be led to."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from rainjax import gradients
from rainjax.attacks import balls
from rainjax.attacks._base import BallAttack
from rainjax.attacks._cells import Cell, Grid, cell_sums, spread
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

# Steps from the last point, in radii: across the ball, and a short one.
_STEPS = (2.0, 0.5)
# Prices between that and its inverse, to three parts in a million.
_LEAST_PRICE = 1e-8
_NUM_BISECTIONS = 24


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
    """Where one image's attack stands; `point` is asked about, `best` the one to hand out.

    Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    purified: Float[Array, "*n h w c"]
    outcomes: tuple[Outcomes, ...]
    draw_key: Key[Array, "*n"]
    point: Float[Array, "*n h w c"]
    momentum: Float[Array, "*n h w c"]
    best: Float[Array, "*n h w c"]
    best_value: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReachableOutputs(BallAttack):
    """Searches the outputs that a defense can be led to, where it rounds cell by cell.

    Within a small ball a rounding returns few different cells, and hardly any direction in the
    input leads to another one: gradients of whatever stands in for it mislead. Here the `defense`
    lists inputs that change all cells at once (`Quantizer.reachable`), and they are pushed
    through it. Asked for is the gradient at its *output*: give the attack a surrogate with the
    identity's gradient, `BPDA(defense, Identity())`. Every cell then takes the output with the
    largest inner product, and so the input that gives it.

    The gradients of one start are accumulated at unit mean magnitude, forgotten at the rate of
    `momentum`: a single one is that of a linear model, and cells that all follow it overshoot.
    Steps from the last point, along that sum and along what the defense's `smooth()` twin makes
    of it, are among the candidates, as BPDA and soft rounding would take them. In L2 every cell
    pays for its squared length a price at which the radius is just spent.

    The first start is the image itself, each other one the choice for a random gradient.
    `best_iterate` hands out the point with the highest mean margin, otherwise the best of the
    starts' last ones: on a random pipeline the highest is a lucky one. The outputs of a random
    defense are means over `num_output_draws` draws, as its gradient is by `eot`. Without a
    `defense` only steps along the gradient are left. Memory: four bytes per candidate and value
    of the image, 3 MiB for Feature Distillation and 32x32 pixels.

    A best response to decaying sums of gradients, over a product of finite sets; MI-FGSM (Dong et
    al., 2018) is the same where nothing is rounded.

    Raises:
        ValueError: an option is out of range; the norm is L1; the defense does not round, or has
            parameters.
    """

    defense: Defense | None = None
    num_steps: int = 30
    num_restarts: int = 4
    momentum: float = 0.9
    best_iterate: bool = True
    num_output_draws: int = 4

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_steps", "num_restarts", "num_output_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1].")
        if self.norm == "l1":
            raise ValueError("norm='l1' is no norm of ReachableOutputs: take 'linf' or 'l2'.")
        if self.defense is not None and not quantizes(self.defense):
            raise ValueError(
                f"defense={self.defense} lists no outputs that can be reached: give a Quantizer "
                "that rounds and has no parameters, such as FeatureDistillation(), or None."
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
        return ReachableState(
            origin=image,
            purified=purified,
            outcomes=tuple(self._outcomes(key, image, purified, c) for c in self._listed(image)),
            draw_key=key,
            point=image,
            momentum=jnp.zeros_like(image),
            best=image,
            best_value=jnp.array(-jnp.inf, image.dtype),
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: ReachableState) -> tuple[Image, Aim]:
        """Returns the image proposed last."""
        return state.point, Aim(state.label, state.label)

    def update(self, key: PRNGKey, state: ReachableState, answer: Ascent) -> ReachableState:
        """Returns the state at the choice for the gradients so far, or at the next start."""
        calls = state.calls + 1
        ends = calls % self.num_steps == 0
        better = (answer.value > state.best_value) & (self.best_iterate | ends)
        scale = jnp.maximum(jnp.mean(jnp.abs(answer.gradient)), 1e-30)
        uphill = self.momentum * state.momentum + answer.gradient / scale
        if self.num_restarts > 1:
            noise = jax.random.normal(key, uphill.shape, uphill.dtype)
            uphill = jnp.where(ends, noise, uphill)
        return dataclasses.replace(
            state,
            point=self._response(state, uphill),
            momentum=jnp.where(ends, 0.0, uphill),
            best=jnp.where(better, state.point, state.best),
            best_value=jnp.where(better, answer.value, state.best_value),
            calls=calls,
        )

    def result(self, state: ReachableState) -> Image:
        """Returns the best of the points that are compared."""
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
        """Returns the defense's output, the mean of one if it is random."""
        return image if self.defense is None else self._mean_output(self.defense, key, image)

    def _mean_output(self, defense: Defense, key: PRNGKey, image: Image) -> Image:
        """Returns the mean output, over the same draws for every image."""
        params = defense.init(key)  # empty: see __post_init__
        if not defense.is_random:
            return apply_draw(defense, params, key, image)
        one = lambda draw, x: apply_draw(defense, params, draw, x)
        draws = "stratified" if stratifies(defense) else "independent"
        return gradients.expectation(one, self.num_output_draws, draws=draws)(key, image)

    def _response(self, state: ReachableState, uphill: Image) -> Image:
        """Returns the input whose every cell gains most along `uphill`."""
        origin = state.origin
        groups = (*state.outcomes, self._steps(state, uphill))
        cell = groups[-1].cell
        tables = [_Table.of(group, uphill) for group in groups]
        price = self._price(tables, cell)
        gain, which, _ = _best_of(tables, cell, price)
        delta = jnp.zeros_like(origin)
        for number, table in enumerate(tables):
            wanted = spread((which == number) & (gain > 0), cell, origin.shape)
            delta = table.put(price, wanted, delta)
        return balls.into_box(origin, origin + delta, self.norm, self.radius)

    def _steps(self, state: ReachableState, uphill: Image) -> Outcomes:
        """Returns steps from the last point, along BPDA's gradient and the soft twin's."""
        directions = [uphill]
        if self.defense is not None:
            soft = self.defense.smooth()
            if soft != self.defense:
                apply = lambda x: self._mean_output(soft, state.draw_key, x)
                directions.append(jax.vjp(apply, state.point)[1](uphill)[0])
        steps = jnp.stack([balls.steepest(d, self.norm) for d in directions])
        sizes = self.radius * jnp.asarray(_STEPS)[:, None, None, None, None]
        ahead = state.point[None] + (sizes * steps[None]).reshape(-1, *state.point.shape)
        into = lambda x: balls.into_box(state.origin, x, self.norm, self.radius)
        ahead = jax.vmap(into)(ahead)
        outputs = jax.vmap(lambda x: self._apply(state.draw_key, x))(ahead)
        changes = outputs - state.purified[None]
        return Outcomes(ahead - state.origin[None], changes, _common_cell(state.outcomes))

    def _price(self, tables: list["_Table"], cell: Cell) -> Float[Array, ""]:
        """Returns the price on squared length at which the best choices just spend the radius."""
        if self.norm != "l2":
            return jnp.array(0.0)

        def halve(_, bounds):
            low, high = bounds
            price = jnp.sqrt(low * high)
            dear = _best_of(tables, cell, price)[2].sum() > self.radius**2
            return jnp.where(dear, price, low), jnp.where(dear, high, price)

        ends = jnp.array(_LEAST_PRICE), jnp.array(1 / _LEAST_PRICE)
        return jax.lax.fori_loop(0, _NUM_BISECTIONS, halve, ends)[1]


@dataclasses.dataclass(frozen=True)
class _Table:
    """What each candidate of a group gains and costs in each cell, beside the original image."""

    group: Outcomes
    gain: Float[Array, "k rows cols planes"]
    cost: Float[Array, "k rows cols planes"]

    @classmethod
    def of(cls, group: Outcomes, uphill: Image) -> "_Table":
        wide = lambda x: x.astype(uphill.dtype)
        gain = cell_sums(wide(group.changes) * uphill[None], group.cell)
        return cls(group, gain, cell_sums(wide(group.moves) ** 2, group.cell))

    def best(self, price) -> tuple[Grid, Int[Array, "rows cols planes"], Grid]:
        """Returns the largest gain after cost of each own cell, or 0, whose, and its cost."""
        net = self.gain - price * self.cost
        which, top = jnp.argmax(net, axis=0), jnp.max(net, axis=0)
        cost = jnp.take_along_axis(self.cost, which[None], axis=0)[0]
        return jnp.maximum(top, 0.0), which, jnp.where(top > 0, cost, 0.0)

    def put(self, price, wanted: Bool[Array, "h w c"], delta: Image) -> Image:
        """Returns the perturbation with the best candidates put in."""
        gain, which, _ = self.best(price)
        wanted &= spread(gain > 0, self.group.cell, delta.shape)
        places = spread(which, self.group.cell, delta.shape)[None]
        move = jnp.take_along_axis(self.group.moves, places, axis=0)[0]
        return jnp.where(wanted, move.astype(delta.dtype), delta)


def _best_of(
    tables: list[_Table], cell: Cell, price
) -> tuple[Grid, Int[Array, "rows cols planes"], Grid]:
    """Returns the largest gain after cost of each cell, the number of its table, and its cost."""
    gains, costs = [], []
    for table in tables:
        gain, _, cost = table.best(price)
        own = table.group.cell
        parts = cell[0] // own[0], cell[1] // own[1], cell[2] // own[2]
        gains.append(cell_sums(gain, parts))
        costs.append(cell_sums(cost, parts))
    which = jnp.argmax(jnp.stack(gains), axis=0)
    taken = lambda x: jnp.take_along_axis(jnp.stack(x), which[None], axis=0)[0]
    return taken(gains), which, taken(costs)


def _common_cell(groups: tuple[Outcomes, ...]) -> Cell:
    """Returns the cell that holds a cell of every group."""
    sides = [max(sizes) for sizes in zip(*(g.cell for g in groups), strict=True)] or [1, 1, 1]
    return sides[0], sides[1], sides[2]
