"""Values that somebody wrote in a file of his own, which the command line names: studies."""

import contextlib
import dataclasses
import importlib.machinery
import importlib.util
import inspect
import pathlib
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from rainjax.evaluation.study import Study


def load_study(target: str | pathlib.Path) -> Study:
    """Runs a Python file and returns its study: `mine.py`, or `mine.py:name` for another function.

    The file has a function without arguments that returns a `Study`, called `study` unless it is
    named, or the value itself. Modules beside the file can be imported from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no such study, or something that it does is refused. What else
            it raises passes.
    """
    return value_in_file(target, "study", Study)


def value_in_file(target: str | pathlib.Path, what: str, *kinds: type) -> Any:
    """Runs a Python file and returns a value of one of `kinds`, or what a function returns.

    It is called `what`, as in `mine.py`, unless `mine.py:NAME` names another one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no such value, or something that it does is refused. What else
            it raises passes.
    """
    text = str(target)
    path_text, colon, name = text.rpartition(":")
    if not colon or "/" in name or "\\" in name:
        path_text, name = text, what
    path = pathlib.Path(path_text)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: name the Python file that holds the {what}.")
    if path.suffix != ".py":
        raise ValueError(f"{path} is no Python file: name the one that holds the {what}.")
    module = _run(path)
    found = getattr(module, name, None)
    wanted = " or ".join(
        f"{'an' if k.__name__[0] in 'AEIOU' else 'a'} {k.__name__}" for k in kinds
    )
    if found is None:
        raise ValueError(
            f"{path} has no {name!r}: write a function `def {what}():` that returns {wanted}, or "
            f"name another one as {path}:NAME."
        )
    value = _called(found, name, path) if callable(found) else found
    if not isinstance(value, kinds):
        raise ValueError(f"{name!r} of {path} is of type {type(value).__name__}, not {wanted}.")
    return value


def users_line(error: BaseException) -> str | None:
    """Returns where in a loaded file, or beside it, an error comes from: `mine.py, line 3`.

    None where no such file is on the way to it.
    """
    found = None
    cause: BaseException | None = error
    while cause is not None:  # the first cause says most
        frames = traceback.walk_tb(cause.__traceback__)
        lines = [(frame.f_code.co_filename, line) for frame, line in frames]
        mine = [(name, line) for name, line in lines if _is_users(pathlib.Path(name))]
        found = mine[-1] if mine else found
        cause = cause.__cause__
    if found is None:
        return None
    path, here = pathlib.Path(found[0]), pathlib.Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {found[1]}"


_files: dict[str, pathlib.Path] = {}  # what was run, by the name of its module
_ERRORS = (ValueError, TypeError, ImportError, OSError, SyntaxError)


def _run(path: pathlib.Path) -> types.ModuleType:
    """Runs a file as a module."""
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _files[name] = path.resolve()
    sys.modules[name] = module
    _look_beside(path)
    with _one_sentence():
        spec.loader.exec_module(module)
    return module


def _called(function: Callable, name: str, path: pathlib.Path) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(
            f"{name!r} of {path} is called without arguments, and takes some ({error}): write "
            f"`def {name}():`."
        ) from None
    with _one_sentence():
        return function()


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turns what the library and the file itself refuse into one kind of error."""
    try:
        yield
    except _ERRORS as error:
        raise ValueError(str(error)) from error


def _module_name(path: pathlib.Path) -> str:
    """Returns the name that `import` would give a file, but for one that is another module's.

    Records name a study's classes with it.
    """
    name, there = path.stem, sys.modules.get(path.stem)
    installed = [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    taken = (
        name in sys.stdlib_module_names
        or importlib.machinery.PathFinder.find_spec(name, installed) is not None
        or (there and name not in _files and there.__dict__.get("__file__") != str(path.resolve()))
    )
    return f"study_{name}" if taken else name


def _look_beside(path: pathlib.Path) -> None:
    """Lets modules beside a file be imported: before installed packages, after Python's own."""
    folder = str(path.parent.resolve())
    if folder in sys.path:
        sys.path.remove(folder)
    packages = (i for i, entry in enumerate(sys.path) if "-packages" in entry)
    sys.path.insert(next(packages, len(sys.path)), folder)


def _is_users(path: pathlib.Path) -> bool:
    others = {pathlib.Path(__file__).parents[1], pathlib.Path(sysconfig.get_path("stdlib"))}
    folders, parents = {file.parent for file in _files.values()}, set(path.parents)
    packaged = any("-packages" in part for part in path.parts)
    return bool(folders & parents) and not others & parents and not packaged


def resized(
    study: Study,
    *,
    num_examples: int | None = None,
    num_score_draws: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Study:
    """Returns a study with other numbers, for those that are not None.

    Args:
        study: The study.
        num_examples: How many images, from the first on.
        num_score_draws: Fresh draws under which images are scored.
        batch_size: Images attacked together.
        seed: The root of every draw.
        name: What the study, and its folder, is called.
    """
    changes = {
        "num_examples": num_examples,
        "num_score_draws": num_score_draws,
        "batch_size": batch_size,
        "seed": seed,
        "name": name,
    }
    given = {field: value for field, value in changes.items() if value is not None}
    return dataclasses.replace(study, **given)
