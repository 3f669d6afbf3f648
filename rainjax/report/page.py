"""The report of a study: tables, verdict and figures, in a notebook, in files, in a terminal."""

import base64
import dataclasses
import functools
import html
import json
import pathlib
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from rainjax._checks import check_kind
from rainjax._extras import require
from rainjax._files import check_writable, write_bytes
from rainjax.evaluation.records import Record
from rainjax.report import sanity
from rainjax.report._display import Display, Drawing
from rainjax.report.bounds import falling
from rainjax.report.displays import choose, known_displays
from rainjax.report.live import smaller
from rainjax.report.provenance import Provenance, knows
from rainjax.report.results import Results
from rainjax.report.tables import ABSENT, Table, as_markdown, as_plain
from rainjax.report.tabular import score_cell
from rainjax.report.text import (
    Finding,
    attack_text,
    counted,
    unique,
    without_markup,
)
from rainjax.report.verdict import verdict

_HERE = pathlib.Path(__file__).parent
_STYLES = {"plain": as_plain, "markdown": as_markdown}


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a study's records say; a notebook shows it as it is."""

    results: Results
    displays: Sequence[Display]
    extra_tables: Sequence[Table] = ()
    notes: Sequence[Finding] = ()

    def __repr__(self) -> str:
        study, records = self.results.records[0].content["study"], self.results.records
        return f"<Report of {study!r}: {counted(len(records), 'records')}>"

    @functools.cached_property
    def headline(self) -> list[Table]:
        """The tables of the first display that has any, and those that were added."""
        found = (display.tables(self.results) for display in self.displays)
        return [*next((tables for tables in found if tables), []), *self.extra_tables]

    @functools.cached_property
    def tables(self) -> list[Table]:
        """All tables, in the order of the displays; those that were added follow the first."""
        found = [tables for d in self.displays if (tables := d.tables(self.results))]
        return [*self.headline, *(table for tables in found[1:] for table in tables)]

    @functools.cached_property
    def findings(self) -> list[Finding]:
        """What the records and the sanity checks say in sentences, reasons for doubt last."""
        return [
            *verdict(self.results, self.displays),
            *sanity.findings(self.results.checked),
            *_earlier(self.results.earlier),
            *self.notes,
        ]

    @functools.cached_property
    def sections(self) -> list[tuple[Display, list[Drawing]]]:
        """The displays that draw, with their drawings."""
        return [(d, d.drawings(self.results)) for d in self.displays if d.heading]

    def text(self, style: str = "plain") -> str:
        """Returns the headline's tables, "plain" for a terminal or "markdown" for a README."""
        if style not in _STYLES:
            raise ValueError(f"{style=} is unknown; choose one of {', '.join(_STYLES)}.")
        return "\n\n".join(map(_STYLES[style], self.headline))

    def summary(self, width: int = 99) -> str:
        """Returns the headline's tables and the verdict as plain text for a terminal."""
        lines = []
        for finding in self.findings:
            mark = "? " if finding.chance else "! " if finding.flag else "- "
            text = mark + without_markup(finding.text)
            lines.append(textwrap.fill(text, width, subsequent_indent="  "))
        return "\n\n".join([self.text(), "\n".join(lines)])

    def html(self) -> str:
        """Returns the report as a page that needs no other file.

        Raises:
            ImportError: matplotlib or jinja2 is not installed; says how to.
        """
        return self._render("report.html.jinja")

    def markdown(self) -> str:
        """Returns the report as Markdown, its figures in `figures/`; raises as `html`."""
        return self._render("report.md.jinja")

    def _repr_markdown_(self) -> str:
        findings = "\n".join(f"- {finding.text}" for finding in self.findings)
        return "\n\n".join([*map(as_markdown, self.tables), findings])

    def _repr_html_(self) -> str:
        return self._render("notebook.html.jinja")

    def _render(self, template: str) -> str:
        return _environment().get_template(template).render(report=self, **_context(self))


def report(
    source: pathlib.Path | str | Sequence[Record],
    displays: Sequence[Display] | None = None,
    *,
    extra_tables: Sequence[Table] = (),
) -> Report:
    """Returns the report of a study's folder, or of records.

    Records that `evaluate` or `load_records` returned bring along what their folder says of them:
    the study's order, and the sanity checks. The displays are those given, or those of the study,
    or what the records have something to show for. `extra_tables` stand behind those of the first.

    Raises:
        ValueError: the folder holds no records, or a file in it is damaged; says which.
    """
    if isinstance(source, str | pathlib.Path):
        results = Results.read(source)
    else:
        for record in source if isinstance(source, Sequence) else [source]:
            check_kind(record, Record, "report(source=...)")
        results = Results.of(source)
    chosen, notes = choose(results) if displays is None else (displays, [])
    return Report(results, chosen, extra_tables, notes)


def write_report(
    folder: pathlib.Path | str,
    displays: Sequence[Display] | None = None,
    *,
    extra_tables: Sequence[Table] = (),
) -> list[pathlib.Path]:
    """Writes `report.html`, `report.md` and `figures/*.png` to `folder`, and returns the paths.

    The HTML comes first, and needs no other file. A display whose ingredients were not recorded is
    left out with a sentence saying so.

    Raises:
        ValueError: as `report` does, what figures are made of is damaged, or nothing can be
            written to the folder; says which.
        ImportError: matplotlib or jinja2 is not installed; says how to.
    """
    folder = pathlib.Path(folder)
    made = report(folder, displays, extra_tables=extra_tables)
    for place in (folder, folder / "figures"):
        check_writable(place)
    paths = [folder / "report.html", folder / "report.md"]
    texts = [made.html(), made.markdown()]
    for drawing in (drawing for _, drawings in made.sections for drawing in drawings):
        path = folder / "figures" / f"{drawing.name}.png"
        write_bytes(path, drawing.png)
        paths.append(path)
    for old in _our_figures(folder, made.displays) - set(paths):
        old.unlink()  # a figure of an earlier run, which these records do not support
    for path, text in zip(paths, texts, strict=False):
        write_bytes(path, text.encode())
    return paths


def summary(
    source: pathlib.Path | str | Sequence[Record],
    width: int = 99,
    *,
    displays: Sequence[Display] | None = None,
    extra_tables: Sequence[Table] = (),
) -> str:
    """Returns the first display's tables and the verdict as plain text; raises as `report`."""
    return report(source, displays, extra_tables=extra_tables).summary(width)


def _earlier(records: Sequence[Record]) -> list[Finding]:
    if not records:
        return []
    found = f"{counted(len(records), 'records')} of earlier runs, such as {records[0].id}"
    return [Finding(f"Not shown: {found}. Every subject is shown as it was measured last.")]


def _our_figures(folder: pathlib.Path, displays: Sequence[Display]) -> set[pathlib.Path]:
    """Returns the figures that displays have written; those that are not named here are kept."""
    kinds = [*known_displays().values(), *map(type, displays)]
    patterns = {pattern for kind in kinds for pattern in kind.files}
    return {path for pattern in patterns for path in (folder / "figures").glob(pattern)}


def _context(made: Report) -> dict[str, Any]:
    """Returns what templates show beside the report's own parts."""
    results = made.results
    records = [*results.records, *results.proofs]
    first = records[0].content
    return {
        "study": first["study"],
        "data": first["data"],
        "checked": results.checked,
        "provenance": Provenance(results, made.tables),
        "live": any(drawing.chart for _, drawings in made.sections for drawing in drawings),
        "scored": any(record.scored for record in records),
        "quantity": "accuracy" if any(record.scored for record in records) else "result",
        "threats": _threats(results),
        "configuration": _configuration(records),
        "targets": _targets(results),
        "records": [_record_line(record) for record in records],
        "commands": sorted({record.content["run"]["command"] for record in records}),
        "revisions": unique(r.content["run"].get("revision") or "unknown" for r in records),
    }


def _threats(results: Results) -> list[dict[str, Any]]:
    """Returns each threat model's name, sentence and settings, in the study's order."""
    found = []
    for threat in results.threats:
        own = [record for record in results.records if record.threat == threat]
        most = max(own, key=lambda record: record.strength)
        attacks = [record for record in own if record.attack is not None]
        settings = unique(
            "; ".join(part for part in (record.description, attack_text(record)) if part)
            for record in [r for r in attacks if "table" in r.tags] or attacks
        )
        found.append({"name": threat, "sentence": knows(most), "settings": settings})
    return found


def _configuration(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Returns what the records agree and disagree on, as names and values."""
    contents = [record.content for record in records]
    runs = [content["run"] for content in contents]
    data = unique(
        f"{c['data']['name']}, {c['data']['split']} split, {c['data']['fingerprint']}"
        for c in contents
    )
    seconds = sum(run["seconds"] for run in runs)
    versions = unique(
        ", ".join(f"{name} {value}" for name, value in run["versions"].items() if value)
        for run in runs
    )
    devices = unique(
        f"{run.get('num_devices', 1)} × {run['device']} ({run['backend']})" for run in runs
    )
    return [
        ("data", "; ".join(data)),
        ("records", str(len(records))),
        ("seeds", ", ".join(unique(content["seed"] for content in contents))),
        ("scoring draws", ", ".join(unique(record.num_score_draws for record in records))),
        ("device", "; ".join(devices)),
        (
            "computed in",
            f"{seconds / 60:.1f} minutes, the first record at "
            f"{min(run['started'] for run in runs)}",
        ),
        ("versions", "; ".join(versions)),
        ("revision", ", ".join(unique(run.get("revision") or "unknown" for run in runs))),
    ]


def _targets(results: Results) -> list[tuple[str, str]]:
    """Returns each subject's name and its whole configuration as JSON."""
    targets: dict[str, str] = {}
    for record in results.records:
        subject = record.content["subject"]
        value = {"target": subject["target"], "params": subject["params"]}
        targets.setdefault(record.subject, json.dumps(value, indent=2, ensure_ascii=False))
    return [(name, targets[name]) for name in results.subjects]


def _record_line(record: Record) -> dict[str, Any]:
    cell, reach = falling(score_cell(record), record), record.result.get("linf_max")
    return {
        "id": record.id,
        "attack": attack_text(record),
        "num": record.num_examples,
        "mean": cell.value,
        "interval": cell.detail,
        "reach": f"{255 * reach:.2f}/255" if isinstance(reach, int | float) else ABSENT.value,
        "seconds": f"{record.content['run']['seconds']:.0f}",
    }


@functools.cache
def _environment() -> Any:
    jinja2 = require("jinja2", name="jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    markup = require("markupsafe", name="markupsafe", extra="report").Markup
    environment.filters["inline"] = lambda text: markup(_inline(text))
    environment.filters["cell_html"] = lambda text: markup(_together(html.escape(str(text))))
    environment.filters["plain"] = without_markup
    environment.filters["static"] = lambda name: markup(
        (_HERE / "static" / name).read_text("utf-8")
    )
    # No text in it can end the element that holds it.
    environment.filters["json"] = lambda value: markup(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    )
    environment.filters["verdict"] = sanity.verdict_text
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    environment.filters["smaller"] = smaller
    environment.filters["table"] = as_markdown
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return environment


def _inline(text: str) -> str:
    """Returns one line of Markdown's bold and code as HTML, quantities kept on one line."""
    safe = _together(html.escape(text, quote=False))
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", safe)


def _together(text: str) -> str:
    """Returns text whose quantities and intervals do not break at a line's end."""
    text = re.sub(r"(\d) (%|×|†|‡)", "\\1\N{NO-BREAK SPACE}\\2", text)
    text = re.sub(r"([%†]) ([†‡])", "\\1\N{NO-BREAK SPACE}\\2", text)
    text = re.sub(r"(\[-?[\d.]+,) (-?[\d.]+\])", "\\1\N{NO-BREAK SPACE}\\2", text)
    return re.sub(r"\b([nK]) = ", "\\1\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", text)
