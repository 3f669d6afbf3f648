"""What is measured of the images that an attack returns, from logits that are kept."""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from rainjax._values import Value
from rainjax.evaluation.packing import pack_counts
from rainjax.evaluation.scoring import round_to_8bit
from rainjax.evaluation.validation import OTHER, ROBUSTNESS
from rainjax.metrics import wilson_interval
from rainjax.pipeline import majority

Arrays = dict[str, np.ndarray]
Scorer = Callable[[np.ndarray], Float[np.ndarray, "n draws classes"]]


@dataclasses.dataclass(frozen=True)
class Measure(Value):
    """Two steps: `unit` keeps what has to be computed, `reduce` makes the record's result of it.

    Whatever can be read from what is kept costs no attack and no pass through a network. A
    record holds the `result` and, as texts, what tables show of it, so that a report needs no
    code of the measure.
    """

    kind: ClassVar[str] = OTHER
    """The kind of its records, and so which fields a result must have: only `Robustness` and
    what extends it must have some."""

    takes_rejections: ClassVar[bool] = False
    """Whether `unit` gets the raw logits of a `Guarded`, those of the classes and one more for
    the rejection; else a rejected image has the logits of its rejection alone."""

    def check(self, num_classes: int) -> None:
        """Raises ValueError where it says nothing about so many classes; by default never."""
        del num_classes

    @abc.abstractmethod
    def unit(
        self, scorer: Scorer, images: np.ndarray, attacked: np.ndarray, attack: Any
    ) -> Arrays:
        """Returns the arrays to keep of one batch, each with an axis of images first.

        `scorer` returns the logits of images under the scoring draws; `attack` is None for
        clean images.
        """

    @abc.abstractmethod
    def reduce(self, kept: Arrays, labels: Int[np.ndarray, "n"]) -> dict[str, Any]:
        """Returns the `result` of a record, from the arrays of all batches together."""

    def shown(self, result: dict[str, Any]) -> dict[str, str]:
        """Returns what a table's cell shows of a `result`: titles and texts, the main one first.

        By default every number and text in it, under its own name.
        """
        return dict(_texts(result))


@dataclasses.dataclass(frozen=True)
class Robustness(Measure):
    """The accuracy that an attack leaves: mean over draws, by their vote, under the worst draw.

    With `eight_bit` also that on the adversarial images rounded to 8 bits, as a file holds them.
    """

    kind: ClassVar[str] = ROBUSTNESS

    eight_bit: bool = False

    def unit(
        self, scorer: Scorer, images: np.ndarray, attacked: np.ndarray, attack: Any
    ) -> Arrays:
        delta = (attacked - images).reshape(len(images), -1)
        kept = {
            "logits": scorer(attacked),
            "linf": np.abs(delta).max(1),
            "l2": np.linalg.norm(delta, axis=1),
            "l1": np.abs(delta).sum(1, dtype=np.float64),
        }
        if self.eight_bit and attack is not None and attack.radius is not None:
            rounded = round_to_8bit(attacked, images, attack.norm, attack.radius)
            kept["rounded_logits"] = scorer(np.asarray(rounded))
        return kept

    def reduce(self, kept: Arrays, labels: Int[np.ndarray, "n"]) -> dict[str, Any]:
        logits = kept["logits"]
        predicted = logits.argmax(-1)
        right = predicted == labels[:, None]
        wide = logits.astype(np.float64)  # in float32 the last digit would depend on the batch
        wide -= wide.max(-1, keepdims=True)
        log_p = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
        losses = -log_p[np.arange(len(labels)), :, labels].mean(1)
        result = {
            "num_examples": len(right),
            "mean": share(right.mean(1)),
            "worst": share(right.all(1)),
            "vote": share(votes(predicted, logits.shape[-1]) == labels),
            "correct_draws": pack_counts(right.sum(1)),
            "linf_max": float(kept["linf"].max()),
            "l2_max": float(kept["l2"].max()),
            "l1_max": float(kept["l1"].max()),
            "l2_mean": float(kept["l2"].mean()),
            "mean_loss": float(losses.mean()),
        }
        if "rounded_logits" in kept:
            few = kept["rounded_logits"].argmax(-1) == labels[:, None]
            result["rounded"] = share(few.mean(1))
        return result


@dataclasses.dataclass(frozen=True)
class TopK(Measure):
    """The share of images whose label is among the `k` classes of largest logits.

    Mean over draws, and under the worst draw. Of equal logits that of the first class counts as
    the largest, so `TopK(1)` is the accuracy. An attack that looks for any wrong answer moves the
    label from the first place, and not out of the first `k`: this is an upper bound of what a
    stronger attack would leave.

    >>> from rainjax.evaluation import TopK
    >>> TopK(5).k
    5
    """

    k: int = 5

    def __post_init__(self):
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k={self.k} must be at least 1.")

    def check(self, num_classes: int) -> None:
        """Raises ValueError where every label is among the first `k`."""
        if self.k >= num_classes:
            raise ValueError(
                f"TopK(k={self.k}) of {num_classes} classes is always right: lower k to "
                f"{num_classes - 1} or less."
            )

    def unit(
        self, scorer: Scorer, images: np.ndarray, attacked: np.ndarray, attack: Any
    ) -> Arrays:
        return {"logits": scorer(attacked)}

    def reduce(self, kept: Arrays, labels: Int[np.ndarray, "n"]) -> dict[str, Any]:
        logits, own = kept["logits"], labels[:, None, None]
        of_label = np.take_along_axis(logits, own, axis=-1)
        earlier = np.arange(logits.shape[-1]) < own
        ahead = (logits > of_label) | ((logits == of_label) & earlier)
        right = ahead.sum(-1) < self.k
        return {
            "k": self.k,
            "num_examples": len(right),
            "mean": share(right.mean(1)),
            "worst": share(right.all(1)),
        }

    def shown(self, result: dict[str, Any]) -> dict[str, str]:
        """Returns the accuracy with its interval, and that under the worst draw if it differs."""
        mean, worst = result["mean"], result["worst"]
        ends = f"[{100 * mean['low']:.1f}, {100 * mean['high']:.1f}]"
        found = {f"top-{self.k} accuracy": f"{100 * mean['accuracy']:.1f} % {ends}"}
        if worst != mean:  # the first is one-shot, and this another number
            found["N-shot, every draw right"] = f"{100 * worst['accuracy']:.1f} %"
        return found


def outcome_of(measure: Measure, result: Any) -> dict[str, Any]:
    """Returns what a record says of a measure's result: the result as plain JSON, and its texts.

    Raises:
        ValueError: the result holds what JSON does not; says what, and where.
    """
    name = type(measure).__name__
    if not isinstance(result, dict):
        raise ValueError(f"{name}.reduce returns {result!r}: return a dict of names and values.")
    found = {"result": _plain(result, f"{name}.reduce's result")}
    if measure.kind != ROBUSTNESS:
        found["shown"] = _shown(measure, found["result"])
    return found


def _shown(measure: Measure, result: dict[str, Any]) -> dict[str, str]:
    shown = measure.shown(result)
    if isinstance(shown, dict) and all(isinstance(t, str) for pair in shown.items() for t in pair):
        return shown
    raise ValueError(
        f"{type(measure).__name__}.shown returns {shown!r}: return a dict of titles and texts."
    )


def _plain(value: Any, where: str) -> Any:
    """Returns a value as plain JSON; what NumPy and JAX hold becomes numbers and lists."""
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = np.asarray(value).tolist()
    if isinstance(value, dict):
        return {str(name): _plain(part, f"{where}[{name!r}]") for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, where) for part in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"{where} is {value!r}: a result is of finite numbers, texts, lists, dicts.")


def _texts(result: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the numbers and texts of a result, those of its parts too."""
    for name, value in result.items():
        title = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, dict):
            yield from _texts(value, f"{title}, ")
        elif isinstance(value, float):
            yield title, f"{value:.4g}"
        elif isinstance(value, str | int):
            yield title, str(value)


def share(successes: np.ndarray) -> dict[str, float]:
    """Returns a share of images with the ends of its 95 % Wilson interval."""
    low, high = wilson_interval(float(successes.sum()), len(successes))
    return {"accuracy": float(successes.mean()), "low": low, "high": high}


def votes(predicted: Int[np.ndarray, "n draws"], num_classes: int) -> Int[np.ndarray, "n"]:
    """Returns the class that most draws name, for every image."""
    return np.asarray(_votes(jnp.asarray(predicted), num_classes))


@functools.partial(jax.jit, static_argnums=1)
def _votes(predicted, num_classes: int):
    return jax.vmap(lambda row: majority(row, num_classes))(predicted)
