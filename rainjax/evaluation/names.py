"""Names of studies, subjects and threat models: displays show them, and files are called so."""

import pathlib
from collections.abc import Sequence
from typing import Any

from rainjax.evaluation.records import slug

_MOST = 80  # bytes; a file's name holds two such names, a ball and a suffix in at most 255


def check_name(name: Any) -> None:
    """Refuses what is no line of text, or none that a file could be called after.

    Raises:
        ValueError: says why.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name={name!r} must be a name: displays show it.")
    if not name.isprintable():
        raise ValueError(f"name={name!r} must be a name of one line, of printable letters.")
    if len(name.encode()) > _MOST:
        raise ValueError(
            f"name={name[:20]!r}... is of {len(name)} letters: displays and file names have room "
            f"for {_MOST} bytes; say the rest in a description."
        )
    if not any(letter.isalnum() for letter in slug(name)):
        raise ValueError(f"name={name!r} must hold a letter or a digit: files are called so.")


def check_folder_name(name: Any) -> None:
    """Refuses a name that is none of a folder within another.

    Raises:
        ValueError: says why.
    """
    is_text = isinstance(name, str) and name.strip() and name.isprintable()
    if is_text and (pathlib.PurePath(name).name != name or name == ".."):
        raise ValueError(f"name={name!r} must be a plain name: it becomes a folder.")
    check_name(name)


def check_apart(names: Sequence[str], what: str) -> None:
    """Refuses two names that files could not be told apart by.

    Raises:
        ValueError: names them.
    """
    there: dict[str, str] = {}
    for name in names:
        other = there.setdefault(slug(name), name)
        if other != name:
            raise ValueError(
                f"The {what} {other!r} and {name!r} would both be recorded as {slug(name)!r}: "
                "give them names that differ in letters or digits."
            )
