"""DeepFool: from boundary to boundary, each taken for a plane (Moosavi-Dezfooli et al., 2016)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import hyperplane
from rainjax.attacks.minimum_norm import MinimumNormAttack, Nearest
from rainjax.attacks.queries import CandidateClasses, LogitDifferences, LogitGradients
from rainjax.typing import Image, Label, Logits, PRNGKey

_BEYOND = 1e-4  # added to each step's length, which else ends on the boundary, not behind it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeepFoolState:
    """Where one image's attack stands; `delta` is the sum of the steps, without overshoot.

    Outside of `vmap` it holds a batch.
    """

    best: Nearest
    delta: Float[Array, "*n h w c"]
    rivals: CandidateClasses
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepFool(MinimumNormAttack):
    """Steps onto the nearest boundary of the linearised classifier, until it is crossed.

    The L2 step is along the gradient of the nearest rival's lead over the label, the L-inf step
    along its sign (Moosavi-Dezfooli et al., 2016, algorithm 2 and section 3.3); the sum of the
    steps is lengthened by `overshoot`, and clipped to [0, 1], which the paper does not know.
    Rivals are the `num_candidates - 1` likeliest wrong classes of the untouched image; a step
    takes as many backward passes. Untargeted. The attack rests at its first success, so it
    costs `run_attack` nothing afterwards if every draw has to be one.

    On a random pipeline boundaries are those of the mean logits and of the mean gradients; give
    `eot` many draws there: with one a lucky draw is taken for a success.

    >>> import jax, jax.numpy as jnp
    >>> from rainjax.attacks import DeepFool
    >>> weights = jnp.stack([jnp.ones(48), -jnp.ones(48)], axis=1)
    >>> logits = lambda draw, image: (image.reshape(-1) - 0.5) @ weights
    >>> image, label = jnp.full((4, 4, 3), 0.6), jnp.array(0)
    >>> found = DeepFool()(jax.random.key(0), logits, image, label)
    >>> print(f"{jnp.linalg.norm(found - 0.6):.3f}")  # 0.1 * sqrt(48), and two percent more
    0.707
    """

    norm: Literal["l2", "linf"] = "l2"
    num_steps: int = 50
    overshoot: float = 0.02
    num_candidates: int = 10

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.overshoot < float("inf"):
            raise ValueError(f"overshoot={self.overshoot} must be finite and not negative.")
        if self.num_steps < 1 or self.num_candidates < 2:
            raise ValueError(
                f"num_steps={self.num_steps} must be at least 1 and num_candidates="
                f"{self.num_candidates} at least 2: the label is one of them."
            )

    @property
    def num_calls(self) -> int:
        """One to learn the rivals, one for each step, one to judge the last."""
        return self.num_steps + 2

    @property
    def query(self) -> LogitGradients:
        """The logits, and the gradients of the rivals' leads."""
        return LogitGradients(self.num_candidates - 1)

    @property
    def passes_per_draw(self) -> int:
        """A gradient for each rival."""
        return self.num_candidates - 1

    @property
    def stops_early(self) -> bool:
        """Whether a success is one of every draw, which `run_attack` can act on."""
        return self.success_share == 1

    def init(self, key: PRNGKey, image: Image, label: Label) -> DeepFoolState:
        """Returns the state before the first step; it needs no randomness of its own."""
        del key
        # Where there are no more classes than candidates these are all, and nothing is to learn.
        first = jnp.arange(self.num_candidates - 1)
        rivals = CandidateClasses(label, first + (first >= label))
        return DeepFoolState(Nearest.none(image), jnp.zeros_like(image), rivals, jnp.array(0))

    def ask(self, state: DeepFoolState) -> tuple[Image, CandidateClasses]:
        """Returns the point with its overshoot, and the classes to compare the label with."""
        moved = state.best.origin + (1 + self.overshoot) * state.delta
        return jnp.clip(moved, 0.0, 1.0), state.rivals

    def update(
        self, key: PRNGKey, state: DeepFoolState, answer: LogitDifferences
    ) -> DeepFoolState:
        """Returns the state after one more step, or at rest after a success."""
        point, rivals = self.ask(state)
        best, _ = self.judge(state.best, point, answer)
        calls = state.calls + 1
        if answer.logits.shape[0] > self.num_candidates:
            learns, last = state.calls == 0, self.num_steps + 1
            learnt = self._likeliest(answer.logits, rivals.label)
            rivals = CandidateClasses(rivals.label, jnp.where(learns, learnt, rivals.classes))
            steps = ~learns & (calls <= last)
        else:
            steps = calls <= self.num_steps
        steps &= best.size == jnp.inf
        delta = state.delta + jnp.where(steps, self._step(answer, state.rivals), 0.0)
        return DeepFoolState(best, delta, rivals, calls)

    def _likeliest(self, logits: Logits, label: Label) -> Int[Array, "k"]:
        wrong = jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits)
        return jax.lax.top_k(wrong, self.num_candidates - 1)[1]

    def _step(self, answer: LogitDifferences, rivals: CandidateClasses) -> Image:
        """Returns the shortest step onto one of the planes, or none where all are flat."""
        leads = answer.logits.at[rivals.classes].get(mode="fill", fill_value=jnp.nan)
        leads = leads - answer.logits[rivals.label]
        speeds = hyperplane.speeds(answer.gradients, self.norm)
        distances = jnp.where(speeds > 0, jnp.abs(leads) / speeds, jnp.inf)
        nearest = jnp.argmin(distances)
        slope = answer.gradients[nearest]
        unit = slope / speeds[nearest] if self.norm == "l2" else jnp.sign(slope)
        there = jnp.isfinite(distances[nearest])
        return jnp.where(there, (distances[nearest] + _BEYOND) * unit, 0.0)
