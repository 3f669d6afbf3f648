"""Records of detection made up for tests, by the measure itself from made-up logits."""

import numpy as np

from rainjax.evaluation import Detection
from rainjax.evaluation.measures import outcome_of
from tests.report.made_records import make_record

MEASURE = Detection(num_resamples=10)


def raw_logits(rng, num, shift, wrong, draws=1):
    """Logits of two classes and the rejection; the label is 0, scores are about `shift`."""
    found = np.zeros((num, draws, 3), np.float32)
    # What is wrong is more suspicious.
    is_wrong = np.arange(num) < wrong * num
    top = rng.uniform(0.5, 6, size=(num, draws)).astype(np.float32)
    found[..., 0], found[..., 1] = (
        np.where(is_wrong[:, None], 0, top),
        np.where(is_wrong[:, None], top, 0),
    )
    score = rng.normal(shift + 0.5 * is_wrong[:, None], 0.7, size=(num, draws))
    found[..., 2] = found.max(-1) + score
    return found


def make_detection(row="guarded", name="PGD", shift=0.5, wrong=0.9, num=120, **changes):
    """A record's content; `shift` is how suspicious attacked images are, -1 what clean ones are.

    Without a name nobody attacks. `changes` as for `make_record`, and `severity`.
    """
    rng = np.random.default_rng(abs(hash_of(row)))
    clean = raw_logits(rng, num, -1, 0.1)
    kept = {"logits": clean}
    if name is not None:
        attacked = raw_logits(np.random.default_rng(7), num, shift, wrong)
        size = np.full(num, 0.03)
        kept = {"clean_logits": clean, "logits": attacked, "linf": size, "l2": size}
    severity = changes.pop("severity", None)
    record = make_record(
        row, "clean" if name is None else "white_box", [5] * num, name=name or "clean", **changes
    )
    del record["result"]
    if severity is not None:
        record["threat"]["attack"]["severity"] = severity
    record["id"] = f"{row}--{name}--{severity}--{record['axes']['radius']}"
    return {
        **record,
        "kind": "measure",
        "measure": {"class": "Detection"},
        "num_score_draws": 1,
        **outcome_of(MEASURE, MEASURE.reduce(kept, np.zeros(num, int))),
    }


def hash_of(name):
    return sum(map(ord, name))


def detection_study():
    """Two guarded subjects, clean, under three attacks at 8/255 and one over the radius."""
    found = []
    for row, better in (("quality", 0.0), ("student", 0.7)):
        found.append(make_detection(row, None))
        for name, shift, wrong in (("blind PGD", 0.4, 0.95), ("adaptive PGD", -1.2, 0.9),
                                   ("Square", 0.9, 0.5)):  # fmt: skip
            found.append(make_detection(row, name, shift + better, wrong))
        for radius in (1, 2, 4, 16):
            found.append(
                make_detection(
                    row, "blind PGD", radius / 10 - 1 + better, min(radius / 8, 0.95),
                    radius=radius / 255, tags=["radius"],
                )
            )  # fmt: skip
        for kind, harm in (("gaussian noise", 0.2), ("motion blur", 0.1), ("contrast", 0.02)):
            found += [
                make_detection(
                    row, f"{kind} {severity}", -1.5 + severity * (0.3 + harm), harm * severity,
                    radius=None, tags=["distortions"], severity=severity,
                )
                for severity in (1, 2, 3, 4, 5)
            ]  # fmt: skip
    return found
