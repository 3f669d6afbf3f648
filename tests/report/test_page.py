"""The written report: whole, self-contained, repeatable, and the same as the records."""

import base64
import html.parser
import io
import re

import numpy as np
import PIL.Image
import pytest

from rainjax import report
from rainjax.evaluation import load_records
from rainjax.report import Curve, DrawsTable, Panels, ResultsTable, Spectrum
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
        self.tags, self.fetched, self.images = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attributes = dict(attrs)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images.append(attributes)


def test_html_needs_no_other_file(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    page = _Resources()
    page.feed(text)
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert "url(" not in text
    assert "@import" not in text
    assert all(value.startswith("data:image/png;base64,") for value in page.fetched)
    names = ["radius", "draws", "panel-rain_finetuned--eot--r8--k16", "spectrum"]
    assert len(page.images) == len(names)
    for name, image in zip(names, page.images, strict=True):
        data = base64.b64decode(image["src"].split(",", 1)[1], validate=True)
        assert data == (study / "figures" / f"{name}.png").read_bytes()
        with PIL.Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "PNG"
            assert picture.width > 800
            # Something was drawn: many pixels are far from white.
            assert (np.asarray(picture.convert("L")) < 200).mean() > 0.005
        assert len(image["alt"]) > 80


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
    record["subject"]["name"] = "<script>alert(1)</script> | \"a\" & 'b'"
    report.write_report(write_study(tmp_path, [record]))
    page = _Resources()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "alert(1)</script> \\| " in markdown


def test_no_mark_of_markdown_is_left_in_the_page(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    assert "**" not in text
    assert "<strong>majority vote</strong>" in text


def test_wide_tables_scroll_and_wrap(study):
    text = (study / "report.html").read_text(encoding="utf-8")
    assert text.count("<table") == text.count('<div class="wide"><table')
    assert ".wide { overflow-x: auto;" in text
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
