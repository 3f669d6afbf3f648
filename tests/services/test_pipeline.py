"""A service as a pipeline: attacked by scores, refused by what needs a gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import PGD, Square
from rainjax.data import from_arrays
from rainjax.defenses import BitDepth, GaussianNoise
from rainjax.evaluation import CLEAN, Knowledge, Study, Subject, ThreatModel
from rainjax.evaluation.study import cells
from rainjax.services import AnswerCache, Labelled, Labeller, LocalServer, Rekognition
from tests.services.common import labeller, need, pointed_at

pytestmark = pytest.mark.usefixtures("quick_compilation")


def brightness(pixels):
    """Answers by the mean grey level alone, in words of its own."""
    bright = float(pixels.mean() / 255)
    return [("Automobile", bright), ("domestic dog", 1 - bright), ("Sky", 0.01)]


@pytest.fixture
def served(tmp_path):
    need("own")
    with LocalServer(brightness) as server:
        ask, _ = labeller(pointed_at("own", server), tmp_path)
        yield ask, server


def _image(level, side=8):
    return jnp.full((side, side, 3), level, jnp.float32)


def test_logits_are_logarithms_of_confidences(served):
    ask, _ = served
    pipeline = Labelled(ask, ("car", "dog", "fish"))
    logits = pipeline.logits((), jax.random.key(0), _image(51 / 255))
    np.testing.assert_allclose(logits, np.log([0.2, 0.8, 1e-4]), rtol=1e-5)
    assert not pipeline.differentiable
    assert not pipeline.is_random
    assert not pipeline.defended


def test_jit_and_vmap_ask_for_each_image_once(served):
    ask, server = served
    pipeline = Labelled(ask, ("car", "dog"))
    images = jnp.stack([_image(level / 255) for level in (0, 51, 204, 51)])
    keys = jax.random.split(jax.random.key(0), 4)
    logits = jax.jit(jax.vmap(pipeline.logits, (None, 0, 0)))((), keys, images)
    np.testing.assert_allclose(jnp.exp(logits[:, 0]), [1e-4, 0.2, 0.8, 0.2], rtol=1e-4)
    assert server.num_requests == 3


def test_a_defense_stands_before_it(served):
    ask, _ = served
    pipeline = Labelled(ask, ("car", "dog"), BitDepth(1))
    logits = pipeline.logits((), jax.random.key(0), _image(0.6))
    assert int(jnp.argmax(logits)) == 0
    np.testing.assert_allclose(float(logits[0]), math.log(1.0), atol=1e-6)
    assert pipeline.defended
    bare = pipeline.undefended()
    assert bare == Labelled(ask, ("car", "dog"))
    assert Labelled(ask, ("car", "dog"), GaussianNoise(0.1)).is_random


def test_square_fools_it_by_its_scores(served):
    """A closed form: the attacker has to bring the mean over one half."""
    ask, server = served
    pipeline = Labelled(ask, ("car", "dog"))
    image, label = _image(0.487), jnp.asarray(1)
    attack = Square(radius=0.1, num_queries=12, paired=False)
    logits_fn = lambda draw, x: pipeline.logits((), jax.random.key(0), x)
    attacked = attack(jax.random.key(1), logits_fn, image, label)
    assert float(jnp.abs(attacked - image).max()) <= 0.1 + 1e-6
    assert float(attacked.mean()) > 0.5
    assert server.num_requests <= 13


def test_who_needs_a_gradient_has_no_cell(served):
    ask, _ = served
    images = from_arrays(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]), name="black")
    threats = [
        CLEAN,
        ThreatModel("Square", Square(radius=0.1, num_queries=2), knowledge=Knowledge.SCORES),
        ThreatModel("PGD", PGD(radius=0.1, step_size=0.1, num_steps=1)),
    ]
    subject = Subject("service", Labelled(ask, ("car", "dog")), ())
    study = lambda which: Study("s", images, [subject], which, num_examples=2)
    assert {cell.threat.name for cell in cells(study(threats[:2]))} == {"clean", "Square"}
    assert len(cells(study(threats))) == 2


def test_what_costs_money_is_bounded(tmp_path):
    asked = Labeller(Rekognition(), AnswerCache(tmp_path))
    with pytest.raises(ValueError, match="give the Labeller max_requests"):
        Labelled(asked, ("car", "dog"))
    bounded = Labeller(Rekognition(), AnswerCache(tmp_path), max_requests=10)
    assert Labelled(bounded, ("car", "dog")).labeller.max_requests == 10


@pytest.mark.parametrize("words", [("car",), ("car", "automobile"), ()])
def test_a_vocabulary_tells_things_apart(words, served):
    with pytest.raises(ValueError, match="vocabulary"):
        Labelled(served[0], words)
