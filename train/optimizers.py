"""The optimizer of a training run, as options."""

import dataclasses
import math
from typing import Literal

import optax


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Gradient descent with a learning rate that follows a schedule."""

    method: Literal["adam", "sgd"] = "adam"
    """Adam (with decoupled weight decay), or SGD with momentum (with L2 weight decay)."""
    learning_rate: float = 1e-3
    """The highest learning rate of the schedule."""
    schedule: Literal["constant", "cosine", "one_cycle", "steps"] = "one_cycle"
    """`steps` multiplies by `factor` at `boundaries`; `one_cycle` warms up over 15 % of the
    run and falls to zero; `cosine` falls to zero from the start."""
    boundaries: tuple[int, ...] = ()
    """Epochs after which `steps` multiplies the learning rate by `factor`."""
    factor: float = 0.5
    """What `steps` multiplies by."""
    momentum: float = 0.9
    """Momentum of SGD; Adam's first moment always decays by 0.9."""
    weight_decay: float = 0.0
    """Weight decay."""
    clip_norm: float | None = None
    """Shrinks longer gradients to this norm; none by default."""

    def __post_init__(self):
        for field in ("learning_rate", "factor", "clip_norm"):
            value = getattr(self, field)
            if value is not None and not 0 < value < math.inf:
                words = ", or None" if field == "clip_norm" else ""
                raise ValueError(f"{field}={value} must be positive and finite{words}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must lie in [0, 1).")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0, and finite.")
        if (self.schedule == "steps") != bool(self.boundaries):
            raise ValueError(
                f"schedule={self.schedule!r} with boundaries={self.boundaries}: the schedule "
                "'steps' needs boundaries in epochs, and the others take none."
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"boundaries={self.boundaries} must increase.")

    def build(self, *, num_epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
        """Returns the optimizer for a run of `num_epochs` epochs."""
        rate = self.rate(num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
        if self.method == "adam":
            update = optax.adamw(rate, weight_decay=self.weight_decay)
        else:
            update = optax.chain(
                optax.add_decayed_weights(self.weight_decay),
                optax.sgd(rate, momentum=self.momentum),
            )
        if self.clip_norm is None:
            return update
        return optax.chain(optax.clip_by_global_norm(self.clip_norm), update)

    def rate(self, *, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
        """Returns the learning rate as a function of the step."""
        num_steps = num_epochs * steps_per_epoch
        if self.schedule == "constant":
            return optax.constant_schedule(self.learning_rate)
        if self.schedule == "cosine":
            return optax.cosine_decay_schedule(self.learning_rate, num_steps)
        if self.schedule == "one_cycle":
            num_warmup = max(1, round(0.15 * num_steps))
            return optax.warmup_cosine_decay_schedule(
                0.04 * self.learning_rate, self.learning_rate, num_warmup, num_steps + 1
            )
        return optax.piecewise_constant_schedule(
            self.learning_rate, {b * steps_per_epoch: self.factor for b in self.boundaries}
        )
