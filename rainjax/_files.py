"""Files that are whole or absent: a kill at any moment leaves the old one or the new one."""

import contextlib
import io
import json
import os
import pathlib
import tempfile
import uuid
from typing import Any

import numpy as np


def as_path(name: str, given: Any) -> pathlib.Path:
    """Returns a path, given as one or as text.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(given, str | os.PathLike) or isinstance(given, bytes):
        raise ValueError(f"{name}={given!r} must be a path, such as 'results'.")
    return pathlib.Path(given)


def check_writable(folder: pathlib.Path) -> None:
    """Refuses a folder that no file can be written to, be it there yet or not; makes none.

    Raises:
        ValueError: naming the folder, with what the system says of it.
    """
    place = folder
    try:
        while not _is_there(place):
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"rainjax")  # a full disk may still take the name of a file
            file.flush()
    except OSError as error:
        raise ValueError(
            f"Nothing can be written to {folder} ({_reason(error)}): choose another folder."
        ) from error


def check_holder(out: pathlib.Path) -> None:
    """Refuses a folder that can hold no folder of a study, before its name is known.

    One that is there may be writable where the folder around it is not: then that is left to
    whoever knows the name.

    Raises:
        ValueError: as `check_writable`.
    """
    with contextlib.suppress(OSError):
        if any(part.is_dir() for part in out.iterdir()):
            return
    check_writable(out)


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes plain JSON, refusing NaN and infinities; raises as `write_bytes`."""
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode() + b"\n")


def write_arrays(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    """Writes a compressed `.npz`; raises as `write_bytes`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, and its folder where there is none.

    Raises:
        OSError: it cannot be written, as where the disk is full; says where the content was put
            instead, for it may have taken hours to compute.
    """
    try:
        _write(path, content)
    except OSError as error:
        text = f"{path} cannot be written ({_reason(error)})"
        with contextlib.suppress(OSError):
            kept = pathlib.Path(tempfile.mkdtemp(prefix="rainjax-")) / path.name
            _write(kept, content)
            text += f", and its content is in {kept}"
        raise OSError(
            f"{text}: make room, or mend the folder, and run again; what was written before is "
            "kept."
        ) from error


def copy_file(source: pathlib.Path, path: pathlib.Path) -> None:
    """Copies a file; raises as `write_bytes`."""
    write_bytes(path, source.read_bytes())


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
        ValueError: the file is damaged, or not there; says which, and whether to delete it.
    """
    try:
        # NumPy leaves a damaged archive open when it is given a path.
        with path.open("rb") as stream, np.load(stream) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ValueError(f"{path} is not there: run again, and what is missing is made.") from None
    except Exception as error:  # zipfile, zlib, struct and NumPy each raise their own
        raise ValueError(f"{path} is damaged ({error}): delete it and run again.") from None


def read_array(path: pathlib.Path, name: str) -> np.ndarray:
    """Returns one array of a `.npz`; raises as `read_arrays`, also where there is none of it."""
    arrays = read_arrays(path)
    if name not in arrays:
        raise ValueError(f"{path} is damaged (it has no {name!r}): delete it and run again.")
    return arrays[name]


def _write(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: two machines that share a folder may both have it.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # not to hide why it could not be written
            part.unlink(missing_ok=True)
        raise


def _is_there(place: pathlib.Path) -> bool:
    """Returns whether something is there, be it a link that leads nowhere."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):  # the parent says which
        return False
    return True


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
