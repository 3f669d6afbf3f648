"""ZOO: Carlini and Wagner's attack by differences along coordinates (Chen et al., 2017)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import balls
from rainjax.attacks._spaces import AttackSpace
from rainjax.attacks.minimum_norm import ConstantSearch, MinimumNormAttack, Nearest
from rainjax.attacks.queries import CWLossOnly, CWLossValue, LabelAndTarget
from rainjax.attacks.scores import ScoreAttack
from rainjax.typing import Image, Label, PRNGKey

_DECAY, _DECAY_SQUARE, _TINY = 0.9, 0.999, 1e-8  # of Adam, as Kingma and Ba (2015) set them


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coordinates:
    """The change in its attack space, and what Adam knows of each of its values.

    `steps` counts how often a value was among those chosen. Outside of `vmap` it holds a batch.
    """

    change: Float[Array, "*n h w c"]
    mean: Float[Array, "*n h w c"]
    square: Float[Array, "*n h w c"]
    steps: Int[Array, "*n h w c"]

    @classmethod
    def start(cls, change: Float[Array, "h w c"]) -> "Coordinates":
        """Returns Adam before its first step, at a change."""
        zeros = jnp.zeros_like(change)
        return cls(change, zeros, zeros, jnp.zeros(change.shape, int))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ZOOState:
    """Where one image's attack stands.

    `chosen` are the coordinates of this step, `slopes` and `bends` the first and second
    differences of the loss along them, `middle` the loss at the iterate, and `ahead` that at the
    first side of the coordinate under way. Outside of `vmap` it holds a batch.
    """

    best: Nearest
    search: ConstantSearch
    coordinates: Coordinates
    chosen: Int[Array, "*n k"]
    slopes: Float[Array, "*n k"]
    bends: Float[Array, "*n k"]
    middle: Float[Array, "*n"]
    ahead: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZOO(ScoreAttack, MinimumNormAttack):
    """Makes the squared L2 norm small, plus a constant times the hinge (Chen et al., 2017).

    A step asks about the iterate, and `probe_size` to both sides of it along each of
    `num_coordinates` coordinates chosen at random; then these take a step of Adam each, with
    moments and a count of their own (their algorithm 2), or of Newton's method where the second
    difference is positive, and against the slope where it is not (algorithm 3). With `paired` all
    queries of a step ask on the same draws. The hinge is that of the logits' margin, which the
    margin of the paper's log-probabilities equals. `num_queries` are shared evenly between
    `num_search_steps` rounds, which bisect the constant; a round ends with a query about its last
    iterate, and a step that it pays for in part has fewer coordinates.

    `attack_sizes` reduce the attack space: the change is an image of `size` x `size`, brought to
    the image's by bilinear interpolation. Each pair is the first step of a round and the size from
    there on: ((0, 32),) is one of 32 x 32, and ((0, 32), (2000, 64)) grows, where Adam begins
    anew. With `importance` the coordinates of the grown spaces are chosen in proportion to the
    largest change in their region, one of eight by eight for each channel. By default the change
    is the image's own size.

    As theirs for dark and bright images it keeps to [0, 1] by clipping, not by a tanh. None of
    their early aborts, nor their reset of Adam at a first success, is here. Their settings: 128
    coordinates, nine rounds from a constant of 0.01 and steps of 0.01 on small images; on
    ImageNet one round at 10, steps of 0.002, sizes of 32 and later 64 and 128 and hundreds of
    thousands of queries. Newton's second difference drowns in the rounding of float32 unless
    `probe_size` is some hundredths. Probes are clipped to [0, 1] too: at exactly 0 or 1 a slope is
    half of what it is, which Adam's steps do not notice, and Newton's hardly move.

    On a random pipeline give `eot` many draws: with one a lucky draw is taken for a success.

    Raises:
        ValueError: an option is out of range, or as `ScoreAttack`; for an image, that it has
            fewer coordinates, or is smaller than an attack size.
    """

    targeted: bool = False
    confidence: float = 0.0
    initial_const: float = 0.01
    num_search_steps: int = 1
    solver: Literal["adam", "newton"] = "adam"
    num_coordinates: int = 128
    probe_size: float = 0.0001
    step_size: float = 0.01
    attack_sizes: tuple[tuple[int, int], ...] = ()
    importance: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.num_coordinates < 1 or self.num_search_steps < 1:
            raise ValueError(
                f"num_coordinates={self.num_coordinates} and num_search_steps="
                f"{self.num_search_steps} must be at least 1."
            )
        if not 0 <= self.confidence < float("inf"):
            raise ValueError(f"confidence={self.confidence} must be finite and not negative.")
        for name in ("initial_const", "step_size"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)} must be finite and positive.")
        if not 0 < self.probe_size <= 1:
            raise ValueError(f"probe_size={self.probe_size} must lie in (0, 1], as images do.")
        AttackSpace(self.attack_sizes)  # which checks them
        if self.importance and len(self.attack_sizes) < 2:
            raise ValueError(
                f"importance=True chooses by the changes in a smaller space, and attack_sizes="
                f"{self.attack_sizes} do not grow: give two, or leave it out."
            )

    @property
    def norm(self) -> balls.Norm:
        """The norm that is made small."""
        return "l2"

    @property
    def query(self) -> CWLossOnly:
        """The margin and the hinge on it, without a gradient."""
        return CWLossOnly(self.confidence, self.targeted)

    @property
    def num_calls(self) -> int:
        """Queries per image and draw."""
        return self.num_search_steps * self._calls_per_round

    @property
    def _least_calls(self) -> int:
        return self.num_search_steps * 4  # about the image, one coordinate, and what came of it

    @property
    def _calls_per_step(self) -> int:
        return 1 + 2 * self.num_coordinates

    @property
    def _calls_per_round(self) -> int:
        most = self._affordable // self.num_search_steps - 1  # one is about the last iterate
        steps, rest = divmod(most, self._calls_per_step)
        pairs = max(rest - 1, 0) // 2
        return steps * self._calls_per_step + (1 + 2 * pairs if pairs else 0) + 1

    @property
    def _space(self) -> AttackSpace:
        return AttackSpace(self.attack_sizes)

    def _opening(self, call: int | Int[Array, ""]) -> int | Int[Array, ""]:
        place = call % self._calls_per_round % self._calls_per_step
        return call - jnp.where(self._is_last(jnp.asarray(call)), 0, place)

    def _place(self, calls: Int[Array, ""]) -> Int[Array, ""]:
        """Returns what is asked about: 0 for the iterate, 2k - 1 and 2k for coordinate k's sides.

        The last question of a round is about its last iterate.
        """
        place = calls % self._calls_per_round % self._calls_per_step
        return jnp.where(self._is_last(calls), 0, place)

    def _is_last(self, calls: Int[Array, ""]) -> Bool[Array, ""]:
        return calls % self._calls_per_round == self._calls_per_round - 1

    def _stage(self, calls: Int[Array, ""]) -> Int[Array, ""]:
        return self._space.stage(calls % self._calls_per_round // self._calls_per_step)

    def init(self, key: PRNGKey, image: Image, label: Label) -> ZOOState:
        """Returns the state at the image itself, with the first coordinates."""
        space, num = self._space, self.num_coordinates
        shape = space.shape(image)
        if num > space.least(image):
            raise ValueError(
                f"num_coordinates={num} are more than the {space.least(image)} that there are: "
                "take fewer."
            )
        coordinates = Coordinates.start(jnp.zeros(shape, image.dtype))
        zero, zeros = jnp.zeros((), image.dtype), jnp.zeros(num, image.dtype)
        return ZOOState(
            best=Nearest.none(image),
            search=ConstantSearch.start(self.initial_const),
            coordinates=coordinates,
            chosen=self._choose(key, coordinates.change, jnp.array(0)),
            slopes=zeros,
            bends=zeros,
            middle=zero,
            ahead=zero,
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: ZOOState) -> tuple[Image, LabelAndTarget]:
        """Returns the iterate, or a point to one side of it along a coordinate."""
        place = self._place(state.calls)
        sign = jnp.where(place == 0, 0.0, 2.0 * (place % 2) - 1.0)
        coordinate = state.chosen[jnp.maximum(place - 1, 0) // 2]
        change = state.coordinates.change
        moved = change.ravel().at[coordinate].add(sign * self.probe_size).reshape(change.shape)
        origin = state.best.origin
        point = origin + self._space.to_image(moved, self._stage(state.calls), origin)
        return jnp.clip(point, 0.0, 1.0), LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: ZOOState, answer: CWLossValue) -> ZOOState:
        """Returns the state with one more loss known, a step further where it was the last."""
        place, last, calls = self._place(state.calls), self._is_last(state.calls), state.calls + 1
        point, middle = self.ask(state)[0], place == 0
        judged, success = self.judge(state.best, point, answer)
        best = _either(middle, judged, state.best)
        search = state.search.after(success & middle, last)

        distance = jnp.sum((point - state.best.origin) ** 2)
        loss = distance - state.search.constant * answer.hinge
        number, closes = jnp.maximum(place - 1, 0) // 2, ~middle & (place % 2 == 0)
        slope = 0.5 * (state.ahead - loss) / self.probe_size
        bend = (state.ahead - 2 * state.middle + loss) / self.probe_size**2
        at = jnp.where(closes, number, self.num_coordinates)  # out of bounds, and dropped
        slopes = state.slopes.at[at].set(slope, mode="drop")
        bends = state.bends.at[at].set(bend, mode="drop")

        ends = ~last & ((place == 2 * self.num_coordinates) | self._is_last(calls))
        known = jnp.arange(self.num_coordinates) <= number
        stepped = self._step(state, slopes, bends, known)
        stage, following = self._stage(state.calls), self._stage(calls)
        if len(self.attack_sizes) > 1:
            grown = Coordinates.start(self._space.grown(stepped.change, following))
            stepped = _either(following > stage, grown, stepped)
        fresh = Coordinates.start(jnp.zeros_like(state.coordinates.change))
        coordinates = _either(last, fresh, _either(ends, stepped, state.coordinates))
        chosen = self._choose(key, coordinates.change, following)
        return ZOOState(
            best=best,
            search=search,
            coordinates=coordinates,
            chosen=jnp.where(ends | last, chosen, state.chosen),
            slopes=slopes,
            bends=bends,
            middle=jnp.where(middle, loss, state.middle),
            ahead=loss,
            label=state.label,
            calls=calls,
        )

    def _choose(
        self, key: PRNGKey, change: Float[Array, "a b c"], stage: Int[Array, ""]
    ) -> Int[Array, "k"]:
        num, weigh = self.num_coordinates, self.importance
        return self._space.choose(key, num, change, stage, importance=weigh)

    def _step(
        self,
        state: ZOOState,
        slopes: Float[Array, "k"],
        bends: Float[Array, "k"],
        known: Bool[Array, "k"],
    ) -> Coordinates:
        """Returns the chosen coordinates, of those whose slopes are `known`, one step further."""
        old, chosen = state.coordinates, state.chosen
        change, mean, square, steps = (
            leaf.ravel()[chosen] for leaf in (old.change, old.mean, old.square, old.steps)
        )
        if self.solver == "adam":
            steps = steps + 1
            mean = _DECAY * mean + (1 - _DECAY) * slopes
            square = _DECAY_SQUARE * square + (1 - _DECAY_SQUARE) * slopes**2
            root = jnp.sqrt(square / (1 - _DECAY_SQUARE**steps)) + _TINY
            descent = mean / (1 - _DECAY**steps) / root
        else:
            descent = slopes / jnp.where(bends > 0, bends, 1.0)
        change = change - self.step_size * descent
        if not self.attack_sizes:  # elsewhere a value has no bounds of its own
            origin = state.best.origin.ravel()[chosen]
            change = jnp.clip(change, -origin, 1 - origin)

        def put(leaf, values):
            flat = leaf.ravel()
            kept = jnp.where(known, values, flat[chosen])
            return flat.at[chosen].set(kept).reshape(leaf.shape)

        return Coordinates(
            put(old.change, change), put(old.mean, mean), put(old.square, square),
            put(old.steps, steps),
        )  # fmt: skip


def _either(first: Bool[Array, ""], one, other):
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)
