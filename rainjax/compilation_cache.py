"""Compiled programs are kept on disk, so that a second run does not compile them again.

JAX's persistent compilation cache does it; this says where, for how long, and how to switch it
off. JAX finds a program by its text, the compiler's version and options and the processor's
features, so neither another release nor another machine with the same home gets a wrong one.
"""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
import time
import warnings

import jax

VARIABLE = "RAINJAX_COMPILATION_CACHE"
MAX_BYTES = 4 * 2**30
MAX_AGE = 30 * 24 * 3600.0
# A program compiled sooner is not worth a file.
_MIN_SECONDS = 0.05
_ENTRY = re.compile(r".+-[0-9a-f]{64}-cache")


def use_compilation_cache(
    folder: pathlib.Path | str | None = None, *, quiet: bool = False
) -> pathlib.Path | None:
    """Has JAX keep what it compiles in a folder, and returns the folder; None if it keeps nothing.

    The folder is the first that is given of `folder`, the environment variable
    RAINJAX_COMPILATION_CACHE, where "off" keeps nothing, and `rainjax/xla` in the user's folder
    for caches. What JAX was told itself, such as by JAX_COMPILATION_CACHE_DIR, stands. Nothing is
    kept where the folder cannot be written. Entries older than `MAX_AGE` seconds and the oldest
    beyond `MAX_BYTES` are deleted.

    Results are the same to the bit with and without it. Whoever may write to the folder decides
    what this program runs: do not share it with people you do not trust.

    Args:
        folder: Where compiled programs are kept.
        quiet: Do not say on stderr where that is.
    """
    told = jax.config.values["jax_compilation_cache_dir"]
    if not jax.config.values["jax_enable_compilation_cache"]:
        return None
    if told:
        return pathlib.Path(told)
    wanted = folder or os.environ.get(VARIABLE) or ""
    if str(wanted).lower() == "off":
        return None
    try:
        folder = pathlib.Path(wanted).expanduser() if wanted else _user_cache() / "rainjax" / "xla"
    except RuntimeError:  # a user without a home
        return None
    folder = folder.absolute()
    if not _is_writable(folder):
        return None
    _delete_old_entries(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    # JAX compiles anew where an entry is damaged or the disk is full: nobody has to know.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if not quiet:
        print(
            f"Compiled programs are kept in {folder}; {VARIABLE}=off keeps none.", file=sys.stderr
        )
    return folder


def _user_cache() -> pathlib.Path:
    home = pathlib.Path.home()
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if sys.platform == "darwin":
        return home / "Library" / "Caches"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")


def _is_writable(folder: pathlib.Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _delete_old_entries(folder: pathlib.Path) -> None:
    """Deletes what is too old or too much; another process may do the same at the same time."""
    entries = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # deleted by another process
            if _ENTRY.fullmatch(path.name):
                entries.append((path.stat().st_mtime, path.stat().st_size, path))
    kept = 0
    for written, size, path in sorted(entries, reverse=True):  # from the newest
        kept += size
        if kept > MAX_BYTES or written < time.time() - MAX_AGE:
            with contextlib.suppress(OSError):
                path.unlink()
