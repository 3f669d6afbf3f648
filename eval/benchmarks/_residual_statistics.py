"""What a record of `python -m eval residuals` says of one attack: plain JSON from its images."""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float

from rainjax import residuals
from rainjax.typing import PRNGKey

ALL, INNER, EIGHT_BIT = "all", "inner", "eight_bit"
POPULATIONS = {
    ALL: "all values",
    INNER: "values further than the radius from 0 and 1",
    EIGHT_BIT: "all values, adversarial images rounded to 8 bits",
}
FEWEST = 8  # images of which anything is tested
_LEAST_INSIDE = 0.1  # of an image's values, for its moments to mean something
_BINS = 20  # on either side of the histogram's middle one
_SHOWN = 0.995  # of the values in a histogram without a radius

Batch = Float[np.ndarray, "n h w c"]


def statistics(
    key: PRNGKey, originals: Batch, attacked: Batch, *, radius: float | None, num_flips: int
) -> dict[str, Any]:
    """Returns all that is recorded of the residuals of one attack.

    `radius` is the attack's in L-inf; None for others, for which the largest change of each image
    stands in as the distance from the borders that counts as far.
    """
    if not len(originals):  # nobody was fooled
        nothing = dict.fromkeys(("histogram", "spectrum", "low_frequencies"))
        return {"num_images": 0, "populations": dict.fromkeys(POPULATIONS), **nothing}
    found = residuals.residuals(originals, attacked)
    margin = np.abs(found).max((1, 2, 3)) if radius is None else radius
    inside = residuals.far_from_borders(originals, margin)
    levels = (np.round(255.0 * attacked) / 255.0).astype(np.float32)
    rounded = residuals.residuals(originals, levels)
    of = functools.partial(_population, key, num_flips=num_flips)
    shares = residuals.low_frequency_share(found)
    return {
        "num_images": len(found),
        "populations": {ALL: of(found), INNER: of(found, inside), EIGHT_BIT: of(rounded)},
        "histogram": histogram(found, radius),
        "spectrum": residuals.mean_spectrum(found).tolist(),
        "low_frequencies": float(np.nanmean(shares)) if np.isfinite(shares).any() else None,
    }


def histogram(found: Batch, radius: float | None) -> dict[str, Any]:
    """Returns the shares of all values in bins that are symmetric about zero.

    In units of the radius or, where there is none, of grey levels; what is larger than nearly all
    other values is counted as `beyond`, below and above. The middle bin holds zero, the outer ones
    the radius.
    """
    if radius is None:
        sizes = 255 * found.ravel()
        end = max(float(np.quantile(np.abs(sizes), _SHOWN)), 1e-2)
    else:
        sizes, end = found.ravel() / radius, 1.0
    edges = end * (np.arange(2 * _BINS + 2) - _BINS - 0.5) / _BINS
    shares = np.histogram(sizes, edges)[0] / len(sizes)
    beyond = [float((sizes < edges[0]).mean()), float((sizes > edges[-1]).mean())]
    return {
        "unit": "grey levels" if radius is None else "radius",
        "edges": edges.tolist(),
        "shares": shares.tolist(),
        "beyond": beyond,
    }


def _population(
    key: PRNGKey, found: Batch, inside: np.ndarray | None = None, *, num_flips: int
) -> dict[str, Any] | None:
    """Returns moments and tests, or None for too few images."""
    share = 1.0
    if inside is not None:
        kept = inside.mean((1, 2, 3)) >= _LEAST_INSIDE
        found, inside = found[kept], inside[kept]
        share = float(inside.mean()) if kept.any() else 0.0
    if len(found) < FEWEST or not found.any():
        return None
    each, pooled = (
        function(found, inside) for function in (residuals.image_moments, residuals.pooled_moments)
    )
    curves = residuals.asymmetry(found, inside)
    names = ("mean", "standard_deviation", "skewness", "excess_kurtosis")
    return {
        "num_images": len(found),
        "num_values": int(pooled.count[0]),
        "share_of_values": share,
        "pooled": {name: float(getattr(pooled, name)[0]) for name in names},
        "mean": test(each.mean),
        "skewness": test(each.skewness),
        "symmetry": dataclasses.asdict(residuals.sign_flip_test(key, curves, num_flips=num_flips)),
        "median_distance": float(np.median(curves.distances)),
        "each": {"mean": _short(each.mean), "skewness": _short(each.skewness)},
    }


def test(values: Float[np.ndarray, "n"]) -> dict[str, Any] | None:
    """Returns the tests of zero of one number an image, where there are enough to differ."""
    numbers = np.array(
        _short(values), float
    )  # as the record holds them, so that it can be checked
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) < FEWEST or np.ptp(numbers) == 0:
        return None
    return dataclasses.asdict(residuals.zero_mean_test(numbers))


def _short(values: np.ndarray) -> list[float | None]:
    """Returns numbers with as many digits as mean something, None for NaN."""
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]
