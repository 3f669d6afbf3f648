"""Says in plain words what the records show, and which of them should make a reader doubt."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record, Score
from rainjax.report import sanity
from rainjax.report._display import Display
from rainjax.report.bounds import at_most
from rainjax.report.brackets import bracket, contradictions
from rainjax.report.curves import Curve
from rainjax.report.displays import default_displays
from rainjax.report.masking import Masked, masked
from rainjax.report.results import (
    Ball,
    Results,
    balls,
    clean,
    knows_less,
    lowest,
    on_common_images,
    strongest,
    subjects_of,
)
from rainjax.report.text import (
    Finding,
    attack_text,
    ball_texts,
    counted,
    interval,
    norm_text,
    percent,
    radius_text,
    unique,
)

# Of more subjects and balls than these a table says it better.
_MOST_SENTENCES = 8
# More flags than these that chance may explain would hide those that it does not.
_MOST_BY_CHANCE = 3


def verdict(results: Results, displays: Sequence[Display] | None = None) -> list[Finding]:
    """Returns the findings, then the flags; both follow from the records alone.

    All attacks within a ball are held against each other, and the points of every curve among the
    `displays`, by default those that the records allow. What was not compared is not said to be
    in order.
    """
    if displays is None:
        displays = default_displays(results)
    scored = results.scored(None)
    findings = _findings(results) + _measured(results) + _member_findings(results.records)
    curves = [display for display in displays if isinstance(display, Curve)]
    masks, compared_boxes = masked(results)
    compared = [
        _ball_flags(scored),
        _gradient_flags(results.records),
        _order_flags(scored, masks),
        _ladder_flags(scored),
        _proof_flags(results),
        _masking_flags(masks, compared_boxes),
    ]
    compared += [_curve_flags(results, curve) for curve in curves]
    flags = [flag for part in compared for flag in part.flags]
    chance = [flag for flag in flags if flag.chance]
    doubted = any(finding.flag for finding in sanity.findings(results.checked))
    if not flags and not doubted and scored:
        flags = [_no_flag([part.well for part in compared if part.well])]
    elif len(chance) > _MOST_BY_CHANCE:
        flags = [flag for flag in flags if not flag.chance] + [_folded(len(chance))]
    return findings + flags


@dataclasses.dataclass(frozen=True)
class _Compared:
    """What a comparison of attacks flags, and what is well where it flags nothing.

    `well` is empty where there was nothing to compare.
    """

    flags: list[Finding]
    well: str


def _no_flag(well: list[str]) -> Finding:
    if not well:
        return Finding(
            "No two attacks here can be held against each other, so nothing was there to be "
            "flagged."
        )
    listed = ", ".join(well[:-1]) + ", and " * (len(well) > 1) + well[-1]
    return Finding(f"No flag was raised: {listed}.")


def _folded(number: int) -> Finding:
    """Returns one line for all the flags that chance may explain."""
    return Finding(
        f"In {counted(number, 'pairs')} of attacks the one with less to work with did better by "
        "so little that the intervals overlap: chance may explain it.",
        flag=True,
        chance=True,
    )


def _findings(results: Results) -> list[Finding]:
    """Returns what the strongest attacks leave: a sentence for each subject, or for each ball.

    Balls are those of the table, if there is one, and attacks all that were made within them.
    """
    scored = results.scored(None)
    subjects = subjects_of(results, scored)
    words = ball_texts(balls(results.scored("table")) or balls(scored))
    if not words:
        return _clean_findings(scored, subjects)
    if len(words) * len(subjects) > _MOST_SENTENCES:
        found = [_range_finding(results, scored, subjects, *b) for b in words.items()]
    else:
        found = [_subject_finding(results, scored, s, b) for b in words for s in subjects]
    return [finding for finding in found if finding is not None]


def _clean_findings(scored: list[Record], subjects: list[str]) -> list[Finding]:
    told = [(s, record) for s in subjects if (record := clean(scored, s)) is not None]
    shares = [f"{subject} {percent(record.score().accuracy)}" for subject, record in told]
    text = f"Nobody attacked. Right on clean images: {', '.join(shares)}."
    return [Finding(text)] if shares else []


def _range_finding(
    results: Results, scored: list[Record], subjects: list[str], ball: Ball, words: str
) -> Finding | None:
    """Returns what the strongest attacks within a ball leave of the best and the worst subject."""
    best = [record for s in subjects if (record := strongest(scored, s, ball)) is not None]
    if not best:
        return None
    best.sort(key=lambda record: record.score().accuracy)
    ends = [
        f"{at_most(results, record, ball)}{_told(record.score())} of {record.subject} "
        f"({record.threat})"
        for record in dict.fromkeys([best[0], best[-1]])
    ]
    return Finding(
        f"Of {counted(len(best), 'subjects')}, the strongest attacks {words} leave "
        f"{'between ' * (len(ends) > 1)}{' and '.join(ends)}."
    )


def _measured(results: Results) -> list[Finding]:
    """Says of measures without accuracies where their results are: no rule judges those."""
    names = unique(record.measure for record in results.records if not record.scored)
    if not names:
        return []
    return [Finding(f"The tables show what {' and '.join(names)} measured; no rule judges it.")]


def _subject_finding(
    results: Results, shown: list[Record], subject: str, ball: Ball
) -> Finding | None:
    best = strongest(shown, subject, ball)
    if best is None:
        return None
    score = best.score()
    text = f"**{subject}**: "
    unattacked = clean(shown, subject)
    if unattacked is not None:
        text += f"{percent(unattacked.score().accuracy)} right on clean images, "
    text += (
        f"{at_most(results, best, ball)}{percent(score.accuracy)} {interval(score)} under the "
        "strongest attack measured, "
        f"{best.threat} ({attack_text(best)})."
    )
    blind = lowest(
        record
        for record in shown
        if record.subject == subject
        and record.ball == ball
        and record.defended
        and record.knowledge is Knowledge.CLASSIFIER
    )
    if blind is not None and best is blind:
        text += " No adaptive attack did better than the purifier-blind one."
    elif blind is not None:
        low, high, where = on_common_images(best, blind)
        gap = 100 * (high.accuracy - low.accuracy)
        if gap > 0:
            text += (
                f" That is {gap:.1f} points below the {percent(high.accuracy)} "
                f"{interval(high)} that the purifier-blind attack leaves{where}."
            )
    if best.num_score_draws > 1 and best.defended:
        worst = best.score("worst")
        text += (
            f" Right under every one of {best.num_score_draws} draws: "
            f"{percent(worst.accuracy)} {interval(worst)}."
        )
    lower = bracket(results, best, ball)
    if lower is not None:
        where = f" of {lower.num} images" if lower.num else ""
        text += f" Proved, whatever the attack: {_told(lower.proved)}{where}."
    return Finding(text)


def _order_flags(scored: list[Record], masks: Sequence[Masked]) -> _Compared:
    """Compares each attack with those that know less; the clean images know nothing.

    Of a threat model with several settings in a ball the one that leaves least speaks for it. What
    `masks` says already is not said again.
    """
    groups: dict[tuple, list[Record]] = {}
    for record in scored:
        groups.setdefault((record.subject, record.ball, record.threat), []).append(record)
    best = [record for group in groups.values() if (record := lowest(group)) is not None]
    words = ball_texts(balls(best))
    flags, number, unattacked = [], 0, 0
    told = [(mask.black, mask.white) for mask in masks]
    for weaker, stronger in itertools.permutations(best, 2):
        comparable = weaker.subject == stronger.subject and weaker.ball in (None, stronger.ball)
        if not comparable or not knows_less(weaker, stronger):
            continue
        number += weaker.attack is not None
        unattacked += weaker.attack is None
        if not _below(weaker, stronger) or (weaker, stronger) in told:
            continue
        if weaker.attack is None:
            pair = f"clean images score lower than {stronger.threat}"
        else:
            pair = f"the weaker threat model {weaker.threat} did better than {stronger.threat}"
        if len(words) > 1 and stronger.ball is not None:
            pair += f" {words[stronger.ball]}"
        flags.append(_comparison(pair, weaker, stronger, "gradient masking or a weak setting"))
    well = "no weaker threat model did better than a stronger one" if number else ""
    if unattacked and not number:
        well = "no attack left more than there is without one"
    return _Compared(flags, well)


_AXES = {
    "radius": (
        lambda record: (
            f"{record.threat} at radius " + radius_text(record.norm or "", record.radius or 0.0)
        ),
        "an attack that has not converged",
        "a larger radius",
    ),
    "num_draws": (
        lambda record: f"K = {record.num_draws}",
        "noise in the attack, or too few steps",
        "more gradient samples",
    ),
    "num_steps": (
        lambda record: counted(record.num_steps, "steps"),
        "an attack that loses what it had found",
        "more steps",
    ),
}


def _curve_flags(results: Results, curve: Curve) -> _Compared:
    """Flags a point that leaves more than the best before it, which had less to work with."""
    name, cause, more = _AXES[curve.x]
    flags, runs = [], curve.runs(results)
    for run in runs:
        for number, record in enumerate(run[1:], start=1):
            best = min(run[:number], key=lambda record: record.score().accuracy)
            if _below(best, record):
                pair = f"{name(best)} did better than {name(record)}"
                flags.append(_comparison(pair, best, record, cause))
    swept = any(len(run) > 1 for run in runs)
    return _Compared(flags, f"{more} never helped the defense" if swept else "")


def _ball_flags(scored: Sequence[Record]) -> _Compared:
    flags, norms = [], set()
    for record in scored:
        norm, radius = record.norm, record.radius
        reach = record.result.get(f"{norm}_max")  # older records know that of L-inf alone
        if reach is None or radius is None or radius == math.inf:
            continue
        norms.add(norm_text(norm or ""))
        # An attacked image is stored in float32: half an ulp at 1 is 6e-8, of each of its values.
        slack = 1e-6 if norm == "linf" else 1e-6 + 1e-4 * radius
        if reach > radius + slack:
            what = "a pixel" if norm == "linf" else f"an image in {norm_text(norm or '')}"
            flags.append(
                Finding(
                    f"{record.subject}: {record.threat} moved {what} by {reach:.6f}, further "
                    f"than its radius of {radius:.6f}; its number measures another attack.",
                    flag=True,
                )
            )
    return _Compared(flags, f"no attack left its {' or '.join(sorted(norms))} ball" * bool(norms))


def _gradient_flags(records: Sequence[Record]) -> _Compared:
    """Flags attacks that had no gradient to follow, where the records say whether they had."""
    told = [record for record in records if record.num_zero_gradient is not None]
    without = [record for record in told if record.num_zero_gradient]
    flags = []
    for subject in unique(record.subject for record in without):
        own = [record for record in without if record.subject == subject]
        shares = unique(
            f"{r.num_zero_gradient} of {r.num_examples} images under {r.threat}" for r in own
        )
        flags.append(
            Finding(
                f"{subject}: the gradient was exactly zero at every call for "
                f"{', '.join(shares)}: that these stand says nothing of an attacker who has a "
                "gradient, or needs none.",
                flag=True,
            )
        )
    return _Compared(flags, "every attack that needs one had a gradient" if told else "")


def _member_findings(records: Sequence[Record]) -> list[Finding]:
    """Says which members of an ensemble had none where others had: no reason to doubt it all."""
    return [
        Finding(
            f"{record.subject}: of {record.threat}, {member['name']} had no gradient to follow on "
            f"{member['num_zero_gradient']} of the {member['num_attacked']} images it attacked; "
            "other members stood in."
        )
        for record in records
        if not record.num_zero_gradient
        for member in _members(record)
        if member.get("num_zero_gradient")
    ]


def _members(record: Record) -> list[dict[str, Any]]:
    found = record.result.get("members")  # or what a measure calls so
    if not isinstance(found, list):
        return []
    return [member for member in found if isinstance(member, dict) and "name" in member]


def _ladder_flags(scored: Sequence[Record]) -> _Compared:
    """Flags ladders that ended by their budget."""
    ladders = [record for record in scored if record.ladder is not None]
    flags = [
        Finding(
            f"{record.subject}: {record.threat} was still falling when its budget was spent "
            f"({attack_text(record)}); what it leaves is an upper bound.",
            flag=True,
        )
        for record in ladders
        if record.still_falling
    ]
    return _Compared(flags, "every ladder became flat" if ladders else "")


def _proof_flags(results: Results) -> _Compared:
    """Flags records that leave less than is proved."""
    well = "no attack left less than is proved" if results.proofs else ""
    return _Compared(contradictions(results), well)


def _masking_flags(masks: Sequence[Masked], compared: bool) -> _Compared:
    """Flags white boxes that a black box beats beyond chance."""
    well = "no black box was stronger than the best white box beyond chance"
    return _Compared([mask.flag for mask in masks], well if compared else "")


def _comparison(pair: str, lower: Record, higher: Record, cause: str) -> Finding:
    low, high, where = on_common_images(lower, higher)
    text = f"{lower.subject}: {pair}, leaving {_told(low)} against {_told(high)}{where}."
    chance = low.high >= high.low
    if chance:
        text += " The intervals overlap, so chance may explain it."
    else:
        text += f" The intervals are apart, so this is more than chance: suspect {cause}."
    return Finding(text, flag=True, chance=chance)


def _told(score: Score) -> str:
    return f"{percent(score.accuracy)} {interval(score)}"


def _below(first: Record, second: Record) -> bool:
    first_score, second_score, _ = on_common_images(first, second)
    return first_score.accuracy < second_score.accuracy
