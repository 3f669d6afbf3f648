"""What records are keyed by: values with their code, parameters by content."""

import dataclasses
import enum
import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.interpolate
import scipy.sparse
from flax import nnx
from jax.experimental.sparse import BCOO

from rainjax.attacks import EOT, PGD, Square
from rainjax.defenses import Defense, Identity
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.describe import content_digest, describe, describe_attack
from rainjax.evaluation.knowledge import Knowledge
from rainjax.gradients import straight_through

SOURCE = '''
"""A module of somebody's own."""
import dataclasses
from rainjax.defenses import Defense

@dataclasses.dataclass(frozen=True)
class Mine(Defense):
    """Leaves an image as it is."""
    strength: float = {strength}

    def apply(self, params, key, image):
        return {body}
'''


def module(tmp_path, name, body="image", strength=1.0, comment=""):
    """Returns the class of a file of somebody's own."""
    path = tmp_path / f"{name}.py"
    path.write_text(SOURCE.format(body=body, strength=strength) + comment)
    made = types.ModuleType(name)
    made.__file__ = str(path)
    sys.modules[name] = made
    exec(compile(path.read_text(), str(path), "exec"), made.__dict__)
    return made.Mine


def test_a_value_is_its_class_and_its_fields():
    described = describe(PGD(radius=4 / 255, eot=EOT(8, chunk_size=2)))
    assert described["class"] == "PGD"
    assert described["radius"] == 4 / 255
    assert described["eot"]["class"] == "EOT"
    assert described["eot"]["chunk_size"] == 2
    assert describe(PGD(radius=4 / 255)) != describe(PGD(radius=2 / 255))
    assert describe([1, (2.0, "a"), None, True]) == [1, [2.0, "a"], None, True]
    assert describe(Knowledge.KEYS) == "KEYS"
    assert describe(np.float32(0.5)) == 0.5


@pytest.mark.parametrize(
    "attack", [PGD(eot=EOT(8, chunk_size=2)), Square(), AutoAttack(), AutoAttack(eot=EOT(4))]
)
def test_memory_does_not_decide_an_attack(attack):
    described = describe_attack(attack)
    assert "chunk_size" not in str(described)
    assert described["class"] == type(attack).__name__
    more = dataclasses.replace(attack, eot=EOT(8, chunk_size=4))
    less = dataclasses.replace(attack, eot=EOT(8, chunk_size=1))
    assert (
        describe_attack(more)
        == describe_attack(less)
        != describe_attack(dataclasses.replace(attack, eot=EOT(9)))
    )
    assert describe_attack(None) is None


def test_two_classes_of_one_name_are_two(tmp_path):
    first = describe(module(tmp_path, "somebody")())
    other = describe(module(tmp_path, "somebody_else")())
    assert first["class"] == "somebody.Mine"
    assert other["class"] == "somebody_else.Mine"
    assert "source" not in describe(Identity())


def test_other_code_is_another_value_and_a_comment_is_not(tmp_path):
    first = describe(module(tmp_path, "changed")())
    assert describe(module(tmp_path, "changed", comment="# nothing\n")()) == first
    other = describe(module(tmp_path, "changed", body="1 - image")())
    assert other["source"] != first["source"]
    assert {**other, "source": None} == {**first, "source": None}


def test_what_a_class_inherits_decides_it_as_well(tmp_path):
    def derived(base):
        return describe(dataclasses.dataclass(frozen=True)(type("Derived", (base,), {}))())

    first = derived(module(tmp_path, "base"))
    assert derived(module(tmp_path, "base")) == first
    assert derived(module(tmp_path, "base", body="1 - image")) != first


HELPER = """
LEVELS = {levels}
UNUSED = {unused}

def soften(image):
    return image * LEVELS
"""


@pytest.mark.parametrize(
    ("imports", "call"),
    [
        ("from helper import soften", "soften(image)"),
        ("import helper", "helper.soften(image)"),
        ("from helper import soften as s", "within(image)\n\ndef within(x):\n    return s(x)"),
        ("", "within(image)\n\ndef within(x):\n    import helper\n    return helper.soften(x)"),
    ],
)  # fmt: skip
def test_code_of_other_files_decides_what_reaches_it(tmp_path, monkeypatch, imports, call):
    """Whether a name of another module is reached directly, through the module or at a call."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def described(levels=4, unused=0, more=""):
        (tmp_path / "helper.py").write_text(HELPER.format(levels=levels, unused=unused))
        source = SOURCE.format(body=call, strength=1.0).replace("import dataclasses", "{}\n{}")
        (tmp_path / "describes.py").write_text(source.format("import dataclasses", imports) + more)
        for name in ("helper", "describes"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        try:
            return describe(importlib.import_module("describes").Mine())
        finally:
            for name in ("helper", "describes"):
                sys.modules.pop(name, None)

    first = described()
    assert described(more="\n\ndef study():\n    return 1\n") == first
    assert described(levels=256) != first
    if "    import" not in call:  # which counts the file as a whole
        assert described(unused=1) == first


def test_globals_and_what_a_class_body_says_decide_it():
    def made(level=4, attribute=2, gradient=lambda x: x):
        @dataclasses.dataclass(frozen=True)
        class Mine(Defense):
            levels = attribute

            def apply(self, params, key, image):
                return gradient(image) * level

        return describe(Mine())

    first = made()
    assert made() == first
    assert made(level=256) != first
    assert made(attribute=3) != first
    assert made(gradient=lambda x: -x) != first

    names = {"levels": 4, "weights": np.zeros(3)}
    exec("def soften(image):\n    return image * levels + weights", names)
    before = describe(names["soften"])
    names["weights"] = np.ones(3)
    assert describe(names["soften"]) != before


def test_swapped_functions_are_not_the_same():
    plus, minus = (eval(f"lambda x: {sign}x") for sign in "+-")

    def made(first, second):
        return lambda x: first(second(x))

    assert describe(made(plus, minus)) != describe(made(minus, plus))


def test_compiled_and_decorated_functions_are_the_functions_inside():
    def made(sign):
        return lambda x: sign * x

    assert describe(jax.jit(made(1))) == describe(jax.jit(made(1))) != describe(jax.jit(made(-1)))
    assert describe(jax.vmap(jnp.sum, 0)) != describe(jax.vmap(jnp.sum, 1))
    assert describe(jax.grad(made(1))) != describe(made(1))
    assert describe(jax.nn.relu) != describe(jax.nn.relu6)
    assert "relu" in str(describe(jax.nn.relu))
    assert describe(jnp.tanh) != describe(jnp.sinh)

    def with_gradient(scale):
        @jax.custom_vjp
        def function(x):
            return x

        function.defvjp(lambda x: (x, None), lambda _, g: (g * scale,))
        return function

    assert describe(with_gradient(1)) == describe(with_gradient(1))
    assert describe(with_gradient(1)) != describe(with_gradient(0))


def levels(number):
    def decorate(function):
        @functools.wraps(function)
        def rounded(image):
            return jnp.round(function(image) * number) / number

        return rounded

    return decorate


def test_decorators_and_factories_of_anybody_count():
    def made(number, factory):
        chosen = factory(number)
        return lambda image: chosen(image)

    factories = [
        lambda n: levels(n)(abs),
        lambda n: straight_through(lambda x: jnp.round(x * n) / n),
        lambda n: functools.partial(max, n),
        lambda n: optax.cosine_decay_schedule(1.0, n),
        lambda n: re.compile("a" * 300 + "b" * n),
        lambda n: scipy.sparse.csr_matrix(np.eye(3) * n),
        lambda n: scipy.interpolate.interp1d([0, 1], [0, n]),
        lambda n: BCOO.fromdense(n * jnp.eye(2)),
        lambda n: np.ma.masked_array([1, 2], [False, n == 2]),
    ]
    for factory in factories:
        assert describe(made(2, factory)) == describe(made(2, factory))
        assert describe(made(2, factory)) != describe(made(3, factory))


def test_kinds_of_ones_own_are_more_than_what_they_add_to():
    def made(number):
        class Mode(enum.Enum):
            LIGHT = number

        class Pair(typing.NamedTuple):
            first: int = 1

            def total(self):
                return self.first + number

        class Text(str):
            def much(self):
                return self * number

        class Times:
            __call__ = functools.partialmethod(lambda self, n, x: n * x, number)

        return Mode.LIGHT, Pair(), Text("a"), Times()

    for first, again, other in zip(made(1), made(1), made(2), strict=True):
        assert describe(first) == describe(again) != describe(other)


def test_shared_parts_are_looked_at_once():
    shared = Holder(1)
    for _ in range(40):
        shared = Holder((shared, shared))
    assert describe(shared) == describe(shared)


def test_memory_is_only_that_of_draws():
    @dataclasses.dataclass(frozen=True)
    class Patches:
        chunk_size: int

    assert describe_attack(Patches(2)) != describe_attack(Patches(3))


def test_functions_that_refer_to_themselves_come_to_an_end():
    def outer():
        def twice(x, times=2):
            return x if not times else twice(2 * x, times - 1)

        return twice

    assert describe(outer()) == describe(outer())


class Holder:
    """No dataclass, and no repr that says what it holds."""

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return "Holder"


def test_objects_are_told_apart_by_what_they_hold():
    assert describe(Holder(1)) == describe(Holder(1)) != describe(Holder(2))
    assert describe(Holder(np.zeros(2000))) != describe(Holder(np.zeros(2000) + 1))
    itself = Holder(None)
    itself.held = itself
    assert describe(itself) == describe(itself)
    assert describe({"b", "a"}) == ["a", "b"]


def test_modules_with_parameters_are_handed_over_otherwise():
    layer = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

    def classify(_, image):
        return layer(image)

    with pytest.raises(ValueError, match=r"layer of the function .*classify: .*nets\.from_flax"):
        describe(classify)


def test_a_file_that_is_called_like_a_standard_module_is_somebodys(tmp_path):
    (tmp_path / "profile.py").write_text(SOURCE.format(body="image", strength=1.0))
    program = (
        "import json, profile\n"
        "from rainjax.evaluation.describe import describe\n"
        "print(json.dumps(describe([profile.Mine(), json.dumps])))"
    )
    mine, standard = json.loads(run(program, tmp_path))
    assert mine["class"] == "profile.Mine"
    assert "source" in mine
    assert "source" not in standard


def run(program, folder, seed="1"):
    """Returns what a process of its own prints, with the folder's modules at hand."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True,
        env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": _here(), "JAX_PLATFORMS": "cpu",
             "PYTHONDONTWRITEBYTECODE": "1"},
    ).stdout  # fmt: skip


def test_classes_from_a_notebook_have_code_of_their_own():
    """Without a file there is still what was compiled."""

    def made(body):
        names = {"Defense": Defense, "dataclasses": dataclasses, "__name__": "__main__"}
        source = (
            "@dataclasses.dataclass(frozen=True)\nclass Mine(Defense):\n"
            f"    def apply(self, params, key, image):\n        return {body}\n"
        )
        exec(compile(source, "<cell>", "exec"), names)
        kind = names["Mine"]
        kind.__module__ = "a_notebook_that_is_no_file"
        return describe(kind())

    assert made("image") == made("image")
    assert made("image") != made("1 - image")


def test_functions_are_told_apart_by_what_they_close_over():
    def make(offset):
        return lambda image: image + offset

    assert describe(make(1)) == describe(make(1))
    assert describe(make(1)) != describe(make(2))
    assert describe(make(jnp.ones(2))) != describe(make(jnp.zeros(2)))
    assert describe(functools.partial(make(1), 3)) != describe(functools.partial(make(1), 4))


def test_what_has_no_content_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Holds:
        thing: object

    with pytest.raises(ValueError, match=r"no content that a record could name: make its class"):
        describe(Holds(object()))

    class Named:
        def content_digest(self):
            return "abc"

    assert describe(Holds(Named()))["thing"]["content"] == "abc"


def test_parameters_are_told_apart_by_every_byte():
    params = {"a": jnp.arange(3.0), "b": (np.ones((2, 2), np.float32),)}
    digest = content_digest(params)
    assert digest == content_digest(jax.tree.map(np.asarray, params))
    others = [
        {"a": jnp.arange(3.0).at[1].set(1.0000001), "b": params["b"]},
        {"c": params["a"], "b": params["b"]},
        {"a": params["a"].reshape(3, 1), "b": params["b"]},
        {"a": params["a"].astype(jnp.float16), "b": params["b"]},
        {"a": params["a"], "b": (params["b"][0], params["b"][0])},
    ]
    assert len({digest, *map(content_digest, others)}) == 6
    assert content_digest(()) != digest
    assert content_digest({"key": jax.random.key(1)}) != content_digest({"key": jax.random.key(2)})


def test_another_process_says_the_same(tmp_path):
    """No address and no hash that is salted anew gets into a description."""
    path = tmp_path / "theirs.py"
    path.write_text(SOURCE.format(body="image", strength=2.0))
    program = (
        "import json, theirs\n"
        "from rainjax.evaluation.describe import describe\n"
        "print(json.dumps(describe([theirs.Mine(), theirs.Mine.apply, len])))"
    )
    found = {run(program, tmp_path, seed) for seed in ("1", "2")}
    assert len(found) == 1
    assert "theirs.Mine" in found.pop()


def _here():
    return str(pathlib.Path(__file__).parents[2])
