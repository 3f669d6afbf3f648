"""The site's pages: their programs and commands run, and their links lead somewhere."""

import importlib
import pathlib
import pkgutil
import re
import shlex

import pytest
import tyro

import eval.__main__ as repository
import rainjax
import rainjax.data.__main__ as data
from rainjax.__main__ import Command
from rainjax.evaluation import Study
from rainjax.evaluation.study import cells

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs").rglob("*.md"))
NAMES = [str(guide.relative_to(ROOT / "docs").with_suffix("")) for guide in GUIDES]


def programs(guide: pathlib.Path) -> list[str]:
    """Returns a page's programs, but those that need what only its reader has, or PyTorch."""
    found = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    return [code for code in found if not re.search(r"^(from mine|import torch)", code, re.M)]


RUN = [guide for guide in GUIDES if programs(guide)]


def test_there_are_guides():
    assert {"your-own-classifier", "your-own-defense", "your-own-data"} <= {g.stem for g in RUN}


@pytest.mark.parametrize("guide", RUN, ids=lambda path: path.stem)
def test_programs_run_as_they_stand(guide, quick_compilation):
    names: dict = {"__name__": "guide"}
    for program in programs(guide):
        exec(compile(program, guide.name, "exec"), names)
    study = names.get("study")
    study = study() if callable(study) and not isinstance(study, Study) else study
    if isinstance(study, Study):  # every part of it fits: what is left is the work
        assert {cell.subject.name for cell in cells(study)} == {s.name for s in study.subjects}


@pytest.mark.parametrize("guide", GUIDES, ids=NAMES)
def test_links_lead_to_files(guide):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", guide.read_text(encoding="utf-8"))
    missing = [x for x in links if "://" not in x and not (guide.parent / x).exists()]
    assert not missing


def test_commands_are_commands():
    pages = [*GUIDES, ROOT / "README.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    shells = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    lines = set(re.findall(r"^((?:rainjax|python -m eval) .+)", shells, re.MULTILINE))
    lines = [line for line in lines if "--help" not in line]
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "python":
            repository.read(words[3:])
        elif words[1] == "data":
            tyro.cli(data.Command, args=words[2:])
        else:
            tyro.cli(Command, args=words[1:])


def test_every_page_is_on_the_site():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:.* <)?([\w./-]+)>?$", index, re.MULTILINE)
    assert set(NAMES) - {"index"} <= set(listed)


def test_every_public_name_has_a_page():
    """`make docs` asks Sphinx the same of each name; here the modules that have some are asked."""
    reference = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/api").glob("*.md"))
    described = re.findall(r"automodule:: (\S+)", reference)
    assert len(described) == len(set(described))
    packages = [rainjax, *map(importlib.import_module, _public_modules())]
    for module in packages:
        if hasattr(module, "__all__") and module.__name__ != "rainjax.evaluation.scoring":
            assert module.__name__ in described
    table = re.search(r"autosummary::\n   :nosignatures:\n\n((?:   \w+\n)+)", reference)
    assert table is not None
    assert table[1].split() == rainjax.__all__


def _public_modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(rainjax.__path__, "rainjax.")]
    return [name for name in names if not any(part[0] == "_" for part in name.split("."))]
