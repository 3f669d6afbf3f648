"""Writes everything a reader sees of an evaluation: tables, figures, a report, README blocks.

Nothing here measures: whatever is shown comes from the records in the evaluation's folder.
"""

import base64
import html
import json
import pathlib
import re
import textwrap

import jinja2
import markupsafe

from eval import (
    comparison_report,
    figures,
    panels,
    peers_report,
    sanity,
    smoothing_report,
    speed_report,
    super_resolution_report,
    tables,
    training_report,
)
from eval import records as rec
from eval.records import load_records
from eval.surfaces import loss_surfaces
from eval.tables import results_table
from eval.verdict import verdict

__all__ = [
    "check_readme",
    "load_records",
    "record_text",
    "results_table",
    "summary",
    "update_readme",
    "verdict",
    "write_report",
]

_LONE = (
    peers_report.RECORD,
    smoothing_report.RECORD,
    speed_report.RECORD,
    super_resolution_report.RECORD,
    training_report.RECORD,
)

_THREATS = {
    "clean": "Nobody attacks: the images as they are.",
    "blind": "The attacker knows the classifier but not that images are purified first, and aims "
    "at the classifier alone.",
    "fgsm": "The attacker knows the classifier alone, and takes one step.",
    "bim": "The attacker knows the classifier alone, and takes small steps from the image.",
    "pgd": "The attacker knows the classifier alone, and takes small steps from a random start.",
    "deepfool": "The attacker knows the classifier alone, and stops just behind its nearest "
    "boundary.",
    "cw": "The attacker knows the classifier alone, and looks for the smallest change that it "
    "is confident about.",
    "white_box": "The attacker knows the whole defended pipeline and follows its gradient, one "
    "random draw per step, but cannot know the draws with which the image will be judged.",
    "bpda": "The attacker knows the transformation, and follows the classifier's gradient at the "
    "transformed image as if it were that at the image.",
    "own": "The attacker knows the transformation, and follows its gradient; where it rounds, "
    "that of a soft rounding.",
    "eot": "The same attacker averages the gradient over K random draws at every step, and so "
    "aims at what the defense does on average (expectation over transformation).",
    "mean_field": "The same attacker puts the mean pixel in the place of the random pick, "
    "averages over every shift there is, and follows a gradient without noise.",
    "autoattack": "Several attacks of the first kind that set their own step sizes, each on the "
    "images that those before it left; which version of an image is worst is decided on draws of "
    "their own.",
    "known_key": "The attacker even knows the random draws with which the image will be judged; "
    "nobody outside a laboratory does, and the gap to the other columns is what the secrecy of "
    "the draws is worth.",
}

_ABSENT = {
    "radius": "No sweep over the radius was recorded, so there is no such figure.",
    "samples": "No sweep over the number of gradient samples was recorded, so there is no such "
    "figure.",
    "panels": "No images were kept, so there are none to show.",
    "spectrum": "No spectrum was recorded, so there is no such figure.",
    "surfaces": "No sanity check was run, so there is no such figure: `python -m eval sanity`.",
    "comparison": "No attack within a radius was recorded, so there is no such figure.",
    "gallery": "No transformed image was kept, so there is none to show.",
}


def summary(
    records: list[dict],
    checked: dict | None = None,
    width: int = 99,
    *,
    folder: pathlib.Path | None = None,
) -> str:
    """Returns the tables and the verdict as plain text for a terminal.

    Of transformations side by side these are the short tables: the report has the others.
    """
    lines = []
    for finding in [*verdict(records), *sanity.findings(checked)]:
        text = finding.text.replace("**", "").replace("`", "")
        mark = "? " if finding.chance else "! " if finding.flag else "- "
        lines.append(textwrap.fill(mark + text, width, subsequent_indent="  "))
    if comparison_report.is_comparison(records):
        shown = "\n\n".join(map(tables.as_plain, comparison_report.summaries(folder, records)))
    else:
        shown = results_table(records, doubts=sanity.doubts(checked))
    return "\n\n".join([shown, "\n".join(lines)])


def write_report(folder: pathlib.Path | str) -> list[pathlib.Path]:
    """Writes `folder`/report.md, report.html and figures/*.png; returns their paths, HTML first.

    The HTML needs no other file. Figures whose ingredients were not recorded are left out with
    a sentence saying so; damaged ingredients raise `ValueError` with the file's name.
    """
    folder = pathlib.Path(folder)
    records = load_records(folder)
    checked = sanity.load(folder)
    if checked is not None and checked["study"] != records[0]["study"]:
        raise ValueError(
            f"{folder}/sanity.json is of the study {checked['study']!r}, the records are of "
            f"{records[0]['study']!r}: keep each study in a folder of its own."
        )
    if checked is not None and (why := sanity.stale(checked, records)):
        raise ValueError(
            f"{folder}/sanity.json was made of {why}: run `python -m eval sanity` again, or "
            "delete it."
        )
    sections = _sections(folder, records, checked)
    drawings = [drawing for section in sections for drawing in section["drawings"]]

    paths = [folder / "report.html", folder / "report.md"]
    (folder / "figures").mkdir(exist_ok=True)
    for drawing in drawings:
        path = folder / "figures" / f"{drawing.name}.png"
        path.write_bytes(drawing.png)
        paths.append(path)
    for old in _our_figures(folder) - set(paths):
        old.unlink()  # a figure of an earlier run, which these records do not support

    summaries = []
    if comparison_report.is_comparison(records):
        summaries = comparison_report.summaries(folder, records)
    context = {
        "study": records[0]["study"],
        "data": records[0]["data"],
        "findings": [*verdict(records), *sanity.findings(checked)],
        "results": [*summaries, *tables.robustness_tables(records, sanity.doubts(checked))],
        "checked": checked,
        "draws": tables.draws_tables(records),
        "threats": _threats(records),
        "sections": sections,
        "configuration": _configuration(records),
        "targets": _targets(records),
        "records": [_record_line(record) for record in records],
        "commands": sorted({record["run"]["command"] for record in records}),
        "revisions": _unique(r["run"].get("revision") or "unknown" for r in records),
    }
    environment = _environment()
    for path in paths[:2]:
        text = environment.get_template(f"{path.name}.jinja").render(context)
        path.write_text(text, encoding="utf-8")
    return paths


def update_readme(
    readme: pathlib.Path | str, studies: dict[str, pathlib.Path | str]
) -> pathlib.Path:
    """Rewrites the README's tables from committed records; returns the README's path.

    The tables of NAME go between `<!-- results:NAME -->` and `<!-- /results:NAME -->`; its
    records are a study's folder, or a file for `record_text`.
    Raises `ValueError` where a marker is missing, repeated or out of order.
    """
    readme = pathlib.Path(readme)
    old = _read_readme(readme)
    new = _with_tables(readme, old, studies)
    if new != old:
        readme.write_text(new, encoding="utf-8")
    return readme


def check_readme(readme: pathlib.Path | str, studies: dict[str, pathlib.Path | str]) -> list[str]:
    """Returns one sentence for each README table that differs from its records; none is best.

    Raises `ValueError` as `update_readme` does.
    """
    readme = pathlib.Path(readme)
    text = _read_readme(readme)
    problems = [
        f"The table {name!r} in {readme} differs from the records in {folder}; "
        "write it anew with `python -m eval report`."
        for name, folder in studies.items()
        if _with_tables(readme, text, {name: folder}) != text
    ]
    for name in re.findall(r"<!-- results:(\S+) -->", text):
        if name not in studies:
            problems.append(f"The table {name!r} in {readme} belongs to no known study.")
    return problems


def record_text(path: pathlib.Path, style: str = "plain") -> str:
    """Returns the tables of a record that is a file of its own, whichever program wrote it.

    Raises `ValueError` with the file's name for one that is damaged or of another kind.
    """
    kind = rec.read_json(path).get("kind")
    for lone in _LONE:
        if lone.kind == kind:
            return lone.tell(path, style)
    raise ValueError(
        f"{path} holds a record of kind {kind!r}; those that stand alone are of kind "
        f"{', '.join(lone.kind for lone in _LONE)}."
    )


def _read_readme(readme: pathlib.Path) -> str:
    if not readme.is_file():
        raise ValueError(f"{readme} is no file; name the README whose tables to write.")
    return readme.read_text(encoding="utf-8")


def _with_tables(readme: pathlib.Path, text: str, studies: dict) -> str:
    for name, folder in studies.items():
        start, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
        if text.count(start) != 1 or text.count(end) != 1 or text.index(end) < text.index(start):
            raise ValueError(f"{readme} needs {start} once and, below it, {end} once.")
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{_block(pathlib.Path(folder))}\n{end}{after}"
    return text


def _block(place: pathlib.Path) -> str:
    """Returns the tables of a study's folder, or of a lone record."""
    if place.is_file():
        return record_text(place, "markdown")
    checked = sanity.load(place)
    doubts = sanity.doubts(checked)
    if comparison_report.is_comparison(records := load_records(place)):
        found = comparison_report.summaries(place, records)
        return "\n\n".join(map(tables.as_markdown, found))
    table = results_table(records, style="markdown", doubts=doubts)
    return "\n".join([table, *(f"- {finding.text}" for finding in sanity.findings(checked))])


def _sections(folder: pathlib.Path, records: list[dict], checked: dict | None) -> list[dict]:
    """Returns the figures under their headings, or the sentence that stands in for them."""
    single = {
        "radius": figures.accuracy_against_radius(records),
        "samples": figures.accuracy_against_samples(records),
        "panels": None,
        "spectrum": None,
    }
    if (folder / "spectrum.json").exists():
        single["spectrum"] = figures.spectrum(folder / "spectrum.json")
    if comparison_report.is_comparison(records):
        single = {"comparison": comparison_report.figure(records), "gallery": None}
        if (folder / "gallery.npz").exists():
            single["gallery"] = comparison_report.gallery(folder / "gallery.npz")
    found = {name: [] if drawing is None else [drawing] for name, drawing in single.items()}
    for record in _shown_in_panels(records):
        path = folder / "panels" / f"{record['id']}.npz"
        if path.exists():
            title = f"{record['row']['title']} against {record['column']['title']}"
            title += f", {tables.attack_text(record)}"
            found["panels"].append(panels.panel(path, title))
    surfaces = [loss_surfaces(row) for row in checked["rows"]] if checked else []
    found["surfaces"] = [drawing for drawing in surfaces if drawing is not None]
    headings = {
        "surfaces": "The loss that the attacks climb",
        "radius": "Accuracy against the radius of the attack",
        "samples": "Accuracy against the number of gradient samples",
        "panels": "What the attacker and the defense do to images",
        "spectrum": "Spatial frequencies: what down-sampling takes and RAIN puts back",
        "comparison": "Every transformation against attackers who know of it, and who do not",
        "gallery": "What every transformation makes of the first image",
    }
    return [
        {"heading": headings[name], "drawings": drawings, "absent": _ABSENT[name]}
        for name, drawings in found.items()
    ]


def _shown_in_panels(records: list[dict]) -> list[dict]:
    """The two attacks a reader should compare: the blind one and the strongest, for each row."""
    shown = rec.with_role(records, "table")
    found = []
    for row in rec.rows(shown):
        for budget in tables.budgets(shown):
            blind = [
                r
                for r in shown
                if (r["row"]["key"], r["column"]["key"], rec.ball(r)) == (row, "blind", budget)
            ]
            best = tables.strongest(shown, row, budget)
            found += [r for r in (*blind, best) if r is not None and r not in found]
    defended = [record for record in found if record["row"]["key"] != "undefended"]
    return defended or found


def _our_figures(folder: pathlib.Path) -> set[pathlib.Path]:
    names = ("radius.png", "samples.png", "spectrum.png", "panel-*.png", "surface-*.png",
             "comparison.png", "gallery.png")  # fmt: skip
    return {path for name in names for path in (folder / "figures").glob(name)}


def _threats(records: list[dict]) -> list[dict]:
    """Returns each threat model's title, sentence and settings, the least informed first."""
    threats = []
    for key in rec.RANK:
        own = [record for record in records if record["column"]["key"] == key]
        if own:
            settings = _unique(
                f"{record['column']['threat_model']}; {tables.attack_text(record)}"
                for record in rec.with_role(own, "table")
                if record["column"]["attack"]
            )
            title = own[0]["column"]["title"]
            threats.append({"title": title, "sentence": _THREATS[key], "settings": settings})
    return threats


def _configuration(records: list[dict]) -> list[tuple[str, str]]:
    """Returns what the records agree and disagree on, as names and values."""
    runs = [record["run"] for record in records]
    data = _unique(
        f"{r['data']['name']}, {r['data']['split']} split, {r['data']['fingerprint']}"
        for r in records
    )
    seconds = sum(run["seconds"] for run in runs)
    versions = _unique(
        ", ".join(f"{name} {value}" for name, value in run["versions"].items() if value)
        for run in runs
    )
    devices = _unique(
        f"{run.get('num_devices', 1)} × {run['device']} ({run['backend']})" for run in runs
    )
    return [
        ("data", "; ".join(data)),
        ("records", str(len(records))),
        ("seeds", ", ".join(_unique(r["seed"] for r in records))),
        ("scoring draws", ", ".join(_unique(r["num_score_draws"] for r in records))),
        ("device", "; ".join(devices)),
        (
            "computed in",
            f"{seconds / 60:.1f} minutes, the first record at "
            f"{min(run['started'] for run in runs)}",
        ),
        ("versions", "; ".join(versions)),
        ("revision", ", ".join(_unique(run.get("revision") or "unknown" for run in runs))),
    ]


def _targets(records: list[dict]) -> list[tuple[str, str]]:
    """Returns each row's title and its whole configuration as JSON."""
    targets = {}
    for record in records:
        row = record["row"]
        value = {"target": row["target"], "params": row["params"]}
        targets.setdefault(row["title"], json.dumps(value, indent=2, ensure_ascii=False))
    return list(targets.items())


def _record_line(record: dict) -> dict:
    result = record["result"]
    return {
        "id": record["id"],
        "attack": tables.attack_text(record),
        "num": result["num_examples"],
        "mean": tables.percent(result["mean"]["accuracy"]),
        "interval": tables.interval(result["mean"]),
        "reach": f"{255 * result['linf_max']:.2f}/255",
        "seconds": f"{record['run']['seconds']:.0f}",
    }


def _unique(values) -> list[str]:
    """Returns distinct values as text, in the order of their first appearance."""
    return list(dict.fromkeys(str(value) for value in values))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=lambda name: name is not None and name.startswith("report.html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = _inline
    environment.filters["verdict"] = sanity.verdict_text
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    environment.filters["table"] = tables.as_markdown
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    return environment


def _inline(text: str) -> markupsafe.Markup:
    """Returns one line of Markdown's bold and code as HTML, quantities kept on one line."""
    safe = html.escape(text, quote=False)
    safe = re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", safe)
    safe = re.sub(r"\b([nK]) = ", "\\1\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}", safe)
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return markupsafe.Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", safe))
