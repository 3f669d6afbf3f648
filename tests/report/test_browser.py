"""The report in a browser, as its reader meets it: by mouse, keys and touch, on three widths."""

import base64
import json
import re
import shutil
import time

import numpy as np
import pytest

from rainjax import report
from rainjax.evaluation import load_records
from tests.report.made_records import full_study, write_extras, write_study
from tests.report.test_sanity import made_record

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
try:
    import playwright.sync_api as playwright
except ImportError:
    playwright = None

pytestmark = [
    pytest.mark.skipif(
        playwright is None, reason='Playwright is not installed: pip install -e ".[browser]".'
    ),
    pytest.mark.skipif(
        CHROMIUM is None, reason="There is no Chromium; on Debian: apt install chromium."
    ),
]
OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
EOT = "rain_finetuned--eot--r8--k16"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("study"), full_study())
    write_extras(folder)
    (folder / "sanity.json").write_text(json.dumps(made_record(False)))
    report.write_report(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    assert playwright is not None
    with (
        playwright.sync_playwright() as running,
        running.chromium.launch(executable_path=CHROMIUM, args=OPTIONS) as opened,
    ):
        yield opened


@pytest.fixture
def visit(browser, study):
    """Opens the report; afterwards no page may have said an error, or asked for anything."""
    contexts, complaints = [], []

    def asked(request):
        if not request.url.startswith(("data:", study.as_uri())):
            complaints.append(f"asked for {request.url}")

    def open_page(width=1400, height=900, **options):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": height}, **options)
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        page.goto((study / "report.html").as_uri())
        return page

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def results(page):
    """The table of accuracies."""
    return page.locator("table", has=page.get_by_text("Attacks within"))


def column(page, name):
    """The texts of a column of the table of accuracies, from top to bottom."""
    heads = results(page).locator("thead th").all_inner_texts()
    place = next(i for i, head in enumerate(heads) if head.startswith(name))
    rows = results(page).locator("tbody tr").all()
    texts = [row.locator("th, td").nth(place).inner_text() for row in rows]
    return [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts]


def cell(page, row, name):
    heads = results(page).locator("thead th").all_inner_texts()
    place = next(i for i, head in enumerate(heads) if head.startswith(name))
    rows = results(page).locator("tbody tr", has=page.get_by_role("rowheader", name=row))
    return rows.locator("th, td").nth(place)


@pytest.mark.parametrize("width", [390, 820, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_every_width(visit, width, scheme):
    page = visit(width, color_scheme=scheme)
    inside = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert inside, "the page as a whole scrolls sideways"
    assert page.locator(".chart canvas").count() == 3  # two panels over the radius, one over K
    red, *_ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
    assert (int(red) > 200) == (scheme == "light")
    # What cannot be seen as a whole scrolls in its own box, beside names that stay.
    box = page.locator(".wide").first
    box.evaluate("box => { box.scrollLeft = 120; }")
    moved = box.evaluate("box => box.scrollLeft")
    assert moved > 0 or width > 390
    left = box.locator("tbody th").first.bounding_box()["x"]
    assert left == pytest.approx(box.bounding_box()["x"], abs=1)


def test_heads_stay_above_rows_that_scroll(visit):
    page = visit(820, 900)
    page.get_by_text("Every record").click()
    box = page.get_by_role("region", name="Every record")
    box.evaluate("box => { box.scrollTop = 300; }")
    assert box.evaluate("box => box.scrollTop") == 300
    top = box.locator("thead th").first.bounding_box()["y"]
    assert top == pytest.approx(box.bounding_box()["y"], abs=1)


def test_tables_sort_by_numbers_and_by_names(visit):
    page = visit()
    before = column(page, "name")
    # The undefended classifier has no cell under EOT: it comes last both ways.
    assert column(page, "EOT-PGD")[0] == "—"
    button = results(page).get_by_role("button", name="EOT-PGD")
    head = results(page).locator("thead th", has=page.get_by_role("button", name="EOT-PGD"))
    assert head.get_attribute("aria-sort") == "none"
    for wanted, names in (
        ("ascending", ["RAIN, before fine-tuning", "RAIN, fine-tuned", "Undefended"]),
        ("descending", ["RAIN, fine-tuned", "RAIN, before fine-tuning", "Undefended"]),
        ("none", before),
    ):
        button.click()
        assert head.get_attribute("aria-sort") == wanted
        assert column(page, "name") == names
    # "≤ 12.4 %" is a number like 0.5 %.
    results(page).get_by_role("button", name="strongest attack").press("Enter")
    told = [re.search(r"[\d.]+ %", text)[0] for text in column(page, "strongest")]
    assert told == ["0.5 %", "12.4 %", "19.7 %"]
    assert any("≤" in text for text in column(page, "strongest"))
    results(page).get_by_role("button", name="name").click()
    assert column(page, "name") == sorted(before)
    assert results(page).locator('[aria-sort="ascending"]').count() == 1


def test_number_tells_where_it_comes_from(visit):
    page = visit()
    said = page.get_by_role("dialog", name="How this number came about")
    assert not said.is_visible()
    cell(page, "RAIN, fine-tuned", "purifier-blind").hover()
    said.get_by_text("The attacker knows the classifier but not").wait_for()
    assert "Failed" not in said.inner_text()
    cell(page, "RAIN, fine-tuned", "EOT-PGD").hover()
    said.get_by_text(EOT, exact=True).wait_for()
    text = said.inner_text()
    assert "white box, gradients averaged over 16 draws; L∞ radius 8/255, 40 steps" in text
    assert "200 images, 5 draws each" in text
    assert "python -m eval quick --out runs/quick" in text
    assert "Failed sanity check: more steps never helps the defense." in text
    page.mouse.move(2, 2)
    said.wait_for(state="hidden")
    # The check stands beside the number as well, without a question.
    assert "† failed: more steps never" in cell(page, "RAIN, fine-tuned", "EOT-PGD").inner_text()


def test_number_is_asked_by_keys(visit):
    page = visit()
    said = page.get_by_role("dialog")
    first = cell(page, "Undefended", "clean").get_by_role("button")
    assert first.get_attribute("aria-haspopup") == "dialog"
    results(page).get_by_role("button", name="strongest attack").focus()
    page.keyboard.press("Tab")
    assert first.evaluate("button => button === document.activeElement")
    for key in ("Enter", " "):
        page.keyboard.press(key)
        assert said.is_visible()
        assert first.get_attribute("aria-expanded") == "true"
        assert said.evaluate("box => box === document.activeElement")
        page.keyboard.press("Escape")
        assert not said.is_visible()
        assert first.get_attribute("aria-expanded") == "false"
        assert first.evaluate("button => button === document.activeElement")


def test_number_is_asked_by_touch(visit):
    page = visit(390, 844, has_touch=True, is_mobile=True)
    said = page.get_by_role("dialog")
    cell(page, "RAIN, fine-tuned", "clean").tap()
    said.wait_for()
    box = said.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    said.get_by_role("button", name="Close").tap()
    assert not said.is_visible()


def drawn(page):
    """The pixels of the second figure's curves, `height width 4`."""
    page.wait_for_timeout(60)  # the curves are drawn in the next frame
    canvas = page.locator("figure.curves").nth(1).locator("canvas")
    width, height, data = canvas.evaluate(
        """(canvas) => {
          const { width, height } = canvas, copy = new OffscreenCanvas(width, height);
          const context = copy.getContext("2d", { willReadFrequently: true });
          context.drawImage(canvas, 0, 0);
          const { data } = context.getImageData(0, 0, width, height);
          let text = "";
          for (let i = 0; i < data.length; i += 4096)
            text += String.fromCharCode(...data.subarray(i, i + 4096));
          return [width, height, btoa(text)];
        }"""
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)


def ink(page, colour):
    """How many of those pixels have exactly a colour."""
    return int((drawn(page) == [*colour, 255]).all(-1).sum())


def test_lines_and_bands_are_switched(visit):
    page = visit(color_scheme="light")
    figure = page.locator("figure.curves").nth(1)
    blue, rust = [0, 114, 178], [194, 78, 0]  # as in the figures of report.md
    whole, others = ink(page, blue), ink(page, rust)
    assert min(whole, others) > 300
    switches = figure.get_by_role("button", name="RAIN, fine-tuned").all()
    assert len(switches) == 2  # the line over K, and the level of all draws
    for switch in switches:
        assert switch.get_attribute("aria-pressed") == "true"
        switch.click()
        assert switch.get_attribute("aria-pressed") == "false"
    assert ink(page, blue) == 0
    assert ink(page, rust) == pytest.approx(others, rel=0.1)
    for switch in switches:
        switch.press("Enter")
    assert ink(page, blue) == whole
    faint = lambda: int(((drawn(page)[..., 3] > 0) & (drawn(page)[..., 3] < 90)).sum())
    with_bands = faint()
    figure.get_by_role("button", name="95 % bands").click()
    assert faint() < with_bands / 3
    assert min(ink(page, blue), ink(page, rust)) > 300


def test_values_of_curves_are_read(visit, study):
    page = visit()
    plot = page.locator("figure.curves").nth(1).locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 60)  # K = 32, the last
    tip = plot.locator(".tip")
    tip.wait_for()
    assert "gradient samples per step (K): 32" in tip.inner_text()
    record = next(r for r in load_records(study) if r.id == "rain_finetuned--eot--r8--k32")
    score = record.score()
    assert f"{100 * score.accuracy:.1f} % [{100 * score.low:.1f}, " in tip.inner_text()
    page.mouse.move(2, 2)
    tip.wait_for(state="hidden")
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert "(K): 1" in tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert "(K): 2" in tip.inner_text()
    spoken = page.locator("figure.curves").nth(1).locator("[aria-live]").inner_text()
    assert "(K): 2" in spoken


def test_images_are_turned_and_zoomed(visit, study):
    page = visit()
    viewer = page.locator(".images")
    shown = lambda: [item.is_visible() for item in viewer.locator("li").all()].index(True)
    assert viewer.locator("li:visible").count() == 1
    viewer.get_by_role("button", name="Next image").click()
    assert (shown(), viewer.locator(".bar").inner_text().split("\n")[2]) == (1, "Image 2 of 6")
    viewer.get_by_role("button", name="Previous image").click()
    viewer.get_by_role("button", name="Previous image").click()
    assert shown() == 5
    viewer.focus()
    page.keyboard.press("ArrowRight")
    assert shown() == 0
    page.keyboard.press("+")
    page.keyboard.press("+")
    image = viewer.locator("li:visible img").first
    assert "scale(4)" in image.get_attribute("style")
    assert image.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
    page.keyboard.press("0")
    assert "scale(1)" in image.get_attribute("style")
    frame = viewer.locator("li:visible .frame").first
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    step = box["width"] / 32
    page.mouse.click(box["x"] + 10.5 * step, box["y"] + 20.5 * step)
    with np.load(study / "panels" / f"{EOT}.npz") as file:
        arrays = {name: file[name][0, 20, 10] for name in ("original", "change", "purified")}
    texts = viewer.locator("li:visible .value").all_inner_texts()
    original = " ".join(map(str, arrays["original"]))
    assert texts[0] == f"(10, 20) {original}"
    told = [float(text.replace("−", "-")) for text in texts[1].split(") ")[1].split()[:3]]
    assert told == pytest.approx(255 * arrays["change"].astype(float), abs=0.1)
    purified = [int(text) for text in texts[3].split(") ")[1].split()]
    assert purified == np.round(255 * arrays["purified"]).astype(int).tolist()
    # Clicked, the wheel is theirs: the pixel under the pointer stays there.
    page.mouse.wheel(0, -300)
    _until(page, "document.querySelector('.images').classList.contains('zoomed')")
    assert viewer.locator("li:visible .value").first.inner_text() == texts[0]
    for picture in viewer.locator("li:visible img").all():
        assert picture.get_attribute("style") == image.get_attribute("style")


def test_wheel_is_the_pages_until_images_were_clicked(visit):
    page = visit()
    page.locator(".images .frame").first.hover()
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, 200)
    _until(page, f"scrollY > {before}")
    assert page.locator(".images.zoomed").count() == 0


def test_light_and_dark_are_a_button_away(visit):
    page = visit(color_scheme="dark")
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark, rust = ground(), [255, 146, 72]
    assert ink(page, rust) > 300
    page.get_by_role("button", name="Light").click()
    assert ground() != dark
    assert ink(page, rust) == 0  # the curves are drawn again, in the shades for a light ground
    page.get_by_role("button", name="Dark").click()
    assert ground() == dark


def test_page_reads_without_scripts(visit):
    page = visit(820, java_script_enabled=False)
    assert page.locator(".images li:visible").count() == 6
    assert page.locator("noscript img").count() == 2
    told = cell(page, "RAIN, fine-tuned", "EOT-PGD").inner_text()
    assert "19.7 %" in told.replace("\N{NO-BREAK SPACE}", " ")
    assert not page.locator("#theme").is_visible()


def test_nothing_could_be_fetched(visit):
    page = visit()
    directive = page.evaluate(
        """() => new Promise((resolve) => {
          const told = (event) => resolve(event.effectiveDirective);
          document.addEventListener("securitypolicyviolation", told);
          new Image().src = "https://example.org/pixel.png";
        })"""
    )
    assert directive == "img-src"
    refused, asked = sorted(visit.complaints, key=len, reverse=True)
    visit.complaints.clear()
    assert "violates the following Content Security Policy" in refused
    assert asked == "asked for https://example.org/pixel.png"


def _until(page, expression):
    """Waits until something is so; the page's own policy forbids what Playwright waits with."""
    deadline = time.monotonic() + 10
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)
