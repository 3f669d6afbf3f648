"""Files that are whole or absent: a kill at any moment leaves the old one or the new one."""

import json
import os
import pathlib
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


def read_array(path: pathlib.Path, name: str) -> np.ndarray:
    """Returns one array of a `.npz`.

    Raises:
        ValueError: the file is damaged; says which to delete.
    """
    try:
        with path.open("rb") as stream, np.load(stream) as archive:
            return archive[name]
    except Exception as error:  # zipfile, zlib, struct and NumPy each raise their own
        raise ValueError(f"{path} is damaged ({error}): delete it and run again.") from None


def _write(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
