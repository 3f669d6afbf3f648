"""What a detector before a classifier is worth: how it ranks images, and what gets past it."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from rainjax.evaluation.measures import Arrays, Measure, Scorer
from rainjax.evaluation.packing import pack_counts
from rainjax.metrics import (
    auroc,
    average_precision,
    bootstrap_interval,
    detection_rate,
    risk_coverage,
    wilson_interval,
)

# Of fewer successful attacks a rate says nothing.
FEWEST = 5


@dataclasses.dataclass(frozen=True)
class Detection(Measure):
    """How well the detector of a `Guarded` tells attacked images from clean, and what it saves.

    Everything is read from raw logits, whose last one is the rejection's. An image's score is that
    logit less the largest of a class: in units of the detector's scale, above 0 exactly where the
    image is rejected. Three groups of numbers:

    - **Ranking**, which no threshold decides: AUROC, average precision, and the share detected at
      `false_positive_rates`. The clean scores, and the thresholds for these rates, are of the
      same images before the attack. So these rates are a detector's with a threshold that was
      made for them; the third group has the one that it really has. Under several draws the score
      is the mean over draws. Intervals are paired percentile bootstraps over images.
    - **Ranking of successful attacks** alone, images that the classifier behind the detector sees
      right before the attack and wrong after it, under most draws each time. They are compared
      with the clean scores of all images; None where fewer than five are.
    - **At the calibrated threshold**: the shares that are answered, answered right and answered
      wrong; the accuracy among the answered; and the share that is egregiously wrong, with the
      detector and without. Mean over draws, with Wilson intervals for the choice of images.

    Egregiously wrong is an answer that is wrong with a softmax probability of `confidence` or
    more. The definition is ours: the paper on quality assessment speaks of such errors in its
    abstract, which is all we know of it, and does not say what they are.

    >>> from rainjax.evaluation import Detection
    >>> Detection(confidence=0.99).false_positive_rates
    (0.01, 0.05)
    """

    takes_rejections: ClassVar[bool] = True

    confidence: float = 0.9
    false_positive_rates: tuple[float, ...] = (0.01, 0.05)
    num_resamples: int = 1000

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence={self.confidence} must lie in (0, 1); 90 % is 0.9.")
        rates = self.false_positive_rates
        if not rates or not all(0 < rate < 1 for rate in rates) or len(set(rates)) < len(rates):
            raise ValueError(
                f"false_positive_rates={rates} must be different rates in (0, 1), one at least; "
                "5 % is 0.05."
            )
        if self.num_resamples < 1:
            raise ValueError(f"num_resamples={self.num_resamples} must be at least 1.")

    def unit(
        self, scorer: Scorer, images: np.ndarray, attacked: np.ndarray, attack: Any
    ) -> Arrays:
        kept = {"logits": scorer(attacked)}
        if attack is not None:
            delta = (attacked - images).reshape(len(images), -1)
            kept["clean_logits"] = scorer(images)
            kept["linf"] = np.abs(delta).max(1)
            kept["l2"] = np.linalg.norm(delta, axis=1)
        return kept

    def reduce(self, kept: Arrays, labels: Int[np.ndarray, "n"]) -> dict[str, Any]:
        """Returns the result; all shares and rates are objects with "value", "low" and "high".

        Raises:
            ValueError: the logits have no class for a label beside the rejection.
        """
        seen = _answers(kept["logits"], labels, self.confidence)
        is_clean = "clean_logits" not in kept
        clean = seen if is_clean else _answers(kept["clean_logits"], labels, self.confidence)
        answered, right = ~seen.rejected, ~seen.wrong
        risk = risk_coverage(seen.scores, seen.wrong.mean(1))
        result = {
            "num_examples": len(labels),
            "confidence": self.confidence,
            "coverage": _share(answered),
            "accuracy_rejected_is_error": _share(answered & right),
            "accuracy_of_answered": _share_among(answered & right, answered),
            "slips_through": _share(answered & seen.wrong),
            "rejected_though_right": _share(seen.rejected & right),
            "accuracy_without_detector": _share(right),
            "egregious": _share(answered & seen.egregious),
            "egregious_without_detector": _share(seen.egregious),
            "false_positive_rate": _share(clean.rejected),
            "risk_coverage": {"area": risk.area, "excess": risk.excess},
            "all_attacked": None,
            "successful": None,
            "scores": {"clean": _rounded(clean.scores), "attacked": None},
            "wrong_draws": {"clean": pack_counts(clean.wrong.sum(1)), "attacked": None},
        }
        if is_clean:
            return result
        succeeded = (seen.wrong.mean(1) > 0.5) & (clean.wrong.mean(1) < 0.5)
        result["all_attacked"] = self._ranking(clean, seen, np.ones(len(labels), bool))
        if succeeded.sum() >= FEWEST:
            result["successful"] = self._ranking(clean, seen, succeeded)
        result["num_successful"] = int(succeeded.sum())
        result["scores"]["attacked"] = _rounded(seen.scores)
        result["wrong_draws"]["attacked"] = pack_counts(seen.wrong.sum(1))
        result["linf_max"] = float(kept["linf"].max())
        result["l2_mean"] = float(kept["l2"].mean())
        return result

    def shown(self, result: dict[str, Any]) -> dict[str, str]:
        """Returns what gets past the detector first, then what it costs and how it ranks."""
        found = {
            "answered wrong": _percents(result["slips_through"]),
            "answered right": _percents(result["accuracy_rejected_is_error"]),
            "right among answered": _percents(result["accuracy_of_answered"]),
            "rejected": _percent(1 - result["coverage"]["value"]),
            "rejected though right": _percents(result["rejected_though_right"]),
            "egregiously wrong": f"{_percents(result['egregious'])} of "
            f"{_percent(result['egregious_without_detector']['value'])} without the detector",
        }
        for name, words in (("all_attacked", ""), ("successful", " of successful attacks")):
            ranking = result[name]
            if ranking is not None:
                found[f"AUROC{words}"] = _fraction(ranking["auroc"])
                for rate, share in ranking["detection_rates"].items():
                    title = f"detected{words} at {100 * float(rate):g} % false positives"
                    found[title] = _percents(share)
        if result["successful"] is not None:
            found["rejected of successful attacks"] = _percents(result["successful"]["rejected"])
        return found

    def _ranking(
        self, clean: "_Answers", seen: "_Answers", chosen: Bool[np.ndarray, "n"]
    ) -> dict[str, Any]:
        """Returns how the scores of the chosen attacked images stand to all clean ones."""

        def statistics(clean, attacked, chosen):
            if not chosen.any():
                return np.full(2 + len(self.false_positive_rates), np.nan)
            attacked = attacked[chosen]
            rates = [detection_rate(clean, attacked, r) for r in self.false_positive_rates]
            return np.array([auroc(clean, attacked), average_precision(clean, attacked), *rates])

        samples = clean.scores, seen.scores, chosen
        low, high = bootstrap_interval(statistics, *samples, num_resamples=self.num_resamples)
        area, precision, *rates = [
            {"value": float(value), "low": float(least), "high": float(most)}
            for value, least, most in zip(statistics(*samples), low, high, strict=True)
        ]
        names = [f"{rate:g}" for rate in self.false_positive_rates]
        return {
            "num_examples": int(chosen.sum()),
            "auroc": area,
            "average_precision": precision,
            "detection_rates": dict(zip(names, rates, strict=True)),
            "rejected": _share(seen.rejected[chosen]),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class _Answers:
    """What a guarded classifier makes of images: its score, and of each draw what came out."""

    scores: Float[np.ndarray, "n"]
    rejected: Bool[np.ndarray, "n draws"]
    wrong: Bool[np.ndarray, "n draws"]
    egregious: Bool[np.ndarray, "n draws"]


def rejection_margins(
    logits: Float[np.ndarray, "n draws outputs"],
) -> Float[np.ndarray, "n draws"]:
    """Returns the score of every draw of raw logits: above 0 exactly where it is rejected."""
    wide = logits.astype(np.float64)
    return wide[..., -1] - wide[..., :-1].max(-1)


def _answers(logits: np.ndarray, labels: np.ndarray, confidence: float) -> _Answers:
    num_classes = logits.shape[-1] - 1
    if labels.max() >= num_classes:
        raise ValueError(
            f"Detection takes logits of the classes and one more, of the rejection: of "
            f"{num_classes + 1} logits none is left for the label {labels.max()}. Measure "
            "subjects that are Guarded."
        )
    margin = rejection_margins(logits)
    classes = logits[..., :-1].astype(np.float64)
    wrong = classes.argmax(-1) != labels[:, None]
    sure = 1 / np.exp(classes - classes.max(-1, keepdims=True)).sum(-1) >= confidence
    return _Answers(margin.mean(1), margin > 0, wrong, wrong & sure)


def _share(flags: Bool[np.ndarray, "n draws"]) -> dict[str, float]:
    """Returns a share of images, mean over draws, with its 95 % Wilson interval."""
    of_images = flags.mean(1)
    low, high = wilson_interval(float(of_images.sum()), len(of_images))
    return {"value": float(of_images.mean()), "low": low, "high": high}


def _share_among(
    flags: Bool[np.ndarray, "n draws"], among: Bool[np.ndarray, "n draws"]
) -> dict[str, float] | None:
    """Returns the share of `flags` among the others, None of none.

    Under several draws the interval is that of as many images as are among them in the mean.
    """
    if not among.any():
        return None
    share = float(flags.sum() / among.sum())
    total = max(1, round(float(among.mean(1).sum())))
    low, high = wilson_interval(share * total, total)
    return {"value": share, "low": low, "high": high}


def _rounded(scores: Float[np.ndarray, "n"]) -> list[float]:
    return [float(f"{score:.4g}") for score in scores]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _percents(share: dict[str, float] | None) -> str:
    if share is None:
        return "none answered"
    return f"{_percent(share['value'])} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def _fraction(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
