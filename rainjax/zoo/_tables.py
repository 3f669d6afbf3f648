"""Tables of Feature Distillation as files: the steps, beside them how they came about."""

import json
import os
import pathlib
from typing import Any

from rainjax._files import write_bytes
from rainjax.defenses.feature_distillation import FeatureDistillation, Steps


def save_steps(path: str | os.PathLike, steps: Steps, facts: dict[str, Any]) -> None:
    """Writes a table of steps as JSON, with `facts` that are plain JSON, none called "steps".

    Raises:
        ValueError: the steps are no table, or the facts no plain JSON.
    """
    FeatureDistillation(steps)
    if "steps" in facts:
        raise ValueError("The facts of a table are not called 'steps': the table is.")
    try:
        text = json.dumps({"steps": steps, **facts}, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The facts of the table are not plain JSON: {error}.") from None
    write_bytes(pathlib.Path(path), (text + "\n").encode())


def load_steps(path: str | os.PathLike) -> Steps:
    """Returns the table that `save_steps` wrote, for `FeatureDistillation(steps)`.

    A path may also name the folder that holds it as `table.json`, such as a run of
    `python -m eval design`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds no 8x8 table of positive steps.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / "table.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no table of steps at {path}.")
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): design the table anew.") from None
    rows = found.get("steps") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{path} holds no table called 'steps': it is no table of steps.")
    for step in (step for row in rows for step in row):
        if not isinstance(step, (int, float)) or isinstance(step, bool):
            raise ValueError(f"{path} has {step!r} among its steps, which is no number.")
    try:
        return FeatureDistillation(tuple(tuple(map(float, row)) for row in rows)).steps
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None
