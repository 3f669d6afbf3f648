"""Projected gradient ascent and its one-step ancestor."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax._types import Image, Label, PRNGKey
from rainjax.attacks import balls
from rainjax.attacks._base import GradientAttack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PGDState:
    """Where one image's attack stands; `image` is the iterate, `best` the one to hand out.

    Outside of `vmap` it holds a batch.
    """

    origin: Float[Array, "*n h w c"]
    image: Float[Array, "*n h w c"]
    momentum: Float[Array, "*n h w c"]
    best: Float[Array, "*n h w c"]
    best_value: Float[Array, "*n"]
    label: Int[Array, "*n"]
    calls: Int[Array, "*n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """Projected gradient ascent (Madry et al., 2018); with `num_eot > 1`, EOT-PGD.

    `radius` and `step_size` are in units of the image's [0, 1] range. `momentum` accumulates
    gradients of unit mean magnitude (MI-FGSM, Dong et al., 2018). `best_iterate` hands out
    the visited image with the highest mean loss instead of the last one; on a random pipeline
    that loss is itself a mean over `num_eot` draws. `num_restarts > 1` runs again from other
    random starts and keeps the image with the highest loss. Both cost one more gradient
    evaluation per start, to know the loss at its last image.
    """

    norm: balls.Norm = "linf"
    radius: float = 8 / 255
    step_size: float = 2 / 255
    num_steps: int = 40
    num_restarts: int = 1
    random_start: bool = True
    momentum: float = 0.0
    best_iterate: bool = False

    def __post_init__(self):
        super().__post_init__()
        balls.check(self.norm, self.radius)
        if not 0 <= self.step_size < float("inf"):
            raise ValueError(f"step_size={self.step_size} must be finite and not negative.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1].")
        if self.num_steps < 1 or self.num_restarts < 1:
            raise ValueError(
                f"num_steps={self.num_steps} and num_restarts={self.num_restarts} "
                "must be at least 1."
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
    def _compares(self) -> bool:
        return self.best_iterate or self.num_restarts > 1

    @property
    def _calls_per_start(self) -> int:
        return self.num_steps + self._compares

    def init(self, key: PRNGKey, image: Image, label: Label) -> PGDState:
        """Returns the state at the first start."""
        return PGDState(
            origin=image,
            image=self._start(key, image),
            momentum=jnp.zeros_like(image),
            best=image,
            best_value=jnp.array(-jnp.inf, image.dtype),
            label=label,
            calls=jnp.array(0),
        )

    def point(self, state: PGDState) -> Image:
        """Returns the current iterate."""
        return state.image

    def update(
        self, key: PRNGKey, state: PGDState, value: Float[Array, ""], gradient: Image
    ) -> PGDState:
        """Returns the state one step further up, or at the next start."""
        scale = jnp.maximum(jnp.mean(jnp.abs(gradient)), 1e-30)
        momentum = self.momentum * state.momentum + gradient / scale
        moved = state.image + self.step_size * balls.steepest(momentum, self.norm)
        moved = self._into_ball(state.origin, moved)
        calls = state.calls + 1
        if not self._compares:
            return dataclasses.replace(state, image=moved, momentum=momentum, calls=calls)
        ends = calls % self._calls_per_start == 0
        # A pipeline that returns NaN must not look robust: NaN is kept, and never beaten.
        broken = jnp.isnan(value) | jnp.isnan(gradient).any()
        better = (value > state.best_value) & (self.best_iterate | ends)
        best = jnp.where(better, state.image, state.best)
        return dataclasses.replace(
            state,
            image=jnp.where(ends, self._start(key, state.origin), moved),
            momentum=jnp.where(ends, 0.0, momentum),
            best=jnp.where(broken, jnp.nan, best),
            best_value=jnp.where(broken, jnp.inf, jnp.where(better, value, state.best_value)),
            calls=calls,
        )

    def result(self, state: PGDState) -> Image:
        """Returns the last iterate, or the best one where iterates are compared."""
        return state.best if self._compares else state.image

    def _start(self, key: PRNGKey, image: Image) -> Image:
        if not self.random_start:
            return image
        delta = balls.random_point(key, image, self.norm, self.radius)
        return self._into_ball(image, image + delta)

    def _into_ball(self, origin: Image, image: Image) -> Image:
        # Clipping to [0, 1] only moves a point closer to the origin, which lies there too.
        delta = balls.project(image - origin, self.norm, self.radius)
        return jnp.clip(origin + delta, 0.0, 1.0)


def fgsm(radius: float = 8 / 255, **options) -> PGD:
    """Returns the fast gradient sign method: one L-inf step of `radius` from the image.

    `options` are PGD's, `num_eot` for instance (Goodfellow et al., 2015).
    """
    defaults = {"step_size": radius, "num_steps": 1, "random_start": False}
    return PGD(radius=radius, **(defaults | options))
