"""Marks on numbers that say less than they seem to, and the notes that explain the marks."""

from collections.abc import Iterable

from rainjax.evaluation.records import Record
from rainjax.report.tables import ABSENT, Cell
from rainjax.report.text import unique

DOUBTED, ZERO_GRADIENT = "†", "‡"


def marked(cell: Cell, *, doubted: bool = False, zero_gradient: bool = False) -> Cell:
    """Returns a cell with the marks that are due; one without a number bears none."""
    if cell == ABSENT:
        return cell
    marks = [DOUBTED] * doubted + [ZERO_GRADIENT] * zero_gradient
    return cell.replaced(" ".join([cell.value, *marks]))


def had_zero_gradient(record: Record | None) -> bool:
    """Whether the attack had no gradient to follow for some images."""
    return record is not None and bool(record.num_zero_gradient)


def doubt_note(failed: Iterable[str]) -> list[str]:
    """Returns the note on the sanity checks that failed, if any did."""
    checks = "; ".join(unique(failed))
    return [f"**{DOUBTED}**: put in doubt by a sanity check that failed ({checks})."] * bool(
        checks
    )


def zero_gradient_notes(shown: Iterable[Record]) -> list[str]:
    """Returns the note on attacks that had no gradient to follow, if any shown had not."""
    told = unique(map(zero_gradient_text, filter(had_zero_gradient, shown)))
    if not told:
        return []
    return [
        f"**{ZERO_GRADIENT}**: for some images the gradient was exactly zero at every call and no "
        f"point a success, so that they stand says nothing of attacks that have one "
        f"({'; '.join(told)})."
    ]


def zero_gradient_text(record: Record) -> str:
    """Returns for how many images which attack on whom had no gradient to follow."""
    share = f"{record.num_zero_gradient} of {record.num_examples}"
    return f"{record.subject} under {record.threat}, {share}"
