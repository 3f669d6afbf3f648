"""Says of an attack that saw no gradient, and of logits that are none, what a number hides."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from rainjax.attacks import Attack
from rainjax.attacks._watch import NO_GRADIENT, ZERO_GRADIENT, Watch, are_probabilities


def zero_gradients(watch: Watch) -> Bool[np.ndarray, "n"] | None:
    """Returns for which images of a batch the gradient was exactly zero, and none a success.

    That is at every call of the attack. It is None where the attack asked for no gradient.
    """
    seen = np.asarray(watch.gradient)
    return None if (seen == NO_GRADIENT).all() else seen == ZERO_GRADIENT


class ZeroGradients:
    """Adds up over several attacks for which images none of them had a gradient to follow."""

    def __init__(self, num_images: int):
        self._asked, self._followed = np.zeros((2, num_images), bool)

    def add(self, chosen: Int[np.ndarray, "m"], zero: Bool[np.ndarray, "m"] | None) -> None:
        """Adds what `zero_gradients` says of one more attack, on the `chosen` images."""
        if zero is not None:
            self._asked[chosen] = True
            self._followed[chosen] |= ~zero

    @property
    def images(self) -> Bool[np.ndarray, "n"] | None:
        """For which images there was none; None where no attack asked for one."""
        return self._asked & ~self._followed if self._asked.any() else None


def warn_of_zero_gradients(attack: Attack, watch: Watch, *, stacklevel: int = 3) -> None:
    """Warns where an attack had nothing to follow: what it leaves is then no robustness."""
    zero = zero_gradients(watch)
    if zero is not None and zero.any():
        warnings.warn(
            f"The gradient was exactly zero at every call of {type(attack).__name__} for "
            f"{zero.sum()} of {len(zero)} images, so that they stand says nothing: attack a "
            "surrogate that has a gradient there (BPDA, a smooth twin, logits that are not "
            "saturated), or by scores alone (Square).",
            stacklevel=stacklevel,
        )


def warn_of_softmax(found: Any, *, stacklevel: int = 3) -> None:
    """Warns where all logits of a batch, or all that a `Watch` saw, look like probabilities.

    No more than a warning: a service that tells labels alone answers so too.
    """
    looks = found.softmaxed if isinstance(found, Watch) else are_probabilities(np.asarray(found))
    if np.asarray(looks).all():
        warnings.warn(
            "The classifier's outputs lie in [0, 1] and sum to 1 for every image, as a softmax's "
            "do, and attacks climb logits: gradients of a loss fade where a softmax is sure, and "
            "the number flatters; return the logits, or their logarithm, as in "
            "nets.from_function(lambda params, image: jnp.log(probabilities(params, image))).",
            stacklevel=stacklevel,
        )
