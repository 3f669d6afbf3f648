"""Intervals for counted successes."""

import math
import statistics

from rainjax._checks import as_plain


def wilson_interval(
    successes: float | int, total: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the ends of Wilson's score interval for a proportion (Wilson, 1927).

    `successes` may be a fraction of a count, such as a mean over random draws; the interval
    then covers the choice of the `total` examples, not the draws.

    >>> from rainjax.metrics import wilson_interval
    >>> low, high = wilson_interval(9, 10)
    >>> print(f"{low:.3f} {high:.3f}")
    0.596 0.982

    Raises:
        ValueError: `total` is no whole number of at least 1, `successes` do not lie in 0..`total`,
            or `confidence` does not lie between 0 and 1.
    """
    successes, total = as_plain("successes", successes), as_plain("total", total, int)
    confidence = as_plain("confidence", confidence)
    if total < 1:
        raise ValueError(f"An interval needs at least one example, but {total=}.")
    if not 0 <= successes <= total:
        raise ValueError(f"{successes=} does not lie between 0 and {total=}.")
    if not 0 < confidence < 1:
        raise ValueError(f"{confidence=} does not lie between 0 and 1; 95 % is 0.95.")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = successes / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # At either end the interval touches its limit exactly; rounding must not undo that.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high
