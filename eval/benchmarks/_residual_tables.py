"""The tables of a record of `python -m eval residuals`, and what can be at odds in it."""

from typing import Any

import numpy as np

from eval.benchmarks._residual_statistics import ALL, INNER, POPULATIONS, test
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import radius_text

_HEADER = ("", "images", "deviation", "mean", "zero mean", "skewness", "distance", "symmetry")


def tables(record: dict[str, Any]) -> tuple[Table, ...]:
    """Returns a table for each population of values; what they mean is said below the first."""
    return tuple(
        Table(
            f"Adversarial residuals: {title}",
            (*map(Cell, _HEADER), *([Cell("low frequencies")] if name == ALL else [])),
            tuple(_row(entry, name) for entry in record["entries"]),
            (*_notes(record, name), *_in_words(record, name)),
        )
        for name, title in POPULATIONS.items()
    )


def p_text(p: float) -> str:
    """Returns a p value as it is quoted: three decimals, or its magnitude."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def _row(entry: dict[str, Any], name: str) -> tuple[Cell, ...]:
    found = entry["populations"][name]
    title, last = Cell(entry["name"]), ()
    if name == ALL:
        share = entry["low_frequencies"]
        last = (ABSENT if share is None else Cell(f"{100 * share:.1f} %"),)
    if found is None:
        return title, Cell(str(entry["num_images"])), *[ABSENT] * (len(_HEADER) - 2), *last
    pooled, symmetry = found["pooled"], found["symmetry"]
    share = f"{100 * found['share_of_values']:.0f} % of values" if name == INNER else ""
    deviation, tail = 255 * pooled["standard_deviation"], pooled["excess_kurtosis"]
    mean, skewness = found["mean"], found["skewness"]
    chance, single = symmetry["by_chance"], found["median_distance"]
    return (
        title,
        Cell(str(found["num_images"]), share),
        Cell(f"{deviation:.2f}", f"kurtosis {tail:+.1f}"),
        _mean(mean, 255, spread=True),
        ABSENT if mean is None else Cell(f"p = {p_text(mean['t_p'])}", _how_far(mean)),
        _mean(skewness, 1),
        Cell(f"{symmetry['distance']:.4f}", f"chance {chance:.4f}, single {single:.3f}"),
        Cell(
            f"p = {p_text(symmetry['p'])}",
            "" if skewness is None else f"skewness p = {p_text(skewness['t_p'])}",
        ),
        *last,
    )


def _mean(told: dict[str, Any] | None, scale: float, *, spread: bool = False) -> Cell:
    """Returns a mean over images with its interval and, with `spread`, how far images differ."""
    if told is None:
        return ABSENT
    apart = scale * told["standard_deviation"]
    digits = 4 if spread and apart < 0.1 else 3
    mean, low, high = (f"{scale * told[end]:+.{digits}f}" for end in ("mean", "low", "high"))
    more = f" ± {apart:.{digits}f}" if spread else ""
    return Cell(mean, f"[{low}, {high}]{more}")


def _how_far(told: dict[str, Any]) -> str:
    ranks = p_text(told["signed_rank_p"])
    return f"t {told['t']:+.2f}, d {told['effect_size']:+.2f}; ranks p = {ranks}"


def _notes(record: dict[str, Any], name: str) -> tuple[str, ...]:
    if name == INNER:
        return (
            "Where nothing was clipped: the original lies further from 0 and 1 than the L∞ radius "
            "or, for attacks without one, than the largest change of its image. Images with less "
            "than a tenth of such values are left out.",
        )
    if name != ALL:
        return ()
    options, images = record["options"], record["images"]
    other = options["transfer"]
    found_on = f"; transferred: found on {other}" if other else ""
    return (
        f"Adversarial minus original, of the {images['num_right']} that {options['classifier']} "
        f"gets right among the first {options['num_examples']} images of {options['data']} "
        f"({options['split']} split), as far as the attack makes it err{found_on}. L∞ radius "
        f"{radius_text('linf', options['linf_radius'])}, L2 radius {options['l2_radius']:g}. "
        f"**{record['control']}**: no attack, but a random sign times the L∞ radius for every "
        "value, clipped to [0, 1]: what the borders alone do.",
        "**deviation**: the standard deviation of all values, with their excess kurtosis; it and "
        "the **mean** are in grey levels of 255. The unit of every test is the image, because "
        "values inside one depend on each other: the mean is that of the images' means, with its "
        "95 % interval, and ± their standard deviation among images. **zero mean**: Student's t "
        "test of them, with t, d in standard deviations among images, and the p of Wilcoxon's "
        "signed rank test.",
        "**skewness**: the mean of the images', with its 95 % interval. **distance**: "
        "Kolmogorov-Smirnov's, between all values and their negatives, with what 95 % of random "
        "signs stay within, and the median over single images. **symmetry**: whether residuals "
        f"are as likely as their negatives, by {options['num_flips']:,} times a random sign for "
        "each whole image, and a t test of the images' skewness.",
        "**low frequencies**: the share of a residual's variance at up to an eighth of a cycle a "
        "pixel, most of which a smoothing filter leaves; of white noise 5 %, of the original "
        f"images {100 * images['low_frequencies']:.0f} %.",
    )


def _in_words(record: dict[str, Any], name: str) -> tuple[str, ...]:
    """Returns what "almost zero" and "symmetric" come to: the attacks that are furthest off."""
    attacks = {
        entry["name"]: entry["populations"][name]
        for entry in record["entries"]
        if entry["attack"] is not None and entry["populations"][name] is not None
    }
    means = {key: found for key, found in attacks.items() if found["mean"] is not None}
    if not means:
        return ()
    limit = 0.05 / len(attacks)
    end = lambda key: max(abs(means[key]["mean"][side]) for side in ("low", "high"))
    far = max(means, key=end)
    share = end(far) / means[far]["pooled"]["standard_deviation"]
    apart = {key: found["symmetry"]["distance"] for key, found in attacks.items()}
    most = max(apart, key=apart.__getitem__)
    beyond = [key for key, found in means.items() if found["mean"]["t_p"] < limit]
    lean = [key for key, found in attacks.items() if found["symmetry"]["p"] < limit]
    return (
        "**In words**: as far as the intervals go, no attack's mean is further from zero than "
        f"{255 * end(far):.2f} grey levels ({far}; {100 * share:.1f} % of its deviation), and no "
        f"distance is above {apart[most]:.4f} ({most}). Bonferroni's rule asks for a p below "
        f"{limit:.4f} with {len(attacks)} attacks: zero mean is rejected of "
        f"{', '.join(beyond) or 'none'}, symmetry of {', '.join(lean) or 'none'}.",
    )


def problem(record: dict[str, Any]) -> str:
    """Says what is wrong with a record, or nothing."""
    if not record["entries"]:
        return "it has no entries"
    for entry in record["entries"]:
        for name, found in entry["populations"].items():
            if found is None:
                continue
            where = f"of {entry['name']}, {POPULATIONS[name]}"
            for told in ("mean", "skewness"):
                each = found["each"][told]
                if len(each) != found["num_images"]:
                    return f"the {told} {where} is not of {found['num_images']} images"
                values = np.array([np.nan if value is None else value for value in each])
                if not _agree(test(values), found[told]):
                    return f"the test of the {told} {where} does not follow from its images'"
    return ""


def _agree(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    if one is None or other is None:
        return one is other
    # Not to the last digit: another SciPy may sum in another order.
    return set(one) == set(other) and all(
        np.isclose(one[name], other[name], rtol=1e-6, atol=1e-300) for name in one
    )
