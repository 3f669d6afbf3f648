"""What the abstracts of the defenses' papers claim, beside what was measured of it here."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.benchmarks._speed_tables import ncis_texts, ratio_texts
from eval.studies.defenses import MAKERS
from eval.studies.two_pass import is_compressed
from rainjax.evaluation import Knowledge, Record
from rainjax.report import BlindAgainstAdaptive, Cell, Results, Table
from rainjax.report.bounds import at_most, bound_notes
from rainjax.report.contrast import score_text
from rainjax.report.marks import doubt_note, had_zero_gradient, marked, zero_gradient_notes
from rainjax.report.results import clean, lowest, radii
from rainjax.report.tables import ABSENT
from rainjax.report.text import counted, radius_text

_BARE, _PUBLISHED = MAKERS["undefended"].title, MAKERS["fd"].title
_SMOOTHING, _NCIS = MAKERS["smoothing"].title, MAKERS["ncis"].title
_BPDA = "BPDA, identity"
_MEASURED = (
    "after ± the standard error of a difference on the same images, in brackets 95 % intervals."
)


def claims_tables(results: Results, speed: dict[str, Any] | None = None) -> list[Table]:
    """Returns the claims of every paper whose defense the results are of.

    Beside each stands what came out in its setting, and under an attacker who knows more, with the
    "≤" that a bound has in every other table. `speed` is what `python -m eval speed` wrote.
    """
    tables = feature_distillation(results, speed), ncis(results, speed)
    return [table for table in tables if table is not None]


def feature_distillation(results: Results, speed: dict[str, Any] | None = None) -> Table | None:
    """Returns the claims of Feature Distillation.

    None where the records hold no Feature Distillation attacked within the radius of its authors'
    code, 2/255, or a smaller one, or where blind attacks leave the undefended classifier more than
    half of what it gets right.
    """
    records = results.scored(None)
    small = [radius for radius in radii(records, "linf") if radius < 2.5 / 255]
    found = _Measured.at(records, _PUBLISHED, max(small)) if small else None
    if found is None or found.withstands:
        return None
    best = found.best(results)
    bpda = lowest(
        record
        for record in records
        if (record.subject, record.threat, record.ball)
        == (_PUBLISHED, _BPDA, ("linf", found.radius))
    )
    twice = is_compressed(records[0].content["data"]["name"])
    benign = (
        "accuracy on benign images",
        "falls by at most 1 %",
        _change(found.bare, found.clean),
        "the same",
    )
    rows = [
        # What the first pass costs is not seen among images that have been through it.
        *(() if twice else (benign,)),
        (
            "accuracy on adversarial images",
            "from about 20 % to about 90 %",
            f"{found.from_to}: the strongest blind attacks at {found.size}",
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
        ratios = ratio_texts(speed)
        rows.append(
            (
                "time",
                "about 259 times faster than quilting and total variation (not said which)",
                "; ".join(f"{name}: {text}" for name, text in ratios.items()),
                "—",
            )
        )
    return _table(
        "Feature Distillation",
        rows,
        "Claims are of the abstracts of arXiv 1803.05787 and its CVPR version, of other "
        "networks and images; the claims name no radius, and the authors' code attacks at "
        "2/255. Measured here is the table 25/30 of that code, in "
        f"{'two passes' if twice else 'one pass'}; {_MEASURED}",
        *_mark_notes(results, found),
    )


def ncis(results: Results, speed: dict[str, Any] | None = None) -> Table | None:
    """Returns the claims of NCIS, which are of attackers who do not know of it.

    The radius is the smallest within which blind attacks leave the undefended classifier at most
    half of what it gets right. None where blind attacks on both, the classifier and NCIS, were
    recorded within no such one.
    """
    records = results.scored(None)
    every = (_Measured.at(records, _NCIS, radius) for radius in radii(records, "linf"))
    pairs = (m for m in every if m is not None and m.fooled is not None and m.blind is not None)
    found = next((m for m in pairs if not m.withstands), None)
    if found is None:
        return None
    alone = _Measured.at(records, _SMOOTHING, found.radius)
    shown = [m for m in (alone, found) if m is not None]
    best = found.best(results)
    rows = []
    if alone is not None:
        rows += [
            (
                "Gaussian smoothing alone",
                "iterated, washes the perturbation out, and makes accuracy high",
                f"{alone.from_to}: the strongest blind attacks at {found.size}",
                alone.best(results),
            ),
            (
                "the network",
                "restores from the smoothed image what the original is recognised by",
                "with it instead of smoothing alone, as the note says, clean accuracy "
                + _change(alone.clean, found.clean),
                "the same",
            ),
        ]
    rows.append(
        (
            "accuracy under white-box and black-box attacks that are blind to the purifier",
            "restored, without adversarial training or a change of the classifier",
            f"{found.from_to}: the strongest blind attacks at {found.size}",
            best,
        )
    )
    rows += [
        (f"the same, {name} alone", "restored", text, best)
        for name, text in found.by_attack(records).items()
    ]
    rows.append(
        (
            "accuracy on benign images",
            "not in the abstracts",
            _change(found.bare, found.clean),
            "the same",
        )
    )
    if speed is not None and (times := ncis_texts(speed)):
        rows.append(
            (
                "time",
                "computationally efficient",
                "; ".join(f"{name}: {text}" for name, text in times.items()),
                str(ABSENT),
            )
        )
    return _table(
        "NCIS",
        rows,
        "Claims are of the abstracts of arXiv 2106.11644 and its WACV 2024 version, of ImageNet, "
        "four classifiers and services on the Internet; they name no numbers, and no code is "
        "published: measured is our reading of the method, of the networks and images of this "
        "study, within the smallest radius at which blind attacks leave the classifier without "
        f"it at most half; {_MEASURED} That this comes near networks which were trained against "
        "attacks, as the first version says, takes a study of such a network.",
        *_smoothing_notes(*shown),
        *_mark_notes(results, *shown),
    )


@dataclasses.dataclass(frozen=True)
class _Measured:
    """What a defense and the classifier without it keep, clean and within one radius."""

    name: str
    radius: float
    bare: Record
    clean: Record
    fooled: Record | None
    blind: Record | None
    adaptive: Record | None

    @staticmethod
    def at(records: Sequence[Record], name: str, radius: float) -> "_Measured | None":
        """Returns what the records hold of it; None where one was not measured on clean images."""
        bare, after = clean(records, _BARE), clean(records, name)
        if bare is None or after is None:
            return None
        contrast = BlindAgainstAdaptive()
        elsewhere = _made_elsewhere(records)
        fooled, blind = (contrast.blind(elsewhere, row, radius) for row in (_BARE, name))
        adaptive = contrast.adaptive(records, name, radius)
        return _Measured(name, radius, bare, after, fooled, blind, adaptive)

    @property
    def size(self) -> str:
        """The radius in words."""
        return radius_text("linf", self.radius)

    @property
    def withstands(self) -> bool:
        """Whether blind attacks leave the classifier without a defense more than half.

        The claims are of networks that attacks break, not of one that was trained against them.
        """
        if self.fooled is None:
            return False
        return self.fooled.score().accuracy > self.bare.score().accuracy / 2

    def best(self, results: Results) -> str:
        """Returns what the strongest attack leaves, with the marks that other tables give it."""
        if self.adaptive is None:
            return str(ABSENT)
        bound = at_most(results, self.adaptive, ("linf", self.radius))
        cell = Cell(bound + score_text(self.adaptive, at=True))
        doubted = (self.name, self.adaptive.threat) in results.doubts
        return str(marked(cell, doubted=doubted, zero_gradient=had_zero_gradient(self.adaptive)))

    @property
    def from_to(self) -> str:
        """What blind attacks leave without the defense, and with it."""
        return f"from {score_text(self.fooled)} to {score_text(self.blind)}"

    def by_attack(self, records: Sequence[Record]) -> dict[str, str]:
        """Returns the same of each blind attack within the radius."""
        found: dict[str, dict[str, list[Record]]] = {}
        for record in _made_elsewhere(records):
            if record.ball == ("linf", self.radius) and record.subject in (_BARE, self.name):
                own = found.setdefault(record.threat, {})
                own.setdefault(record.subject, []).append(record)
        return {
            threat: " to ".join(score_text(lowest(pair[row])) for row in (_BARE, self.name))
            for threat, pair in found.items()
            if len(pair) == 2
        }


def _made_elsewhere(records: Sequence[Record]) -> list[Record]:
    """Returns the attacks that asked the defended pipeline nothing, as the claims are of.

    A black box that asks it is blind as well, but learns from its answers.
    """
    knowledge = (Knowledge.TRANSFER, Knowledge.CLASSIFIER)
    return [record for record in records if record.knowledge in knowledge]


def _table(name: str, rows: Sequence[Sequence[str]], *notes: str) -> Table:
    return Table(
        f"{name}: what the abstracts claim, and what was measured here",
        tuple(map(Cell, ("", "claim", "in the claim's setting", "under an adaptive attacker"))),
        tuple(tuple(map(Cell, row)) for row in rows),
        notes,
    )


def _smoothing_notes(*shown: _Measured) -> list[str]:
    """Returns how often and how widely each smooths, where its record says so."""
    told = []
    for measured in shown:
        defense = measured.clean.content["subject"]["target"].get("defense")
        own = defense if isinstance(defense, dict) else {}
        if all(name in own for name in ("num_iterations", "sigma", "kernel_size")):
            times = counted(own["num_iterations"], "iterations")
            gaussian = f"sigma {own['sigma']:g}, {own['kernel_size']} × {own['kernel_size']}"
            if not own.get("smooth_input", True):
                gaussian = "without smoothing"
            told.append(f"{measured.name}: {times}, {gaussian}")
    return [f"How often and how widely is smoothed: {'; '.join(told)}."] if told else []


def _mark_notes(results: Results, *shown: _Measured) -> list[str]:
    """Returns what the marks mean that `best` gave."""
    used = [(m.adaptive, ("linf", m.radius)) for m in shown if m.adaptive is not None]
    records = [record for record, _ in used]
    failed = [name for r in records for name in results.doubts.get((r.subject, r.threat), [])]
    return [
        *bound_notes(results, used),
        *doubt_note(failed),
        *zero_gradient_notes(records),
    ]


def _change(before: Record, after: Record) -> str:
    """Returns how far accuracy falls or rises, with the standard error, and to what.

    The error is of the images that both were measured on.
    """
    both = set(before.indices.tolist()) & set(after.indices.tolist())
    first, second = (
        r.correct_draws[np.isin(r.indices, list(both))] / r.num_score_draws
        for r in (before, after)
    )
    fall = 100 * (first - second)
    error = fall.std() / math.sqrt(len(fall))
    verb = "falls" if fall.mean() >= 0 else "rises"
    return f"{verb} by {abs(fall.mean()):.1f} ± {error:.1f} points, to {score_text(after)}"
