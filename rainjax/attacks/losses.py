"""What an attack climbs: functions of one image's logits and its true label."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rainjax._checks import check_num_classes
from rainjax.typing import Label, Logits

Loss = Callable[[Logits, Label], Float[Array, ""]]


def cross_entropy(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the negative log-probability of the label, computed from logits."""
    return -_entry(jax.nn.log_softmax(logits), label)


def margin(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the best wrong logit minus the label's: positive exactly when misclassified.

    Its gradient does not fade where the classifier is sure (Carlini and Wagner, 2017).
    """
    return best_wrong(logits, label) - _entry(logits, label)


def logit(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns minus the label's logit: linear in the logits, so it never saturates.

    With an attack that is `targeted`, the logit loss of Zhao et al. (2021), strong in transfer.
    """
    return -_entry(logits, label)


def dlr(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the difference of logits ratio: the margin over the spread of the top three.

    Neither shifting nor scaling the logits changes it, so it cannot be made flat by
    temperature (Croce and Hein, 2020, equation 6).

    Raises:
        ValueError: there are fewer than three classes.
    """
    first, third = _top(logits, 3, "dlr")[jnp.array([0, 2])]
    return margin(logits, label) / (first - third + 1e-12)


def targeted_dlr(logits: Logits, label: Label, target: Label) -> Float[Array, ""]:
    """Returns the DLR loss towards `target`, away from `label` (Croce and Hein, 2020, eq. 7).

    Raises:
        ValueError: there are fewer than four classes.
    """
    first, third, fourth = _top(logits, 4, "targeted_dlr")[jnp.array([0, 2, 3])]
    lead = _entry(logits, target) - _entry(logits, label)
    return lead / (first - 0.5 * (third + fourth) + 1e-12)


def rejection(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the last logit, of a rejection, minus the largest other: positive where it rejects.

    It looks at no label. What it leads to is a fine image that is rejected: a denial of service.
    """
    del label
    highest = jnp.max(logits[:-1])
    return jnp.where(jnp.isnan(logits).any(), jnp.nan, logits[-1] - highest)


def acceptance(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns minus `rejection`: it leads to an image that passes, whatever the answer to it."""
    return -rejection(logits, label)


def best_wrong(logits: Logits, label: Label) -> Float[Array, ""]:
    """Returns the largest logit of another class than the label, or NaN where one is."""
    is_label = jnp.arange(logits.shape[0]) == label
    best = jnp.max(jnp.where(is_label, -jnp.inf, logits))
    # XLA's maximum over many values passes over NaN on CPU.
    return jnp.where(jnp.isnan(logits).any(), jnp.nan, best)


def by_name(name: str) -> Loss:
    """Returns the loss of a label called `name`.

    Raises:
        ValueError: there is none of that name.
    """
    if not isinstance(name, str) or name not in _LOSSES:
        raise ValueError(f"No loss is called {name!r}; there are {', '.join(_LOSSES)}.")
    return _LOSSES[name]


def least_classes(name: Any) -> int:
    """Returns how many classes the loss called `name` compares; 2 for one that is not known."""
    return _LEAST_CLASSES.get(name, 2) if isinstance(name, str) else 2


def check_classes(name: Any, least: int, num_classes: int) -> None:
    """Refuses a loss that compares more classes than there are.

    Raises:
        ValueError: naming the loss, and what to take instead.
    """
    check_num_classes(num_classes, "What is attacked")
    if num_classes < least:
        raise ValueError(
            f"The loss {name!r} compares {least} classes, and there are {num_classes}: use "
            "'margin'."
        )


def evaluate(name: str, logits: Logits, label: Label, target: Label) -> Float[Array, ""]:
    """Returns the loss called `name`; only `targeted_dlr` looks at `target`."""
    if name == "targeted_dlr":
        return targeted_dlr(logits, label, target)
    return by_name(name)(logits, label)


def _entry(values: Logits, label: Label) -> Float[Array, ""]:
    """Returns `values[label]`, or NaN for a label there is none of, which JAX would clamp.

    Raises:
        ValueError: there is a single value: no loss of it tells anything.
    """
    check_num_classes(values.shape[0], "What gives these logits")
    return values.at[label].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _top(logits: Logits, count: int, name: str) -> Float[Array, "{count}"]:
    check_classes(name, count, logits.shape[0])
    return jax.lax.top_k(logits, count)[0]


_LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "logit": logit,
    "dlr": dlr,
    "rejection": rejection,
    "acceptance": acceptance,
}
OF_REJECTION = ("rejection", "acceptance")
"""Losses of the logits of a pipeline that rejects, the last of which is the rejection's."""
_LEAST_CLASSES = {"dlr": 3, "targeted_dlr": 4}
