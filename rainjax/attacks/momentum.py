"""Steps along accumulated gradients, for attacks that make each gradient of several answers."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax.attacks import balls
from rainjax.attacks._base import BallAttack
from rainjax.attacks.queries import LossAndGradient
from rainjax.typing import Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumAttack(BallAttack):
    """An attack with the steps of MI-FGSM (Dong et al., 2018), whatever its gradients are made of.

    `radius` and `step_size` are in units of the image's [0, 1] range; published are ten steps of a
    tenth of the radius. `momentum` is what is kept of earlier gradients, each of unit mean
    magnitude. It starts at the image itself.

    Raises:
        ValueError: an option is out of range, or `early_stop` is asked for.
    """

    loss: Literal["cross_entropy", "margin", "dlr", "logit"] = "cross_entropy"
    step_size: float = 0.8 / 255
    num_steps: int = 10
    momentum: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        balls.check_size("step_size", self.step_size, self.norm, positive=True)
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1].")
        if self.num_steps < 1:
            raise ValueError(f"num_steps={self.num_steps} must be at least 1.")
        if self.early_stop:
            raise ValueError(
                f"{type(self).__name__} asks about points that are no adversarial images, so a "
                "success there ends nothing: leave early_stop=False."
            )

    @property
    def query(self) -> LossAndGradient:
        """The loss and its gradient."""
        return LossAndGradient(self.loss, self.targeted)

    def accumulated(
        self, momentum: Float[Array, "h w c"], gradient: Image
    ) -> Float[Array, "h w c"]:
        """Returns the momentum with a gradient of unit mean magnitude added."""
        scale = jnp.maximum(jnp.mean(jnp.abs(gradient)), 1e-30)
        return self.momentum * momentum + gradient / scale

    def moved(self, origin: Image, image: Image, momentum: Float[Array, "h w c"]) -> Image:
        """Returns the image one step along the momentum, in the ball around `origin`."""
        if self.norm == "l1":  # a step of few values is lost on those that cannot move
            momentum = jnp.where(balls.stuck(image, momentum), 0.0, momentum)
        step = self.step_size * balls.steepest(momentum, self.norm)
        return balls.into_box(origin, image + step, self.norm, self.radius)
