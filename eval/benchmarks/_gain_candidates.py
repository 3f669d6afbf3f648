"""What was tried for attacks and is no part of the library, kept so that it can be tried again.

Each is what a paper proposes, as far as it fits an attack here: see `eval.benchmarks.gains`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import APGD, PGD
from rainjax.attacks.apgd import APGDState, Towards
from rainjax.attacks.directions import Direction, JointDirection
from rainjax.attacks.queries import LabelAndTarget, LossGradient, highest_wrong, succeeds
from rainjax.typing import Draw, Image, Label, Logits, LogitsFn, PRNGKey


@dataclasses.dataclass(frozen=True)
class Normalized(Direction):
    """The mean of gradients of unit L2 length: no draw counts more because its loss is steeper."""

    def of_draw(self, gradient: Image, value: Float[Array, ""]) -> Image:
        """Returns the gradient at unit length, zero for a zero one."""
        del value
        return gradient / jnp.maximum(jnp.linalg.norm(gradient.ravel()), 1e-30)


@dataclasses.dataclass(frozen=True)
class SignVotes(Direction):
    """The sign that most draws vote for, value by value."""

    def of_draw(self, gradient: Image, value: Float[Array, ""]) -> Image:
        """Returns the signs of the gradient."""
        del value
        return jnp.sign(gradient)


@dataclasses.dataclass(frozen=True)
class Selective(JointDirection):
    """The mean gradient of the draws that one perturbation may beat together (Wang et al., 2024).

    Expectation maximization over which draws those are: from the gradient whose step within
    `radius` in L-inf promises most, each draw weighs as much as the step is likely to beat it, a
    sigmoid of its loss after it to first order; the weighted mean gives the next step. The loss
    should be one that is positive where a draw is beaten, the margin.
    """

    radius: float = 8 / 255
    sharpness: float = 1.0
    num_rounds: int = 3

    def of_all(self, gradients: Float[Array, "k h w c"], values: Float[Array, "k"]) -> Image:
        """Returns the weighted mean gradient after the last round."""
        flat = gradients.reshape(len(values), -1)
        reached = values[None] + self.radius * jnp.sign(flat) @ flat.T  # by whose step, for whom
        direction = flat[jnp.argmax(jax.nn.elu(reached).sum(1))]
        for _ in range(self.num_rounds):
            after = values + self.radius * flat @ jnp.sign(direction)
            weights = jax.nn.sigmoid(self.sharpness * after)
            direction = weights @ flat / jnp.maximum(weights.sum(), 1e-30)
        return direction.reshape(gradients.shape[1:])


def probability_margin(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the largest wrong probability minus the label's (arXiv 2411.15210), in [-1, 1]."""
    probabilities = jax.nn.softmax(logits)
    wrong = jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, probabilities)
    return wrong.max() - probabilities[label]


@dataclasses.dataclass(frozen=True)
class ProbabilityMargin:
    """Asks for the probability margin and its gradient."""

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: LabelAndTarget
    ) -> LossGradient:
        """Returns the answer of one draw."""

        def climbed(image):
            logits = logits_fn(draw, image)
            return probability_margin(logits, query_args.label), logits

        (value, logits), gradient = jax.value_and_grad(climbed, has_aux=True)(image)
        return LossGradient(value, gradient, succeeds(logits, query_args.label, False), logits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbabilityMarginPGD(PGD):
    """PGD that climbs the probability margin."""

    @property
    def query(self) -> ProbabilityMargin:
        """The probability margin and its gradient."""
        return ProbabilityMargin()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MALTState(APGDState):
    """APGD's state, with what the image itself says of the candidates."""

    candidates: Int[Array, "*n c"]
    distances: Float[Array, "*n c"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlainAim(LabelAndTarget):
    """An aim whose lead is asked for as it is, not as a loss, where `plain`."""

    plain: Float[Array, "*n"]


@dataclasses.dataclass(frozen=True)
class LeadOrTowards:
    """Asks for the lead of the target on the image, and afterwards what APGD-T asks for."""

    def __call__(
        self, logits_fn: LogitsFn, draw: Draw, image: Image, query_args: PlainAim
    ) -> LossGradient:
        """Returns the answer of one draw."""

        def climbed(image):
            logits = logits_fn(draw, image)
            lead = logits[query_args.target] - logits[query_args.label]
            loss = lead if len(logits) < 4 else _targeted_dlr(logits, lead)
            return jnp.where(query_args.plain > 0, lead, loss), logits

        (value, logits), gradient = jax.value_and_grad(climbed, has_aux=True)(image)
        return LossGradient(value, gradient, succeeds(logits, query_args.label, False), logits)


def _targeted_dlr(logits: Logits, lead: Float[Array, ""]) -> Float[Array, ""]:
    first, _, third, fourth = jax.lax.top_k(logits, 4)[0]
    return lead / (first - 0.5 * (third + fourth) + 1e-12)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MALT(APGD):
    """APGD-T towards the classes that are nearest if the network were linear (arXiv 2407.02240).

    Of the `num_candidates` wrong classes with the highest logits it takes the `num_targets` whose
    lead, over the dual norm of the lead's gradient at the image, is the least to make good. That
    costs a gradient for each candidate, before the first step.
    """

    num_candidates: int = 9

    @property
    def num_calls(self) -> int:
        """As APGD-T, and one for each candidate."""
        return super().num_calls + self.num_candidates

    @property
    def query(self) -> LeadOrTowards | Towards:
        """The lead of a class, and the targeted DLR loss."""
        return LeadOrTowards()

    def init(self, key: PRNGKey, image: Image, label: Label) -> MALTState:
        """Returns the state at the image, before its candidates are known."""
        state = super().init(key, image, label)
        fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        fields["calls"] = jnp.array(-1 - self.num_candidates)
        labels = jnp.broadcast_to(label, (self.num_candidates,))
        far = jnp.full((self.num_candidates,), jnp.inf, image.dtype)
        return MALTState(**fields, candidates=labels, distances=far)

    def ask(self, state: MALTState) -> tuple[Image, PlainAim]:
        """Returns the image with the next candidate, and later what APGD-T asks."""
        image, aim = super().ask(state)
        place = jnp.clip(state.calls + self.num_candidates, 0, self.num_candidates - 1)
        early = state.calls < 0
        target = jnp.where(early, state.candidates[place], aim.target)
        return image, PlainAim(aim.label, target, early.astype(image.dtype))

    def update(self, key: PRNGKey, state: MALTState, answer: LossGradient) -> MALTState:
        """Returns the state with one candidate more, and later what APGD-T makes of it."""
        later = super().update(key, state, answer)
        first = state.calls == -1 - self.num_candidates
        highest = highest_wrong(self.num_candidates, answer.logits, state.label)
        candidates = jnp.where(first, highest, state.candidates)
        order = {"linf": 1, "l2": 2, "l1": jnp.inf}[self.norm]
        slope = jnp.linalg.norm(answer.gradient.ravel(), order)
        distance = jnp.where(slope > 0, -answer.value / jnp.maximum(slope, 1e-30), 0.0)
        place = state.calls + self.num_candidates  # -1 at the first call, which is dropped
        place = jnp.where(place < 0, self.num_candidates, place)
        distances = state.distances.at[place].set(distance, mode="drop")
        nearest = candidates[jnp.argsort(distances)[: self.num_targets]]
        begins = state.calls == -1
        early = dataclasses.replace(
            state,
            candidates=candidates,
            distances=distances,
            image=jnp.where(begins, self._start(key, state.origin), state.origin),
            previous=state.origin,
            found=jnp.where(answer.success >= 1, state.origin, state.found),
            won=state.won | (answer.success >= 1),
            targets=jnp.where(begins, nearest.astype(state.targets.dtype), state.targets),
            calls=state.calls + 1,
        )
        return jax.tree.map(lambda a, b: jnp.where(state.calls < 0, a, b), early, later)
