"""Files that are whole or absent: a kill at any moment leaves the old one or the new one."""

import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes plain JSON, refusing NaN and infinities."""
    text = json.dumps(content, indent=1, allow_nan=False)
    _write(path, lambda file: file.write(text.encode() + b"\n"))


def write_arrays(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes a compressed `.npz`."""
    _write(path, lambda file: np.savez_compressed(file, **arrays))


def copy_file(source: pathlib.Path, path: pathlib.Path) -> None:
    """Copies a file."""
    with source.open("rb") as stream:
        _write(path, lambda file: shutil.copyfileobj(stream, file))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises:
        ValueError: it is damaged, or holds something else; says which file, and where.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or no record ({error}): name the right file; delete this one, "
            "if the evaluation wrote it, and run it again."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} where an object belongs.")
    return value


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a `.npz`.

    Raises:
        ValueError: the file is damaged; says which to delete.
    """
    try:
        # NumPy leaves a damaged archive open when it is given a path.
        with path.open("rb") as stream, np.load(stream) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib, struct and NumPy each raise their own
        raise ValueError(f"{path} is damaged ({error}): delete it and run again.") from None


def read_array(path: pathlib.Path, name: str) -> np.ndarray:
    """Returns one array of a `.npz`; raises as `read_arrays`, also where there is none of it."""
    arrays = read_arrays(path)
    if name not in arrays:
        raise ValueError(f"{path} is damaged (it has no {name!r}): delete it and run again.")
    return arrays[name]


def _write(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: two machines that share a folder may both have it.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
