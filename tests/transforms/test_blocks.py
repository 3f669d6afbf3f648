"""Block DCT, rounding and JPEG against SciPy, a NumPy loop and Pillow's own files."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import scipy.fft

from rainjax import data, transforms
from rainjax.transforms.blocks import dct_matrix
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(size=(24, 16, 3)).astype(np.float32)
ROUNDINGS = ("true", "straight_through", "sine", "cubic")


@pytest.fixture(scope="module")
def pictures():
    """Pictures that were never compressed: 8-bit, enlarged to 75 x 93."""
    images, _ = data.load("builtin", "test").get(np.arange(4))
    enlarge = lambda image: PIL.Image.fromarray(image).resize(
        (93, 75), PIL.Image.Resampling.BICUBIC
    )
    return [np.asarray(enlarge(image)) for image in images]


def test_block_dct_is_that_of_scipy():
    found = np.asarray(jax.jit(transforms.block_dct)(IMAGE))
    assert found.shape == (3, 2, 8, 8, 3)
    for row, col, channel in np.ndindex(3, 2, 3):
        block = IMAGE[8 * row : 8 * row + 8, 8 * col : 8 * col + 8, channel]
        expected = scipy.fft.dctn(block.astype(float), norm="ortho")
        np.testing.assert_allclose(found[row, col, :, :, channel], expected, atol=2e-6)
    np.testing.assert_allclose(dct_matrix() @ dct_matrix().T, np.eye(8), atol=1e-14)
    np.testing.assert_allclose(transforms.inverse_block_dct(jnp.asarray(found)), IMAGE, atol=1e-6)


def test_sides_are_padded_with_their_edge():
    padded = np.asarray(transforms.pad_to_blocks(jnp.asarray(IMAGE[:17, :9])))
    expected = np.pad(IMAGE[:17, :9], ((0, 7), (0, 7), (0, 0)), mode="edge")
    np.testing.assert_array_equal(padded, expected)
    assert transforms.pad_to_blocks(jnp.asarray(IMAGE)).shape == IMAGE.shape
    with pytest.raises(ValueError, match="An image of 17 x 9 has no whole number of 8x8 blocks"):
        transforms.block_dct(jnp.asarray(IMAGE[:17, :9]))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_roundings_and_their_gradients(rounding):
    x = np.linspace(-3, 3, 121).astype(np.float32)[:-1] + 0.01
    value = lambda x: transforms.rounded(x, rounding)
    found, slope = np.asarray(value(jnp.asarray(x))), np.asarray(jax.vmap(jax.grad(value))(x))
    whole, off = np.round(x), x - np.round(x)
    expected = {
        "true": (whole, 0 * x),
        "straight_through": (whole, 0 * x + 1),
        "sine": (x - np.sin(2 * np.pi * x) / (2 * np.pi), 1 - np.cos(2 * np.pi * x)),
        "cubic": (whole + off**3, 3 * off**2),
    }[rounding]
    np.testing.assert_allclose(found, expected[0], atol=1e-6)
    np.testing.assert_allclose(slope, expected[1], atol=1e-5)
    with (
        unchecked(),
        pytest.raises(ValueError, match="rounding='up' is none of 'true', 'straight"),
    ):
        transforms.rounded(jnp.ones(3), "up")


def _compressed(image, quality, subsampling):
    stream = io.BytesIO()
    code = {"4:4:4": 0, "4:2:0": 2}[subsampling]
    PIL.Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=code)
    return PIL.Image.open(stream)


def test_tables_are_those_in_the_files_of_pillow(pictures):
    tables = jax.jit(transforms.quality_tables)
    for quality in range(1, 101):
        stored = _compressed(pictures[0][:8, :8], quality, "4:4:4").quantization
        found = np.asarray(tables(jnp.float32(quality)))
        for mine, theirs in zip(found, (stored[0], stored[1]), strict=True):
            np.testing.assert_array_equal(mine.ravel(), theirs, err_msg=str(quality))
    with pytest.raises(ValueError, match=r"quality=0 must lie in 1\.\.100"):
        transforms.quality_tables(0)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_jpeg_is_what_pillow_reads_back(pictures, subsampling):
    """Most values to the grey level; a coefficient on another step moves a whole block."""
    run = jax.jit(lambda image, quality: transforms.jpeg(image, quality, subsampling=subsampling))
    for quality in (10, 30, 50, 75, 95):
        off = []
        for picture in pictures:
            theirs = np.asarray(_compressed(picture, quality, subsampling)).astype(float)
            ours = 255 * np.asarray(run(jnp.float32(picture / 255), jnp.float32(quality)))
            off.append(np.abs(ours - theirs))
        assert np.mean(off) < 0.3, quality
        assert np.median(off) < 1e-4
        assert np.mean(np.array(off) > 1.5) < 0.08


def test_colours_are_those_of_pillow(pictures):
    theirs = np.asarray(PIL.Image.fromarray(pictures[0]).convert("YCbCr")).astype(float)
    ours = np.asarray(transforms.rgb_to_ycbcr(jnp.asarray(pictures[0], jnp.float32)))
    assert np.abs(ours - theirs).max() < 1.01  # Pillow has tables of whole numbers
    assert np.abs(ours - theirs).mean() < 0.5
    back = np.asarray(transforms.ycbcr_to_rgb(jnp.asarray(ours)))
    np.testing.assert_allclose(back, pictures[0], atol=1e-3)


def test_grey_images_are_compressed_too(pictures):
    grey = np.asarray(PIL.Image.fromarray(pictures[1]).convert("L"))
    stream = io.BytesIO()
    PIL.Image.fromarray(grey).save(stream, "JPEG", quality=60)
    theirs = np.asarray(PIL.Image.open(stream)).astype(float)
    ours = 255 * np.asarray(transforms.jpeg(jnp.float32(grey / 255)[..., None], 60))[..., 0]
    assert np.abs(ours - theirs).mean() < 0.3
    with pytest.raises(ValueError, match="one channel or three"):
        transforms.jpeg(jnp.zeros((8, 8, 2)))


@pytest.mark.parametrize("rounding", ["straight_through", "sine", "cubic"])
def test_jpeg_has_the_gradient_that_was_asked_for(pictures, rounding):
    image = jnp.float32(pictures[2] / 255)
    weights = jnp.asarray(RNG.normal(size=image.shape), jnp.float32)
    loss = lambda x, how: jnp.sum(weights * transforms.jpeg(x, 50, rounding=how))
    slope = np.asarray(jax.jit(jax.grad(loss), static_argnums=1)(image, rounding))
    assert np.isfinite(slope).all()
    assert (slope != 0).mean() > 0.5
    silent = np.asarray(jax.jit(jax.grad(loss), static_argnums=1)(image, "true"))
    assert not silent.any()
    if rounding == "straight_through":
        same = transforms.jpeg(image, 50, rounding=rounding) - transforms.jpeg(image, 50)
        assert float(jnp.abs(same).max()) < 1e-5
    elif rounding == "sine":  # which is smooth
        step = 1e-3 * jnp.asarray(RNG.normal(size=image.shape), jnp.float32)
        ahead, behind = loss(image + step, rounding), loss(image - step, rounding)
        assert float(ahead - behind) / 2 == pytest.approx(float(jnp.sum(slope * step)), rel=0.2)
