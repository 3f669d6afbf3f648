"""Docstrings: their examples run and print what they say, and long calls name every argument."""

import ast
import doctest
import importlib
import pathlib
import re

import pytest

import rainjax

pytestmark = pytest.mark.usefixtures("quick_compilation")

PACKAGE = pathlib.Path(rainjax.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _modules() -> list[str]:
    """Returns the modules whose text holds an example."""
    return sorted(
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize("name", _modules())
def test_examples_print_what_they_say(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an example may write files
    module = importlib.import_module(name)
    found = [test for test in doctest.DocTestFinder().find(module, name) if test.examples]
    assert found, f"{name} has >>> somewhere, and no docstring of it is found"
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    said: list[str] = []
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


MOST = 5  # arguments that a docstring may leave to their names


def _long_calls() -> list[tuple[str, ast.FunctionDef]]:
    """Returns the functions of public modules, and methods, with more arguments."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name.startswith("_") and path.name != "__init__.py":
            continue
        module = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
        for node in [*module.body, *(method for kind in classes for method in kind.body)]:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            if len(_arguments(node)) > MOST:
                found.append((str(path.relative_to(PACKAGE)), node))
    return found


def _arguments(function: ast.FunctionDef) -> list[str]:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def test_long_calls_name_every_argument():
    calls = _long_calls()
    assert len(calls) > 20
    wrong = {}
    for path, function in calls:
        _, _, listed = (ast.get_docstring(function) or "").partition("Args:\n")
        said = re.findall(r"^    (\w+): ", listed.partition("\n\n")[0], flags=re.MULTILINE)
        if said != _arguments(function):
            wrong[f"{path}: {function.name}"] = said
    assert not wrong
