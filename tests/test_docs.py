"""The guides: their programs run, and their links lead somewhere."""

import pathlib
import re

import pytest

from rainjax.evaluation import Study
from rainjax.evaluation.study import cells

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").glob("*.md"))


def test_there_are_guides():
    assert {"your-own-classifier", "your-own-defense", "your-own-data"} <= {g.stem for g in GUIDES}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_programs_run_as_they_stand(guide, quick_compilation):
    names: dict = {"__name__": "guide"}
    for program in re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL):
        code = compile(program, guide.name, "exec")
        if "from mine import" not in program:  # a file that only its reader has
            exec(code, names)
    study = names.get("study")
    if isinstance(study, Study):  # every part of it fits: what is left is the work
        assert {cell.subject.name for cell in cells(study)} == {s.name for s in study.subjects}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_links_lead_to_files(guide):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", guide.read_text())
    missing = [x for x in links if "://" not in x and not (guide.parent / x).exists()]
    assert not missing
