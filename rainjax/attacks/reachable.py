"""Attacks on defenses that round: a choice, cell by cell, among the outputs they can be led to."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from rainjax import gradients
from rainjax.attacks import balls
from rainjax.attacks._base import BallAttack
from rainjax.attacks._cells import Cell, Grid, cell_sums, spread
from rainjax.attacks.queries import LabelAndTarget, LossAndGradient, LossGradient
from rainjax.defenses._base import (
    Candidates,
    Defense,
    Quantizer,
    Sample,
    apply_draw,
    quantizes,
    stratifies,
)
from rainjax.typing import Image, Label, PRNGKey

# Steps from the last point, in radii: across the ball, and a short one.
_STEPS = (2.0, 0.5)
# Prices between that and its inverse, to three parts in a million.
_LEAST_PRICE = 1e-8
# So many candidates are pushed through the defense together where memory is short.
_FEW = 8
_NUM_BISECTIONS = 24


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What each candidate changes in the input, and in the output, beside the original image's.

    In half precision where they are many: they only rank the candidates. Outside of `vmap` it
    holds a batch.
    """

    moves: Float[Array, "*n k h w c"]
    changes: Float[Array, "*n k h w c"]
    cell: Cell = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gains:
    """What the gradients of one start say that each candidate gains in each cell.

    Sums with weights that decay: of the gains, their squares, the weights and their squares.
    Outside of `vmap` it holds a batch.
    """

    total: Float[Array, "*n k rows cols planes"]
    square: Float[Array, "*n k rows cols planes"]
    weight: Float[Array, "*n"]
    square_weight: Float[Array, "*n"]

    def with_another(self, gain: Float[Array, "k rows cols planes"], decay) -> "Gains":
        """Returns the sums with one gradient's more, the earlier ones weighing less."""
        return Gains(
            decay * self.total + gain,
            decay * self.square + gain**2,
            decay * self.weight + 1,
            decay**2 * self.square_weight + 1,
        )

    def beyond_noise(self) -> Float[Array, "k rows cols planes"]:
        """Returns what is gained beyond what the best of as many would seem to by noise alone.

        The largest of k normal numbers is about sqrt(2 log k) standard deviations above their
        mean. A single gradient tells nothing of its noise, and so counts as nothing else.
        """
        mean = self.total / self.weight
        freedom = 1 - self.square_weight / self.weight**2
        single = freedom < 1e-3
        variance = jnp.maximum(self.square / self.weight - mean**2, 0.0)
        variance = variance / jnp.where(single, 1.0, freedom)
        variance = jnp.where(single, self.square / self.weight, variance)
        noise = jnp.sqrt(self.square_weight * variance)
        return self.total - math.sqrt(2 * math.log(max(2, len(self.total)))) * noise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReachableState:
    """Where one image's attack stands; `point` is asked about, `best` the one to hand out.

    Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    purified: Float[Array, "*n h w c"]
    outcomes: tuple[Outcomes, ...]
    gains: tuple[Gains, ...]
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
    defense are means over `num_output_draws` draws, as its gradient is by `eot`; and there a
    listed output counts for no more than it gains beyond what the noise of the gradients
    explains, so that steps are taken until it does. Without a `defense` only steps along the
    gradient are left.

    Memory: the listed outputs of one image take at most `max_megabytes`. They are kept in
    float32 where these fit (6 MB for Feature Distillation and 32x32 pixels), in half precision
    where those do, and otherwise the attack's key chooses which ones are listed.

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
    max_megabytes: float = 48.0

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_steps", "num_restarts", "num_output_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 < self.max_megabytes < math.inf:
            raise ValueError(f"max_megabytes={self.max_megabytes} must be positive and finite.")
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
    def query(self) -> LossAndGradient:
        """The margin and its gradient."""
        return LossAndGradient("margin", self.targeted)

    def init(self, key: PRNGKey, image: Image, label: Label) -> ReachableState:
        """Returns the state at the image itself, with the outputs that can be reached from it."""
        purified = self._apply(key, image)
        listed, kind = self._listed(key, image)
        outcomes = tuple(self._outcomes(key, image, purified, each, kind) for each in listed)
        return ReachableState(
            origin=image,
            purified=purified,
            outcomes=outcomes,
            gains=tuple(_no_gains(group) for group in outcomes),
            draw_key=key,
            point=image,
            momentum=jnp.zeros_like(image),
            best=image,
            best_value=jnp.array(-jnp.inf, image.dtype),
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: ReachableState) -> tuple[Image, LabelAndTarget]:
        """Returns the image proposed last."""
        return state.point, LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: ReachableState, answer: LossGradient) -> ReachableState:
        """Returns the state at the choice for the gradients so far, or at the next start."""
        calls = state.calls + 1
        ends = calls % self.num_steps == 0
        better = (answer.value > state.best_value) & (self.best_iterate | ends)
        scale = jnp.maximum(jnp.mean(jnp.abs(answer.gradient)), 1e-30)
        newest, decay = answer.gradient / scale, jnp.array(self.momentum)
        if self.num_restarts > 1:
            newest = jnp.where(ends, jax.random.normal(key, newest.shape, newest.dtype), newest)
            decay = jnp.where(ends, 0.0, decay)
        uphill = decay * state.momentum + newest
        gains = tuple(
            before.with_another(_gain(group, newest), decay)
            for before, group in zip(state.gains, state.outcomes, strict=True)
        )
        forget = lambda x: jnp.where(ends, jnp.zeros_like(x), x)
        return dataclasses.replace(
            state,
            point=self._response(state, uphill, gains, ends & (self.num_restarts > 1)),
            momentum=forget(uphill),
            gains=jax.tree.map(forget, gains),
            best=jnp.where(better, state.point, state.best),
            best_value=jnp.where(better, answer.value, state.best_value),
            calls=calls,
        )

    def result(self, state: ReachableState) -> Image:
        """Returns the best of the points that are compared."""
        return state.best

    def _listed(self, key, image: Image) -> tuple[tuple[Candidates, ...], DTypeLike]:
        """Returns as many candidates as fit, and how their outcomes are kept."""
        if not isinstance(self.defense, Quantizer):
            return (), jnp.float32
        found = functools.partial(self.defense.reachable, radius=self.radius, norm=self.norm)
        inputs = jax.eval_shape(lambda x: [each.inputs for each in found(x)], image)
        values = sum(math.prod(each.shape) for each in inputs)
        halves = 4 * values / (1e6 * self.max_megabytes)
        if halves <= 1:
            return found(image), jnp.float32 if 2 * halves <= 1 else jnp.float16
        sample = Sample(jax.random.fold_in(key, 1), 1 / halves)
        return found(image, sample=sample), jnp.float16

    def _outcomes(
        self, key, image: Image, purified: Image, listed: Candidates, kind: DTypeLike
    ) -> Outcomes:
        def change(candidate):
            return (self._apply(key, candidate) - purified).astype(kind)

        # All at once is faster, and holds what every step of the defense makes of each.
        all_at_once = jnp.dtype(kind) == jnp.float32
        size = None if all_at_once else _FEW
        changes = jax.lax.map(change, listed.inputs, batch_size=size or len(listed.inputs))
        return Outcomes((listed.inputs - image[None]).astype(kind), changes, listed.cell)

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

    def _response(self, state: ReachableState, uphill: Image, gains, random_start) -> Image:
        """Returns the input whose every cell gains most along `uphill`."""
        origin, steps = state.origin, self._steps(state, uphill)
        cell = steps.cell
        tables = [
            _Table.of(group, self._believed(found, random_start), self.norm)
            for group, found in zip(state.outcomes, gains, strict=True)
        ]
        tables.append(_Table.of(steps, _gain(steps, uphill), self.norm))
        price = self._price(tables, cell)
        gain, which, _ = _best_of(tables, cell, price)
        delta = jnp.zeros_like(origin)
        for number, table in enumerate(tables):
            wanted = spread((which == number) & (gain > 0), cell, origin.shape)
            delta = table.put(price, wanted, delta)
        return balls.into_box(origin, origin + delta, self.norm, self.radius)

    def _believed(self, gains: Gains, random_start) -> Float[Array, "k rows cols planes"]:
        if self.defense is None or not self.defense.is_random:
            return gains.total
        return jnp.where(random_start, gains.total, gains.beyond_noise())

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
    def of(cls, group: Outcomes, gain, norm: balls.Norm) -> "_Table":
        if norm != "l2":  # all of L-inf's ball is free
            return cls(group, gain, jnp.zeros_like(gain))
        return cls(group, gain, cell_sums(group.moves.astype(gain.dtype) ** 2, group.cell))

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


def _gain(group: Outcomes, uphill: Image) -> Float[Array, "k rows cols planes"]:
    """Returns what each candidate gains along `uphill` in each cell."""
    return cell_sums(group.changes.astype(uphill.dtype) * uphill[None], group.cell)


def _no_gains(group: Outcomes) -> Gains:
    none = jnp.zeros_like(cell_sums(group.changes, group.cell), jnp.float32)
    return Gains(none, none, jnp.array(0.0), jnp.array(0.0))


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
