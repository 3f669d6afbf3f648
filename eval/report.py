"""What this repository shows beyond `rainjax.report`: claims, and records that are one file."""

import pathlib
from collections.abc import Iterable, Iterator

from eval.benchmarks import speed as benchmark
from eval.claims import claims_tables
from eval.headline import headline
from eval.pages import modules
from rainjax import report
from rainjax._files import read_json
from rainjax.report import Table, as_markdown
from rainjax.report.single_file import SingleFileRecord

_SPEED = ("speed.json", "speed/speed.json")


def extra_tables(folder: pathlib.Path | str) -> list[Table]:
    """Returns the tables of claims, of those papers whose defense a study measured.

    Claims of time are held against the record of `python -m eval speed` that lies beside the
    folder, if one does: `speed.json`, or `speed/speed.json`.
    """
    folder = pathlib.Path(folder)
    speed = [path for name in _SPEED if (path := folder.parent / name).exists()]
    results = report.Results.read(folder)
    return claims_tables(results, benchmark.RECORD.load(speed[0]) if speed else None)


def write_report(folder: pathlib.Path | str) -> list[pathlib.Path]:
    """Writes a study's report with what this repository adds; returns the paths, HTML first."""
    return report.write_report(folder, extra_tables=extra_tables(folder))


def summary(folder: pathlib.Path | str) -> str:
    """Returns a study's first tables and its verdict for a terminal."""
    return report.summary(folder, extra_tables=extra_tables(folder))


def blocks(places: Iterable[pathlib.Path]) -> dict[str, str]:
    """Returns what pages show of studies' folders and of records that are files, by name."""
    return {place.stem: block(place) for place in places}


def block(place: pathlib.Path) -> str:
    """Returns what a page shows of a study's folder, or of a record that is a file.

    Of a folder of studies it is the README's table, `headline`.
    """
    if place.is_file():
        return record_text(place, "markdown")
    if holds_studies(place):
        return as_markdown(headline(place))
    return report.readme_block(place, extra_tables=extra_tables(place))


def holds_studies(folder: pathlib.Path) -> bool:
    """Whether a folder holds folders of studies, and is none itself."""
    return not (folder / "records").is_dir() and any(folder.glob("*/records"))


def record_text(path: pathlib.Path, style: str = "plain") -> str:
    """Returns the tables of a record that is a file of its own, whichever program wrote it.

    Raises:
        ValueError: it is damaged, or of another kind; says which file.
    """
    kind = read_json(path).get("kind")
    known = {record.kind: record for record in _single_files()}
    if kind not in known:
        raise ValueError(
            f"{path} holds a record of kind {kind!r}; those that stand alone are of kind "
            f"{', '.join(known)}."
        )
    return known[kind].tell(path, style)


def _single_files() -> Iterator[SingleFileRecord]:
    """Yields the kinds of records that the programs and pages here write as one file."""
    for module in modules("eval", "eval.benchmarks", "eval.studies"):
        record = getattr(module, "RECORD", None)
        if record is not None:
            yield record
