"""The repository keeps its promises: README's example runs, and imports point one way."""

import ast
import collections
import itertools
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import rainjax
from eval.report import blocks
from rainjax.evaluation.study import cells
from rainjax.keys import Purpose, example_keys
from rainjax.report import check_readme
from tests import conftest
from train import benchmark

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "rainjax").rglob("*.py"))

# A part of the library may import from the parts before it, and from itself.
ORDER = [
    "typing",
    "_files",
    "_output",
    "_checks",
    "_arguments",
    "_arrays",
    "_extras",
    "_values",
    "keys",
    "devices",
    "compilation_cache",
    "transforms",
    "distillation",
    "metrics",
    "residuals",
    "nets",
    "defenses",
    "gradients",
    "detectors",
    "attacks",
    "pipeline",
    "guarded",
    "ensemble",
    "services",
    "zoo",
    "data",
    "checkpoints",
    "evaluation",
    "contracts",
    "report",
    "adapters",
    "__main__",
]


def _imports(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively, in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    names = path.relative_to(ROOT).with_suffix("").parts
    imports = _imports(path)
    outside = {module.split(".")[0] for module in imports}
    assert not outside & {"train", "eval", "tests", "torch", "tensorflow"}
    if names[1] != "nets":
        assert "flax" not in outside
    if names[1] == "__init__":
        return
    for module in imports:
        if module.startswith("rainjax."):
            assert ORDER.index(_part(module)) <= ORDER.index(names[1]), module


def test_annotated_shapes_are_checked():
    with pytest.raises(jaxtyping.TypeCheckError, match="indices"):
        example_keys(0, Purpose.DATA, jnp.zeros((2, 2), jnp.int32))


def test_ranks_are_not_promoted():
    with pytest.raises(ValueError, match="rank_promotion"):
        jax.jit(jnp.add)(jnp.zeros((2, 3)), jnp.zeros(3))


def test_readme_example_runs(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example, own = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {}
    exec(example, names)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert 0 <= float(printed["attacked"]) < float(printed["original"]) <= 1
    exec(own, others := {"__name__": "mine"})
    study = others["study"]()
    assert {cell.subject.name for cell in cells(study)} == {"bare", "RAIN", "noise"}
    moved = np.abs(np.asarray(names["attacked"]) - names["images"])
    assert 1e-3 < moved.max() <= 8 / 255 + 1e-6


def test_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= 8000


def test_pages_show_what_the_records_say():
    records = ROOT / "eval" / "records"
    places = [records, *(path.parent for path in records.glob("*/records"))]
    lone = ("api", "peers", "residuals", "scores", "smoothing", "speed", "super_resolution")
    lone += ("scores_photographs", "terms")
    places += [records / f"{name}.json" for name in lone]
    training = benchmark.RECORD.tell(records / "training.json", "markdown")
    shown = {**blocks(places), "training": training}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    names = {page: re.findall(r"<!-- results:(\S+) -->", page.read_text()) for page in pages}
    # Every record has one page, and no page a table of another kind.
    assert sorted(itertools.chain(*names.values())) == sorted(shown)
    for page, own in names.items():
        assert check_readme(page, {name: shown[name] for name in own}) == []


def test_slow_tests_are_tests():
    """A renamed test does not stay on the list under its old name."""
    lines = (ROOT / "tests" / "slow.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert lines == sorted(set(lines))
    for path, name in (line.split("::") for line in lines):
        assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8"), (path, name)


def test_slow_tests_are_written_down(tmp_path, monkeypatch):
    path = tmp_path / "slow.txt"
    path.write_text("# old\na.py::test_fast_now\na.py::test_not_run\n", encoding="utf-8")
    monkeypatch.setattr(conftest, "_SLOW", path)
    monkeypatch.setattr(conftest, "_seconds", collections.Counter())
    for name, seconds in (("fast_now", 0.1), ("many[1]", 0.8), ("many[2]", 0.8), ("quick", 0.2)):
        conftest.pytest_runtest_logreport(
            types.SimpleNamespace(
                nodeid=f"a.py::test_{name}", when="call", user_properties=[("seconds", seconds)]
            )
        )

    def finish(**config):
        option = types.SimpleNamespace(write_slow=True)
        config = types.SimpleNamespace(option=option, **config)
        conftest.pytest_sessionfinish(types.SimpleNamespace(config=config))
        return path.read_text(encoding="utf-8").splitlines()[1:]

    assert finish(workerinput={}) == ["a.py::test_fast_now", "a.py::test_not_run"]
    assert finish() == ["a.py::test_many", "a.py::test_not_run"]


@pytest.mark.parametrize("program", ["eval", "train"])
def test_programs_import_the_library_and_never_each_other(program):
    paths = sorted((ROOT / program).rglob("*.py"))
    assert len(paths) > 10
    other = {"eval", "train"} - {program} | {"tests"}
    for path in paths:
        assert not other & {module.split(".")[0] for module in _imports(path)}, path


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    missing = [
        link
        for link in links
        if "://" not in link and link[0] != "#" and not (ROOT / link).exists()
    ]
    assert not missing, f"{name} links to {missing}"


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == rainjax.__version__
