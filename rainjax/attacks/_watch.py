"""What an attack saw of its pipeline that makes its outcome say less than it seems to."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# What a sum of float32 probabilities may differ from 1 by, and more than enough of it.
_SUM_TOLERANCE = 1e-3

NO_GRADIENT, ZERO_GRADIENT, FOLLOWED = range(3)
UNTOLD = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Watch:
    """What the answers to an attack have had in common so far.

    `gradient` is `NO_GRADIENT` where none was asked for; `ZERO_GRADIENT` where it was exactly
    zero at every call, and none was a success; `FOLLOWED` otherwise. `probabilities` says
    whether all logits looked like the output of a softmax; `num_logits` how often there were some.
    `num_calls` counts the answers, and `first_success` is how many there were with the first that
    the attack took for a success: 0 before one, and `UNTOLD` where answers do not tell.
    Outside of `vmap` it holds a batch.
    """

    gradient: Int[Array | np.ndarray, "*n"]
    probabilities: Bool[Array | np.ndarray, "*n"]
    num_logits: Int[Array | np.ndarray, "*n"]
    num_calls: Int[Array | np.ndarray, "*n"]
    first_success: Int[Array | np.ndarray, "*n"]

    @classmethod
    def start(cls) -> "Watch":
        """Returns what is known before the first answer."""
        zero = jnp.array(0)
        return cls(jnp.array(NO_GRADIENT), jnp.array(True), zero, zero, jnp.array(UNTOLD))

    def after(
        self, answer: Any, done: Bool[Array, ""], success: Bool[Array, ""] | None
    ) -> "Watch":
        """Returns the same after one more answer, which is not looked at where all is `done`.

        `success` says whether the attack took it for one, None where it does not tell.

        An answer's gradient is its `gradient` or `gradients`. It is no loss where it is zero at a
        success: a hinge, for one, rests there.
        """
        gradient, probabilities, num_logits = self.gradient, self.probabilities, self.num_logits
        slopes = jax.tree.leaves(getattr(answer, "gradient", getattr(answer, "gradients", None)))
        if slopes:
            lost = functools.reduce(jnp.logical_and, [jnp.all(slope == 0) for slope in slopes])
            lost &= ~(jnp.asarray(getattr(answer, "success", 0.0)) >= 1)
            gradient = jnp.maximum(gradient, jnp.where(lost, ZERO_GRADIENT, FOLLOWED))
        logits = getattr(answer, "logits", None)
        if logits is not None and jnp.ndim(logits) == 1:
            probabilities = probabilities & are_probabilities(logits)
            num_logits = num_logits + 1
        num_calls, first = self.num_calls + 1, self.first_success
        if success is not None:
            first = jnp.maximum(first, 0)
            first = jnp.where((first == 0) & success, num_calls, first)
        seen = Watch(gradient, probabilities, num_logits, num_calls, first)
        return jax.tree.map(lambda old, new: jnp.where(done, old, new), self, seen)

    @property
    def softmaxed(self) -> Bool[Array | np.ndarray, "*n"]:
        """Whether there were logits, and all looked like the output of a softmax."""
        return self.probabilities & (self.num_logits > 0)


def are_probabilities(
    logits: Float[Array | np.ndarray, "*n classes"],
) -> Bool[Array | np.ndarray, "*n"]:
    """Returns whether logits look like the output of a softmax: none negative, and a sum of 1."""
    total = jnp.sum(logits, axis=-1)
    return (logits >= 0).all(-1) & (jnp.abs(total - 1) <= _SUM_TOLERANCE)
