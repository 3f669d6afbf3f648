"""Keeps the tables of a README the same as the records that they are made from."""

import pathlib
import re
from collections.abc import Mapping, Sequence

from rainjax._files import write_bytes
from rainjax.report.page import report
from rainjax.report.sanity import findings
from rainjax.report.tables import Table, as_markdown


def readme_block(folder: pathlib.Path | str, *, extra_tables: Sequence[Table] = ()) -> str:
    """Returns what a README shows of a study: the first tables, and what sanity checks found.

    Raises:
        ValueError: as `report` does.
    """
    made = report(folder)
    told = [f"- {finding.text}" for finding in findings(made.results.checked)]
    first = "\n".join(["\n\n".join(map(as_markdown, made.headline)), *told])
    return "\n\n".join([first, *map(as_markdown, extra_tables)])


def update_readme(readme: pathlib.Path | str, blocks: Mapping[str, str]) -> pathlib.Path:
    """Rewrites blocks of a README, and returns its path.

    The block called NAME goes between `<!-- results:NAME -->` and `<!-- /results:NAME -->`.

    Raises:
        ValueError: a marker is missing, repeated or out of order; the README stays as it is.
    """
    readme = pathlib.Path(readme)
    old = _read(readme)
    new = _with_blocks(readme, old, blocks)
    if new != old:
        write_bytes(readme, new.encode())
    return readme


def check_readme(readme: pathlib.Path | str, blocks: Mapping[str, str]) -> list[str]:
    """Returns a sentence for each block of a README that is not as it should be; none is best.

    Raises:
        ValueError: as `update_readme` does.
    """
    readme = pathlib.Path(readme)
    text = _read(readme)
    problems = [
        f"The table {name!r} in {readme} differs from its records; write it anew."
        for name, block in blocks.items()
        if _with_blocks(readme, text, {name: block}) != text
    ]
    for name in re.findall(r"<!-- results:(\S+) -->", text):
        if name not in blocks:
            problems.append(f"The table {name!r} in {readme} belongs to no known study.")
    return problems


def _read(readme: pathlib.Path) -> str:
    if not readme.is_file():
        raise ValueError(f"{readme} is no file; name the README whose tables to write.")
    return readme.read_text(encoding="utf-8")


def _with_blocks(readme: pathlib.Path, text: str, blocks: Mapping[str, str]) -> str:
    for name, block in blocks.items():
        start, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
        if text.count(start) != 1 or text.count(end) != 1 or text.index(end) < text.index(start):
            raise ValueError(f"{readme} needs {start} once and, below it, {end} once.")
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{block}\n{end}{after}"
    return text
