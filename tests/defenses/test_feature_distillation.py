"""Feature Distillation against a loop over blocks, and what the paper and the code say of it."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.fft

from rainjax import data, transforms
from rainjax.defenses import FeatureDistillation, Identity, two_steps
from rainjax.gradients import BPDA
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def image():
    images, _ = data.load("builtin", "test").get(np.arange(1))
    # Between grey levels, where no coefficient is half-way between two steps.
    values = images[0] / 255 + RNG.uniform(-1e-3, 1e-3, images[0].shape)
    return jnp.asarray(np.clip(values, 0, 1), jnp.float32)


def run(defense, image):
    return np.asarray(jax.jit(defense.apply)((), KEY, image))


def _loop(image, table, shift=0.0):
    """The authors' algorithm, block by block and channel by channel, in NumPy and SciPy."""
    out = np.zeros(image.shape)
    for row, col, channel in np.ndindex(image.shape[0] // 8, image.shape[1] // 8, 3):
        place = np.s_[8 * row : 8 * row + 8, 8 * col : 8 * col + 8, channel]
        coefficients = scipy.fft.dctn(
            255.0 * np.asarray(image, float)[place] - shift, norm="ortho"
        )
        out[place] = scipy.fft.idctn(np.round(coefficients / table) * table, norm="ortho") + shift
    return np.clip(out / 255, 0, 1)


@pytest.mark.parametrize("shift", [0.0, 128.0])
@pytest.mark.parametrize("bands", ["corner4x4", "triangle15"])
def test_is_the_authors_loop(image, shift, bands):
    steps = two_steps(bands, 20.0, 41.0)
    defense = FeatureDistillation(steps=steps, level_shift=shift > 0)
    expected = _loop(image, np.array(steps), shift)
    np.testing.assert_allclose(run(defense, image), expected, atol=2e-6)
    assert np.abs(expected - np.asarray(image)).mean() > 0.005


def test_the_tables_of_the_code_and_of_the_paper():
    table = np.array(FeatureDistillation().steps)
    assert (table == 25).sum() == 16
    assert (table[:4, :4] == 25).all()
    assert (table == 30).sum() == 48
    triangle = np.array(two_steps("triangle15", 1.0, 41.0)) == 1
    assert triangle.sum() == 15
    assert triangle[0, 4]
    assert triangle[4, 0]
    assert not triangle[0, 5]
    ranked = np.array(two_steps((0, 8, 63), 1.0, 2.0)) == 1
    assert [tuple(place) for place in np.argwhere(ranked)] == [(0, 0), (1, 0), (7, 7)]


def test_colours_are_quantised_as_jpeg_does(image):
    steps = two_steps("corner4x4", 10.0, 20.0)
    for subsampling in ("4:4:4", "4:2:0"):
        defense = FeatureDistillation(steps=steps, colours="ycbcr", subsampling=subsampling)
        table = jnp.asarray(steps)
        expected = transforms.jpeg_with_steps(image, table, table, subsampling=subsampling)
        np.testing.assert_allclose(run(defense, image), expected, atol=1e-6)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_jpeg_file_with_these_steps_is_decoded_to_this_image(subsampling):
    # Pillow computes in whole numbers; at a step's border that is a step's difference.
    steps, off = two_steps("corner4x4", 10.0, 20.0), []
    defense = FeatureDistillation(steps=steps, colours="ycbcr", subsampling=subsampling)
    table = [int(step) for row in steps for step in row]
    for picture in data.load("builtin", "test").get(np.arange(20))[0]:
        stream = io.BytesIO()
        PIL.Image.fromarray(picture).save(
            stream, "JPEG", qtables=[table, table], subsampling=subsampling
        )
        theirs = np.asarray(PIL.Image.open(stream), np.float32)
        ours = 255 * np.asarray(run(defense, jnp.asarray(picture, jnp.float32) / 255))
        off.append(np.abs(ours - theirs))
    assert np.mean(off) < 0.3  # 0.22 and 0.24 grey levels
    assert np.max(off) <= 10


def test_a_second_pass_of_parts_of_blocks_or_halved_colours_is_another(image):
    odd, whole = 0.25 + 0.5 * image[:29, :27], 0.25 + 0.5 * image
    steps = two_steps("corner4x4", 5.0, 10.0)
    halved = FeatureDistillation(steps=steps, colours="ycbcr", subsampling="4:2:0")
    for defense, picture in ((FeatureDistillation(), odd), (halved, whole)):
        once = run(defense, picture)
        assert np.abs(run(defense, once) - once).max() > 1 / 255


def test_coefficients_move_by_half_a_step_at_most(image):
    grey = 0.25 + 0.5 * image  # nothing is clipped
    defense = FeatureDistillation()
    once = run(defense, grey)
    moved = np.asarray(transforms.block_dct(jnp.asarray(once) - grey)) * 255
    table = np.array(defense.steps)[None, None, ..., None]
    assert (np.abs(moved) <= table / 2 + 1e-3).all()
    assert np.abs(moved).max() > 10
    np.testing.assert_allclose(run(defense, once), once, atol=1e-5)  # a second pass is none
    flat = jnp.full((16, 16, 3), 0.4)
    assert np.abs(run(defense, flat) - 0.4).max() <= 25 / 8 / 2 / 255 + 1e-6


def test_any_height_and_width(image):
    odd = image[:29, :13]
    defense = FeatureDistillation()
    padded = np.pad(np.asarray(odd), ((0, 3), (0, 3), (0, 0)), mode="edge")
    expected = _loop(padded, np.array(defense.steps))[:29, :13]
    np.testing.assert_allclose(run(defense, odd), expected, atol=2e-6)


def test_the_attacker_chooses_the_gradient(image):
    grey = 0.25 + 0.5 * image
    weights = jnp.asarray(RNG.normal(size=grey.shape), jnp.float32)

    def slope(defense):
        loss = lambda x: jnp.sum(weights * defense.apply((), KEY, x))
        return np.asarray(jax.jit(jax.grad(loss))(grey))

    defense = FeatureDistillation()
    assert not slope(defense).any()
    straight = dataclasses.replace(defense, rounding="straight_through")
    np.testing.assert_allclose(slope(straight), weights, atol=1e-4)
    np.testing.assert_allclose(slope(BPDA(defense, Identity())), weights, atol=1e-6)
    np.testing.assert_allclose(run(straight, grey), run(defense, grey), atol=1e-6)
    sine = dataclasses.replace(defense, rounding="sine")
    step = 1e-3 * jnp.asarray(RNG.normal(size=grey.shape), jnp.float32)
    value = lambda x: float(jnp.sum(weights * sine.apply((), KEY, x)))
    difference = (value(grey + step) - value(grey - step)) / 2
    assert difference == pytest.approx(float(jnp.sum(slope(sine) * step)), rel=0.1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: two_steps("corner"), "bands='corner' is none of 'corner4x4', 'triangle15'"),
        (lambda: two_steps((1, 64)), r"bands=\(1, 64\) must be positions in 0..63"),
        (lambda: two_steps([0.5, 3.7]), r"bands=\[0.5, 3.7\] must be positions"),
        (lambda: two_steps(15), "bands=15 must be a sequence of positions"),
        (lambda: two_steps(np.ones((8, 8), int)), "must be a sequence of positions"),
        (lambda: two_steps(accuracy="fine"), "accuracy='fine' and defense=30.0 are steps"),
        (lambda: two_steps(["low"]), r"bands=\['low'\] must be positions"),
        (lambda: two_steps(accuracy=0.0), "accuracy=0.0 and defense=30.0 are steps"),
        (lambda: two_steps(defense=float("nan")), "defense=nan are steps"),
        (lambda: FeatureDistillation(steps=((1.0,) * 8,) * 7), "steps must be 8 rows of 8"),
        (lambda: FeatureDistillation(steps=((-1.0,) * 8,) * 8), "steps must be positive"),
        (lambda: FeatureDistillation(colours="hsv"), "colours='hsv' is none of 'rgb', 'ycbcr'"),
        (lambda: FeatureDistillation(subsampling="4:2:0"), "needs colours='ycbcr'"),
        (lambda: FeatureDistillation(rounding="up"), "rounding='up' is none of"),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()
