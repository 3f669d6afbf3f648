"""The pipelines of a study by name, whichever kind of study it is."""

import dataclasses
from collections.abc import Sequence

from eval import comparison
from eval import study as st
from eval.config import Robustness, Transformations

_OF_RAIN = ("undefended", "rain_pretrained", "rain_finetuned")


def named(
    config: Robustness | Transformations,
    names: Sequence[str],
    *,
    table: str | None = None,
    bank_size: int | None = None,
) -> list[st.Row]:
    """Returns the pipelines of these names, in the study's order.

    `table` and `bank_size` are of transformations that need them; by default the study's.

    Raises:
        ValueError: the study has none of a name, or its parts do not fit each other.
    """
    if isinstance(config, Transformations):
        size = config.bank_size if bank_size is None else bank_size
        config = dataclasses.replace(
            config, rows=tuple(names), table=table or config.table, bank_size=size
        )
        return [row for row in comparison.rows(config) if row.key in names]
    for name in names:
        if name not in _OF_RAIN:
            raise ValueError(f"rows={name!r} is none of {', '.join(_OF_RAIN)}.")
    return [row for row in st.rows(config) if row.key in names]
