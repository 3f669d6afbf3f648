"""A README's tables are the same as the records that they are made from."""

import pytest

from rainjax import report
from tests.report.made_records import small_study, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"), small_study())


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

    readme.write_text(text.replace("30.0 %", "39.7 %", 1), encoding="utf-8")
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
