"""Positions and counts of images as short texts, as records hold them."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def pack_indices(indices: Int[np.ndarray, "n"] | Sequence[int]) -> str:
    """Returns positions as ranges: `"0-199"`, `"0-4,7,9-12"`; the order is kept."""
    found: list[list[int]] = []
    for index in map(int, indices):
        if found and index == found[-1][1] + 1:
            found[-1][1] = index
        else:
            found.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def unpack_indices(text: str) -> Int[np.ndarray, "n"]:
    """Returns the positions that `pack_indices` wrote.

    Raises:
        ValueError: the text holds no ranges.
    """
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"{text!r} holds no ranges such as 0-4,7")
    spans = [[int(end) for end in span.split("-")] for span in text.split(",")]
    return np.concatenate([np.arange(span[0], span[-1] + 1) for span in spans])


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def pack_counts(counts: Int[np.ndarray, "n"] | Sequence[int]) -> str:
    """Returns counts as text: a digit in base 36 each, or, where one is larger, with commas."""
    counts = [int(count) for count in counts]
    if max(counts) < len(_DIGITS):
        return "".join(_DIGITS[count] for count in counts)
    return ",".join(map(str, counts)) + ","


def unpack_counts(text: str) -> Int[np.ndarray, "n"]:
    """Returns the counts that `pack_counts` wrote.

    Raises:
        ValueError: the text holds none.
    """
    if re.fullmatch(r"(\d+,)+", text):
        return np.array([int(number) for number in text[:-1].split(",")])
    if not re.fullmatch(r"[0-9a-z]+", text):
        raise ValueError(f"{text[:40]!r} holds no counts")
    return np.array([_DIGITS.index(digit) for digit in text])
