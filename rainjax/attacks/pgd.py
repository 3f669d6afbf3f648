"""Projected gradient ascent and its one-step ancestor."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax.attacks import balls
from rainjax.attacks._base import BallAttack, Goal
from rainjax.attacks.queries import LabelAndTarget, LossAndGradient, LossGradient
from rainjax.typing import Image, Label, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PGDState:
    """Where one image's attack stands; `image` is the iterate, `best` the one to hand out.

    Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    momentum: Float[Array, "*n m h w c"]
    best: Float[Array, "*n h w c"]
    best_value: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(BallAttack):
    """Projected gradient ascent (Madry et al., 2018); with `eot=EOT(16)`, EOT-PGD.

    `radius` and `step_size` are in units of the image's [0, 1] range; with a `schedule` the
    step falls to zero, evenly or along a cosine. `momentum` accumulates gradients of unit mean
    magnitude (MI-FGSM, Dong et al., 2018); `nesterov` takes them where the momentum leads to
    (NI-FGSM, Lin et al., 2020); several momenta are accumulated side by side and averaged
    (AggMo, Lucas et al., 2019), which is steady on noisy gradients. `best_iterate` hands out
    the visited image with the highest mean loss instead of the last one; on a random pipeline
    that loss is itself a mean over draws. `num_restarts > 1` runs again from other random
    starts and keeps the image with the highest loss. Both cost one more gradient evaluation
    per start, to know the loss at its last image. `block` keeps the perturbation constant on
    cells of that size, before clipping to [0, 1]: cells of 2 pass RAIN's random pick unchanged.

    The losses "rejection" and "acceptance" climb the score of a pipeline's detector alone, up or
    down, and need a pipeline that rejects (`rainjax.Guarded`).

    >>> from rainjax import EOT, PGD
    >>> attack = PGD(radius=8 / 255, step_size=1 / 255, num_steps=20, eot=EOT(16))
    >>> attack.num_gradients  # an image: 16 draws at each of 20 steps
    320
    """

    loss: Literal["cross_entropy", "margin", "dlr", "logit", "rejection", "acceptance"] = (
        "cross_entropy"
    )
    step_size: float = 2 / 255
    num_steps: int = 40
    num_restarts: int = 1
    random_start: bool = True
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    momentum: float | tuple[float, ...] = 0.0
    nesterov: bool = False
    best_iterate: bool = False
    block: int = 1

    def __post_init__(self):
        super().__post_init__()
        balls.check_size("step_size", self.step_size, self.norm, positive=True)
        if not self._momenta or not all(0 <= m <= 1 for m in self._momenta):
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1].")
        if self.nesterov and not any(self._momenta):
            raise ValueError(f"nesterov looks ahead along a momentum, and it is {self.momentum}.")
        if self.num_steps < 1 or self.num_restarts < 1 or self.block < 1:
            raise ValueError(
                f"num_steps={self.num_steps}, num_restarts={self.num_restarts} and "
                f"block={self.block} must be at least 1."
            )
        if self.num_restarts > 1 and not self.random_start:
            raise ValueError(
                f"num_restarts={self.num_restarts} without random_start would repeat one run."
            )

    @property
    def num_calls(self) -> int:
        """Gradient evaluations per image and draw."""
        return self.num_restarts * self._calls_per_start

    @property
    def goal(self) -> Goal:
        """An answer, or what a loss of the rejection's logit is called after."""
        return self.loss if self.loss in ("rejection", "acceptance") else "answer"

    @property
    def query(self) -> LossAndGradient:
        """The loss and its gradient."""
        return LossAndGradient(self.loss, self.targeted)

    @property
    def _compares(self) -> bool:
        return self.best_iterate or self.num_restarts > 1

    @property
    def _calls_per_start(self) -> int:
        return self.num_steps + self._compares

    @property
    def _momenta(self) -> tuple[float, ...]:
        return self.momentum if isinstance(self.momentum, tuple) else (self.momentum,)

    def init(self, key: PRNGKey, image: Image, label: Label) -> PGDState:
        """Returns the state at the first start."""
        balls.check_block(image, self.block)
        return PGDState(
            origin=image,
            image=self._start(key, image),
            momentum=self._no_momentum(image),
            best=image,
            best_value=jnp.array(-jnp.inf, image.dtype),
            label=label,
            calls=jnp.array(0),
        )

    def ask(self, state: PGDState) -> tuple[Image, LabelAndTarget]:
        """Returns the current iterate, or the point where the momentum alone would lead."""
        return self._point(state), LabelAndTarget(state.label, state.label)

    def update(self, key: PRNGKey, state: PGDState, answer: LossGradient) -> PGDState:
        """Returns the state one step further up, or at the next start."""
        gradient = balls.blockwise(answer.gradient, self.block)
        scale = jnp.maximum(jnp.mean(jnp.abs(gradient)), 1e-30)
        momentum = self._decay() * state.momentum + (gradient / scale)[None]
        uphill = momentum.mean(0)
        if self.norm == "l1":  # a step of few values is lost on those that cannot move
            uphill = jnp.where(balls.stuck(state.image, uphill), 0.0, uphill)
        step = self._step_size(state.calls) * balls.steepest(uphill, self.norm)
        moved = balls.into_box(state.origin, state.image + step, self.norm, self.radius)
        calls = state.calls + 1
        if not self._compares:
            return dataclasses.replace(state, image=moved, momentum=momentum, calls=calls)
        ends = calls % self._calls_per_start == 0
        better = (answer.value > state.best_value) & (self.best_iterate | ends)
        return dataclasses.replace(
            state,
            image=jnp.where(ends, self._start(key, state.origin), moved),
            momentum=jnp.where(ends, 0.0, momentum),
            best=jnp.where(better, self._point(state), state.best),
            best_value=jnp.where(better, answer.value, state.best_value),
            calls=calls,
        )

    def result(self, state: PGDState) -> Image:
        """Returns the last iterate, or the best one where iterates are compared."""
        return state.best if self._compares else state.image

    def _start(self, key: PRNGKey, image: Image) -> Image:
        if not self.random_start:
            return image
        delta = balls.random_point(key, image, self.norm, self.radius)
        if self.block > 1:  # one point of each cell: their mean would be nearly zero
            first = delta[:: self.block, :: self.block]
            delta = jnp.repeat(jnp.repeat(first, self.block, axis=0), self.block, axis=1)
        return balls.into_box(image, image + delta, self.norm, self.radius)

    def _point(self, state: PGDState) -> Image:
        if not self.nesterov:
            return state.image
        ahead = balls.steepest((self._decay() * state.momentum).mean(0), self.norm)
        moved = state.image + self._step_size(state.calls) * ahead
        return balls.into_box(state.origin, moved, self.norm, self.radius)

    def _step_size(self, calls: Int[Array, ""]) -> Float[Array, ""] | float:
        if self.schedule == "constant":
            return self.step_size
        done = (calls % self._calls_per_start) / self.num_steps
        left = 1 - done if self.schedule == "linear" else 0.5 * (1 + jnp.cos(jnp.pi * done))
        return self.step_size * left

    def _decay(self) -> Float[Array, "m 1 1 1"]:
        return jnp.asarray(self._momenta)[:, None, None, None]

    def _no_momentum(self, image: Image) -> Float[Array, "m h w c"]:
        return jnp.zeros((len(self._momenta), *image.shape), image.dtype)


def fgsm(radius: float = 8 / 255, **options) -> PGD:
    """Returns the fast gradient sign method: one L-inf step of `radius` from the image.

    `options` are PGD's, `eot` for instance (Goodfellow et al., 2015).

    >>> from rainjax import fgsm
    >>> attack = fgsm(radius=4 / 255)
    >>> attack.num_steps, attack.step_size == attack.radius
    (1, True)
    """
    defaults = {"step_size": radius, "num_steps": 1, "random_start": False}
    return PGD(radius=radius, **(defaults | options))
