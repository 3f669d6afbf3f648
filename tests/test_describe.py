"""What records are keyed by: values with their code, parameters by content."""

import dataclasses
import functools
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, PGD, Square
from rainjax.defenses import Defense, Identity
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.describe import content_digest, describe, describe_attack
from rainjax.evaluation.knowledge import Knowledge

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
    base = module(tmp_path, "base")

    @dataclasses.dataclass(frozen=True)
    class Derived(base):
        pass

    before = describe(Derived())
    path = tmp_path / "base.py"
    path.write_text(path.read_text().replace("return image", "return 1 - image"))
    assert describe(Derived())["source"] != before["source"]


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
    found = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
            check=True, env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": _here()},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert "theirs.Mine" in found.pop()


def _here():
    import pathlib

    return str(pathlib.Path(__file__).parents[1])
