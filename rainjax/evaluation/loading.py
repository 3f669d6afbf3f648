"""Values that somebody wrote in a file of his own, which the command line names: studies."""

import dataclasses
import importlib.util
import pathlib
import sys
from typing import Any

from rainjax.evaluation.study import Study


def load_study(target: str | pathlib.Path) -> Study:
    """Runs a Python file and returns its study: `mine.py`, or `mine.py:name` for another function.

    The file has a function without arguments that returns a `Study`, called `study` unless it is
    named, or the value itself. Modules beside the file can be imported from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no such study. What the file itself raises passes.
    """
    return value_in_file(target, "study", Study)


def value_in_file(target: str | pathlib.Path, what: str, *kinds: type) -> Any:
    """Runs a Python file and returns a value of one of `kinds`, or what a function returns.

    It is called `what`, as in `mine.py`, unless `mine.py:NAME` names another one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no such value. What the file itself raises passes.
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
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    wanted = " or ".join(
        f"{'an' if k.__name__[0] in 'AEIOU' else 'a'} {k.__name__}" for k in kinds
    )
    if found is None:
        raise ValueError(
            f"{path} has no {name!r}: write a function `def {what}():` that returns {wanted}, or "
            f"name another one as {path}:NAME."
        )
    value = found() if callable(found) else found
    if not isinstance(value, kinds):
        raise ValueError(f"{name!r} of {path} is of type {type(value).__name__}, not {wanted}.")
    return value


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

    Threat models that have more images than `num_examples` get as many as that.
    """
    threats = study.threats
    if num_examples is not None:
        threats = tuple(
            threat
            if threat.num_examples is None
            else dataclasses.replace(threat, num_examples=min(threat.num_examples, num_examples))
            for threat in threats
        )
    changes = {
        "num_examples": num_examples,
        "num_score_draws": num_score_draws,
        "batch_size": batch_size,
        "seed": seed,
        "name": name,
    }
    given = {field: value for field, value in changes.items() if value is not None}
    return dataclasses.replace(study, threats=threats, **given)
