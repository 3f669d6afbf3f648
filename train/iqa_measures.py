"""What a student of image quality is worth on views whose truth the teacher knows."""

from typing import Any

import numpy as np

from train import pairs


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Returns the chance that a positive scores above a negative, ties by half; None for one kind.

    That is the area under the receiver operating characteristic (Mann and Whitney's U).
    """
    positive = np.asarray(positive, bool)
    num, others = int(positive.sum()), int((~positive).sum())
    if not num or not others:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    above = ranks[place][positive].sum() - num * (num + 1) / 2
    return float(above / (num * others))


def summary(told: dict[str, np.ndarray], views: dict[str, np.ndarray], mix: pairs.Mix) -> dict:
    """Returns the numbers of an epoch: of all kinds learned from, and of those held out."""
    clean = views["kind"] == pairs.CLEAN
    seen = clean | np.isin(views["kind"], (*mix.distortions, *mix.attacks))
    groups = {
        "auroc": seen,
        "auroc_held_out_distortions": clean | np.isin(views["kind"], mix.held_out_distortions),
        "auroc_held_out_attacks": clean | np.isin(views["kind"], mix.held_out_attacks),
    }
    found = {name: auroc(told["risk"][g], views["errs"][g] > 0) for name, g in groups.items()}
    # What the quality alone would say, if there were no risk.
    found["auroc_of_quality"] = auroc(-told["quality"][seen], views["errs"][seen] > 0)
    off = np.abs(told["quality"] - views["quality"])
    moved = np.abs(told["change"] - views["change"])
    return {
        # Where the network never errs, or always, there is nothing to tell apart.
        **{name: 0.5 if value is None else value for name, value in found.items()},
        "quality_error": float(off[seen].mean()),
        "quality_error_held_out": float(off[~seen].mean()) if (~seen).any() else 0.0,
        "change_error": float(moved[seen].mean()),
        "agreement": float((told["class"] == views["probs"].argmax(1))[seen].mean()),
    }


def by_kind(told: dict[str, np.ndarray], views: dict[str, np.ndarray]) -> dict[str, dict]:
    """Returns for each kind of view how many there are, how often the network errs, and AUROCs.

    `auroc_errs` tells the views on which the network errs from the clean images on which it does
    not; `auroc_kind` all views of the kind from all clean images.
    """
    clean, errs = views["kind"] == pairs.CLEAN, views["errs"] > 0
    found = {}
    for kind in dict.fromkeys(views["kind"].tolist()):
        mine = views["kind"] == kind
        row = {"num": int(mine.sum()), "errs": float(errs[mine].mean())}
        row["quality"] = float(views["quality"][mine].mean())
        row["predicted_quality"] = float(told["quality"][mine].mean())
        if kind != pairs.CLEAN:
            chosen = (mine & errs) | (clean & ~errs)
            row["auroc_errs"] = auroc(told["risk"][chosen], mine[chosen])
            row["auroc_kind"] = auroc(told["risk"][mine | clean], mine[mine | clean])
        found[kind] = row
    return found


def counts(views: dict[str, Any]) -> dict[str, int]:
    """Returns how many views of each kind there are."""
    kinds, numbers = np.unique(views["kind"], return_counts=True)
    return dict(zip(kinds.tolist(), numbers.tolist(), strict=True))
