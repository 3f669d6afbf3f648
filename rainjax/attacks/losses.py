"""What an attack climbs: functions of one image's logits and its true label."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax._types import Label, Logits

Loss = Callable[[Logits, Label], Float[Array, ""]]


def cross_entropy(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the negative log-probability of the label, computed from logits."""
    return -_entry(jax.nn.log_softmax(logits), label)


def margin(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the best wrong logit minus the label's: positive exactly when misclassified.

    Its gradient does not fade where the classifier is sure (Carlini and Wagner, 2017).
    """
    is_label = jnp.arange(logits.shape[0]) == label
    best_wrong = jnp.max(jnp.where(is_label, -jnp.inf, logits))
    # XLA's maximum over many values passes over NaN on CPU.
    best_wrong = jnp.where(jnp.isnan(logits).any(), jnp.nan, best_wrong)
    return best_wrong - _entry(logits, label)


def _entry(values: Logits, label: Label) -> Float[Array, ""]:
    """Returns `values[label]`, or NaN for a label there is none of, which JAX would clamp."""
    return values.at[label].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


_LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "margin": margin}


def by_name(name: str) -> Loss:
    """Returns the loss called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _LOSSES:
        raise ValueError(f"No loss is called {name!r}; there are {', '.join(_LOSSES)}.")
    return _LOSSES[name]
