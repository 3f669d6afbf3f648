"""HopSkipJump: gradients of the boundary, estimated from labels (Chen et al., 2020)."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import balls
from rainjax.attacks.labels import Bisection, LabelAttack
from rainjax.typing import Image, PRNGKey

PROJECTS, VOTES, STEPS = range(3)  # what a question is for
_FIRST_DELTA = 0.1  # how far the first votes lie from the boundary, in units of [0, 1]
_MOST_HALVINGS = 30  # of a step: beyond them float32 knows no difference


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hop:
    """Where an iteration stands: at the projection of `far`, at its votes, or at its step.

    `image` is the iterate, a success on the boundary. `signed` and `plain` are the sums of the
    directions asked about, with and without their verdicts of 1 and -1; `verdicts` that of the
    verdicts alone. Outside of `vmap` it holds a batch.
    """

    part: Int[Array, "*n"]
    iteration: Int[Array, "*n"]
    image: Float[Array, "*n h w c"]
    far: Float[Array, "*n h w c"]
    way: Bisection
    votes: Int[Array, "*n"]
    verdicts: Float[Array, "*n"]
    signed: Float[Array, "*n h w c"]
    plain: Float[Array, "*n h w c"]
    update: Float[Array, "*n h w c"]
    step: Float[Array, "*n"]
    halvings: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HopSkipJump(LabelAttack):
    """Projects onto the boundary, estimates its normal there, and steps along it.

    An iteration projects a success onto the boundary by bisection, towards the image (L2) or into
    a smaller box around it (L-inf); asks about `initial_votes` times the root of the iteration's
    number of points around it, `most_votes` at most, whose verdicts less their mean weigh their
    directions; and steps along that estimate, or its sign in L-inf, from the distance over the
    root of the iteration's number on, half as far until it is a success (Chen et al., 2020,
    algorithm 2, with the details of the authors' code). `gamma` sets how close to the boundary a
    bisection ends, `gamma / d**1.5` of the way in L2 and `gamma / d**2` in L-inf, for d values;
    and with it how far the votes lie from the boundary. They go on until their budget is
    spent. Theirs would halve a step for ever that never is a success; after thirty times the
    next iteration begins here, with other votes.

    Votes are no decisions: each is one answer, whatever the `test`.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax.attacks import HopSkipJump
    >>> logits = lambda draw, image: jnp.stack([image.mean(), 1 - image.mean()])
    >>> image = jnp.full((4, 4, 3), 0.7)
    >>> found = HopSkipJump(num_queries=300)(jax.random.key(0), logits, image, jnp.array(0))
    >>> bool(found.mean() < 0.5), bool(found.mean() > 0.3)
    (True, True)
    """

    norm: Literal["l2", "linf"] = "l2"
    initial_votes: int = 100
    most_votes: int = 10_000
    gamma: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.initial_votes <= self.most_votes:
            raise ValueError(
                f"initial_votes={self.initial_votes} must be at least 1, and at most most_votes="
                f"{self.most_votes}."
            )
        if not 0 < self.gamma < float("inf"):
            raise ValueError(f"gamma={self.gamma} must be finite and positive.")

    def averages(self, search: Hop) -> Bool[Array, ""]:
        """Returns whether the open question is one of the votes on the normal."""
        return search.part == VOTES

    def begin(self, origin: Image, point: Image) -> Hop:
        """Returns the search at the first projection."""
        zeros, none = jnp.zeros_like(point), jnp.array(0)
        zero = jnp.zeros((), point.dtype)
        return Hop(
            none + PROJECTS, none, point, point, self._whole_way(origin, point),
            none, zero, zeros, zeros, zeros, zero, none,
        )  # fmt: skip

    def move(
        self,
        origin: Image,
        search: Hop,
        asked: Image,
        success: Bool[Array, ""],
        share: Float[Array, ""],
    ) -> Hop:
        """Returns the search after the verdict on one point."""
        projecting, voting = search.part == PROJECTS, search.part == VOTES
        stepping = search.part == STEPS

        way = search.way.after(success)
        image = jnp.where(projecting & success, asked, search.image)
        projected = projecting & way.within(self._tolerance(origin, search.far))

        delta = self._delta(origin, search)
        direction, verdict = (asked - search.image) / delta, 2 * share - 1
        votes, verdicts = search.votes + 1, search.verdicts + verdict
        signed, plain = search.signed + verdict * direction, search.plain + direction
        voted = voting & (votes >= self._num_votes(search.iteration))
        update = self._update(signed, plain, verdicts / votes)
        reach = balls.length(image - origin, self.norm) / jnp.sqrt(search.iteration + 1.0)

        stepped = stepping & success
        halvings = search.halvings + 1
        stays = stepping & ~success & (halvings >= _MOST_HALVINGS)
        far = jnp.where(stepped, asked, search.far)
        # Where a step ends without a success the iterate is on the boundary still.
        begins_votes, begins_step = projected | stays, voted
        part = jnp.where(stepped, PROJECTS, search.part)
        part = jnp.where(begins_votes, VOTES, jnp.where(begins_step, STEPS, part))
        halved = jnp.where(stepping & ~success, 0.5 * search.step, search.step)
        sums = lambda old, new: jnp.where(begins_votes, 0, jnp.where(voting, new, old))
        return Hop(
            part=part,
            iteration=search.iteration + (stepped | stays),
            image=jnp.where(stepped, asked, image),
            far=far,
            way=jax.tree.map(
                lambda whole, half, old: jnp.where(
                    stepped, whole, jnp.where(projecting, half, old)
                ),
                self._whole_way(origin, far), way, search.way,
            ),
            votes=sums(search.votes, votes),
            verdicts=sums(search.verdicts, verdicts),
            signed=sums(search.signed, signed),
            plain=sums(search.plain, plain),
            update=jnp.where(begins_step, update, search.update),
            step=jnp.where(begins_step, reach, halved),
            halvings=jnp.where(begins_step, 0, search.halvings + stepping),
        )  # fmt: skip

    def pose(self, key: PRNGKey, origin: Image, search: Hop) -> tuple[Hop, Image]:
        """Returns the search, and the point halfway, in a random direction, or a step further."""
        image, part = search.image, search.part
        vote = image + self._delta(origin, search) * self._direction(key, origin)
        moved = jnp.where(part == VOTES, vote, image + search.step * search.update)
        between = self._between(origin, search.far, search.way.middle)
        return search, jnp.where(part == PROJECTS, between, jnp.clip(moved, 0.0, 1.0))

    def _whole_way(self, origin: Image, far: Image) -> Bisection:
        """Returns the bisection before its first question: over a share in L2, a size in L-inf."""
        one = jnp.ones((), far.dtype)
        size = balls.length(far - origin, "linf") if self.norm == "linf" else one
        return Bisection(0 * one, size)

    def _between(self, origin: Image, far: Image, at: Float[Array, ""]) -> Image:
        """Returns the point of the way from the image to `far`."""
        if self.norm == "linf":
            return jnp.clip(far, origin - at, origin + at)
        return (1 - at) * origin + at * far

    def _theta(self, origin: Image) -> float:
        return self.gamma / origin.size ** (2 if self.norm == "linf" else 1.5)

    def _tolerance(self, origin: Image, far: Image) -> Float[Array, ""] | float:
        theta = self._theta(origin)
        if self.norm == "l2":
            return theta
        return theta * jnp.minimum(balls.length(far - origin, "linf"), 1.0)

    def _delta(self, origin: Image, hop: Hop) -> Float[Array, ""]:
        """Returns how far the votes lie from the iterate: in ratio to what was projected."""
        size = balls.length(hop.far - origin, self.norm)
        root = origin.size if self.norm == "linf" else math.sqrt(origin.size)
        delta = jnp.maximum(root * self._theta(origin) * size, jnp.finfo(origin.dtype).tiny)
        return jnp.where(hop.iteration == 0, _FIRST_DELTA, delta)

    def _num_votes(self, iteration: Int[Array, ""]) -> Int[Array, ""]:
        wanted = self.initial_votes * jnp.sqrt(iteration + 1.0)
        return jnp.minimum(jnp.floor(wanted).astype(int), self.most_votes)

    def _direction(self, key: PRNGKey, like: Image) -> Image:
        """Returns a random direction of length one: uniform on the sphere in L2."""
        if self.norm == "linf":
            noise = jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)
        else:
            noise = jax.random.normal(key, like.shape, like.dtype)
        return noise / jnp.linalg.norm(noise)

    def _update(self, signed: Image, plain: Image, mean: Float[Array, ""]) -> Image:
        """Returns the direction of the step: that of the weighted directions, less their bias.

        Where all votes are alike there is none to subtract, and their mean is followed.
        """
        alike = jnp.abs(mean) == 1
        return balls.steepest(jnp.where(alike, signed, signed - mean * plain), self.norm)
