"""The tables of docs/coming-from.md: what one writes elsewhere, and the same here."""

import dataclasses
import pathlib
import re

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "coming-from.md"


@dataclasses.dataclass(frozen=True)
class Equivalent:
    """A row: an expression of another library, and one of ours."""

    peer: str
    theirs: str
    ours: str

    def __str__(self) -> str:
        return f"{self.peer}: {self.theirs.partition('(')[0]}"


def equivalents() -> list[Equivalent]:
    """Returns every row of the page's tables."""
    found = []
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        peer = section.partition("\n")[0]
        for theirs, ours in re.findall(r"^\| `(.+?)`.*? \| `(.+?)`.*? \|$", section, re.MULTILINE):
            found.append(Equivalent(peer, theirs, ours))
    return found


def names() -> dict:
    """Returns the names that the page's first program gives."""
    given: dict = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0], given)
    return given
