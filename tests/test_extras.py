"""`import rainjax` and an attack need the hard dependencies alone; what is missing is named."""

import ast
import functools
import importlib
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import rainjax.checkpoints  # noqa: F401 (a test takes it away)
import train
from rainjax import data
from rainjax._extras import require
from rainjax.data.importing import import_pictures
from train.run import main

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIBRARY = sorted((ROOT / "rainjax").rglob("*.py"))

# What the extras bring, by the name under which it is imported.
EXTRA = (
    "array_record", "art", "azure", "beartype", "boto3", "chex", "clarifai_grpc", "foolbox",
    "google.cloud", "grain", "huggingface_hub", "importlib_resources", "jinja2", "markupsafe",
    "matplotlib", "orbax", "pytest", "tenacity", "tensorboardX", "tensorflow",
    "tensorflow_datasets", "torch",
)  # fmt: skip

ATTACK = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if any(f"{name}.".startswith(f"{absent}.") for absent in sys.argv[1:]):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
for name in sys.argv[1:]:
    try:
        __import__(name)
        sys.exit(f"the hook lets {name} through")
    except ModuleNotFoundError:
        pass

import jax, jax.numpy as jnp, numpy as np
import rainjax, rainjax.adapters, rainjax.report
from rainjax.__main__ import main

entry = rainjax.zoo.load("builtin_resnet")
target = rainjax.Defended(rainjax.defenses.GaussianNoise(0.01), entry.network)
params = {"defense": (), "classifier": entry.params}
images, labels = rainjax.data.load("builtin", "test").get(np.arange(2))
attack = rainjax.PGD(radius=8 / 255, num_steps=2, eot=rainjax.EOT(2))
keys = rainjax.example_keys(0, rainjax.Purpose.ATTACK, jnp.arange(2))
found = rainjax.run_attack(
    target, attack, params, keys, jnp.asarray(images, jnp.float32) / 255, jnp.asarray(labels)
)
moved = np.abs(np.asarray(found) - images / 255)
assert 0 < moved.max() <= 8 / 255 + 1e-6, moved.max()
assert not [name for name in sys.argv[1:] if name in sys.modules]
print("attacked")
"""


def test_import_and_attack_need_no_extra():
    done = subprocess.run(
        [sys.executable, "-c", ATTACK, *EXTRA],
        cwd=ROOT,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},  # it runs once
        capture_output=True,
        text=True,
    )
    assert done.stdout == "attacked\n", done.stderr


def _declared(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[>=<~!; ]", line)[0].lower() for line in requirements}


def _brought_by(module: str) -> set[str]:
    """Returns the distributions of a module that is installed; else, those called like it."""
    top = module.split(".")[0]
    found = _distributions().get(top, [top])
    return {name.lower().replace("_", "-") for name in found}


@functools.cache
def _distributions():
    return importlib.metadata.packages_distributions()


def _third_party(nodes) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    return names - sys.stdlib_module_names - {"rainjax"}


def _required(nodes):
    """Yields the extra of each call of `require`, or of one made partial, and its module."""
    for node in nodes:
        if isinstance(node, ast.Call):
            first, *others = [node.func, *node.args]
            if isinstance(first, ast.Attribute) and first.attr == "partial":
                first, *others = others
            if isinstance(first, ast.Name) and first.id == "require":
                module = next((a.value for a in others if isinstance(a, ast.Constant)), None)
                extra = {word.arg: word.value for word in node.keywords}["extra"]
                yield module, extra.value


def test_hard_dependencies_are_what_modules_import_at_once():
    imported = set()
    for path in LIBRARY:
        imported |= _third_party(ast.parse(path.read_text(encoding="utf-8")).body)
    hard = _declared(PROJECT["dependencies"])
    assert len(imported) == len(hard)
    for module in imported:
        assert _brought_by(module) & hard, module


def test_everything_imported_later_is_in_its_extra():
    extras = {name: _declared(lines) for name, lines in PROJECT["optional-dependencies"].items()}
    every = set().union(_declared(PROJECT["dependencies"]), *extras.values())
    found = set()
    for path in LIBRARY:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        for module in _third_party(nodes):
            assert _brought_by(module) & every, (path, module)
        for module, extra in _required(nodes):
            found.add(extra)
            assert extra in extras, (path, extra)
            assert module is None or _brought_by(module) & extras[extra], (path, module)
    assert {"data", "hub", "report", "train", "torch", "tensorflow", "foolbox", "art"} <= found
    assert {"aws", "google", "azure", "clarifai", "services"} <= found


def test_the_libraries_of_the_project_stay_in_it():
    lines = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = "jax flax optax tensorflow-datasets chex orbax-checkpoint pytest"
    assert set(wanted.split()) <= set().union(*map(_declared, lines))


def test_a_package_that_misses_something_itself_says_so(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_thing'"):
        require("broken_package", name="Broken", extra="report")


def test_another_way_round_is_said():
    message = 'Nothing is not installed: pip install "rainjax[hub]", or do without.'
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        require("no_such_thing", name="Nothing", extra="hub", otherwise=", or do without")


def test_without_tfds_a_set_that_is_here_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    folder = tmp_path / "there" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    message = r'^tensorflow-datasets is not installed: pip install "rainjax\[data\]"\.$'
    with pytest.raises(ImportError, match=message):
        data.load("there", "test", data_dir=tmp_path)
    with pytest.raises(ImportError, match=message):
        data.describe("there", tmp_path)
    with pytest.raises(ValueError, match="no data set 'nowhere'"):  # nothing to install for that
        data.load("nowhere", "test", data_dir=tmp_path)


def test_without_tfds_an_import_reads_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "rainjax\[data\]"'):
        import_pictures({"test": tmp_path / "nowhere"}, "mine", tmp_path)


def test_without_orbax_checkpoints_name_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    monkeypatch.delitem(sys.modules, "rainjax.checkpoints")
    with pytest.raises(ImportError, match=r'^Orbax is not installed: pip install "rainjax\[train'):
        importlib.import_module("rainjax.checkpoints")


@pytest.mark.parametrize("module", ["grain", "matplotlib", "optax", "tensorboardX"])
def test_programs_that_train_name_their_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    name = "Optax" if module == "optax" else module
    with pytest.raises(ImportError, match=rf'^{name} is not installed: .* "rainjax\[train\]"\.$'):
        importlib.reload(train)


def test_a_program_says_in_one_sentence_what_is_missing(capsys):
    def program():
        require("no_such_thing", name="Nothing", extra="data")

    with pytest.raises(SystemExit, match=r'^error: Nothing is not installed: pip install "rainj'):
        main(program)
