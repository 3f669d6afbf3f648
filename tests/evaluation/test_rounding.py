"""Adversarial images as an 8-bit file holds them: on the grid, and in their ball."""

import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.evaluation import round_to_8bit
from tests.tiny import unchecked

RNG = np.random.default_rng(0)
GREY = jnp.full((16, 12, 12, 3), 0.5)


@pytest.mark.parametrize("radius", [8 / 255, 0.03, 0.1])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_rounding_to_8_bits_stays_in_the_ball_and_on_the_grid(norm, radius):
    images = np.round(RNG.uniform(size=(4, 6, 6, 3)) * 255) / 255
    delta = RNG.uniform(-1, 1, size=images.shape)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    length = lambda x: np.linalg.norm(x.reshape(4, -1), ord=order, axis=1)
    delta *= radius / length(delta)[:, None, None, None] * (1 if norm == "linf" else 30)
    attacked = np.clip(images + delta, 0, 1).astype(np.float32)
    reach = np.maximum(length(attacked - images).max(), radius)
    few = np.asarray(round_to_8bit(attacked, images.astype(np.float32), norm, radius))
    np.testing.assert_allclose(few * 255, np.round(few * 255), atol=1e-4)
    limit = radius if norm == "linf" else reach
    assert length(few.astype(float) - images).max() <= limit + 1e-6
    assert few.dtype == np.float32
    nearest = np.round(attacked * 255) / 255
    if norm == "linf" and radius * 255 % 1 == 0:
        np.testing.assert_allclose(few, nearest, atol=1e-6)  # Pillow's rounding, no more
    again = np.asarray(round_to_8bit(few, images.astype(np.float32), norm, radius))
    np.testing.assert_allclose(again, few, atol=1e-6)


def test_rounding_needs_originals_on_the_grid():
    with pytest.raises(ValueError, match="The originals are no 8-bit images"):
        round_to_8bit(GREY, GREY, "linf", 0.1)
    with unchecked(), pytest.raises(ValueError, match=r"\(1, 12, 12, 3\) adversarial images for"):
        round_to_8bit(GREY[:1], GREY, "linf", 0.1)
