"""Super-resolution as a defense against its parts: scikit-image, an EDSR, Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from rainjax.defenses import SuperResolution, WaveletDenoising
from rainjax.nets import EDSR
from tests.tiny import EDSR_TINY, Repeat, edsr_params, unchecked
from tests.transforms.test_wavelets import SMALL, _shrunk_by_range

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def _halved(image):
    """Pillow's anti-aliased bicubic, channel by channel."""
    size = image.shape[1] // 2, image.shape[0] // 2
    planes = [PIL.Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    resample = PIL.Image.Resampling.BICUBIC
    return np.stack([np.asarray(plane.resize(size, resample)) for plane in planes], axis=-1)


def test_is_its_parts_in_order():
    """The network is NumPy here: it repeats pixels, and leaves [0, 1] upwards."""
    defense = SuperResolution(Repeat(gain=1.6, ramp=0.2))
    found = jax.jit(defense.apply)((), KEY, jnp.asarray(SMALL, jnp.float32))
    quiet = np.clip(_shrunk_by_range(SMALL, 0.01), 0, 1)
    large = 1.6 * quiet.repeat(2, 0).repeat(2, 1)
    large = large + 0.2 * np.linspace(0, 1, len(large))[:, None, None]
    assert large.max() > 1.1
    expected = np.clip(_halved(np.clip(large, 0, 1)), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        defense.enlarge((), jnp.asarray(SMALL, jnp.float32)), np.clip(large, 0, 1), atol=1e-5
    )


def test_network_takes_its_parameters():
    denoiser = WaveletDenoising(0.03)
    params = edsr_params()
    found = SuperResolution(EDSR_TINY, denoiser).apply(
        params, KEY, jnp.asarray(SMALL, jnp.float32)
    )
    quiet = np.clip(_shrunk_by_range(SMALL, 0.03), 0, 1)
    large = np.asarray(EDSR_TINY.apply(params, jnp.asarray(quiet, jnp.float32)))
    np.testing.assert_allclose(found, np.clip(_halved(np.clip(large, 0, 1)), 0, 1), atol=2e-5)
    made = jax.tree.map(jnp.shape, SuperResolution(EDSR_TINY).init(KEY))
    assert made == jax.tree.map(jnp.shape, params)


def test_other_networks_are_refused():
    sentence = "doubles an image, and this one scales by 4: give EDSR with scale=2"
    with unchecked(), pytest.raises(ValueError, match=sentence):
        SuperResolution(EDSR(scale=4))
