"""The design of Feature Distillation's tables against simulation, NumPy and SciPy."""

import numpy as np
import pytest
import scipy.fft

from rainjax import data, distillation
from rainjax.defenses import two_steps
from tests.tiny import unchecked

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("radius", [2.0, 4.0, 8.0, 16.0])
@pytest.mark.parametrize("step", [20.0, 30.0, 50.0])
def test_the_share_is_that_of_a_simulation(radius, step):
    """Random signs on blocks whose coefficients lie anywhere: how many round elsewhere."""
    noise = scipy.fft.dctn(
        radius * RNG.choice([-1.0, 1.0], (2000, 8, 8)), axes=(1, 2), norm="ortho"
    )
    benign = RNG.uniform(-500, 500, noise.shape)
    moved = np.round(benign / step) != np.round((benign + noise) / step)
    assert distillation.changed_share(radius, step) == pytest.approx(moved.mean(), abs=0.005)


def test_the_step_that_lets_a_share_through():
    for radius, share in ((8.0, 0.214), (4.0, 0.107), (2.0, 0.05), (16.0, 0.9)):
        step = distillation.defensive_step(radius, share)
        assert distillation.changed_share(radius, step) == pytest.approx(share, rel=1e-6)
    assert distillation.defensive_step(8.0, 0.214) == pytest.approx(30, abs=0.3)  # the authors'
    assert distillation.changed_share(0.0, 30.0) == 0


def test_spread_is_that_of_numpy():
    images, _ = data.load("builtin", "test").get(np.arange(70))
    images = images[:, :29, :19]
    found = distillation.coefficient_spread(images)
    blocks = images[:, :24, :16].reshape(70, 3, 8, 2, 8, 3).astype(float)
    coefficients = scipy.fft.dctn(blocks, axes=(2, 4), norm="ortho")
    np.testing.assert_allclose(found, coefficients.std(axis=(0, 1, 3, 5)), rtol=1e-4)
    order = distillation.ranking(found)
    assert sorted(order) == list(range(64))
    assert (np.diff(found.ravel()[list(order)]) <= 0).all()
    assert order[0] == 0  # the mean value differs most
    assert (np.array(two_steps(order[:15], 10.0, 40.0)) == 10).sum() == 15


def test_spread_of_a_perturbation_is_that_of_numpy():
    noise = RNG.normal(3, 2, (70, 17, 8, 3)).astype(np.float32)
    blocks = noise[:, :16].reshape(70, 2, 8, 1, 8, 3).astype(float)
    expected = scipy.fft.dctn(blocks, axes=(2, 4), norm="ortho").std(axis=(0, 1, 3, 5))
    np.testing.assert_allclose(distillation.coefficient_spread(noise), expected, rtol=1e-4)


def test_the_moved_share_is_that_of_a_loop():
    """Block by block with SciPy, on images of which a strip fills no block."""
    images, _ = data.load("builtin", "test").get(np.arange(70))
    images = images[:, :29, :19].astype(np.float32) / 255
    attacked = images + RNG.uniform(-0.03, 0.03, images.shape).astype(np.float32)
    steps = RNG.uniform(10, 60, (8, 8))
    count = np.zeros((8, 8))
    for image, other in zip(255.0 * images, 255.0 * attacked, strict=True):
        for top, left in np.ndindex(3, 2):
            for channel in range(3):
                cut = np.s_[8 * top : 8 * top + 8, 8 * left : 8 * left + 8, channel]
                before, after = (scipy.fft.dctn(x[cut], norm="ortho") for x in (image, other))
                count += np.round(before / steps) != np.round(after / steps)
    found = distillation.moved_share(images, attacked, steps)
    assert 0 < found.min() < 0.05 < 0.2 < found.max() < 0.9
    # Float32 tips few that lie on an edge.
    np.testing.assert_allclose(found, count / (70 * 6 * 3), atol=2 / (70 * 6 * 3))
    assert not distillation.moved_share(images, images, steps).any()


def test_bad_options_are_refused():
    for call, sentence in (
        (lambda: distillation.changed_share(-1.0, 3.0), "radius=-1.0 must not be negative"),
        (lambda: distillation.changed_share(1.0, 0.0), "step=0.0 be positive"),
        (lambda: distillation.defensive_step(8.0, 1.0), "share=1.0 between 0 and 1"),
        (lambda: distillation.defensive_step(float("inf"), 0.5), "radius=inf must be positive"),
        (
            lambda: distillation.coefficient_spread(np.zeros((2, 7, 9, 3), np.uint8)),
            r"shape \(2, 7, 9, 3\) hold no whole 8x8 block",
        ),
        (
            lambda: distillation.moved_share(
                np.zeros((2, 8, 8, 3)), np.zeros((1, 8, 8, 3)), np.ones((8, 8))
            ),
            r"\(1, 8, 8, 3\) adversarial images for originals of \(2, 8, 8, 3\)",
        ),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            call()
