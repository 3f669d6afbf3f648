"""Tables: titled grids of cells, in Markdown or plain text."""

import dataclasses
import itertools
import textwrap

from rainjax.report.text import without_markup


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value with the small print that belongs under it.

    `records` are the ids of the records that it follows from, if they are known: the page says of
    them how the value came about. No text shows them, so that cells which read alike are equal.
    """

    value: str
    detail: str = ""
    records: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.value} {self.detail}".strip()

    def replaced(self, value: str, detail: str | None = None) -> "Cell":
        """Returns the cell with another value, and another detail where one is given."""
        return Cell(value, self.detail if detail is None else detail, self.records)


@dataclasses.dataclass(frozen=True)
class Table:
    """A titled grid; the first cell of each row names it, `notes` stand below.

    With `judged_by_last` the last column is the one that rows are judged by, and stands out.
    """

    title: str
    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    judged_by_last: bool = False

    def __post_init__(self):
        if not self.header:
            raise ValueError(f"The table {self.title!r} has no column: give it a header.")
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"The row {str(row[0])!r} of the table {self.title!r} has {len(row)} cells, "
                    f"the header {len(self.header)}."
                )


ABSENT = Cell("—")


def as_markdown(table: Table) -> str:
    """Returns a pipe table with its notes as a list."""
    lines = [f"**{table.title}**", ""]
    heads = [
        f"{cell.value} ({cell.detail})" if cell.detail else cell.value for cell in table.header
    ]
    grid = [heads, *([str(cell) for cell in row] for row in table.rows)]
    grid = [[text.replace("|", "\\|") for text in row] for row in grid]
    widths = [max(len(row[i]) for row in grid) for i in range(len(table.header))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    for row in [grid[0], rule, *grid[1:]]:
        cells = [
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *([""] if table.notes else []), *(f"- {n}" for n in table.notes)])


def as_plain(table: Table) -> str:
    """Returns a table for a terminal: the small print of each cell on a line of its own."""
    body = [[_folded(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(len(line) for row in body for line in row[i]) for i in range(len(table.header))]
    lines = [without_markup(table.title), ""]
    for number, row in enumerate(body):
        for texts in itertools.zip_longest(*row, fillvalue=""):
            padded = [t.rjust(w) for t, w in zip(texts[1:], widths[1:], strict=True)]
            lines.append("  ".join([texts[0].ljust(widths[0]), *padded]).rstrip())
        if number == 0:
            lines.append("  ".join("-" * w for w in widths))
    fold = lambda note: textwrap.fill(note, 99, initial_indent="  ", subsequent_indent="    ")
    notes = [fold(without_markup(note)) for note in table.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _folded(cell: Cell) -> list[str]:
    """Returns a cell's lines, none too wide for a terminal that shows several of them."""
    return [*(textwrap.wrap(cell.value, 36) or [""]), *textwrap.wrap(cell.detail, 36)]
