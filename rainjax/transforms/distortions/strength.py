"""How strong a distortion is: one of five constants, chosen by a severity that may be traced."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

Severity = int | Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class Strength:
    """The constants of the severities 1 to 5, and the severity that is wanted."""

    constants: tuple[Any, ...]
    severity: Severity

    def __call__(self, derive: Callable[[Any], Any] = lambda constant: constant) -> Array:
        """Returns what `derive`, a function in NumPy, makes of the severity's constant.

        Of a traced severity the answers to all five are made, and one is picked. Those of
        different sizes are kernels with their middle in the middle: zeros are put around them.
        """
        if isinstance(self.severity, int):
            return _array(np.asarray(derive(self.constants[self.severity - 1])))
        answers = [np.asarray(derive(constant)) for constant in self.constants]
        # Below 1 an index would count from the end.
        return _array(_stacked(answers))[jnp.clip(self.severity, 1, 5) - 1]


def _array(values: np.ndarray) -> Array:
    whole = np.issubdtype(values.dtype, np.integer)
    return jnp.asarray(values, jnp.int32 if whole else jnp.float32)


def _stacked(answers: list[np.ndarray]) -> np.ndarray:
    widest = max(answer.shape for answer in answers)
    if all(answer.shape == widest for answer in answers):
        return np.stack(answers)
    around = [[(w - n) // 2 for w, n in zip(widest, a.shape, strict=True)] for a in answers]
    return np.stack(
        [np.pad(a, [(n, n) for n in sides]) for a, sides in zip(answers, around, strict=True)]
    )
