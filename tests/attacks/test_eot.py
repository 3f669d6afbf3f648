"""How an attack averages: kinds of draws, their number, and what is averaged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import gradients, transforms
from rainjax.attacks import EOT, PGD
from rainjax.attacks.queries import LabelAndTarget, LossAndGradient
from rainjax.defenses import RAIN, Chain, Identity, MeanFieldRAIN
from rainjax.defenses._base import apply_draw, stratifies
from rainjax.evaluation import run_attack
from rainjax.gradients import BPDA
from rainjax.keys import choice
from rainjax.pipeline import Defended
from rainjax.typing import Stratum
from tests.tiny import EDSR_TINY, Linear, Mask, Repeat, edsr_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(size=(6, 6, 3)), jnp.float32)
KEY = jax.random.key(4)
ABOUT = LabelAndTarget(jnp.array(0), jnp.array(0))
KERNEL = jnp.asarray(RNG.normal(size=(IMAGE.size, 4)), jnp.float32)


def masked(draw, image):
    return Linear(IMAGE.size, 4).apply({"kernel": KERNEL}, Mask().apply((), draw, image))


def answer(eot, call=0, num_calls=1, logits_fn=masked, loss="cross_entropy", key=KEY):
    mean = jax.jit(
        lambda key, call, image: eot.mean(
            LossAndGradient(loss), logits_fn, key, call, num_calls, image, ABOUT
        )
    )
    return mean(key, jnp.array(call), IMAGE)


def one_by_one(num, key=KEY):
    """The logits and the gradients of every draw, in a plain loop."""
    loss = lambda draw, x: -jax.nn.log_softmax(masked(draw, x))[0]
    draws = [jax.random.fold_in(key, i) for i in range(num)]
    logits = [np.asarray(masked(draw, IMAGE)) for draw in draws]
    slopes = [np.asarray(jax.grad(loss, argnums=1)(draw, IMAGE)) for draw in draws]
    return np.stack(logits), np.stack(slopes)


def test_answers_are_means_over_draws():
    logits, slopes = one_by_one(6)
    for chunk in (None, 1, 3):
        mean = answer(EOT(6, chunk_size=chunk))
        np.testing.assert_allclose(mean.gradient, slopes.mean(0), atol=1e-5)
        np.testing.assert_allclose(mean.logits, logits.mean(0), atol=1e-5)
        assert mean.success == pytest.approx((logits.argmax(1) != 0).mean())


@pytest.mark.parametrize("call", range(4))
def test_draws_grow_from_the_first_call_to_the_last(call):
    eot, expected = EOT(7, first=1), [1, 3, 5, 7]
    assert [eot.count(c, 4) for c in range(4)] == expected
    assert (eot.total(4), eot.total(4, 2)) == (16, 4)
    assert EOT(7).total(4) == 28
    _, slopes = one_by_one(expected[call])
    np.testing.assert_allclose(answer(eot, call, 4).gradient, slopes.mean(0), atol=1e-5)


def test_the_gradient_of_mean_logits_is_not_the_mean_gradient():
    """CE is convex in the logits, so its value at their mean is below its mean (Jensen)."""
    _, slopes = one_by_one(8)

    def loss(image):
        each = [masked(jax.random.fold_in(jax.random.fold_in(KEY, 0), i), image) for i in range(8)]
        return -jax.nn.log_softmax(jnp.stack(each).mean(0))[0]

    value, slope = jax.value_and_grad(loss)(IMAGE)
    for chunk in (None, 2):
        mean = answer(EOT(8, chunk_size=chunk, average="logits"))
        assert mean.value == pytest.approx(float(value), abs=1e-4)
        np.testing.assert_allclose(mean.gradient, slope, atol=1e-5)
    spread = np.abs(np.asarray(slope) - slopes.mean(0)).max()
    assert spread > 0.1 * np.abs(slopes).max()  # two objectives, not two ways to one
    means = answer(EOT(8, average="gradients"), key=jax.random.fold_in(KEY, 0))
    assert means.value > value + 0.1


def test_common_draws_stay_the_same_from_call_to_call():
    seen = []

    def spy(draw, image):
        jax.debug.callback(lambda d: seen.append(tuple(np.ravel(d))), jax.random.key_data(draw))
        return masked(draw, image)

    for common, distinct in ((True, 2), (False, 6)):
        seen.clear()
        attack = PGD(num_steps=3, eot=EOT(2, common=common))
        jax.block_until_ready(attack(KEY, spy, IMAGE, jnp.array(0)))
        jax.effects_barrier()
        assert (len(seen), len(set(seen))) == (6, distinct)


# -- Stratified draws ---------------------------------------------------------------------


def strata(num, key=KEY):
    return [Stratum(key, jnp.array(i)) for i in range(num)]


def test_four_stratified_picks_show_every_pixel_once():
    down = jax.jit(transforms.random_pixel_downsample)
    picks = np.stack([down(draw, IMAGE) for draw in strata(8)])
    average = np.asarray(transforms.average_downsample(IMAGE))
    cells = np.asarray(IMAGE).reshape(3, 2, 3, 2, 3).transpose(0, 2, 4, 1, 3).reshape(3, 3, 3, 4)
    for four in (picks[:4], picks[4:]):
        np.testing.assert_allclose(four.mean(0), average, atol=1e-6)
        np.testing.assert_array_equal(
            np.sort(four, axis=0), np.sort(cells, -1).transpose(3, 0, 1, 2)
        )
    assert (picks[:4] != picks[4:]).any()


def test_stratified_picks_are_uniform_and_independent_across_places():
    """Each draw by itself is a fair one: over keys every pick is as likely, pairs too."""
    place = jnp.arange(4.0).reshape(2, 2)[..., None]
    image = jnp.tile(place, (2, 1, 1))  # two cells
    down = lambda key: transforms.random_pixel_downsample(Stratum(key, jnp.array(6)), image)
    picks = np.asarray(jax.jit(jax.vmap(down))(jax.random.split(KEY, 4000)))
    picks = picks.reshape(4000, 2).astype(int)
    counts = np.histogram2d(picks[:, 0], picks[:, 1], bins=4)[0]
    assert counts.shape == (4, 4)
    expected = 4000 / 16
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-square, 15 degrees: 1e-4


def test_stratified_shifts_repeat_none_before_all_were_taken():
    image = jnp.arange(49.0).reshape(7, 7, 1)
    shift = jax.jit(lambda draw: transforms.random_circular_shift(draw, image, max_shift=1))
    corners = [float(shift(draw)[0, 0, 0]) for draw in strata(18)]
    assert len(set(corners[:9])) == len(set(corners[9:])) == 9
    assert corners[:9] != corners[9:]
    assert sorted(int(choice(draw, 5)) for draw in strata(5)) == [0, 1, 2, 3, 4]


def test_stratified_draws_lower_the_variance_and_keep_the_mean():
    """RAIN with a network that repeats pixels: every gradient is a scaled 0/1 mask."""
    rain = RAIN(Repeat(), shift_fraction=0.0)
    target = Defended(rain, Linear(IMAGE.size, 4))
    params = {"defense": (), "classifier": {"kernel": KERNEL}}
    logits_fn = lambda draw, x: target.logits_of_draw(params, draw, x)
    mean_field = lambda draw, x: target.classifier.apply(
        params["classifier"], rain.network.apply((), transforms.average_downsample(x))
    )
    exact = answer(EOT(1), logits_fn=mean_field, loss="logit").gradient
    error = {
        draws: np.abs(
            answer(EOT(4, draws=draws), logits_fn=logits_fn, loss="logit").gradient - exact
        ).max()
        for draws in ("independent", "stratified")
    }
    # A loss that is linear in the pick has no variance left, over any multiple of four draws.
    assert error["stratified"] < 1e-5
    assert error["independent"] > 0.1


def test_stratified_draws_pass_through_chains_and_bpda():
    params, chain = edsr_params(), Chain((Identity(), RAIN(EDSR_TINY, shift_fraction=0.34)))
    assert chain.stratifies
    assert BPDA(chain, Identity()).stratifies
    assert MeanFieldRAIN(chain.stages[1]).stratifies
    assert not stratifies(Mask())
    assert not Chain((Mask(), Identity())).stratifies
    assert stratifies(Identity())
    purify = jax.jit(chain.apply_stratum)
    images = [np.asarray(purify(((), params), draw, IMAGE)) for draw in strata(4)]
    assert len(np.unique(images, axis=0)) == 4


@pytest.mark.parametrize(
    "eot",
    [
        EOT(4, draws="stratified"),
        EOT(4, chunk_size=2, draws="stratified", common=True),
        EOT(6, first=2),
        EOT(4, chunk_size=2, average="logits"),
    ],
    ids=repr,
)
def test_every_kind_of_averaging_is_the_same_from_the_host(eot):
    target = Defended(RAIN(EDSR_TINY, shift_fraction=0.34), Linear(IMAGE.size, 4))
    params = {"defense": edsr_params(), "classifier": {"kernel": KERNEL}}
    attack, keys = PGD(num_steps=3, eot=eot), jax.random.split(KEY, 2)
    images, labels, ticks = jnp.stack([IMAGE, IMAGE[::-1]]), jnp.array([0, 3]), []
    logits_fn = lambda draw, x: target.logits_of_draw(params, draw, x)
    pure = jax.jit(jax.vmap(lambda key, x, y: attack(key, logits_fn, x, y)))(keys, images, labels)
    host = run_attack(target, attack, params, keys, images, labels, on_gradient=ticks.append)
    np.testing.assert_allclose(host, pure, atol=1e-5)
    assert sum(ticks) == attack.num_gradients


def test_outcome_numbers_are_refused_by_defenses_that_list_none():
    for defense in (Mask(), RAIN(Repeat()), Chain((RAIN(Repeat()),))):
        with pytest.raises(TypeError, match="does not list its outcomes: draw keys, not number 3"):
            apply_draw(defense, ((),), jnp.array(3), IMAGE)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_samples": 0}, "num_samples=0 must be at least 1"),
        ({"num_samples": 4, "chunk_size": 3}, "chunk_size=3 does not divide num_samples=4"),
        ({"draws": "random"}, "draws='random' is none of 'independent', 'enumerated'"),
        ({"average": "votes"}, "average='votes' is none of 'gradients', 'logits'"),
        ({"num_samples": 4, "first": 5}, "first=5 must lie in 1..num_samples=4"),
        ({"num_samples": 4, "first": 0}, "first=0 must lie in 1..num_samples=4"),
        ({"num_samples": 4, "first": 2, "draws": "enumerated"}, "first=2 lets the draws grow"),
        ({"num_samples": 4, "first": 2, "average": "logits"}, "first=2 lets the draws grow"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        EOT(**options)


def test_attacks_that_differ_in_their_averaging_are_different_values():
    attack = PGD(eot=EOT(4))
    assert attack != dataclasses.replace(attack, eot=EOT(4, draws="stratified"))
    assert hash(attack) == hash(PGD(eot=EOT(4)))
    assert gradients.draw(KEY, 2, "stratified").number == 2
