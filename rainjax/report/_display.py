"""What a display is: a query over a study's records, and the tables and drawings it makes."""

import dataclasses
from typing import ClassVar

from rainjax._checks import check_fields
from rainjax.report.live import Chart, Pictures
from rainjax.report.results import Results
from rainjax.report.tables import Table


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure as PNG bytes, with its title, a caption, and a text that can stand in for it.

    `name` is that of its file. Where there is a `chart`, or `pictures`, a page shows these, which
    its reader can ask; the figure is for whoever has no scripts, and for all other texts.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    chart: Chart | None = None
    pictures: Pictures | None = None


@dataclasses.dataclass(frozen=True)
class Display:
    """A part of a report, as a value: which records it asks for, and how it shows them.

    Its fields are plain, so that a study's folder can name it.

    Raises:
        ValueError: a field is not of the kind it says.
    """

    files: ClassVar[tuple[str, ...]] = ()
    """The names of the figures that it writes, as patterns, so that stale ones are removed."""

    def __post_init__(self):
        check_fields(self)

    @property
    def heading(self) -> str:
        """Returns the heading above its drawings, empty for a display of tables alone."""
        return ""

    @property
    def absent(self) -> str:
        """Returns the sentence that stands in for a drawing whose ingredients were not kept."""
        return "Nothing was recorded for this figure."

    def tables(self, results: Results) -> list[Table]:
        """Returns its tables; a display that only draws has none."""
        return []

    def drawings(self, results: Results) -> list[Drawing]:
        """Returns its drawings; a display of tables alone has none.

        Raises:
            ValueError: a file that they are made of is damaged; says which.
            ImportError: matplotlib is not installed; says how to.
        """
        return []
