"""Auto-PGD: projected gradient ascent that sets its own step size."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import balls, losses
from rainjax.attacks._base import BallAttack
from rainjax.attacks.queries import (
    LabelAndTarget,
    LossAndGradient,
    LossGradient,
    highest_wrong,
    succeeds,
)
from rainjax.typing import Draw, Image, Label, LogitsFn, PRNGKey

_DENSITY = 0.2  # the share of the values that the first steps in L1 move


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class APGDState:
    """Where one image's attack stands: `image` is the point to ask about next.

    `best` is the highest point of the present run, from which a halved step goes on, and
    `found` the one to hand out, of all runs. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    previous: Float[Array, "*n h w c"]
    value: Float[Array, "*n"]
    best: Float[Array, "*n h w c"]
    best_gradient: Float[Array, "*n h w c"]
    best_value: Float[Array, "*n"]
    step_size: Float[Array, "*n"]
    num_rises: Int[Array, "*n"]
    checked_value: Float[Array, "*n"]
    halved: Bool[Array, "*n"]
    density: Float[Array, "*n"]
    num_moved: Float[Array, "*n"]
    found: Float[Array, "*n h w c"]
    found_value: Float[Array, "*n"]
    won: Bool[Array, "*n"]
    label: Int[Array, "*n"]
    targets: Int[Array, "*n t"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True)
class Towards:
    """Asks for the targeted DLR loss towards `query_args.target`, and its gradient.

    With fewer than four classes, where there is none, for the target's logit minus the label's.
    A success is any wrong class.
    """

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: LabelAndTarget
    ) -> LossGradient:
        """Returns the answer of one draw."""

        def climbed(image):
            logits = logits_fn(draw, image)
            if logits.shape[0] >= 4:
                return losses.targeted_dlr(logits, query_args.label, query_args.target), logits
            # The logit loss is minus a logit, and NaN for a label there is none of.
            lead = losses.logit(logits, query_args.label) - losses.logit(logits, query_args.target)
            return lead, logits

        (value, logits), gradient = jax.value_and_grad(climbed, has_aux=True)(image)
        return LossGradient(value, gradient, succeeds(logits, query_args.label, False), logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class APGD(BallAttack):
    """Auto-PGD (Croce and Hein, 2020, algorithm 1), by the rules of the AutoAttack program.

    The step starts at twice the radius and is halved, going on from the best point, where since
    the last checkpoint at most the share `rho` of the steps raised the loss, or none found a
    better point and the step had not just been halved. Checkpoints come closer together. A
    quarter of each step is the one before. On a random pipeline every loss is a mean over draws,
    and still an estimate: `NoisyAPGD` is the stronger attack there.

    In L1 the rules are those of Croce and Hein (2021), with one radius throughout: a step moves
    only the values with the largest gradients, fewer as the best point gets sparser, and is
    projected exactly onto the ball within [0, 1]. `rho` has no say there.

    Handed out is, of all visited points at which every draw was a success, the one with the
    highest loss; where there are none, the one with the highest loss of all.

    With `num_targets` it is APGD-T: `loss` gives way to the targeted DLR loss (with fewer than
    four classes, the difference of the two logits), and every restart is run towards each of the
    wrong classes with the highest mean logits on the image itself, which the first call asks
    for. With too few classes the same ones come round again, from other starts.

    >>> from rainjax.attacks import APGD
    >>> targeted = APGD(radius=8 / 255, num_steps=50, num_targets=9)
    >>> targeted.num_gradients  # steps and a first look from each of nine starts, and the targets
    460

    Raises:
        ValueError: an option is out of range, or `num_targets` comes with another loss or with
            a target given as label.
    """

    loss: Literal["cross_entropy", "margin", "dlr", "logit"] = "cross_entropy"
    num_steps: int = 100
    num_restarts: int = 1
    rho: float = 0.75
    num_targets: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho={self.rho} is a share of the steps and must lie in [0, 1].")
        if self.num_steps < 1 or self.num_restarts < 1 or self.num_targets < 0:
            raise ValueError(
                f"num_steps={self.num_steps} and num_restarts={self.num_restarts} must be at "
                f"least 1, and num_targets={self.num_targets} at least 0."
            )
        if self.num_targets and self.targeted:
            raise ValueError(
                f"num_targets={self.num_targets} chooses classes by itself, and with targeted "
                "the label is one: leave either out."
            )
        if self.num_targets and self.loss not in ("cross_entropy", "dlr"):
            raise ValueError(
                f"loss={self.loss!r} has no place beside num_targets={self.num_targets}, which "
                "takes the targeted DLR loss: leave it out."
            )

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw, with one for the clean image of APGD-T."""
        num_runs = self.num_restarts * max(self.num_targets, 1)
        return num_runs * self._calls_per_run + bool(self.num_targets)

    @property
    def query(self) -> LossAndGradient | Towards:
        """The loss and its gradient."""
        return Towards() if self.num_targets else LossAndGradient(self.loss, self.targeted)

    @property
    def least_classes(self) -> int:
        """How many classes a classifier must tell apart; with `num_targets` two are enough."""
        return 2 if self.num_targets else super().least_classes

    @property
    def _calls_per_run(self) -> int:
        return self.num_steps + 1

    @property
    def _first_step(self) -> float:
        return self.radius if self.norm == "l1" else 2 * self.radius

    def init(self, key: PRNGKey, image: Image, label: Label) -> APGDState:
        """Returns the state at the first start, or with `num_targets` at the image itself."""
        lowest, none = jnp.array(-jnp.inf, image.dtype), jnp.zeros_like(image)
        start = image if self.num_targets else self._start(key, image)
        return APGDState(
            origin=image,
            image=start,
            previous=start,
            value=lowest,
            best=start,
            best_gradient=none,
            best_value=lowest,
            step_size=jnp.array(self._first_step, image.dtype),
            num_rises=jnp.array(0),
            checked_value=lowest,
            halved=jnp.array(True),
            density=jnp.array(_DENSITY, image.dtype),
            num_moved=jnp.array(image.size, image.dtype),
            found=image,
            found_value=lowest,
            won=jnp.array(False),
            label=label,
            targets=jnp.broadcast_to(label, (max(self.num_targets, 1),)),
            calls=jnp.array(-1 if self.num_targets else 0),  # the clean call is number -1
        )

    def ask(self, state: APGDState) -> tuple[Image, LabelAndTarget]:
        """Returns the current point, and the class that the present run aims at."""
        run = jnp.maximum(state.calls, 0) // self._calls_per_run
        return state.image, LabelAndTarget(state.label, state.targets[run // self.num_restarts])

    def update(self, key: PRNGKey, state: APGDState, answer: LossGradient) -> APGDState:
        """Returns the state one step further, or at the start of the next run."""
        state = self._record(state, answer)
        made = state.calls % self._calls_per_run  # steps of this run; all of them for call -1
        opens, ends = made == 0, made == self.num_steps
        fresh = self._fresh(state)
        state = jax.tree.map(lambda new, old: jnp.where(opens, new, old), fresh, state)

        better = opens | (answer.value > state.best_value)
        state = dataclasses.replace(
            state,
            best=jnp.where(better, state.image, state.best),
            best_gradient=jnp.where(better, answer.gradient, state.best_gradient),
            best_value=jnp.where(better, answer.value, state.best_value),
        )
        adapt = self._adapt_sparse if self.norm == "l1" else self._adapt
        state, back = adapt(state, answer, made)
        here = jnp.where(back, state.best, state.image)
        gradient = jnp.where(back, state.best_gradient, answer.gradient)
        moved = self._move(state, here, gradient, opens)
        return dataclasses.replace(
            state,
            image=jnp.where(ends, self._start(key, state.origin), moved),
            previous=here,
            value=answer.value,
            calls=state.calls + 1,
        )

    def result(self, state: APGDState) -> Image:
        """Returns the strongest visited point."""
        return state.found

    def _record(self, state: APGDState, answer: LossGradient) -> APGDState:
        """Returns the state with the point just visited as the one to hand out, if it is."""
        value, targets = answer.value, state.targets
        if self.num_targets:
            clean = state.calls < 0  # its loss, towards no class, compares with none
            value = jnp.where(clean, -jnp.inf, value)
            targets = jnp.where(
                clean, highest_wrong(self.num_targets, answer.logits, state.label), targets
            )
        won = answer.success >= 1
        stronger = (won & ~state.won) | ((won == state.won) & (value > state.found_value))
        found = jnp.where(stronger, state.image, state.found)
        found_value = jnp.where(stronger, value, state.found_value)
        return dataclasses.replace(
            state,
            found=found,
            found_value=found_value,
            won=state.won | won,
            targets=targets,
        )

    def _fresh(self, state: APGDState) -> APGDState:
        """Returns the state as a run begins, the step as large as it will ever be."""
        size = state.origin.size
        return dataclasses.replace(
            state,
            step_size=jnp.full_like(state.step_size, self._first_step),
            num_rises=jnp.zeros_like(state.num_rises),
            # The first checkpoint takes the step for one just halved, as the program does.
            halved=jnp.ones_like(state.halved),
            density=jnp.full_like(state.density, _DENSITY),
            num_moved=jnp.full_like(state.num_moved, size),
        )

    def _adapt(
        self, state: APGDState, answer: LossGradient, made: Int[Array, ""]
    ) -> tuple[APGDState, Bool[Array, ""]]:
        """Returns the state with the step that it goes on with, and whether from its best."""
        # As in the program, a step is compared with the one before it even where the attack
        # went back to its best point in between.
        num_rises = state.num_rises + ((made > 0) & (answer.value > state.value))
        limit = jnp.asarray(_limits(self.num_steps, self.rho))[made]
        checks = limit >= 0
        stuck = ~state.halved & (state.best_value <= state.checked_value)
        halves = checks & ((num_rises <= limit) | stuck)
        passed = checks | (made == 0)
        adapted = dataclasses.replace(
            state,
            step_size=jnp.where(halves, state.step_size / 2, state.step_size),
            num_rises=jnp.where(checks, 0, num_rises),
            checked_value=jnp.where(passed, state.best_value, state.checked_value),
            halved=jnp.where(checks, halves, state.halved),
        )
        return adapted, halves

    def _adapt_sparse(
        self, state: APGDState, answer: LossGradient, made: Int[Array, ""]
    ) -> tuple[APGDState, Bool[Array, ""]]:
        """Returns the same for L1, where the step depends on how sparse the best point is."""
        del answer
        checks = (made > 0) & (made % max(int(0.04 * self.num_steps), 1) == 0)
        num_moved = jnp.sum(state.best != state.origin).astype(state.num_moved.dtype)
        sparser = num_moved < 0.95 * state.num_moved
        shorter = jnp.maximum(state.step_size / 1.5, self._first_step / 10)
        step_size = jnp.where(sparser, self._first_step, shorter)
        keep = lambda new, old: jnp.where(checks, new, old)
        adapted = dataclasses.replace(
            state,
            step_size=keep(step_size, state.step_size),
            density=keep(num_moved / state.origin.size / 1.5, state.density),
            num_moved=keep(num_moved, state.num_moved),
        )
        return adapted, checks & sparser

    def _move(
        self, state: APGDState, here: Image, gradient: Image, opens: Bool[Array, ""]
    ) -> Image:
        """Returns the next point of the run."""
        if self.norm == "l1":
            step = state.step_size * _sparse_sign(gradient, state.density)
            return state.origin + _into_l1(state.origin, here + step - state.origin, self.radius)
        inside = lambda image: balls.into_box(state.origin, image, self.norm, self.radius)
        climbed = inside(here + state.step_size * balls.steepest(gradient, self.norm))
        pushed = inside(here + 0.75 * (climbed - here) + 0.25 * (here - state.previous))
        return jnp.where(opens, climbed, pushed)

    def _start(self, key: PRNGKey, image: Image) -> Image:
        """Returns a random point whose distance is the radius, before clipping to [0, 1].

        For L1 it is the point allowed that is nearest to one of Gaussian noise.
        """
        if self.norm == "linf":
            direction = jax.random.uniform(key, image.shape, image.dtype, -1, 1)
        else:
            direction = jax.random.normal(key, image.shape, image.dtype)
        if self.norm == "l1":
            return image + _into_l1(image, direction, self.radius)
        delta = self.radius * direction / balls.length(direction, self.norm)
        return balls.into_box(image, image + delta, self.norm, self.radius)


def _sparse_sign(gradient: Image, density: Float[Array, ""]) -> Image:
    """Returns a step of unit L1 norm, even over the `density` with the largest gradients."""
    sizes, size = jnp.abs(gradient), gradient.size
    rank = jnp.clip((1 - density) * size, 0, size - 1).astype(int)
    signs = jnp.where(sizes >= jnp.sort(sizes.ravel())[rank], jnp.sign(gradient), 0.0)
    return signs / jnp.maximum(jnp.sum(jnp.abs(signs)), 1)


def _into_l1(origin: Image, delta: Image, radius: float) -> Image:
    """Returns the point nearest to `delta` in the L1 ball and, with `origin`, in [0, 1].

    Every value shrinks by one threshold, to zero at most, and stops at the border (Croce and
    Hein, 2021).
    """
    sizes, room = jnp.abs(delta), jnp.where(delta > 0, 1 - origin, origin)
    # As the threshold falls, a value starts to grow where it meets its size, and stops growing
    # where it has room no more: the total is linear in between.
    turns = jnp.concatenate([sizes.ravel(), (sizes - room).ravel()])
    order = jnp.argsort(-turns)
    turns, slope = turns[order], jnp.cumsum(jnp.where(order < delta.size, 1, -1))
    total = jnp.cumsum(slope[:-1] * (turns[:-1] - turns[1:]))
    total = jnp.concatenate([jnp.zeros_like(total[:1]), total])
    last = jnp.sum(total <= radius) - 1  # the turn at or above the threshold
    threshold = turns[last] - (radius - total[last]) / jnp.maximum(slope[last], 1)
    kept = jnp.clip(sizes - jnp.maximum(threshold, 0), 0, room)
    # Sums of thousands of values are rounded.
    return jnp.sign(delta) * kept * jnp.minimum(1, radius / jnp.maximum(jnp.sum(kept), 1e-30))


def checkpoints(num_steps: int) -> tuple[bool, ...]:
    """Returns per number of steps made whether the step size is judged there."""
    return tuple(limit >= 0 for limit in _limits(num_steps, 0.75))


def _limits(num_steps: int, rho: float) -> tuple[int, ...]:
    """Returns per number of steps made how many rises are too few there, or -1: no checkpoint.

    The periods between checkpoints are 22 % of the steps, then 3 % less each time, and 6 % at
    the least, each rounded down.
    """
    period, least, less = (max(int(share * num_steps), 1) for share in (0.22, 0.06, 0.03))
    limits, check = [-1] * (num_steps + 1), period
    while check <= num_steps:
        limits[check] = math.floor(rho * period)
        period = max(period - less, least)
        check += period
    return tuple(limits)
