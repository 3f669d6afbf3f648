"""Says in plain words what the records show, and which of them should make a reader doubt."""

import itertools
from collections.abc import Sequence

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.records import Record, Score
from rainjax.report._display import Display
from rainjax.report.curves import Curve
from rainjax.report.displays import default_displays
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
    ball_text,
    counted,
    interval,
    percent,
    radius_text,
)

# Of more subjects and balls than these a table says it better.
_MOST_SENTENCES = 8
# More flags than these that chance may explain would hide those that it does not.
_MOST_BY_CHANCE = 3


def verdict(results: Results, displays: Sequence[Display] | None = None) -> list[Finding]:
    """Returns the findings, then the flags; both follow from the records alone.

    Attacks with the tag "table" are held against each other, and the points of every curve among
    the `displays`, by default those that the records allow.
    """
    if displays is None:
        displays = default_displays(results)
    shown = results.tagged("table")
    places = list(itertools.product(balls(shown), subjects_of(results, shown)))
    findings = []
    if len(places) <= _MOST_SENTENCES:
        findings = [_subject_finding(shown, subject, ball) for ball, subject in places]
    findings = [finding for finding in findings if finding is not None]
    curves = [display for display in displays if isinstance(display, Curve)]
    flags = [
        *_ball_flags(results.records),
        *_order_flags(shown),
        *(flag for curve in curves for flag in _curve_flags(results, curve)),
    ]
    chance = [flag for flag in flags if flag.chance]
    if not flags:
        flags = [
            Finding(
                "No flag was raised: no attack left its ball, no weaker threat model did better "
                "than a stronger one, and where sweeps were run neither more gradient samples nor "
                "more steps nor a larger radius helped the defense."
            )
        ]
    elif len(chance) > _MOST_BY_CHANCE or len(chance) == len(findings + flags):
        flags = [flag for flag in flags if not flag.chance] + [_folded(len(chance))]
    return findings + flags


def _folded(number: int) -> Finding:
    """Returns one line for all the flags that chance may explain."""
    return Finding(
        f"In {counted(number, 'pairs')} of attacks the one with less to work with did better by "
        "so little that the intervals overlap: chance may explain it.",
        flag=True,
        chance=True,
    )


def _subject_finding(shown: list[Record], subject: str, ball: Ball) -> Finding | None:
    best = strongest(shown, subject, ball)
    if best is None:
        return None
    score = best.score()
    text = f"**{subject}**: "
    unattacked = clean(shown, subject)
    if unattacked is not None:
        text += f"{percent(unattacked.score().accuracy)} right on clean images, "
    text += (
        f"{percent(score.accuracy)} {interval(score)} under the strongest attack measured, "
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
    return Finding(text)


def _order_flags(shown: list[Record]) -> list[Finding]:
    """Compares each attack with those that know less; the clean images know nothing."""
    flags, several = [], len(balls(shown)) > 1
    for weaker, stronger in itertools.permutations(shown, 2):
        comparable = weaker.subject == stronger.subject and weaker.ball in (None, stronger.ball)
        if not comparable or not knows_less(weaker, stronger) or not _below(weaker, stronger):
            continue
        if weaker.attack is None:
            pair = f"clean images score lower than {stronger.threat}"
        else:
            pair = f"the weaker threat model {weaker.threat} did better than {stronger.threat}"
        if several and stronger.ball is not None:
            pair += f" {ball_text(stronger.ball)}"
        flags.append(_comparison(pair, weaker, stronger, "gradient masking or a weak setting"))
    return flags


def _curve_flags(results: Results, curve: Curve) -> list[Finding]:
    """Flags a point that leaves more than the best before it, which had less to work with."""
    name, cause = {
        "radius": (_radius_name, "an attack that has not converged"),
        "num_draws": (_draws_name, "noise in the attack, or too few steps"),
        "num_steps": (_steps_name, "an attack that loses what it had found"),
    }[curve.x]
    flags = []
    for run in curve.runs(results):
        for number, record in enumerate(run[1:], start=1):
            best = min(run[:number], key=lambda record: record.score().accuracy)
            if _below(best, record):
                pair = f"{name(best)} did better than {name(record)}"
                flags.append(_comparison(pair, best, record, cause))
    return flags


def _radius_name(record: Record) -> str:
    return f"{record.threat} at radius {radius_text(record.norm or '', record.radius or 0.0)}"


def _draws_name(record: Record) -> str:
    return f"K = {record.num_draws}"


def _steps_name(record: Record) -> str:
    return counted(record.num_steps, "steps")


def _ball_flags(records: Sequence[Record]) -> list[Finding]:
    flags = []
    for record in records:
        reach, radius = record.result["linf_max"], record.radius
        # An attacked image is stored in float32; half an ulp at 1 is 6e-8.
        if record.norm == "linf" and radius is not None and reach > radius + 1e-6:
            flags.append(
                Finding(
                    f"{record.subject}: {record.threat} moved a pixel by {reach:.6f}, further "
                    f"than its radius of {radius:.6f}; its number measures another attack.",
                    flag=True,
                )
            )
    return flags


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
