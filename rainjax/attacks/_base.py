"""What an attack is: a state, a question, and an update, all pure."""

import abc
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rainjax._arrays import check_key
from rainjax._values import Value
from rainjax.attacks import balls, losses
from rainjax.attacks._watch import Watch
from rainjax.attacks.eot import EOT, Query
from rainjax.typing import Image, Label, LogitsFn, PRNGKey

State = Any
Goal = Literal["answer", "evasion", "rejection", "acceptance"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Run:
    """An attack under way: its state, and, if it has stopped, the image it stopped at.

    `watch` is what its answers told of the pipeline. Outside of `vmap` it holds a batch.
    """

    state: State
    done: Bool[Array, "*n"]
    found: Float[Array, "*n h w c"]
    watch: Watch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(Value):
    """An iterative attack on one image: `init`, then `num_calls` times `ask` and `update`.

    An attack never meets the pipeline. It asks a `query` about a point, and is told the mean of
    the answer over the pipeline's draws, as `eot` says: so every attack is an EOT attack, and
    none can mistake one draw for the pipeline.

    It looks for a point around the image, and may lead one that is wrong already out of its
    mistake: `rainjax.evaluation.keep_worst` hands such an original out instead.

    The keys of call `t` are the halves of `fold_in(loop_key, t)`, whoever drives the loop; an
    attack may have calls that are compared ask on the draws of one of them.
    """

    eot: EOT = EOT()

    @property
    def goal(self) -> Goal:
        """What it is for: an "answer", wrong or of a target, of any pipeline.

        Of one that rejects it may also be "evasion", a wrong answer that passes; "rejection", or
        "acceptance", of whatever answer.
        """
        return "answer"

    @property
    def sees_rejection(self) -> bool:
        """Whether it needs a pipeline that rejects, and is given the rejection's logit, the last.

        For others it is folded into the logits of the classes: they never have to know of it.
        """
        return self.goal != "answer"

    @property
    def num_draws(self) -> int:
        """How many draws of the pipeline every answer is averaged over."""
        return self.eot.num_samples

    @property
    @abc.abstractmethod
    def num_calls(self) -> int:
        """How many times the pipeline is asked."""

    @property
    @abc.abstractmethod
    def query(self) -> Query:
        """What is asked: a hashable value, equal for attacks that can share a compiled one."""

    @property
    def stops_early(self) -> bool:
        """Whether an image is left as it is once every draw at one point was a success."""
        return False

    def sees_success(self, asked: State, state: State, answer: Any) -> Bool[Array, ""] | None:
        """Returns whether an answer shows a success to the attack; None where it cannot tell.

        By default one under every draw of the answer, as for `stops_early`: of a random pipeline
        asked once, under one draw. What queries to success are counted by.

        Args:
            asked: The state that the question was asked in.
            state: The state after the answer.
            answer: The mean answer.
        """
        del asked, state
        success = getattr(answer, "success", None)
        return None if success is None or jnp.ndim(success) else success >= 1

    @property
    def least_classes(self) -> int:
        """How many classes a classifier must tell apart: by default what a field `loss` says."""
        return losses.least_classes(getattr(self, "loss", None))

    @property
    def passes_per_draw(self) -> int:
        """How many gradients one draw of the query takes, or logits where it asks for none."""
        return 1

    @property
    def num_gradients(self) -> int:
        """What the whole attack costs per image: gradients, or logits where it asks for none."""
        return self.passes_per_draw * self.eot.num_parts * self.eot.total(self.num_calls)

    @abc.abstractmethod
    def init(self, key: PRNGKey, image: Image, label: Label) -> State:
        """Returns the state to start from."""

    @abc.abstractmethod
    def ask(self, state: State) -> tuple[Image, Any]:
        """Returns the point to ask about, and what the query needs to know beside it."""

    @abc.abstractmethod
    def update(self, key: PRNGKey, state: State, answer: Any) -> State:
        """Returns the next state from the mean answer at the point asked about."""

    @abc.abstractmethod
    def result(self, state: State) -> Image:
        """Returns the adversarial image, in [0, 1] and in the attack's ball."""

    def __call__(self, key: PRNGKey, logits_fn: LogitsFn, image: Image, label: Label) -> Image:
        """Returns the adversarial image: the whole attack as one pure function.

        On CPU prefer `rainjax.evaluation.run_attack`, which drives the same steps from the
        host: XLA runs a convolution several times slower inside a loop there.
        """
        return self.finish(self.run(key, logits_fn, image, label))

    def run(self, key: PRNGKey, logits_fn: LogitsFn, image: Image, label: Label) -> Run:
        """Returns the attack after its last call: what a call of it finishes."""
        check_key(key, type(self).__name__)
        init_key, loop_key = jax.random.split(key)

        def call(run, t):
            return self.step(loop_key, t, logits_fn, run), None

        run = self.start(init_key, image, label)
        return jax.lax.scan(call, run, jnp.arange(self.num_calls))[0]

    def start(self, key: PRNGKey, image: Image, label: Label) -> Run:
        """Returns the attack before its first call."""
        return Run(self.init(key, image, label), jnp.array(False), image, Watch.start())

    def step(
        self, loop_key: PRNGKey, call: int | Int[Array, ""], logits_fn: LogitsFn, run: Run
    ) -> Run:
        """Returns the attack one call later."""
        draw_key, update_key = self.keys(loop_key, call)
        point, query_args = self.ask(run.state)
        mean = self.eot.mean
        answer = mean(self.query, logits_fn, draw_key, call, self.num_calls, point, query_args)
        return self.advance(update_key, run, answer)

    def keys(self, loop_key: PRNGKey, call: int | Int[Array, ""]) -> tuple[PRNGKey, PRNGKey]:
        """Returns the keys of one call: that of the pipeline's draws, and the update's own."""
        draw_key, update_key = jax.random.split(jax.random.fold_in(loop_key, call))
        if self.eot.common:
            draw_key, _ = jax.random.split(jax.random.fold_in(loop_key, 0))
        return draw_key, update_key

    def advance(self, key: PRNGKey, run: Run, answer: Any) -> Run:
        """Returns the attack after the answer to its last question.

        A NaN in the answer ends the attack with an image of NaN: a pipeline that is broken at a
        point visited must not look robust, whatever the attack would make of it.
        """
        state = self.update(key, run.state, answer)
        success = self.sees_success(run.state, state, answer)
        broken = _holds_nan(answer)
        stops, point = broken, jnp.full_like(run.found, jnp.nan)
        if self.stops_early:
            stops |= answer.success >= 1
            point = jnp.where(broken, jnp.nan, self.ask(run.state)[0])
        stops &= ~run.done
        done = run.done | stops
        if self.stops_early:
            # What a call leaves alone is not copied.
            kept = lambda old, new: new if new is old else jnp.where(done, old, new)
            state = jax.tree.map(kept, run.state, state)
        watch = run.watch.after(answer, run.done, success)
        return Run(state, done, jnp.where(stops, point, run.found), watch)

    def finish(self, run: Run) -> Image:
        """Returns the adversarial image of a finished run."""
        return jnp.where(run.done, run.found, self.result(run.state))


def _holds_nan(answer: Any) -> Bool[Array, ""]:
    floats = [x for x in jax.tree.leaves(answer) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isnan(x).any() for x in floats]).any()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BallAttack(Attack):
    """An attack that looks for the highest loss within a ball around the image.

    `radius` is in units of the image's [0, 1] range. With `targeted` the label is the class to
    be reached. With `early_stop` an image is handed out as soon as every draw at one point was
    classified as the attacker wants, and costs `run_attack` nothing more: exact on a pipeline
    without randomness, weaker on one with it, where more steps move the odds further.
    """

    norm: balls.Norm = "linf"
    radius: float = 8 / 255
    targeted: bool = False
    early_stop: bool = False

    def __post_init__(self):
        super().__post_init__()
        balls.check(self.norm, self.radius)

    @property
    def stops_early(self) -> bool:
        """Whether an image is left as it is once every draw at one point was a success."""
        return self.early_stop
