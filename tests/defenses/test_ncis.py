"""NCIS against a loop in NumPy and SciPy, and the memory of its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from rainjax import data, transforms
from rainjax.defenses import NCIS
from rainjax.defenses import ncis as _ncis
from rainjax.nets import BLIND_SPOT_SMALL, BlindSpot
from tests.tiny import BLIND_SPOT_TINY, EDSR_TINY, Linear, blind_spot_params, unchecked

KEY = jax.random.key(0)
PARAMS = blind_spot_params()
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]) / 8


@pytest.fixture(scope="module")
def image():
    images, _ = data.load("builtin", "test").get(np.arange(1))
    return jnp.asarray(images[0, :13, :11] / 255, jnp.float32)


@pytest.mark.parametrize(("border", "mode"), [("reflect", "mirror"), ("edge", "nearest")])
def test_smoothing_and_network_take_turns(image, border, mode):
    """The network is the mean of eight neighbours with zeros outside, and twice as bright."""
    params = blind_spot_params(noise=0.0)
    params["tail"]["kernel"] *= 2
    defense = NCIS(BLIND_SPOT_TINY, 3, 0.8, 3, border)
    wanted = [np.asarray(image, np.float64)]
    for _ in range(3):
        options = {"sigma": 0.8, "radius": 1, "mode": mode, "axes": (0, 1)}
        smooth = scipy.ndimage.gaussian_filter(wanted[-1], **options)
        ring = scipy.ndimage.correlate(smooth, 2 * RING[..., None], mode="constant")
        wanted.append(np.clip(ring, 0, 1))
    assert 0 < (wanted[1] == 1).mean() < 1  # some of it was clipped
    found = jax.jit(defense.iterates)(params, image)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    last = jax.jit(defense.apply)(params, KEY, image)
    np.testing.assert_allclose(last, wanted[-1], atol=1e-5)
    raw = NCIS(BLIND_SPOT_TINY, 1, smooth_input=False).apply(params, KEY, image)
    ring = scipy.ndimage.correlate(wanted[0], 2 * RING[..., None], mode="constant")
    np.testing.assert_allclose(raw, np.clip(ring, 0, 1), atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "an accelerator"])
@pytest.mark.parametrize("num_iterations", [1, 4])
def test_gradient_is_that_of_the_plain_loop(image, num_iterations, backend, monkeypatch):
    """Whichever way it is computed again; and for several cotangents at once."""
    defense = NCIS(BLIND_SPOT_TINY, num_iterations, 0.7, 3)
    weight = jax.random.normal(KEY, (2, *image.shape))

    def plain(params, x):
        for _ in range(num_iterations):
            smooth = transforms.gaussian_smooth(x, 0.7, 3)
            x = jnp.clip(defense.network.apply(params, smooth), 0.0, 1.0)
        return x

    def run(purify):
        output, vjp = jax.vjp(purify, PARAMS, image)
        return output, jax.vmap(vjp)(weight)

    wanted = jax.jit(lambda: run(plain))()
    monkeypatch.setattr(_ncis.jax, "default_backend", lambda: backend)
    found = jax.jit(lambda: run(lambda p, x: defense.apply(p, KEY, x)))()
    for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()), rtol=1e-3)
    program = jax.jit(lambda x: defense.apply(PARAMS, KEY, x)).lower(image).as_text()
    assert ("while" in program) == (backend != "cpu" and num_iterations > 1)


def test_gradient_of_nan_is_nan(image):
    defense = NCIS(BLIND_SPOT_TINY, 2, 0.7, 3)
    _, vjp = jax.vjp(jax.jit(lambda x: defense.apply(PARAMS, KEY, x)), image)
    for place in ((0, 0, 0), (-1, -1, 0)):
        assert np.isnan(vjp(jnp.zeros_like(image).at[place].set(jnp.nan))[0]).any()


@pytest.mark.parametrize("network", [BlindSpot(4, 16), BLIND_SPOT_SMALL])
def test_eight_iterations_take_the_memory_of_one(network):
    def peak(num_iterations):
        defense = NCIS(network, num_iterations)
        total = lambda x, params: jnp.sum(defense.apply(params, KEY, x) ** 2)
        image = jax.ShapeDtypeStruct((40, 40, 3), jnp.float32)
        compiled = jax.jit(jax.grad(total)).lower(image, network.shapes()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert peak(8) <= 1.5 * peak(1)


def test_parameters_are_the_networks():
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(NCIS(BLIND_SPOT_TINY).init(KEY)) == shapes(PARAMS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NCIS(num_iterations=0), "num_iterations=0 must be at least 1"),
        (lambda: NCIS(sigma=-1.0), "sigma=-1.0 must be positive"),
        (lambda: NCIS(kernel_size=6), "kernel_size=6 must be odd"),
        (lambda: NCIS(border="constant"), "border='constant' is none of 'reflect', 'edge'"),
        (lambda: NCIS(network="fbi"), r"NCIS\(network=\.\.\.\) takes a Network, not 'fbi'"),
        (
            lambda: NCIS(EDSR_TINY).iterates(EDSR_TINY.init(KEY), jnp.zeros((6, 8, 3))),
            r"this EDSR makes \(12, 16, 3\) of \(6, 8, 3\): give one such as BlindSpot",
        ),
        (
            lambda: NCIS(Linear(192, 4)).apply(
                Linear(192, 4).init(KEY), KEY, jnp.zeros((8, 8, 3))
            ),
            r"this Linear makes \(4,\) of \(8, 8, 3\)",
        ),
        (
            lambda: NCIS(BLIND_SPOT_TINY).apply(PARAMS, KEY, jnp.zeros((8, 8, 1))),
            r"images of 3 channels, got shape \(8, 8, 1\)",
        ),
        (
            lambda: NCIS(BLIND_SPOT_TINY, kernel_size=9).apply(PARAMS, KEY, jnp.zeros((4, 8, 3))),
            "kernel_size=9 .* image of 4 x 8 has too few",
        ),
        (
            lambda: NCIS(BLIND_SPOT_TINY).iterates(PARAMS, jnp.zeros((8, 8, 3), jnp.uint8)),
            "NCIS takes one image .* got uint8 of shape",
        ),
    ],
)
def test_what_is_impossible_is_refused(make, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        make()
