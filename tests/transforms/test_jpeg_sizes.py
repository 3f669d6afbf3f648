"""JPEG of pictures of every size, and what shares its code, against Pillow's own files."""

import contextlib
import importlib
import io
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from rainjax import transforms
from rainjax.defenses import JPEG, SHIELD, FeatureDistillation
from rainjax.defenses.feature_distillation import two_steps
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")


def smooth(height, width):
    """A picture of colours that run into each other."""
    few = np.random.default_rng(41 * height + width).integers(0, 256, (4, 4, 3), np.uint8)
    image = PIL.Image.fromarray(few).resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(image)


def read_back(image, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, "JPEG", **options)
    return np.asarray(PIL.Image.open(stream), float)


@contextlib.contextmanager
def in_numpy(monkeypatch):
    """Runs the code by NumPy, for XLA would compile anew for each size."""
    numpy = types.SimpleNamespace(**vars(np))
    numpy.einsum = lambda *args, precision: np.einsum(*args)
    numpy.matmul = lambda *args, precision: np.matmul(*args)
    lax = types.SimpleNamespace(
        stop_gradient=lambda x: x,
        slice_in_dim=lambda x, start, stop, axis: np.take(x, np.arange(start, stop), axis),
    )
    with monkeypatch.context() as patch, unchecked():
        for name in ("blocks", "jpeg"):
            module = importlib.import_module(f"rainjax.transforms.{name}")
            patch.setattr(module, "jnp", numpy)
            patch.setattr(module, "jax", types.SimpleNamespace(lax=lax))
        yield


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_every_size_is_what_pillow_reads_back(subsampling, monkeypatch):
    """To 0.2 grey levels in the mean; a coefficient on another step moves a block by some more."""
    off = np.zeros((40, 40))
    with in_numpy(monkeypatch):
        for height, width in np.ndindex(40, 40):
            image = smooth(height + 1, width + 1)
            quality = (10, 50, 75, 95)[(height + width // 2) % 4]
            ours = 255 * transforms.jpeg(np.float32(image / 255), quality, subsampling=subsampling)
            theirs = read_back(image, quality=quality, subsampling=subsampling)
            off[height, width] = np.abs(ours - theirs).mean()
    assert off.mean() < 0.2  # 0.11 and 0.17; 1.6 if columns are repeated after the halving
    assert np.quantile(off, 0.95) < 0.8
    for place in range(16):  # where in a block the edge falls
        assert off[place::16].mean() < 0.3, place
        assert off[:, place::16].mean() < 0.3, place
    assert off[:, :4].mean() < 0.2  # 0.08; such narrow pictures have a way of their own


@pytest.mark.parametrize("size", [(5, 3), (16, 8), (17, 26)])
def test_what_shares_the_code_is_what_pillow_reads_back(size):
    image = smooth(*size)
    pixels = jnp.float32(image / 255)
    expected = {quality: read_back(image, quality=quality) for quality in (40, 80)}
    ours = 255 * np.asarray(jax.jit(JPEG(80).purify)(pixels))
    assert np.abs(ours - expected[80]).mean() < 0.4

    apply = jax.jit(SHIELD((40, 80)).apply)
    mixed = 255 * np.asarray(apply((), jax.random.key(0), pixels))
    for top, left in np.ndindex(-(-size[0] // 8), -(-size[1] // 8)):
        block = np.s_[8 * top : 8 * top + 8, 8 * left : 8 * left + 8]
        off = [np.abs(mixed[block] - theirs[block]).mean() for theirs in expected.values()]
        assert min(off) < 2, (top, left)

    table = two_steps("corner4x4", 5.0, 10.0)
    defense = FeatureDistillation(table, colours="ycbcr", subsampling="4:2:0")
    steps = [int(step) for row in table for step in row]
    theirs = read_back(image, qtables=[steps, steps], subsampling="4:2:0")
    assert np.abs(255 * np.asarray(jax.jit(defense.purify)(pixels)) - theirs).mean() < 0.4


@pytest.mark.parametrize("width", [3, 9, 26])
def test_every_pixel_has_its_part_in_the_gradient(width):
    """Grey levels move by as much as the image does, whatever is repeated at its edges."""
    image = jnp.full((11, width, 3), 0.5)
    purify = JPEG(75, rounding="straight_through").purify
    slope = np.asarray(jax.jit(jax.grad(lambda image: purify(image).sum()))(image))
    assert slope.sum() == pytest.approx(image.size, rel=1e-4)
    assert (slope > 0).all()
