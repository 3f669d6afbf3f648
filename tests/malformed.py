"""How bad input is to be refused, for the tests that try it: in one sentence."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import PGD
from rainjax.defenses import Identity
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from tests.small_studies import KERNEL, SMALL
from tests.tiny import Linear

TARGET = Defended(Identity(), Linear(108, 10))
PARAMS = {"defense": (), "classifier": {"kernel": KERNEL}}
IMAGES = (SMALL / 255).astype(np.float32)
KEYS = example_keys(0, Purpose.ATTACK, np.arange(16))
ONE_STEP = PGD(num_steps=1)
KEY = jax.random.key(0)
IMAGE = jnp.asarray(IMAGES[0])
NAN = float("nan")


def cases(**tables):
    """Returns the parameters of a test: a call of each table, and a word that its error holds."""
    return pytest.mark.parametrize(
        ("call", "phrase"),
        [
            pytest.param(call, phrase, id=f"{name}-{number}-{phrase}")
            for name, table in tables.items()
            for number, (call, phrase) in enumerate(table)
        ],
    )


def sentence_of(call):
    """Returns what a call says when it refuses its input; fails where it says it badly."""
    with pytest.raises((SystemExit, ValueError, TypeError, FileNotFoundError)) as caught:
        call()
    error = caught.value
    assert not isinstance(error, UnicodeError | json.JSONDecodeError)
    sentence = error.code if isinstance(error, SystemExit) else str(error)
    check_sentence(sentence)
    return sentence


def check_sentence(sentence):
    assert isinstance(sentence, str)
    assert sentence
    assert "\n" not in sentence
    assert len(sentence) < 400, sentence
    for raw in (" object at 0x", "has no attribute", "Tracer", "Errno", "positional argument"):
        assert raw not in sentence, sentence
