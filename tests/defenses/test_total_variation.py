"""Chambolle's iteration against scikit-image's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from skimage.restoration import denoise_tv_chambolle

from rainjax import data
from rainjax.defenses.total_variation import TotalVariation
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


@pytest.mark.parametrize(("weight", "num_iterations"), [(0.03, 200), (0.1, 50), (0.5, 7)])
def test_is_that_of_scikit_image(weight, num_iterations):
    images, _ = data.load("builtin", "test").get(np.arange(1))
    image = images[0, :27, :19].astype(np.float32) / 255
    found = jax.jit(TotalVariation(weight, num_iterations).apply)((), KEY, image)
    # Theirs hands out the image before its last update of the dual.
    options = {"eps": 0.0, "max_num_iter": num_iterations + 1, "channel_axis": -1}
    expected = denoise_tv_chambolle(image.astype(np.float64), weight=weight, **options)
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=2e-5)
    assert np.abs(expected - image).mean() > 0.003


def test_gradient_is_that_of_differences():
    image = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, size=(6, 7, 1)), jnp.float32)
    flat = TotalVariation(0.1, 5)
    smooth = lambda x: flat.apply((), KEY, jnp.asarray(x))
    check_grads(smooth, (image,), 1, modes=["rev"], atol=0.02, rtol=0.02)
    slope = jax.grad(lambda x: flat.apply((), KEY, x).sum())(jnp.full((6, 7, 1), 0.5))
    np.testing.assert_allclose(slope, 1, atol=1e-5)  # also where nothing varies


def test_bad_options_are_refused():
    for make, sentence in (
        (lambda: TotalVariation(0.0), "weight=0.0 must be positive"),
        (lambda: TotalVariation(float("nan")), "weight=nan must be positive"),
        (lambda: TotalVariation(num_iterations=0), "num_iterations=0 must be at least 1"),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            make()
