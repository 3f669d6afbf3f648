"""Networks of somebody's own beside a card: saved, loaded with the network given, or refused."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rainjax import Defended, Identity, nets, zoo
from rainjax.zoo.__main__ import table
from tests.saved_networks import CARD
from tests.tiny import EDSR_TINY, RESNET_TINY, Linear, edsr_params, unchecked

IMAGE = jnp.asarray(np.random.default_rng(0).random((4, 4, 3)), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Mine(nets.FlaxNetwork):
    """A linear layer, with a field that changes no shape and one that is no plain JSON."""

    num_classes: int = 10
    temperature: float = 1.0
    scales: tuple[float, ...] = (1.0, 2.0)
    activation: object = jnp.tanh

    def build(self, rngs):
        class Module(nnx.Module):
            def __init__(self, temperature, activation):
                self.layers = nnx.List([nnx.Linear(48, 10, rngs=rngs)])
                self.temperature, self.activation = temperature, activation

            def __call__(self, images):
                features = self.layers[0](images.reshape(len(images), -1))
                return self.activation(features) / self.temperature

        return Module(self.temperature, self.activation)


@pytest.fixture
def params():
    return Mine().init(jax.random.key(0))


@pytest.fixture
def path(tmp_path, params):
    return zoo.save(tmp_path, "mine", Mine(), params, CARD)


def test_a_network_of_ones_own_comes_back_bit_for_bit(path, params):
    entry = zoo.load(path, network=Mine())
    assert entry.network == Mine()
    assert jax.tree.structure(entry.params) == jax.tree.structure(params)
    assert all(map(np.array_equal, jax.tree.leaves(entry.params), jax.tree.leaves(params)))
    pipeline = Defended(Identity(), entry.network)
    logits = pipeline.logits({"defense": (), "classifier": entry.params}, jax.random.key(0), IMAGE)
    kernel, bias = (np.asarray(params["layers"][0][name], float) for name in ("kernel", "bias"))
    np.testing.assert_allclose(
        logits, np.tanh(np.asarray(IMAGE, float).ravel() @ kernel + bias), rtol=1e-4, atol=1e-5
    )


def test_the_card_names_the_class_and_what_fields_it_can(path):
    architecture = json.loads(path.with_suffix(".json").read_text())["architecture"]
    assert architecture == {
        "class": f"{__name__}.Mine",
        "fields": {"num_classes": 10, "temperature": 1.0, "scales": [1.0, 2.0]},
    }
    assert f" {nets.num_params(Mine().shapes())} " in table(path.parent).splitlines()[-1]


IMPORTS = """
import sys
from rainjax import zoo
try:
    zoo.load(sys.argv[1])
except ValueError as error:
    print(error)
print([name for name in sys.modules if name == "innocent"])
"""


def test_a_file_never_decides_what_code_is_imported(path, tmp_path):
    (tmp_path / "innocent.py").write_text("raise SystemExit('this ran')\n")
    card = json.loads(path.with_suffix(".json").read_text())
    card["architecture"]["class"] = "innocent.Network"
    path.with_suffix(".json").write_text(json.dumps(card))
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(path)],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{zoo.__path__[0]}/../.."},
    )  # fmt: skip
    said, modules = done.stdout.strip().splitlines()
    assert "names the network class 'innocent.Network'; known are BlindSpot, EDSR" in said
    assert said.endswith("is given as a value: zoo.load(path, network=Network(...)).")
    assert modules == "[]"


def test_a_class_that_is_called_like_a_known_one_is_not_taken_for_it(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class EDSR(type(EDSR_TINY)):
        """Not the EDSR that everybody knows."""

    network = EDSR(num_blocks=1, num_features=4)
    path = zoo.save(tmp_path, "net", network, edsr_params(), CARD)
    with pytest.raises(
        ValueError, match=r"known are BlindSpot, EDSR.*and any other is given as a value"
    ):
        zoo.load(path)
    assert type(zoo.load(path, network=network).network) is EDSR


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Linear(48, 10), r"no place for array|array 'kernel' of shape \(48, 10\) is missing"),
        (RESNET_TINY, "array '.*' of shape .* is missing"),
        (Mine(temperature=2.0), r"says temperature=1.0, and network= has temperature=2.0: give"),
        (Mine(scales=(1.0,)), r"says scales=\(1.0, 2.0\), and network= has scales=\(1.0,\)"),
    ],
)
def test_another_network_is_refused_by_its_first_difference(path, network, message):
    with pytest.raises(ValueError, match=message):
        zoo.load(path, network=network)


def test_shapes_are_compared_with_the_file(tmp_path):
    params = Linear(48, 10).init(jax.random.key(0))
    path = zoo.save(tmp_path, "linear", Linear(48, 10), params, CARD)
    message = r"array 'kernel' has shape \(48, 10\), the network needs \(48, 9\)"
    with pytest.raises(ValueError, match=message):
        zoo.load(path, network=Linear(48, 9))

    @dataclasses.dataclass(frozen=True)
    class Other(Linear):
        """The same shapes, and another network."""

    with pytest.raises(ValueError, match=r"'tests\.tiny\.Linear', and network= is a .*Other'"):
        zoo.load(path, network=Other(48, 10))


def test_a_known_network_may_be_given_and_must_be_the_cards(tmp_path):
    path = zoo.save(tmp_path, "edsr", EDSR_TINY, edsr_params(), CARD)
    assert zoo.load(path, network=EDSR_TINY).network == EDSR_TINY
    other = dataclasses.replace(EDSR_TINY, value_range=1.0)
    with pytest.raises(ValueError, match=r"says value_range=.*, and network= has value_range=1.0"):
        zoo.load(path, network=other)


def _nnx_model():
    return nets.from_flax(Mine().build(nnx.Rngs(0)))


def _linen_model():
    class Module(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(3)(images.reshape(len(images), -1))

    return nets.from_linen(Module(), Module().init(jax.random.key(0), IMAGE[None]))


def _function_model():
    kernel = jax.random.normal(jax.random.key(0), (48, 3))
    return nets.from_function(lambda params, image: image.ravel() @ params[0], (kernel,))


@pytest.mark.parametrize("make", [_nnx_model, _linen_model, _function_model])
def test_a_model_stands_for_its_network(tmp_path, make):
    model = make()
    path = zoo.save(tmp_path, "model", model.network, model.params, CARD)
    blank = dataclasses.replace(model, params=jax.tree.map(jnp.zeros_like, model.params))
    entry = zoo.load(path, network=blank)
    assert entry.network == model.network
    assert jax.tree.structure(entry.params) == jax.tree.structure(model.params)
    np.testing.assert_array_equal(
        entry.network.apply(entry.params, IMAGE), model.network.apply(model.params, IMAGE)
    )


def test_what_is_no_network_is_refused(path, params, tmp_path):
    wrong: Callable[[Any], Any] = lambda given: given  # so that pyright lets it pass
    with unchecked():
        with pytest.raises(
            ValueError, match=r"takes a Network, not the class Mine.*Mine\(\.\.\.\)"
        ):
            zoo.load(path, network=wrong(Mine))
        with pytest.raises(
            ValueError, match=r"zoo\.save\(network=\.\.\.\) takes a Network, not the function"
        ):
            zoo.save(tmp_path / "new", "x", wrong(lambda image: image), params, CARD)
    nothing = nets.from_function(lambda params, image: image[0])
    with pytest.raises(ValueError, match="nothing to save as 'x': its network has no parameters"):
        zoo.save(tmp_path / "new", "x", nothing.network, nothing.params, CARD)
    assert not (tmp_path / "new").exists()


def test_verify_looks_at_all_but_a_network_that_it_was_not_given(path):
    (verdict,) = zoo.verify(path.parent)
    assert verdict.is_well
    assert verdict.well == ("card", "sha256", "file", "dtype", "values")
    assert str(verdict).endswith("zoo.verify(path, network=Mine(...)) checks the shapes as well")
    (verdict,) = zoo.verify(path, network=Mine())
    assert verdict.is_well
    assert verdict.well == ("card", "network", "sha256", "file", "dtype", "shapes", "values")
    (verdict,) = zoo.verify(path, network=Mine(temperature=2.0))
    assert "says temperature=1.0" in verdict.wrong["network"]
    zoo.save(path.parent, "edsr", EDSR_TINY, edsr_params(), CARD)
    with pytest.raises(ValueError, match="holds 2 entries, and network= is that of one"):
        zoo.verify(path.parent, network=Mine())
