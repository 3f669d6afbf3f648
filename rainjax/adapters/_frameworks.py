"""Importing other frameworks only where they are asked for."""

import importlib
from typing import Any


def require(module: str, *, name: str, extra: str) -> Any:
    """Returns a module of the framework called `name`.

    Raises:
        ImportError: the framework is not installed; says which extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the framework is there, and misses something itself
        raise ImportError(f'{name} is not installed: pip install "rainjax[{extra}]".') from error
