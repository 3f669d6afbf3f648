"""What a record says of the run that made it: command, versions, machine, revision."""

import ast
import functools
import hashlib
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

import rainjax


def provenance() -> dict[str, Any]:
    """Returns plain JSON about this process: everything but what it computed.

    Folders of the machine are left out.
    """
    return {
        "command": command(),
        "versions": {
            "rainjax": rainjax.__version__,
            **{name: _version(name) for name in ("jax", "jaxlib", "flax", "optax")},
            "python": platform.python_version(),
        },
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "num_devices": jax.local_device_count(),
        "revision": _revision(),
    }


def command() -> str:
    """Returns the command line of this process as one would type it, or that it has none."""
    if "ipykernel" in sys.modules:
        return "in a notebook"
    words = [without_folder(word) for word in sys.orig_argv]
    if not words or len(words) == 1:
        return "in an interactive session"
    interpreter, *words = words
    if words[0] in ("rainjax",):  # the script that is installed with the package
        return shlex.join(words)
    if words[0] == "-c":
        return "in a Python program"
    interpreter = pathlib.PurePath(interpreter).name  # whatever environment it is of
    interpreter = re.sub(r"^python[\d.]*(\.exe)?$", "python", interpreter)
    return shlex.join([interpreter, *words])


@functools.cache
def code_digest() -> str:
    """Returns a digest of the library's code: comments and docstrings do not change it.

    All of it counts but what only loads or shows: the zoo, the adapters, reports and programs.
    Whatever is left out of such a list is where a stale record comes from.
    """
    folder = pathlib.Path(rainjax.__file__).parent
    files = (file.relative_to(folder) for file in sorted(folder.rglob("*.py")))
    digest = hashlib.sha256()
    for file in files:
        if file.parts[0] not in _SHOWS:
            digest.update(f"{file.as_posix()} {source_digest(folder / file)}".encode())
    return digest.hexdigest()[:16]


def source_digest(path: pathlib.Path) -> str:
    """Returns a digest of a Python file's code, without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def without_folder(word: str) -> str:
    """Shortens a path from outside to its name: the rest says nothing on another machine."""
    option, equals, value = word.rpartition("=")
    outside = os.path.isabs(value) or ".." in pathlib.PurePath(value).parts
    return option + equals + (pathlib.PurePath(value).name if outside else value)


_SHOWS = ("zoo", "adapters", "report", "__main__.py")


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Returns the checkout's revision, marked where it was changed; None outside of one."""
    folder = pathlib.Path(rainjax.__file__).resolve().parent
    try:
        if pathlib.Path(_git(folder, "rev-parse", "--show-toplevel")) != folder.parent:
            return None  # installed into an environment inside somebody else's checkout
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        # Records and results of earlier runs are not what made this one; code is.
        changed = _git(folder.parent, "status", "--porcelain", "--", "rainjax", "eval", "train")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-modified" if changed else "")


def _git(folder: pathlib.Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
