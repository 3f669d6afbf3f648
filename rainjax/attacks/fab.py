"""FAB: the nearest point beyond a decision boundary, by projections onto its linear model."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import balls, hyperplane, losses
from rainjax.attacks._base import BallAttack
from rainjax.attacks.queries import highest_wrong, succeeds
from rainjax.typing import Draw, Image, Label, LogitsFn, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Boundary:
    """The label of an image, the classes beyond its boundary, and whether a find ends the search.

    Outside of `vmap` it holds a batch.
    """

    label: Int[Array, "*n"]
    targets: Int[Array, "*n k"]
    inside: Bool[Array, "*n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Side:
    """On which side of boundaries a point lies: the targets' mean leads, and their gradients.

    `wrong` is the share of draws that were misclassified; `success` the same where the point
    lies in the ball, and zero elsewhere. Outside of `vmap` it holds a batch.
    """

    leads: Float[Array, "*n k"]
    gradients: Float[Array, "*n k h w c"]
    margin: Float[Array, "*n"]
    wrong: Float[Array, "*n"]
    success: Float[Array, "*n"]
    logits: Float[Array, "*n classes"]


@dataclasses.dataclass(frozen=True)
class Leads:
    """Asks for the logits of `num_targets` classes minus the label's, and for their gradients.

    Equal for attacks that ask about as many, whichever they are.
    """

    num_targets: int

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: Boundary
    ) -> Side:
        """Returns the answer of one draw."""

        def leads(image):
            logits = logits_fn(draw, image)
            own = losses.logit(logits, query_args.label)
            others = [losses.logit(logits, query_args.targets[i]) for i in range(self.num_targets)]
            return jnp.stack([own - other for other in others]), logits

        values, pull, logits = jax.vjp(leads, image, has_aux=True)
        gradients = jax.vmap(lambda cotangent: pull(cotangent)[0])(jnp.eye(self.num_targets))
        wrong = succeeds(logits, query_args.label, targeted=False)
        return Side(
            leads=values,
            gradients=gradients,
            margin=losses.margin(logits, query_args.label),
            wrong=wrong,
            success=jnp.where(query_args.inside, wrong, 0.0),
            logits=logits,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FABState:
    """Where one image's attack stands.

    `nearest` is the closest misclassified point visited, `strongest` the one with the largest
    mean margin, within the ball if any was. Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    nearest: Float[Array, "*n h w c"]
    distance: Float[Array, "*n"]
    strongest: Float[Array, "*n h w c"]
    margin: Float[Array, "*n"]
    strongest_inside: Bool[Array, "*n"]
    targets: Int[Array, "*n t"]
    label: Int[Array, "*n"]
    lost: Bool[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FAB(BallAttack):
    """The fast adaptive boundary attack, FAB and FAB-T (Croce and Hein, 2020, section 3).

    For each of the `num_targets` classes with the highest mean logits after the label, one
    after the other, it takes the linear model of the boundary between label and class, projects
    both iterate and image onto it within [0, 1], goes `eta` times as far, and mixes the two with
    a share of at most `alpha_max` for the image's: that is FAB-T. With `together` one run looks
    at the boundaries to all these classes and takes, at every step, the nearest: FAB, of which
    a step takes `num_targets` backward passes, also where there are fewer classes. Where most
    draws are misclassified it has crossed, and goes on from `beta` times the perturbation. So it
    seeks the nearest boundary, and uses the ball last: what it hands out is the misclassified
    point closest to the image, brought into the ball. An image that no visited point beats is
    handed out at its strongest attempt, the largest mean margin within the ball, and so is one
    that is wrong from the start: no boundary is between.

    It differs from the authors' code in one thing: having crossed, it takes the linear model
    at the point that crossed, which is nearer to the boundary than the point moved back to,
    and needs no second call there.

    With restarts, all but the first runs towards a class start at a random point, in a ball of
    half the radius or of half the distance reached. Where the gradient is zero, so does every
    step. With `early_stop` only a find within the ball counts. On a random pipeline the nearest
    point is one where about half of the draws fail, and with few draws a lucky one: APGD, which
    climbs on within the ball, is stronger there.

    Raises:
        ValueError: the norm is L1, or an option is out of range.
    """

    num_steps: int = 100
    num_restarts: int = 1
    num_targets: int = 9
    together: bool = False
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self):
        super().__post_init__()
        if self.norm == "l1":
            raise ValueError("norm='l1' has no projection here: FAB knows 'linf' and 'l2'.")
        if self.targeted:
            raise ValueError(
                "targeted=True has no meaning here: FAB leaves the label for the nearest of "
                "num_targets classes."
            )
        if self.num_steps < 1 or self.num_restarts < 1 or self.num_targets < 1:
            raise ValueError(
                f"num_steps={self.num_steps}, num_restarts={self.num_restarts} and "
                f"num_targets={self.num_targets} must be at least 1."
            )
        if not 0 <= self.alpha_max <= 1 or not 0 <= self.beta <= 1:
            raise ValueError(
                f"alpha_max={self.alpha_max} and beta={self.beta} are shares, in [0, 1]."
            )
        if not 1 <= self.eta < float("inf"):
            raise ValueError(f"eta={self.eta} must be at least 1 to reach the boundary.")

    @property
    def num_calls(self) -> int:
        """Questions per image: one ranks the classes."""
        return 1 + self.num_restarts * self._num_runs * self._calls_per_run

    @property
    def query(self) -> Leads:
        """The leads of targets over the label, and their gradients."""
        return Leads(self.passes_per_draw)

    @property
    def passes_per_draw(self) -> int:
        """A gradient for each class that is looked at together."""
        return self.num_targets if self.together else 1

    @property
    def _calls_per_run(self) -> int:
        return self.num_steps + 1  # the last call says where the last step led

    @property
    def _num_runs(self) -> int:
        return 1 if self.together else self.num_targets

    def init(self, key: PRNGKey, image: Image, label: Label) -> FABState:
        """Returns the state before the classes are ranked."""
        return FABState(
            origin=image,
            image=image,
            nearest=image,
            distance=jnp.array(jnp.inf, image.dtype),
            strongest=image,
            margin=jnp.array(-jnp.inf, image.dtype),
            strongest_inside=jnp.array(False),
            targets=jnp.full(self.num_targets, label),
            label=label,
            lost=jnp.array(False),
            calls=jnp.array(0),
        )

    def ask(self, state: FABState) -> tuple[Image, Boundary]:
        """Returns the iterate, and the classes to whose boundaries with the label it is led."""
        run = jnp.maximum(state.calls - 1, 0) // self._calls_per_run
        inside = balls.length(state.image - state.origin, self.norm) <= self.radius
        targets = state.targets
        if not self.together:
            targets = targets[run % self.num_targets][None]
        return state.image, Boundary(state.label, targets, inside)

    def update(self, key: PRNGKey, state: FABState, answer: Side) -> FABState:
        """Returns the state one step on, or at the start towards the next class."""
        first, wrong = state.calls == 0, answer.wrong > 0.5
        distance = balls.length(state.image - state.origin, self.norm)
        moved = distance > 0  # the image itself is never handed out
        nearer = moved & wrong & (distance < state.distance)
        # Beyond the ball a margin says nothing of the point that is brought back into it.
        inside = distance <= self.radius * (1 + 1e-6)
        higher = (inside == state.strongest_inside) & (answer.margin > state.margin)
        stronger = moved & (higher | (inside & ~state.strongest_inside))
        found = dataclasses.replace(
            state,
            nearest=jnp.where(nearer, state.image, state.nearest),
            distance=jnp.where(nearer, distance, state.distance),
            strongest=jnp.where(stronger, state.image, state.strongest),
            margin=jnp.where(stronger, answer.margin, state.margin),
            strongest_inside=state.strongest_inside | (stronger & inside),
            targets=jnp.where(
                first, highest_wrong(self.num_targets, answer.logits, state.label), state.targets
            ),
            lost=state.lost | (first & wrong),
            calls=state.calls + 1,
        )
        starts = state.calls % self._calls_per_run == 0
        ahead = jnp.where(starts, self._start(key, found), self._step(key, state, answer))
        return dataclasses.replace(found, image=ahead)

    def result(self, state: FABState) -> Image:
        """Returns the nearest misclassified point, or the strongest attempt, in the ball."""
        beaten = (state.distance < jnp.inf) & ~state.lost
        image = jnp.where(beaten, state.nearest, state.strongest)
        return balls.into_box(state.origin, image, self.norm, self.radius)

    def _start(self, key: PRNGKey, state: FABState) -> Image:
        """Returns where the run begins whose first call is next."""
        if self.num_restarts == 1:
            return state.origin
        reach = 0.5 * jnp.minimum(self.radius, state.distance)
        again = (state.calls - 1) // self._calls_per_run >= self._num_runs
        return jnp.where(again, self._near(key, state.origin, reach), state.origin)

    def _step(self, key: PRNGKey, state: FABState, answer: Side) -> Image:
        """Returns a point about on the boundary, drawn a little towards the image."""
        origin, delta = state.origin, state.image - state.origin
        crossed = answer.wrong > 0.5
        # From an image that is wrong already no boundary is sought, but a larger margin.
        climbs = (delta == 0).all() & crossed & (answer.leads.max() > 0)
        chosen = jnp.where(climbs, jnp.argmax(answer.leads), self._nearest(answer))
        lead_here, gradient = answer.leads[chosen], answer.gradients[chosen]
        iterate = jnp.where(crossed, origin + self.beta * delta, state.image)

        def onto(point):
            lead = lead_here + jnp.sum(gradient * (point - state.image))
            step = hyperplane.step_onto(point, gradient, -lead, self.norm)
            return point + self.eta * step, balls.length(step, self.norm)

        (near, there), (direct, back) = onto(iterate), onto(origin)
        share = jnp.clip(there / jnp.maximum(there + back, 1e-12), 0.0, self.alpha_max)
        ahead = jnp.clip((1 - share) * near + share * direct, 0.0, 1.0)
        uphill = origin + self.radius * balls.steepest(gradient, self.norm)
        ahead = jnp.where(climbs, jnp.clip(uphill, 0.0, 1.0), ahead)
        flat = (gradient == 0).all()
        return jnp.where(flat, self._near(key, origin, 0.5 * self.radius), ahead)

    def _nearest(self, answer: Side) -> Int[Array, ""]:
        """Returns which boundary is nearest, the box left out of account."""
        speeds = hyperplane.speeds(answer.gradients, self.norm)
        distances = jnp.where(speeds > 0, jnp.abs(answer.leads) / speeds, jnp.inf)
        return jnp.argmin(distances)

    def _near(self, key: PRNGKey, origin: Image, reach: Float[Array, ""] | float) -> Image:
        """Returns a random point within `reach` of the image."""
        delta = reach * balls.random_point(key, origin, self.norm, 1.0)
        return jnp.clip(origin + delta, 0.0, 1.0)
