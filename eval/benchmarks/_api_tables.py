"""The tables of a record of `python -m eval api`, what makes them, and what can be at odds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rainjax.metrics import wilson_interval
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.report.text import percent, radius_text
from rainjax.services import Answer, ServiceLabel, agreement

NONE = "no purifier"
MEASURES = {"top1": "first label", "topk": "first label among {k}", "overlap": "of {k} labels"}


def clean(row: str | None) -> str:
    """Returns the name of a purifier's clean images, or of those as they are."""
    return f"clean, {row or NONE}"


def attacked(row: str | None) -> str:
    """Returns the name of a purifier's attacked images, or of those that nothing purifies."""
    return f"attacked, {row or NONE}"


def compare(answers: Mapping[str, Sequence[Answer]], k: int) -> list[dict[str, Any]]:
    """Returns an entry for each version of the images, in plain JSON: labels, and agreement.

    The first `k` labels are kept. Images of whose clean version the service says nothing count for
    none.
    """
    own = answers[clean(None)]
    return [
        {
            "name": name,
            "labels": [[_plain(label) for label in answer[:k]] for answer in given],
            "agreement": _agreement(own, given, k),
        }
        for name, given in answers.items()
    ]


def _agreement(own: Sequence[Answer], given: Sequence[Answer], k: int) -> dict[str, Any]:
    pairs = zip(own, given, strict=True)
    found = [a for clean, other in pairs if (a := agreement(clean, other, k)) is not None]
    told: dict[str, Any] = {"num_images": len(found)}
    for measure in MEASURES:
        values = np.array([float(getattr(one, measure)) for one in found])
        if len(values):
            low, high = wilson_interval(float(values.sum()), len(values))
            told[measure] = {"mean": float(values.mean()), "low": low, "high": high}
    return told


def tables(record: dict[str, Any]) -> tuple[Table, ...]:
    """Returns a row for each purifier: agreement on purified clean and attacked images."""
    k = record["options"]["top_k"]
    found = {entry["name"]: entry["agreement"] for entry in record["entries"]}
    header = [Cell("")]
    for kind in ("clean", "attacked"):
        header += [Cell(f"{kind}: {text.format(k=k)}") for text in MEASURES.values()]
    rows = []
    for row in (None, *record["rows"]):
        cells = [
            _cell(found[kind(row)], measure) for kind in (clean, attacked) for measure in MEASURES
        ]
        rows.append((Cell(row or NONE), *cells))
    return (
        Table(
            f"Labels of {record['service']['title']} that agree with its own of the clean image"
            if record["service"]["stand_in"] is None
            else f"Labels of {record['service']['stand_in']['name']} in the place of "
            f"{record['service']['title']} that agree with its own of the clean image",
            tuple(header),
            tuple(rows),
            _notes(record, found[clean(None)]["num_images"]),
        ),
    )


def _cell(told: dict[str, Any], measure: str) -> Cell:
    if measure not in told:
        return ABSENT
    one = told[measure]
    return Cell(percent(one["mean"]), f"[{100 * one['low']:.1f}, {100 * one['high']:.1f}]")


def _notes(record: dict[str, Any], num_images: int) -> tuple[str, ...]:
    options, k = record["options"], record["options"]["top_k"]
    stand_in = record["service"]["stand_in"]
    who = (
        ""
        if stand_in is None
        else f"No company was asked: {stand_in['name']} answered on the same machine, in the wire "
        f"format of {record['service']['title']} and through its client. "
    )
    return (
        f"{who}{num_images} images of {options['data']} ({options['split']} split). The attack is "
        f"found on {record['source']['name']} alone, {options['num_steps']} steps of PGD with "
        "momentum, diverse inputs and a blurred gradient, L∞ radius "
        f"{radius_text('linf', options['radius'])}: it knows neither the service nor the "
        "purifier.",
        "**first label**: the service's first label means what its first label of the clean image "
        f"does; **first label among {k}**: that one is among the first {k}; **of {k} labels**: "
        f"the share of the clean image's first {k} that is among the first {k}. Words mean the "
        "same where WordNet has them as synonyms in their most frequent sense. In brackets 95 % "
        "intervals, over the choice of images.",
        "NCIS's abstract claims that such examples have services misclassify completely, and that "
        "purified ones do not; it gives no number to hold these against.",
    )


def problem(record: dict[str, Any]) -> str:
    """Says what is wrong with a record, or nothing."""
    entries = {entry["name"]: entry for entry in record["entries"]}
    wanted = {kind(row) for row in (None, *record["rows"]) for kind in (clean, attacked)}
    if wanted != entries.keys():
        return f"it has no {min(wanted ^ entries.keys())!r}, or nobody asks for it"
    answers = {
        name: [tuple(_label(told) for told in answer) for answer in entry["labels"]]
        for name, entry in entries.items()
    }
    for entry in compare(answers, record["options"]["top_k"]):
        if not _close(entry["agreement"], entries[entry["name"]]["agreement"]):
            return f"the agreement of {entry['name']!r} does not follow from its labels"
    return ""


def _close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    return bool(np.isclose(one, other, rtol=1e-9))


def _plain(label: ServiceLabel) -> str | list[str]:
    """Returns a label's name, with its aliases where it has any; the cache has its confidence."""
    return [label.name, *label.aliases] if label.aliases else label.name


def _label(told: str | list[str]) -> ServiceLabel:
    name, *aliases = [told] if isinstance(told, str) else told
    return ServiceLabel(name, 1.0, tuple(aliases))
