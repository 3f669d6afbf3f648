"""What attacks share that see the labels of a pipeline's answers, and nothing else."""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax._checks import check_num_classes
from rainjax.attacks.minimum_norm import MinimumNormAttack, Nearest
from rainjax.attacks.queries import succeeds
from rainjax.attacks.sequential import SequentialTest, Votes
from rainjax.attacks.starts import Start, UniformNoise
from rainjax.typing import Draw, Image, Label, LogitsFn, PRNGKey

ORIGIN, TRIES, BLENDING, SEARCHING, RESTING = range(5)  # the phases of an attack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Verdict:
    """The share of draws that were a success: all that labels tell.

    Outside of `vmap` it holds a batch.
    """

    success: Float[Array, "*n"]


@dataclasses.dataclass(frozen=True)
class LabelOnly:
    """Asks whether the label that is answered is one that the attacker wants, and no more.

    The scores end here: an attack is told a share of draws, never what it was made of. With
    `targeted` the label is the class to be reached.
    """

    targeted: bool = False

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: Label
    ) -> Verdict:
        """Returns the answer of one draw.

        Raises:
            ValueError: there is one class, which is every image's.
        """
        logits = logits_fn(draw, image)
        check_num_classes(logits.shape[0], "What gives these logits")
        return Verdict(succeeds(logits, query_args, self.targeted))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bisection:
    """A way between two numbers, of which one `holds` to be a success, and the other `fails`.

    Outside of `vmap` it holds a batch.
    """

    fails: Float[Array, "*n"]
    holds: Float[Array, "*n"]

    @property
    def middle(self) -> Float[Array, "*n"]:
        """The number to ask about."""
        return 0.5 * (self.fails + self.holds)

    def after(self, success: Bool[Array, ""]) -> "Bisection":
        """Returns the half of the way that is left after the answer at its middle."""
        fails = jnp.where(success, self.fails, self.middle)
        return Bisection(fails, jnp.where(success, self.middle, self.holds))

    def within(self, tolerance: float | Float[Array, ""]) -> Bool[Array, "*n"]:
        """Returns whether the way is short enough, or has no number any more in between."""
        exhausted = (self.middle == self.fails) | (self.middle == self.holds)
        return (jnp.abs(self.fails - self.holds) <= tolerance) | exhausted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelState:
    """Where one image's attack stands; `asked` is the open question, `votes` its answers so far.

    `queries` counts the answers that were of use: those of an attack that rests are not. `search`
    is what the attack itself remembers. Outside of `vmap` it holds a batch.
    """

    best: Nearest
    label: Int[Array, "*n"]
    asked: Float[Array, "*n h w c"]
    votes: Votes
    phase: Int[Array, "*n"]
    tries: Int[Array, "*n"]
    failed: Float[Array, "*n h w c"]
    queries: Int[Array, "*n"]
    search: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelAttack(MinimumNormAttack):
    """An attack that looks for the nearest success, and is told of each point whether it is one.

    A point is a success where at least the share `success_share` of the draws that were asked
    about it were classified as the attacker wants. A query is one answer, `eot.num_samples`
    forward passes, and `num_queries` are all there are, those for the image itself and for a
    start among them. The image is asked about first: one that is a success already is handed
    out as it is, and so is one for which `starts` finds none. Otherwise the nearest success that
    was found is handed out.

    On a random pipeline one draw says little, and a search that takes it at its word ends at the
    luckiest point: its steps are decisions, which nothing undoes. Either let each answer be a
    majority, `eot=EOT(K)`, or with `test` ask again about the same point until the votes decide
    it, which takes few draws far from the boundary and many on it. With a test the draws of a
    question are queries of their own, so that the budget holds. Where an attack averages over
    many points (HopSkipJump's gradient), an answer is one vote for all of them, and not tested.
    What is handed out lies at the boundary, where draws are divided as `success_share` says: more
    than half of them makes it dearer, and surer of other draws.

    Raises:
        ValueError: an option is out of range; `eot` averages logits, which labels do not tell;
            or `test` would be given the same draws again and again.
    """

    success_share: float = 0.5
    num_queries: int = 5000
    targeted: bool = False
    starts: Start = UniformNoise()
    test: SequentialTest | None = None

    def __post_init__(self):
        super().__post_init__()
        eot = self.eot
        if self.num_queries < 1:
            raise ValueError(f"num_queries={self.num_queries} must be at least 1.")
        if eot.average == "logits" or eot.direction is not None:
            raise ValueError(
                f"average={eot.average!r} and direction={eot.direction} of the EOT need logits or "
                f"gradients, and {type(self).__name__} sees labels alone: leave them out."
            )
        if self.test is None:
            return
        self.test.check_share(self.success_share)
        if eot.common or eot.draws == "enumerated" or eot.first is not None:
            raise ValueError(
                f"test={self.test} asks again for other draws, and as many: give an EOT without "
                f"common={eot.common}, draws={eot.draws!r} and first={eot.first}."
            )

    @property
    def num_calls(self) -> int:
        """Queries per image: each is one forward pass per draw."""
        return self.num_queries

    @property
    def query(self) -> LabelOnly:
        """Whether the label is a success."""
        return LabelOnly(self.targeted)

    @property
    def needs_start(self) -> bool:
        """Whether the search begins at another success, and not at the image itself."""
        return True

    @abc.abstractmethod
    def begin(self, origin: Image, point: Image) -> Any:
        """Returns the search that begins at a success, before its first question."""

    @abc.abstractmethod
    def move(
        self,
        origin: Image,
        search: Any,
        asked: Image,
        success: Bool[Array, ""],
        share: Float[Array, ""],
    ) -> Any:
        """Returns the search after the verdict on the point `asked`, before its next question.

        `share` is that of the draws that were a success.
        """

    @abc.abstractmethod
    def pose(self, key: PRNGKey, origin: Image, search: Any) -> tuple[Any, Image]:
        """Returns the search with its next question, and the point to ask about."""

    def averages(self, search: Any) -> Bool[Array, ""]:
        """Returns whether the open question is one of many that the search averages over."""
        del search
        return jnp.array(False)

    def rests(self, search: Any) -> Bool[Array, ""]:
        """Returns whether the search has come to its end before its budget."""
        del search
        return jnp.array(False)

    def init(self, key: PRNGKey, image: Image, label: Label) -> LabelState:
        """Returns the state before the first question, which is about the image itself."""
        del key
        zero = jnp.array(0)
        search = self.begin(image, image)  # of the right shape, until there is one
        return LabelState(
            Nearest.none(image),
            label,
            image,
            Votes.none(),
            zero + ORIGIN,
            zero,
            image,
            zero,
            search,
        )

    def ask(self, state: LabelState) -> tuple[Image, Label]:
        """Returns the point of the open question, and the label."""
        return state.asked, state.label

    def update(self, key: PRNGKey, state: LabelState, answer: Verdict) -> LabelState:
        """Returns the state after one more answer, with a new question where that decides."""
        votes = state.votes.after(answer.success, self.num_draws)
        many = (state.phase == SEARCHING) & self.averages(state.search)
        decided, success = self._verdict(votes)
        # What is averaged over is no success that was looked into: the luckiest would be kept.
        size = self.measure(state.asked - state.best.origin)
        working = state.phase != RESTING  # at rest an answer decides nothing, and is not counted
        nearer = working & decided & ~many & success & (size < state.best.size)
        best = dataclasses.replace(
            state.best,
            image=jnp.where(nearer, state.asked, state.best.image),
            size=jnp.where(nearer, size, state.best.size),
        )
        queries = state.queries + working
        state = dataclasses.replace(state, best=best, queries=queries, votes=votes)
        moved = self._next(key, state, success, votes.share)
        return moved if self.test is None else _either(decided | many, moved, state)

    def _verdict(self, votes: Votes) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
        """Returns whether the question is decided, and whether its point is a success."""
        if self.test is None:
            return jnp.array(True), votes.share >= self.success_share
        success = self.test.evidence(votes, self.success_share) >= 0
        return self.test.decides(votes, self.success_share), success

    def _next(
        self, key: PRNGKey, state: LabelState, success: Bool[Array, ""], share: Float[Array, ""]
    ) -> LabelState:
        """Returns the state with the next question."""
        start_key, pose_key = jax.random.split(key)
        origin, phase = state.best.origin, state.phase
        of_origin, searches = phase == ORIGIN, phase == SEARCHING
        # In other phases it means nothing yet: it will be begun anew.
        search = self.move(origin, state.search, state.asked, success, share)
        rests = (of_origin & success) | (searches & self.rests(search))
        state = dataclasses.replace(state, search=search, votes=Votes.none())
        if self.needs_start:
            state, begins, rests = self._start(start_key, state, success, rests)
        else:
            begins = of_origin & ~success
        phase = jnp.where(rests, RESTING, jnp.where(begins, SEARCHING, state.phase))
        begun = self.begin(origin, state.best.image)
        search, posed = self.pose(pose_key, origin, _either(begins, begun, state.search))
        asked = jnp.where(phase == SEARCHING, posed, state.asked)
        return dataclasses.replace(state, phase=phase, search=search, asked=asked)

    def _start(
        self, key: PRNGKey, state: LabelState, success: Bool[Array, ""], rests: Bool[Array, ""]
    ) -> tuple[LabelState, Bool[Array, ""], Bool[Array, ""]]:
        """Returns the state with the next question for a start, whether it is there, or given up.

        `tries` counts the starts that were tried, and then the halvings of the way to the one.
        """
        origin, phase, starts = state.best.origin, state.phase, self.starts
        tried, blending = phase == TRIES, phase == BLENDING
        unfound = (tried | (phase == ORIGIN)) & ~success
        rests |= unfound & (state.tries >= starts.most_tries)
        found = tried & success
        halvings = jnp.where(blending, state.tries, 0)
        begins = (found | blending) & (halvings >= starts.num_halvings)
        blends, tries = (found | blending) & ~begins, unfound & ~rests
        # The nearest success on the way is the last one; what failed last is its other end.
        failed = jnp.where(blending & ~success, state.asked, state.failed)
        asked = jnp.where(blends, 0.5 * (failed + state.best.image), state.asked)
        trial = starts.point(key, origin, jnp.minimum(state.tries, starts.most_tries - 1))
        state = dataclasses.replace(
            state,
            phase=jnp.where(tries, TRIES, jnp.where(blends, BLENDING, phase)),
            failed=failed,
            asked=jnp.where(tries, trial, asked),
            tries=jnp.where(blends, halvings, state.tries) + (tries | blends),
        )
        return state, begins, rests


def _either(first: Bool[Array, ""], one: Any, other: Any) -> Any:
    keep = lambda a, b: b if a is b else jnp.where(first, a, b)
    return jax.tree.map(keep, one, other)
