"""What a record says of the run that made it: command, versions, machine, revision."""

import ast
import hashlib
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

import rainjax


def provenance(program: str) -> dict[str, Any]:
    """Returns plain JSON about this process: everything but what it computed.

    `program` is the module that runs, such as "eval". Folders of the machine are left out.
    """
    return {
        "command": shlex.join(["python", "-m", program, *map(without_folder, sys.argv[1:])]),
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


def code_digest(*more: str) -> str:
    """Returns a digest of the code that decides a result: comments and docstrings do not.

    `more` are files of the library that decide this one as well.
    """
    folder = pathlib.Path(rainjax.__file__).parent
    digest = hashlib.sha256()
    for part in (*_DECIDING, *more):
        path = folder / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                if isinstance(body, list) and body and _is_docstring(body[0]):
                    body[0] = ast.Pass()
            digest.update(f"{file.relative_to(folder).as_posix()} {ast.dump(tree)}".encode())
    return digest.hexdigest()[:16]


def without_folder(word: str) -> str:
    """Shortens a path from outside to its name: the rest says nothing on another machine."""
    option, equals, value = word.rpartition("=")
    outside = os.path.isabs(value) or ".." in pathlib.PurePath(value).parts
    return option + equals + (pathlib.PurePath(value).name if outside else value)


_DECIDING = (
    "keys.py",
    "transforms",
    "nets",
    "defenses",
    "gradients.py",
    "attacks",
    "pipeline.py",
    "evaluation.py",
)


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
