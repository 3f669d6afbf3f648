"""The pipelines of a study by name, whichever kind of study it is."""

import dataclasses
from collections.abc import Sequence

from eval import comparison
from eval import study as st
from eval.config import Robustness, Transformations

_OF_RAIN = ("undefended", "rain_pretrained", "rain_finetuned")


def named(config: Robustness | Transformations, names: Sequence[str]) -> list[st.Row]:
    """Returns the pipelines of these names, in the study's order.

    Raises:
        ValueError: the study has none of a name, or its parts do not fit each other.
    """
    known = tuple(comparison.MAKERS) if isinstance(config, Transformations) else _OF_RAIN
    for name in names:
        if name not in known:
            raise ValueError(f"rows={name!r} is none of {', '.join(known)}.")
    if isinstance(config, Transformations):
        found = comparison.rows(dataclasses.replace(config, rows=tuple(names)))
    else:
        found = st.rows(config)
    return [row for row in found if row.key in names]
