"""The written report: whole, self-contained, repeatable, and the same as the records."""

import base64
import html.parser
import io
import json
import re

import hypothesis
import numpy as np
import PIL.Image
import pytest
from hypothesis import strategies as st
from matplotlib.figure import Figure

from rainjax import report
from rainjax.evaluation import load_records
from rainjax.report import Curve, DrawsTable, Panels, ResultsTable, Spectrum, pictures, style
from rainjax.report.results import Results
from tests.report.made_records import (
    cells,
    expected_cell,
    full_study,
    make_record,
    results_of,
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
    assert row[3:] == [expected_cell(vote, 200), expected_cell(worst, 200), "200", "5"]
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


def test_spectrum_states_the_power_above_half_the_limit(study):
    drawing = pictures.spectrum(study / "spectrum.json", Results.read(study), "title")
    data = json.loads((study / "spectrum.json").read_text(encoding="utf-8"))
    sums = {
        name: sum(p for f, p in zip(data["frequency"], curve, strict=True) if f > 0.25)
        for name, curve in data["curves"].items()
    }
    share_kept = 100 * sums["RAIN, fine-tuned"] / sums["original"]
    assert f"RAIN, fine-tuned {share_kept:.1f} %" in drawing.caption
    assert "mean over 256 images" in drawing.caption


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


def test_damaged_pictures_and_spectra_are_named(tmp_path):
    write_study(tmp_path, full_study()[:8])
    write_extras(tmp_path)
    path = tmp_path / "spectrum.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["curves"]["original"].pop()
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match=r"spectrum.json .*'original' needs 17 finite values"):
        pictures.spectrum(path, Results.read(tmp_path), "title")

    path = tmp_path / "panels" / "rain_finetuned--eot--r8--k16.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {"purified": arrays["purified"][:2]}))
    with pytest.raises(ValueError, match=r"k16.npz must hold images of one shape"):
        pictures.panel(path, "title")
    del arrays["labels"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"k16.npz lacks the array 'labels'"):
        pictures.panel(path, "title")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"k16.npz is damaged"):
        pictures.panel(path, "title")


@pytest.mark.parametrize("highest", [0.0, 0.03, 0.17, 0.31, 0.55, 0.7, 1.0])
def test_ticks_are_where_they_say(highest):
    figure = Figure()
    axes = figure.subplots()
    style.percent_axis(axes, highest)
    figure.draw_without_rendering()
    places, labels = axes.get_yticks(), axes.yaxis.get_ticklabels()
    said = [float(label.get_text().removesuffix(" %")) / 100 for label in labels]
    assert said == pytest.approx(places)
    assert 3 <= len([place for place in places if place <= axes.get_ylim()[1]]) <= 7


def test_clean_accuracy_at_radius_zero_is_counted_on_the_swept_images():
    clean = make_record("rain_finetuned", "clean", [5] * 5 + [0] * 3 + [5] * 12)
    sweep = [
        make_record("rain_finetuned", "eot", [5] * n + [0] * (8 - n), radius=r, tags=["radius"])
        for n, r in ((4, 4 / 255), (2, 8 / 255))
    ]
    (drawing,) = Curve("radius", "radius").drawings(results_of([clean, *sweep]))
    # 5 of the first 8 are right, not 17 of 20.
    assert "EOT-PGD: 62.5 % at radius 0, 25.0 % at radius 8/255." in drawing.alt
    (drawing,) = Curve("radius", "radius").drawings(results_of(sweep))
    assert "EOT-PGD: 50.0 % at radius 4/255, 25.0 % at radius 8/255." in drawing.alt


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.01, 0.1))
def test_labels_never_overlap_and_keep_their_order(wanted, step):
    placed = style.spread(wanted, step)
    order = np.argsort(wanted, kind="stable")
    gaps = np.diff(np.asarray(placed)[order])
    assert (gaps >= step - 1e-9).all()
    assert min(placed) >= -1e-9
    far_apart = len(wanted) == 1 or np.diff(np.sort(wanted)).min() > step
    if far_apart:
        np.testing.assert_allclose(placed, wanted, atol=1e-9)


README = """# A project

<!-- results:quick -->
old
<!-- /results:quick -->

Prose that stays.
"""


def test_readme_is_filled_once_and_then_left_alone(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README, encoding="utf-8")
    blocks = {"quick": report.readme_block(study)}
    (problem,) = report.check_readme(readme, blocks)
    assert "'quick'" in problem
    assert "write it anew" in problem
    report.update_readme(readme, blocks)
    text = readme.read_text(encoding="utf-8")
    assert report.report(study).text("markdown") in text
    assert text.startswith("# A project\n\n<!-- results:quick -->\n")
    assert text.endswith("<!-- /results:quick -->\n\nProse that stays.\n")
    assert "\nold\n" not in text
    assert report.check_readme(readme, blocks) == []
    report.update_readme(readme, blocks)
    assert readme.read_text(encoding="utf-8") == text

    readme.write_text(text.replace("19.7 %", "39.7 %", 1), encoding="utf-8")
    assert len(report.check_readme(readme, blocks)) == 1


def test_readme_block_without_a_study_is_reported(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(README, encoding="utf-8")
    (problem,) = report.check_readme(readme, {})
    assert "belongs to no known study" in problem


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "<!-- results:quick -->",
        "<!-- /results:quick -->\n<!-- results:quick -->",
        README + README,
    ],
)
def test_readme_without_its_markers_is_refused(study, tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    blocks = {"quick": report.readme_block(study)}
    with pytest.raises(ValueError, match=r"README.md needs <!-- results:quick --> once and"):
        report.update_readme(readme, blocks)
    assert readme.read_text(encoding="utf-8") == text
    with pytest.raises(ValueError, match="is no file; name the README"):
        report.update_readme(tmp_path / "absent.md", blocks)


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
