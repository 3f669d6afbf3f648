"""The written report: whole, self-contained, repeatable, and the same as the records."""

import base64
import html.parser
import io
import json
import re

import numpy as np
import PIL.Image
import pytest

from rainjax import report
from rainjax.evaluation import load_records
from rainjax.report import Curve, DrawsTable, Panels, ResultsTable, Spectrum
from rainjax.report.provenance import Provenance
from tests.report.made_records import (
    cells,
    expected_cell,
    full_study,
    make_record,
    write_extras,
    write_study,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with everything, and the report written from it."""
    folder = write_study(tmp_path_factory.mktemp("study"), full_study())
    write_extras(folder)
    report.write_report(folder)
    return folder


def test_draws_are_counted_three_ways(study):
    text = (study / "report.md").read_text(encoding="utf-8")
    # Fine-tuned under EOT: 40 images at 3 of 5 draws, 15 at 5, one at 2, of 200.
    record = next(r for r in load_records(study) if r.id == "rain_finetuned--eot--r8--k16")
    counts = record.correct_draws
    worst, vote = int((counts == 5).sum()), int((counts > 2.5).sum())
    row = next(line for line in cells(text) if line[:2] == ["RAIN, fine-tuned", "EOT-PGD"])
    shown = [f"≤ {expected_cell(count, 200)}" for count in (vote, worst)]
    assert row[3:] == [*shown, "200", "5"]
    assert worst < vote


class _Resources(html.parser.HTMLParser):
    """Collects tags and whatever a browser would fetch for them."""

    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.images, self.scripts = set(), [], [], 0
        self.policy = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.scripts += tag == "script"
        attributes = dict(attrs)
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        self.fetched += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images.append(attributes)


def test_html_needs_no_other_file(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    page = _Resources()
    page.feed(text)
    assert not page.tags & {"link", "iframe", "object", "base"}
    # Even where a script tried to, the browser would fetch nothing.
    assert page.policy.startswith("default-src 'none'; img-src data:;")
    assert "url(" not in text
    assert "@import" not in text
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)
    figures = [image for image in page.images if "data-version" not in image]
    names = ["radius", "draws", "spectrum"]
    assert len(figures) == len(names)
    for name, image in zip(names, figures, strict=True):
        data = base64.b64decode(image["src"].split(",", 1)[1], validate=True)
        written = (study / "figures" / f"{name}.png").read_bytes()
        assert len(data) < len(written) / 2  # it has a palette
        with PIL.Image.open(io.BytesIO(written)) as picture:
            whole = np.asarray(picture.convert("RGB")).astype(float)
        with PIL.Image.open(io.BytesIO(data)) as picture:
            error = np.asarray(picture.convert("RGB")) - whole
            assert np.sqrt((error**2).mean()) < 1.3
            assert picture.format == "PNG"
            assert picture.width > 800
            # Something was drawn: many pixels are far from white.
            assert (np.asarray(picture.convert("L")) < 200).mean() > 0.005
        assert len(image["alt"]) > 80


def test_curves_have_their_figure_for_whoever_has_no_scripts(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    found = re.findall(
        r'<figure class="curves">.*?<script type="application/json">(.*?)</script>\n'
        r"<noscript><img (.*?)></noscript>",
        text.replace("<noscript>\n", "<noscript>").replace("\n</noscript>", "</noscript>"),
        re.DOTALL,
    )
    charts = [json.loads(data) for data, _ in found]
    assert [chart["x_label"] for chart in charts] == [
        "L∞ radius, in 255ths", "gradient samples per step (K)",
    ]  # fmt: skip
    by_title = {panel["title"]: panel["lines"] for panel in charts[0]["panels"]}
    assert set(by_title) == {"RAIN, before fine-tuning", "RAIN, fine-tuned"}
    (line,) = [line for line in by_title["RAIN, fine-tuned"] if line["label"] == "EOT-PGD"]
    assert line["x"] == [0, 1, 2, 4, 8, 12, 16]
    record = next(r for r in load_records(study) if r.id == "rain_finetuned--eot--r8--k16")
    at = line["x"].index(8)
    score = record.score()
    told = [line[name][at] for name in ("y", "low", "high")]
    assert told == pytest.approx([score.accuracy, score.low, score.high], abs=1e-5)


def test_pictures_are_as_large_as_they_are(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    page = _Resources()
    page.feed(text)
    pictures = [image for image in page.images if "data-version" in image]
    versions = ["original", "change × 12", "attacked", "purified"]
    assert [image["data-version"] for image in pictures] == versions * 6
    with np.load(study / "panels" / "rain_finetuned--eot--r8--k16.npz") as file:
        arrays = dict(file)
    pixels = []
    for image in pictures[:4]:
        data = base64.b64decode(image["src"].split(",", 1)[1], validate=True)
        with PIL.Image.open(io.BytesIO(data)) as picture:
            pixels.append(np.asarray(picture).astype(float))
    original, change, attacked, purified = pixels
    assert (original == arrays["original"][0]).all()
    assert abs(attacked - original - 255 * arrays["change"][0].astype(float)).max() <= 0.51
    assert abs(purified - 255 * arrays["purified"][0]).max() <= 0.51
    # As the page's reader is told it: to a twelfth of a step.
    told = (change - 127.5) / 12
    assert abs(told - 255 * arrays["change"][0].astype(float)).max() <= 0.51 / 12
    assert 'data-factor="12"' in text


def test_a_cell_says_which_records_it_follows_from(study):
    made = report.report(study)
    (table,) = [t for t in made.tables if t.title.startswith("Attacks within")]
    row = next(row for row in table.rows if row[0].value == "RAIN, fine-tuned")
    names = [cell.value for cell in table.header]
    eot = "rain_finetuned--eot--r8--k16"
    assert row[names.index("EOT-PGD")].records == (eot,)
    assert row[-1].records == (eot,)
    assert row[0].records == ()
    provenance = Provenance(made.results, made.tables)
    told = provenance.told[int(provenance.places(row[-1]))]
    assert told["record"] == eot
    assert told["threat"] == "EOT-PGD"
    assert told["knows"].startswith("The attacker knows the whole defended pipeline")
    assert told["attack"].endswith("L∞ radius 8/255, 40 steps of 2/255, K = 16")
    assert told["scored"] == "200 images, 5 draws each"
    assert told["command"] == "python -m eval quick --out runs/quick"
    assert told["failed"] == []
    text = (study / "report.html").read_text(encoding="utf-8")
    kept = re.search(r'<script type="application/json" id="records">(.*?)</script>', text)[1]
    assert json.loads(kept) == provenance.told
    assert f'data-records="{provenance.places(row[-1])}"' in text


def test_markdown_points_to_figures_that_exist(study):
    text = (study / "report.md").read_text(encoding="utf-8")
    targets = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(targets) == 4
    assert all((study / target).is_file() for target in targets)
    assert report.report(study).text("markdown") in text
    assert "python -m eval quick --out runs/quick" in text


def test_alt_texts_tell_the_numbers(study):
    text = (study / "report.md").read_text(encoding="utf-8")
    assert (
        "RAIN, fine-tuned, purifier-blind PGD: 88.3 % at radius 0, 54.2 % at radius 16/255."
        in (text)
    )
    assert "RAIN, fine-tuned: 31.0 % at K = 1, 19.3 % at K = 32." in text
    assert "RAIN, fine-tuned under mean-field PGD: 22.8 %." in text
    # 0.4 of grey to white over 8/255 is 12.75.
    assert "change amplified 12 times" in text
    assert "disc, seen as disc before and as ring after the attack" in text


def test_report_written_twice_is_the_same_and_stale_figures_go(study):
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    (study / "figures" / "panel-gone.png").write_bytes(b"old")
    (study / "figures" / "mine.png").write_bytes(b"mine")
    report.write_report(study)
    assert (study / "figures" / "mine.png").read_bytes() == b"mine"
    (study / "figures" / "mine.png").unlink()
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before


def test_missing_ingredients_are_said_not_failed(tmp_path):
    write_study(tmp_path, [make_record("undefended", "clean", [5] * 9 + [0])])
    wanted = [
        ResultsTable(), DrawsTable(), Curve("radius", "radius"), Curve("num_draws", "draws"),
        Panels(), Spectrum(),
    ]  # fmt: skip
    paths = report.write_report(tmp_path, wanted)
    assert [path.name for path in paths] == ["report.html", "report.md"]
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert "No sweep over the radius was recorded" in text
        assert "No sweep over the number of gradient samples was recorded" in text
        assert "No images were kept" in text
        assert "No spectrum was recorded" in text
        assert "90.0 %" in text


def test_text_from_records_cannot_become_markup(tmp_path):
    record = make_record("rain_finetuned", "eot", [5] * 10)
    page, harmless = _Resources(), _Resources()
    report.write_report(write_study(tmp_path, [record]))
    harmless.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    record["subject"]["name"] = "<script>alert(1)</script> | \"a\" & 'b'"
    record["run"]["command"] = "</script><script>alert(2)</script>"
    report.write_report(write_study(tmp_path, [record]))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert page.scripts == harmless.scripts > 0
    assert "<script>alert" not in text
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "alert(1)</script> \\| " in markdown


def test_no_mark_of_markdown_is_left_in_the_page(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "**" not in text
    assert "<strong>majority vote</strong>" in text


def test_wide_tables_scroll_and_wrap(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    assert text.count("<table") == len(re.findall(r'<div class="wide"[^>]*><table', text))
    assert ".wide { overflow: auto;" in text
    long = report.Table("T", (report.Cell("a"), report.Cell("b")),
                        ((report.Cell("c"), report.Cell("word " * 30)),))  # fmt: skip
    assert '<td class="long">' in report.report(study, extra_tables=[long]).html()


def test_threat_models_are_told_from_what_they_know(study):
    text = (study / "report.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"### (.+)\n\n(.+)\n", text.split("## Threat models")[1]))
    assert told["clean"] == "Nobody attacks: the images as they are."
    assert told["purifier-blind PGD"].startswith("The attacker knows the classifier but not that")
    assert told["white-box PGD"].endswith("with which the image will be judged.")
    assert "averages over random draws at every step" in told["EOT-PGD"]
    assert "what the secrecy of the draws is worth" in told["known key"]
    assert "- white box, one draw per step; L∞ radius 8/255, 40 steps of 2/255, K = 1" in text


def test_nothing_to_report_is_said(tmp_path):
    with pytest.raises(ValueError, match="There are no records, so there is nothing to report"):
        report.report([])
    with pytest.raises(ValueError, match=r"holds no records/\*.json: name the folder"):
        report.write_report(tmp_path)
    records = write_study(tmp_path, [make_record("undefended", "clean", [5], tags=["mine"])])
    with pytest.raises(ValueError, match="No record has the tag 'table', so there is no table"):
        report.write_report(records, [ResultsTable()])
