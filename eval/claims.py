"""What the abstracts of Feature Distillation claim, beside what was measured of it here."""

import math
from collections.abc import Sequence
from typing import Any

from eval.benchmarks import speed as benchmark
from eval.studies.defenses import MAKERS
from eval.studies.two_pass import is_compressed
from rainjax.evaluation import Record
from rainjax.report import BlindAgainstAdaptive, Cell, Table
from rainjax.report.contrast import score_text
from rainjax.report.results import clean, lowest, radii
from rainjax.report.text import radius_text

_BARE, _PUBLISHED = MAKERS["undefended"].title, MAKERS["fd"].title
_BPDA = "BPDA, identity"


def claims_table(records: Sequence[Record], speed: dict[str, Any] | None = None) -> Table | None:
    """Returns the claims, what came out in their setting, and under an attacker who knows more.

    None where the records hold no Feature Distillation attacked within the radius of its authors'
    code, 2/255, or a smaller one, or where blind attacks leave the undefended classifier more than
    half of what it gets right. `speed` is what `python -m eval speed` wrote.
    """
    small = [radius for radius in radii(records, "linf") if radius < 2.5 / 255]
    bare, after = clean(records, _BARE), clean(records, _PUBLISHED)
    if not small or bare is None or after is None:
        return None
    near, contrast = max(small), BlindAgainstAdaptive()
    size = radius_text("linf", near)
    fooled, left = (contrast.blind(records, name, near) for name in (_BARE, _PUBLISHED))
    # The claims are of networks that attacks break, not of one that was trained against them.
    if fooled is not None and fooled.score().accuracy > bare.score().accuracy / 2:
        return None
    best = score_text(contrast.adaptive(records, _PUBLISHED, near), at=True)
    bpda = lowest(
        record
        for record in records
        if (record.subject, record.threat, record.ball) == (_PUBLISHED, _BPDA, ("linf", near))
    )
    twice = is_compressed(records[0].content["data"]["name"])
    benign = (
        "accuracy on benign images",
        "falls by at most 1 %",
        f"{_change(bare, after)}, to {score_text(after)}",
        "the same",
    )
    rows = [
        # What the first pass costs is not seen among images that have been through it.
        *(() if twice else (benign,)),
        (
            "accuracy on adversarial images",
            "from about 20 % to about 90 %",
            f"from {score_text(fooled)} to {score_text(left)}: the strongest blind attacks at "
            f"{size}",
            best,
        ),
        (
            "accuracy under the adaptive attack (BPDA)",
            "about 60 %",
            score_text(bpda, at=True),
            best,
        ),
    ]
    if speed is not None:
        ratios = benchmark.ratio_texts(speed)
        rows.append(
            (
                "time",
                "about 259 times faster than quilting and total variation (not said which)",
                "; ".join(f"{name}: {text}" for name, text in ratios.items()),
                "—",
            )
        )
    return Table(
        "Feature Distillation: what the abstracts claim, and what was measured here",
        tuple(map(Cell, ("", "claim", "in the claim's setting", "under an adaptive attacker"))),
        tuple(tuple(map(Cell, row)) for row in rows),
        (
            "Claims are of the abstracts of arXiv 1803.05787 and its CVPR version, of other "
            "networks and images; the claims name no radius, and the authors' code attacks at "
            "2/255. Measured here is the table 25/30 of that code, in "
            + ("two passes" if twice else "one pass")
            + "; after ± the standard error of a difference on the same images, in brackets 95 % "
            "intervals.",
        ),
    )


def _change(before: Record, after: Record) -> str:
    """Returns how far accuracy falls or rises, with the standard error on the same images."""
    first, second = (r.correct_draws / r.num_score_draws for r in (before, after))
    fall = 100 * (first - second)
    error = fall.std() / math.sqrt(len(fall))
    verb = "falls" if fall.mean() >= 0 else "rises"
    return f"{verb} by {abs(fall.mean()):.1f} ± {error:.1f} points"
