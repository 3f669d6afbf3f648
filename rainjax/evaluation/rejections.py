"""What a rejection is worth: to who attacks a pipeline that may reject, and to who scores it.

An attacker's own questions are folded (`folds`): a rejection looks to him like the label, or like
another class. Whether he has succeeded is read from the answers themselves (`succeeded`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rainjax.attacks import Attack
from rainjax.pipeline import Pipeline, fold_rejection

RawLogits = Float[Array | np.ndarray, "n draws outputs"]


def check_rejection(surrogate: Pipeline, attack: Attack) -> None:
    """Refuses an attack on a rejection where nothing is rejected.

    Raises:
        ValueError: naming both.
    """
    if attack.sees_rejection and surrogate.rejection is None:
        loss = getattr(attack, "loss", None)
        how = f"{type(attack).__name__}" + (f"(loss={loss!r})" if loss else "")
        raise ValueError(
            f"{how} attacks a detector, and {type(surrogate).__name__} rejects nothing: attack a "
            "rainjax.Guarded, or take another attack."
        )


def check_answers(attack: Attack, whose: str) -> None:
    """Refuses an attack for a rejection, or for acceptance, where answers are compared.

    Raises:
        ValueError: naming the attack and what `whose` is to be given instead.
    """
    if attack.goal in ("rejection", "acceptance"):
        raise ValueError(
            f"{whose} compares answers, and {type(attack).__name__}(loss={attack.goal!r}) looks "
            "at the score of a detector alone: give a loss of the answers; a pipeline with "
            "rejected='error' makes a rejection worth as much as a wrong one."
        )


def folds(pipeline: Pipeline, attack: Attack | None = None) -> bool | None:
    """Returns whether a rejection looks to an attacker like the label, and not like another class.

    None where the pipeline rejects nothing, or the attack is one that looks at the rejection
    itself. Where the label is a class to be reached, a rejection is none.
    """
    if pipeline.rejection is None or getattr(attack, "sees_rejection", False):
        return None
    return pipeline.rejection == "safe" and not getattr(attack, "targeted", False)


def folded(
    logits: RawLogits,
    labels: Int[Array | np.ndarray, "n"],
    rejection: str | None,
    attacked: Bool[Array | np.ndarray, "n #draws"] | Bool[Array | np.ndarray, "n"] | bool = True,
) -> Float[Array, "n draws classes"]:
    """Returns the logits of the classes, with that of a rejection folded into them.

    It counts as the label where an image is `attacked` and that is "safe" for the defender, and as
    another class elsewhere. With `rejection=None` there is none, and they are as they were.
    """
    logits = jnp.asarray(logits)
    if rejection is None:
        return logits
    safe = jnp.asarray(attacked) & (rejection == "safe")
    safe = safe[:, None] if safe.ndim == 1 else safe
    is_label = jnp.broadcast_to(safe, logits.shape[:2])
    one = lambda row, label, safe: fold_rejection(row, label, is_label=safe)
    return jax.vmap(jax.vmap(one, (0, None, 0)))(logits, jnp.asarray(labels), is_label)


def succeeded(
    logits: RawLogits,
    labels: Int[Array | np.ndarray, "n"],
    rejection: str | None,
    attack: Any,
    *,
    attacked: bool,
) -> Bool[np.ndarray, "n draws"]:
    """Returns where an attack has what it aims at, from the answers of a pipeline.

    Of images that are not `attacked` yet, a rejection is the attacker's: see `Guarded`.
    """
    raw, labels = np.asarray(logits), np.asarray(labels)[:, None]
    targeted = bool(getattr(attack, "targeted", False))
    if rejection is None:
        return (raw.argmax(-1) == labels) == targeted
    rejected = raw.argmax(-1) == raw.shape[-1] - 1
    named = raw[..., :-1].argmax(-1) == labels
    goal = getattr(attack, "goal", "answer")
    if goal in ("rejection", "acceptance"):
        return rejected == (goal == "rejection")
    if targeted:
        return named & ~rejected
    passed_wrong = ~named & ~rejected
    if goal == "evasion" or (rejection == "safe" and attacked):
        return passed_wrong
    return rejected | ~named
