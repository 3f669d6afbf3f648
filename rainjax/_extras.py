"""Importing what only an extra brings, where it is asked for."""

import importlib
from typing import Any


def require(module: str, *, name: str, extra: str, otherwise: str = "") -> Any:
    """Returns a module of the package called `name`.

    Raises:
        ImportError: the package is not installed; says which extra brings it, and `otherwise`
            what else can be done.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the package is there, and misses something itself
        raise ImportError(
            f'{name} is not installed: pip install "rainjax[{extra}]"{otherwise}.'
        ) from error
