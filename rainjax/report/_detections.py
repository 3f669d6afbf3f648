"""What displays of detectors share: which records there are of them, and what these hold."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from rainjax.evaluation.packing import unpack_counts
from rainjax.evaluation.records import Record
from rainjax.report.results import Results
from rainjax.report.style import PALETTE

# From the first attack of a panel on: those of one colour differ in their dashes.
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.4)))

Pick = Literal["all", "successful"]


def detections(results: Results, tag: str | None) -> list[Record]:
    """Returns the records of `Detection` with a tag, all of them for None."""
    needed = {"scores", "wrong_draws", "slips_through", "all_attacked"}
    return [record for record in results.tagged(tag) if needed <= record.result.keys()]


def attacked(results: Results, tag: str | None) -> list[Record]:
    """Returns those that are of attacked images."""
    return [record for record in detections(results, tag) if record.attack is not None]


def scores(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores of the clean and of the attacked images; twice the clean without attack.

    Raises:
        ValueError: the record has not one of each for every image.
    """
    return _of_images(record, "scores", np.asarray)


def wrong_shares(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Returns under which share of draws the classifier is wrong, before and after the attack.

    Raises:
        ValueError: the record has not one of each for every image.
    """
    clean, seen = _of_images(record, "wrong_draws", unpack_counts)
    return clean / record.num_score_draws, seen / record.num_score_draws


def _of_images(
    record: Record, name: str, read: Callable[[Any], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    found = record.result[name]
    parts = found["clean"], found["clean"] if record.attack is None else found["attacked"]
    clean, seen = (np.asarray(read(part), float) for part in parts)
    if not len(clean) == len(seen) == record.num_examples:
        raise ValueError(
            f"The record {record.id!r} is of {record.num_examples} images, but its {name} are of "
            f"{len(clean)} and {len(seen)}: measure it again."
        )
    return clean, seen


def chosen_images(record: Record, of: Pick) -> np.ndarray:
    """Returns whether each image is to be shown: all, or where the attack was successful."""
    clean, seen = wrong_shares(record)
    return np.ones(len(seen), bool) if of == "all" else (seen > 0.5) & (clean < 0.5)


def look_of(place: int) -> dict[str, Any]:
    """Returns the colour and the dashes of an attack, by its place among those of a figure."""
    dashes = _DASHES[place // len(PALETTE) % len(_DASHES)]
    return {"color": PALETTE[place % len(PALETTE)], "ls": dashes}
