"""What docs/coming-from.md says is the same here: each row's right side runs.

Their side is run by tests/adapters/test_equivalents.py, where the libraries are installed.
"""

import ast

import pytest

from rainjax import AutoAttack, Defended, Defense
from rainjax.attacks import Attack
from rainjax.evaluation import Study, ThreatModel
from rainjax.evaluation.study import cells
from tests import equivalents

ROWS = equivalents.equivalents()


@pytest.fixture(scope="module")
def names():
    return equivalents.names()


def test_every_peer_has_its_rows():
    peers = [row.peer for row in ROWS]
    assert len(ROWS) >= 40
    assert set(peers) == {
        "torchattacks", "Foolbox", "Adversarial Robustness Toolbox (ART)", "AutoAttack",
        "RobustBench",
    }  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_ours_runs(row, names, quick_compilation):
    ast.parse(row.theirs)
    found = eval(row.ours, names)
    if isinstance(found, Attack):
        assert _shared(row) <= _numbers(found)
    elif isinstance(found, Study):
        assert len(list(cells(found))) == 2
    else:
        kinds = Defense, Defended, AutoAttack, ThreatModel, tuple
        assert isinstance(found, kinds) or 0 <= float(found) <= 1


def _shared(row) -> set[float]:
    """Returns the numbers that both sides of a row name, as our side writes them."""
    ours = {_value(node) for node in ast.walk(ast.parse(row.ours)) if _is_number(node)}
    theirs = {_value(node) for node in ast.walk(ast.parse(row.theirs)) if _is_number(node)}
    return ours & theirs


def _is_number(node) -> bool:
    fraction = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    return fraction or (isinstance(node, ast.Constant) and isinstance(node.value, float))


def _value(node) -> float:
    return float(eval(ast.unparse(node)))


def _numbers(attack) -> set[float]:
    return {float(v) for v in vars(attack).values() if isinstance(v, int | float)}
