"""What a record says of the run that made it: command, versions, machine, revision."""

import os
import pathlib
import platform
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
        "command": " ".join(["python", "-m", program, *map(_without_folder, sys.argv[1:])]),
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


def _without_folder(word: str) -> str:
    """Shortens an absolute path to its name: the rest says nothing on another machine."""
    option, equals, value = word.rpartition("=")
    return option + equals + (pathlib.Path(value).name if os.path.isabs(value) else value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Returns the checkout's revision, marked where it was changed; None outside of one."""
    folder = pathlib.Path(rainjax.__file__).parent
    try:
        # Records and results of earlier runs are not what made this one.
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-modified" if changed else "")


def _git(folder: pathlib.Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
