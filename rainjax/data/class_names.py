"""What classes may be called, and how their names are read from a command line or a file."""

import collections
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import Any

_BYTE_ORDER_MARK = "\ufeff"
_UNWRITABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, half characters, ends of lines


def clean_name(name: str, what: str) -> str:
    """Returns a class name in one Unicode form (NFC), without spaces at its ends.

    Raises:
        ValueError: nothing is left of it, or it holds what a line of text cannot; calls it `what`.
    """
    clean = unicodedata.normalize("NFC", name).replace(_BYTE_ORDER_MARK, "").strip()
    if not clean:
        raise ValueError(f"{what} has an empty name: give each class a name.")
    for letter in clean:
        if unicodedata.category(letter) in _UNWRITABLE:
            raise ValueError(
                f"{what}, {name!a}, has {letter!a} in its name: rename it, class names "
                "are lines of text."
            )
    return clean


def check_names(names: Sequence[Any]) -> tuple[str, ...]:
    """Returns the names of classes, clean, in their order.

    Raises:
        ValueError: one of them cannot be a name, or two are the same.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names={names!r} must be a tuple of names, each of them text.")
    clean = tuple(clean_name(name, f"class {number}") for number, name in enumerate(names))
    first = {}
    for number, name in enumerate(clean):
        if first.setdefault(name, number) != number:
            raise ValueError(
                f"two classes are called {name!r}, class {first[name]} and class {number}: give "
                "each a name of its own."
            )
    return clean


def read_names(text: str) -> tuple[str, ...]:
    """Returns the names in `text`, with commas between, or in the file of that name.

    A file has one name per line, the last column of it where tabs make columns.

    Raises:
        ValueError: it is neither, or the file cannot be read as such.
    """
    if "," in text:
        return check_names(text.split(","))
    file = pathlib.Path(text).expanduser()
    if not file.is_file():
        raise ValueError(f"--classes takes names with commas between, or a file, not {text!r}.")
    try:
        # One line per \n, \r\n or \r; str.splitlines would cut names in two at others.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error.reason}): save it as UTF-8.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{file} names no class: write one name per line into it.")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ValueError(
                f"line {number} of {file} is empty: delete it, or name the class there."
            )
    return check_names([line.split("\t")[-1] for line in lines])


def look_alike(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the groups of different names that a person may take for one.

    They differ in upper and lower case, in spaces, in characters that are not seen, or in forms
    of one character.
    """
    groups = collections.defaultdict(list)
    for name in dict.fromkeys(names):
        seen = [x for x in unicodedata.normalize("NFKC", name) if unicodedata.category(x) != "Cf"]
        groups["".join("".join(seen).casefold().split())].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]
