"""Says where a black box was stronger than every white box: the white box was masked there."""

import dataclasses
import math

import numpy as np

from rainjax.evaluation.knowledge import Knowledge
from rainjax.evaluation.ladder import paired_change
from rainjax.evaluation.records import Record
from rainjax.report.results import Results, balls, lowest, subjects_of
from rainjax.report.text import Finding, ball_texts, percent

# As for the strength of an attack: further than this from 0 a paired difference is no chance.
_ERRORS = 2.0
# And so rarely would as many of the images that differ fall, if rise and fall were alike: where
# all of a few images fall, the difference has no error, and still says little.
_LEVEL = 0.05
# Fewer images can never fall that rarely: 1 in 16 for four. They are not compared.
_FEWEST = 5
_BLACK = (Knowledge.LABELS, Knowledge.SCORES)
_WHITE = (Knowledge.CLASSIFIER, Knowledge.DEFENSE)


@dataclasses.dataclass(frozen=True)
class Masked:
    """A white box, the black box that leaves less, and the flag that says so."""

    white: Record
    black: Record
    flag: Finding


def masked(results: Results) -> tuple[list[Masked], bool]:
    """Returns the white boxes that were masked, and whether there was anything to compare.

    For each subject and ball that is the strongest black box, by labels or by scores, against the
    strongest attack with a gradient, blind to the defense or not, image by image on those that
    both were run on. A flag is raised where the black box leaves less beyond chance: the attack
    with a gradient has all that the black box has, and a black box beside it, so that it was not
    strong enough, and its number is no robustness. Where a defense met no attacker who knows it,
    nothing was masked, and nothing is compared.
    """
    scored = [record for record in results.scored(None) if record.ball is not None]
    words = ball_texts(balls(scored))
    found, compared = [], False
    for ball in words:
        for subject in subjects_of(results, scored):
            own = [r for r in scored if r.subject == subject and r.ball == ball]
            black = lowest(r for r in own if r.knowledge in _BLACK)
            white = lowest(r for r in own if r.knowledge in _WHITE)
            knowing = any(r.knowledge is Knowledge.DEFENSE or not r.defended for r in own)
            if black is None or white is None or not knowing:
                continue
            pair = paired(white, black)
            if pair is None:
                continue
            compared = True
            if leaves_less(*pair):
                flag = _flag(white, black, words[ball], *pair)
                found.append(Masked(white, black, flag))
    return found, compared


def leaves_less(before: np.ndarray, after: np.ndarray) -> bool:
    """Returns whether shares fell from image to image beyond chance.

    By two standard errors of the mean change, and by a one-sided sign test at 5 %.
    """
    change, error = paired_change(before, after)
    fell, rose = int((after < before).sum()), int((after > before).sum())
    ways = sum(math.comb(fell + rose, more) for more in range(fell, fell + rose + 1))
    return change < -_ERRORS * error and ways <= _LEVEL * 2 ** (fell + rose)


def paired(first: Record, second: Record) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns each image's share of right draws under both, None where they share too few.

    Five images at least: whatever happens to fewer may be chance.
    """
    shares = [
        dict(zip(r.indices.tolist(), (r.correct_draws / r.num_score_draws).tolist(), strict=True))
        for r in (first, second)
    ]
    common = sorted(shares[0].keys() & shares[1].keys())
    if len(common) < _FEWEST:
        return None
    before, after = (np.array([share[index] for index in common]) for share in shares)
    return before, after


def _flag(
    white: Record, black: Record, words: str, before: np.ndarray, after: np.ndarray
) -> Finding:
    change, error = paired_change(before, after)
    return Finding(
        f"{white.subject}: the white box was masked {words}. The black box {black.threat} leaves "
        f"{percent(float(after.mean()))} against the {percent(float(before.mean()))} of the "
        f"strongest attack with a gradient, {white.threat}, a change of {100 * change:+.1f} ± "
        f"{100 * error:.1f} points on the same {len(before)} images, which is more than chance: "
        "what the white box leaves is no robustness.",
        flag=True,
    )
