"""RAIN against NumPy: the order of its steps, its draws, its ablations and its mean field."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from rainjax.defenses import RAIN, MeanFieldRAIN
from rainjax.gradients import expectation
from rainjax.nets import EDSR
from rainjax.pipeline import Defended
from tests.tiny import Linear, Repeat, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = np.random.default_rng(0).uniform(size=(12, 16, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(11), 6)
RAMP = np.linspace(0, 1, 12, dtype=np.float32)[:, None, None]


def _draws(key, shape, max_shift):
    """The picks and the shift of one key, from JAX's generator alone."""
    pick_key, shift_key = jax.random.split(key)
    picks = np.asarray(jax.random.bits(pick_key, shape, jnp.uint8) % 4)
    shift = np.asarray(jax.random.randint(shift_key, (2,), -max_shift, max_shift + 1))
    return picks, shift


def _purify(image, picks, shift, gain, ramp):
    """RAIN as its algorithm box says, with `Repeat` for a network, one pixel at a time."""
    low = np.zeros(picks.shape, np.float32)
    for i, j, c in np.ndindex(low.shape):
        row, column = divmod(int(picks[i, j, c]), 2)
        low[i, j, c] = image[2 * i + row, 2 * j + column, c]
    low = np.roll(low, shift, (0, 1))
    return np.clip(gain * low.repeat(2, 0).repeat(2, 1) + ramp * RAMP, 0, 1)


def test_steps_come_in_the_papers_order():
    defense = RAIN(Repeat(gain=1.2, ramp=0.3), shift_fraction=0.34)
    assert defense.max_shift(12) == 2
    apply = jax.jit(defense.apply)
    shifts = []
    for key in KEYS:
        picks, shift = _draws(key, (6, 8, 3), 2)
        expected = _purify(IMAGE, picks, shift, 1.2, 0.3)
        np.testing.assert_allclose(apply((), key, IMAGE), expected, atol=1e-6)
        assert 0 < expected.min() < expected.max() == 1.0  # the clip did something
        shifts.append(tuple(shift))
    assert len(set(shifts)) > 2


@pytest.mark.parametrize(
    ("height", "fraction", "expected"),
    [
        (96, 0.05, 2),
        (224, 0.05, 5),
        (224, 0.04, 4),
        (32, 0.05, 0),
        (32, 0.0625, 1),
        (40, 0.05, 1),
        (38, 0.05, 0),
        (200, 0.07, 7),  # 0.07 * 100 is 7.000000000000001
        (200, 0.29, 29),  # 0.29 * 100 is 28.999999999999996
        (96, 0.0, 0),
    ],
)
def test_largest_shift(height, fraction, expected):
    assert RAIN(shift_fraction=fraction).max_shift(height) == expected


def test_shift_is_a_share_of_the_height_along_both_axes():
    """Wide images: the published code rolls both axes by up to a share of the height."""
    rain = RAIN(Repeat(), shift_fraction=0.17, downsample="average")
    marked = jnp.zeros((12, 32, 3)).at[4:6, 16:18].set(1.0)
    move = jax.jit(jax.vmap(rain.apply, (None, 0, None)))
    moved = np.asarray(move((), jax.random.split(KEYS[0], 200), marked))[:, ::2, ::2, 0]
    _, rows, columns = np.nonzero(moved)
    assert set(rows - 2) == set(columns - 8) == {-1, 0, 1}


def test_shared_shift_moves_a_batch_together():
    defense = RAIN(Repeat(), shift_fraction=0.5)
    images = jnp.asarray(np.stack([IMAGE] * 4))
    shared = jax.jit(defense.apply_shared_shift)
    seen = []
    for key in KEYS:
        outputs = np.asarray(shared((), key, images))[:, ::2, ::2]
        assert len({output.tobytes() for output in outputs}) == 4  # picks of their own
        shifts = [_detect_shift(output) for output in outputs]
        assert len(set(shifts)) == 1
        seen.append(shifts[0])
    assert len(set(seen)) > 2
    own = np.asarray(jax.jit(jax.vmap(defense.apply, (None, 0, 0)))((), KEYS[:4], images))
    assert len({_detect_shift(output) for output in own[:, ::2, ::2]}) > 1


def _detect_shift(low):
    """Finds the roll under which every value stems from its own cell of `IMAGE`."""
    cells = IMAGE.reshape(6, 2, 8, 2, 3).transpose(0, 2, 4, 1, 3).reshape(6, 8, 3, 4)
    found = [
        shift
        for shift in itertools.product(range(-3, 4), range(-3, 4))
        # -3 and 3 are the same roll of six rows
        if shift[0] > -3
        and (np.roll(low, (-shift[0], -shift[1]), (0, 1))[..., None] == cells).any(-1).all()
    ]
    assert len(found) == 1
    return found[0]


def test_ablations_of_the_random_pick():
    key = KEYS[0]
    _, shift = _draws(key, (6, 8, 3), 2)
    average = IMAGE.reshape(6, 2, 8, 2, 3).mean((1, 3))
    planes = [PIL.Image.fromarray(IMAGE[..., c]) for c in range(3)]
    resample = PIL.Image.Resampling.BICUBIC
    bicubic = np.stack([np.asarray(p.resize((8, 6), resample)) for p in planes], axis=-1)
    for name, low in (("average", average), ("bicubic", bicubic)):
        defense = RAIN(Repeat(), shift_fraction=0.34, downsample=name)
        expected = np.clip(np.roll(low, shift, (0, 1)).repeat(2, 0).repeat(2, 1), 0, 1)
        output = defense.apply((), key, jnp.asarray(IMAGE))
        np.testing.assert_allclose(output, expected, atol=2e-6)
        # The attacker's picture of an ablation halves as the ablation does; 12 is no shift.
        unmoved = MeanFieldRAIN(defense).apply_outcome((), jnp.array(12), jnp.asarray(IMAGE))
        expected = np.clip(low.repeat(2, 0).repeat(2, 1), 0, 1)
        np.testing.assert_allclose(unmoved, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"shift_fraction": 1.0}, r"shift_fraction=1.0 must lie in \[0, 1\)"),
        ({"shift_fraction": -0.1}, r"shift_fraction=-0.1 must lie in \[0, 1\)"),
        ({"shift_fraction": float("nan")}, r"shift_fraction=nan must lie in \[0, 1\)"),
        ({"downsample": "median"}, "downsample='median' is none of 'random', 'average', 'bicu"),
        (
            {"network": EDSR(scale=4)},
            "a network that doubles an image, and this one scales by 4: give",
        ),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        RAIN(**options)


def test_odd_images_are_refused():
    for name in ("random", "average", "bicubic"):
        defense = RAIN(Repeat(), downsample=name)
        with pytest.raises(ValueError, match="15 x 16"):
            defense.apply((), KEYS[0], jnp.zeros((15, 16, 3)))


def test_mean_field_enumerates_every_shift_once():
    mean_field = MeanFieldRAIN(RAIN(Repeat(), shift_fraction=0.34))
    assert mean_field.num_outcomes(12) == 25
    assert MeanFieldRAIN(RAIN()).num_outcomes(96) == 25
    assert MeanFieldRAIN(RAIN()).num_outcomes(224) == 121
    low = IMAGE.reshape(6, 2, 8, 2, 3).mean((1, 3))
    apply = jax.jit(mean_field.apply_outcome)
    outcomes = [np.asarray(apply((), jnp.array(i), IMAGE)) for i in range(25)]
    shifts = list(itertools.product(range(-2, 3), range(-2, 3)))
    expected = [np.roll(low, shift, (0, 1)).repeat(2, 0).repeat(2, 1) for shift in shifts]
    np.testing.assert_allclose(np.sort(outcomes, axis=0), np.sort(expected, axis=0), atol=1e-6)
    matches = [[np.allclose(a, b, atol=1e-6) for b in expected] for a in outcomes]
    assert np.sum(matches, axis=0).tolist() == np.sum(matches, axis=1).tolist() == [1] * 25
    # A key draws one of them.
    drawn = np.asarray(jax.jit(mean_field.apply)((), KEYS[0], IMAGE))
    assert any(np.array_equal(drawn, outcome) for outcome in outcomes)


def test_mean_field_gradient_is_the_mean_over_all_shifts():
    """A linear classifier behind a linear network: the gradient in closed form, by NumPy."""
    mean_field = MeanFieldRAIN(RAIN(Repeat(), shift_fraction=0.17))
    target = Defended(mean_field, Linear(IMAGE.size, 2))
    params = {"defense": (), "classifier": {"kernel": _normal((IMAGE.size, 2))}}
    kernel = np.asarray(params["classifier"]["kernel"], float).reshape(*IMAGE.shape, 2)

    logits = expectation(lambda i, x: target.logits_of_draw(params, i, x), 9, draws="enumerated")
    low = IMAGE.reshape(6, 2, 8, 2, 3).mean((1, 3))
    shifts = list(itertools.product((-1, 0, 1), (-1, 0, 1)))
    outputs = [np.roll(low, s, (0, 1)).repeat(2, 0).repeat(2, 1) for s in shifts]
    expected = np.mean([np.einsum("ijc,ijck->k", x, kernel) for x in outputs], axis=0)
    np.testing.assert_allclose(jax.jit(logits)(KEYS[0], IMAGE), expected, atol=1e-4)

    # d logit / d pixel: the kernel, summed over the pixel's 2x2 block, rolled back, over four.
    summed = kernel.reshape(6, 2, 8, 2, 3, 2).sum((1, 3))
    back = np.mean([np.roll(summed, (-s[0], -s[1]), (0, 1)) for s in shifts], axis=0) / 4
    slope = jax.jit(jax.jacrev(lambda x: logits(KEYS[0], x)))(IMAGE)
    expected = np.moveaxis(back.repeat(2, 0).repeat(2, 1), -1, 0)
    np.testing.assert_allclose(slope, expected, atol=1e-5)


def test_mean_field_is_the_mean_of_rain_for_a_linear_network():
    """Averaging RAIN over many keys approaches the mean field over all shifts."""
    rain = RAIN(Repeat(gain=0.8, ramp=0.1), shift_fraction=0.17)
    num = 3000
    purify = jax.jit(jax.vmap(rain.apply, (None, 0, None)))
    draws = np.asarray(purify((), jax.random.split(KEYS[1], num), IMAGE))
    mean_field = expectation(
        lambda i, x: MeanFieldRAIN(rain).apply_outcome((), i, x), 9, draws="enumerated"
    )
    error = draws.mean(0) - np.asarray(jax.jit(mean_field)(KEYS[0], IMAGE))
    assert (np.abs(error) < 5 * draws.std(0) / np.sqrt(num)).all()


def _normal(shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
