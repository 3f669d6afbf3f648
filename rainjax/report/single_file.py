"""Records that are files of their own: what a program wrote in one go, read and told."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from rainjax._files import read_json
from rainjax.report.tables import Table, as_markdown, as_plain

SCHEMA = 1
_STYLES = {"plain": as_plain, "markdown": as_markdown}


@dataclasses.dataclass(frozen=True)
class SingleFileRecord:
    """A kind of record: the `command` that writes it, and `tables`, what it says.

    `problem` names what is at odds in it, if anything; it and `tables` may fail as code does that
    meets what it does not expect.
    """

    kind: str
    command: str
    tables: Callable[[dict[str, Any]], tuple[Table, ...]]
    problem: Callable[[dict[str, Any]], str] = lambda record: ""

    def text(self, record: dict[str, Any], style: str = "plain") -> str:
        """Returns the tables of a record: "plain" or "markdown"."""
        return "\n\n".join(map(_STYLES[style], self.tables(record)))

    def tell(self, path: pathlib.Path | str, style: str = "plain") -> str:
        """Returns the tables of the record in a file; raises as `load`."""
        return self.text(self.load(path), style)

    def load(self, path: pathlib.Path | str) -> dict[str, Any]:
        """Returns a record that the program wrote.

        Raises:
            ValueError: it is damaged, another kind of record, or at odds with itself.
        """
        record = read_json(pathlib.Path(path))
        if record.get("kind") != self.kind or record.get("schema") != SCHEMA:
            problem = "another kind"
        else:
            try:
                problem = self.problem(record) or ("" if self.text(record) else "it says nothing")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problem = f"{type(error).__name__}: {error}"
        if problem:
            raise ValueError(
                f"{path} is no usable record of `{self.command}` ({problem}): delete "
                "it, and run that again."
            )
        return record
