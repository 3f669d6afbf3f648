"""Directions made of the draws' gradients, and what was tried and did not join the library."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.test_util import check_grads

from eval.benchmarks import gains
from eval.benchmarks._gain_candidates import (
    MALT,
    Normalized,
    Selective,
    SignVotes,
    probability_margin,
)
from rainjax import data, zoo
from rainjax.attacks import APGD, EOT, PGD, Square
from rainjax.attacks.directions import Direction, JointDirection
from rainjax.defenses import RAIN, GaussianNoise, Identity
from rainjax.evaluation import run_attack
from rainjax.pipeline import Defended
from tests.attacks.test_eot import IMAGE, KERNEL, answer, one_by_one
from tests.tiny import EDSR_TINY, RESNET_TINY, Linear, edsr_params, resnet_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True)
class Cubed(Direction):
    """Counts draws by their losses, and large values more."""

    def of_draw(self, gradient, value):
        return value * gradient**3


@dataclasses.dataclass(frozen=True)
class Median(JointDirection):
    """The median over the draws, which no sum of them tells."""

    def of_all(self, gradients, values):
        return jnp.median(gradients, axis=0)


def losses_of(logits):
    return -np.log(scipy.special.softmax(np.float64(logits), -1))[:, 0]


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_a_direction_is_made_of_every_draw(chunk):
    logits, slopes = one_by_one(6)
    values = losses_of(logits)[:, None, None, None]
    found = answer(EOT(6, chunk_size=chunk, direction=Cubed()))
    np.testing.assert_allclose(found.gradient, (values * slopes**3).mean(0), rtol=2e-4, atol=1e-6)
    # A joint direction grows its draws from one outer draw: other draws of the same kind.
    inner_logits, inner = one_by_one(6, key=jax.random.fold_in(jax.random.key(4), 0))
    joint = answer(EOT(6, chunk_size=chunk, direction=Median()))
    np.testing.assert_allclose(joint.gradient, np.median(inner, 0), atol=1e-5)
    for told, own in ((found, logits), (joint, inner_logits)):  # all else are means, as they were
        np.testing.assert_allclose(told.value, losses_of(own).mean(), rtol=1e-5)
        np.testing.assert_allclose(told.logits, own.mean(0), atol=1e-5)


@pytest.mark.parametrize("direction", [Cubed(), Median()], ids=["of_draw", "of_all"])
def test_driven_from_the_host_it_is_the_same_attack(direction):
    target = Defended(GaussianNoise(0.1), Linear(IMAGE.size, 4))
    params = {"defense": (), "classifier": {"kernel": KERNEL}}
    attack = PGD(num_steps=3, eot=EOT(4, chunk_size=2, direction=direction))
    keys, labels = jax.random.split(jax.random.key(0), 2), jnp.array([0, 3])
    images = jnp.stack([IMAGE, IMAGE[::-1]])
    driven = run_attack(target, attack, params, keys, images, labels)
    logits_fn = lambda draw, x: target.logits_of_draw(params, draw, x)
    alone = jax.vmap(lambda k, x, y: attack(k, logits_fn, x, y))(keys, images, labels)
    np.testing.assert_allclose(driven, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EOT(4, average="logits", direction=Cubed()), "average='logits'"),
        (lambda: EOT(4, first=2, direction=Median()), "first=2"),
        (lambda: EOT(4, direction="sign"), "direction='sign'"),
        (
            lambda: Square(num_queries=2, eot=EOT(2, direction=Cubed()))(
                jax.random.key(0), lambda k, x: x.ravel()[:4], IMAGE, jnp.array(0)
            ),
            "has none",
        ),
    ],
    ids=["logits", "growing", "text", "no gradient"],
)
def test_what_has_no_direction_is_refused(make, words):
    with unchecked(), pytest.raises(ValueError, match=words):
        make()


def test_normalized_gradients_and_votes():
    _, slopes = one_by_one(6)
    unit = slopes / np.linalg.norm(slopes.reshape(6, -1), axis=1)[:, None, None, None]
    found = answer(EOT(6, direction=Normalized())).gradient
    np.testing.assert_allclose(found, unit.mean(0), atol=1e-6)
    votes = answer(EOT(6, direction=SignVotes())).gradient
    np.testing.assert_allclose(votes, np.sign(slopes).mean(0), atol=1e-6)


def test_draws_are_chosen_as_by_a_plain_loop():
    """The published steps, one draw after the other."""
    rng, radius = np.random.default_rng(0), 0.1
    slopes, values = rng.normal(size=(5, 2, 3, 3)), rng.normal(size=5)
    elu = lambda x: x if x > 0 else np.exp(x) - 1
    promised = []
    for own in slopes:
        after = [
            v + radius * np.sum(np.sign(own) * g) for v, g in zip(values, slopes, strict=True)
        ]
        promised.append(sum(map(elu, after)))
    direction = slopes[int(np.argmax(promised))]
    for _ in range(3):
        after = [
            v + radius * np.sum(np.sign(direction) * g)
            for v, g in zip(values, slopes, strict=True)
        ]
        weights = [scipy.special.expit(2.0 * a) for a in after]
        total = sum(w * g for w, g in zip(weights, slopes, strict=True))
        direction = total / sum(weights)
    chosen = Selective(radius, sharpness=2.0).of_all(
        jnp.asarray(slopes, jnp.float32), jnp.asarray(values, jnp.float32)
    )
    np.testing.assert_allclose(chosen, direction, rtol=1e-4, atol=1e-5)


def test_the_margin_of_probabilities_is_scipys():
    logits = jnp.asarray(np.random.default_rng(3).normal(size=7) * 3, jnp.float32)
    for label in (0, int(jnp.argmax(logits))):
        share = scipy.special.softmax(np.float64(logits))
        wrong = np.delete(share, label).max() - share[label]
        assert probability_margin(logits, jnp.array(label)) == pytest.approx(wrong, abs=1e-6)
        margin = functools.partial(probability_margin, label=jnp.array(label))
        check_grads(margin, (logits,), 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_malt_aims_at_the_classes_that_are_nearest(norm):
    """On a linear network, where the distance to every class is known."""
    kernel = np.random.default_rng(5).normal(size=(IMAGE.size, 8)) * np.linspace(3, 0.2, 8)
    kernel[:, 7] += 0.2  # flat and highest: that is the label
    logits, image = np.asarray(IMAGE).ravel() @ kernel, IMAGE
    label = int(np.argmax(logits))
    apart = kernel - kernel[:, [label]]
    size = np.abs(apart).sum(0) if norm == "linf" else np.linalg.norm(apart, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = np.where(np.arange(8) == label, np.inf, (logits[label] - logits) / size)
    attack = MALT(norm=norm, num_steps=2, num_targets=3, num_candidates=7)
    params = {"kernel": jnp.asarray(kernel, jnp.float32)}
    logits_fn = lambda key, x: Linear(IMAGE.size, 8).apply(params, x)
    run = attack.start(jax.random.key(0), image, jnp.array(label))
    step = jax.jit(lambda t, run: attack.step(jax.random.key(1), t, logits_fn, run))
    for call in range(8):
        np.testing.assert_array_equal(run.state.found, image)
        run = step(jnp.array(call), run)
    assert set(run.state.targets.tolist()) == set(np.argsort(distance)[:3].tolist())
    highest = set(np.argsort(np.where(np.arange(8) == label, -np.inf, logits))[-3:].tolist())
    assert set(run.state.targets.tolist()) != highest
    assert attack.num_gradients == 8 + 3 * 3
    assert APGD(num_steps=2, num_targets=3).num_gradients == 1 + 3 * 3
    found = attack(jax.random.key(0), logits_fn, image, jnp.array(label))
    assert np.abs(np.asarray(found) - np.asarray(image)).max() <= (8 / 255 + 1e-6)


BEHIND_RAIN = Defended(RAIN(EDSR_TINY, shift_fraction=0.0625), RESNET_TINY)
BARE = Defended(Identity(), RESNET_TINY)


def test_a_question_is_asked_at_one_price():
    parts = gains._parts(gains.Gains(), BEHIND_RAIN, BARE)
    assert len([part for part in parts if not part.name.startswith("queries")]) == 4
    for part in parts:
        assert len({attack.num_gradients for attack in part.attacks.values()}) == 1
        assert len(set(part.attacks.values())) == len(part.attacks) > 1


def test_the_program_records_what_it_measured(tmp_path, monkeypatch):
    """Two of the questions, asked of tiny networks."""
    images, labels = data.load("builtin", "test").get(np.arange(40))
    params = resnet_params(jnp.asarray(images, jnp.float32) / 255, jnp.asarray(labels))
    parts = gains._parts

    def two(*given):
        first, *_, last = (p for p in parts(*given) if not p.name.startswith("queries"))
        few = dict(list(first.attacks.items())[:1])
        return [dataclasses.replace(first, attacks=few), last]

    monkeypatch.setattr(gains, "_parts", two)
    entry = lambda network, params: zoo.Entry("tiny", network, params, {}, "")
    monkeypatch.setattr(gains.zoo, "load_any", lambda *_: entry(RESNET_TINY, params))
    monkeypatch.setattr(gains.zoo, "load", lambda *_: entry(EDSR_TINY, edsr_params()))
    options = gains.Gains(
        num_examples=3, num_steps=1, num_draws=2, num_score_draws=2, num_targets=1,
        num_candidates=2, out=tmp_path,
    )  # fmt: skip
    record = gains.RECORD.load(gains.run(options))
    assert [len(entry["correct_draws"]) for entry in record["entries"]] == [3] * 3
    for entry, radius in zip(record["entries"], (2, 0.5, 0.5), strict=True):
        assert 0 < entry["linf_max"] <= radius / 255 + 1e-6
    (table,) = gains.RECORD.tables(record)
    assert len(table.rows) == len(record["entries"])
    record["entries"][0]["correct_draws"].pop()
    (tmp_path / "gains.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="counts 2 images of 3"):
        gains.RECORD.load(tmp_path / "gains.json")


def test_what_is_no_part_of_the_library_gained_nothing():
    """What gains joins it: a candidate that the committed record calls a gain has to move."""
    path = pathlib.Path(__file__).parents[2] / "eval" / "records" / "gains.json"
    record = gains.RECORD.load(path)
    gained = [name for _, name in gains.gains(record)]
    assert all(name.endswith("in the library") for name in gained)
    assert len(record["entries"]) > len(gained)


def test_a_gain_is_paired_and_beyond_chance():
    entry = lambda counts: {"part": "p", "name": str(counts), "num_score_draws": 4,
                            "correct_draws": counts}  # fmt: skip
    first, worse, same = entry([4, 3, 2, 4] * 4), entry([3, 2, 1, 3] * 4), entry([0, 4, 4, 4] * 4)
    assert gains.difference(worse, first) == (-0.25, -0.25, -0.25)
    middle, low, high = gains.difference(same, first)
    apart = np.tile([-1, 0.25, 0.5, 0], 4)
    half = 1.96 * apart.std(ddof=1) / 4
    np.testing.assert_allclose((middle, low, high), (apart.mean() + np.array([0, -half, half])))
    shot = gains.difference(worse, first, every_draw=True)
    assert shot[0] == -0.5
    assert gains.gains({"entries": [first, worse, same]}) == [("p", worse["name"])]
