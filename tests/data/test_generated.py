"""The built-in pictures: rendered again in NumPy, the same in any batch, and what they promise."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import data
from rainjax.data import generated


@functools.cache
def scenes(num):
    def one(index):
        return generated.draw_scene(generated.picture_key(0, index), index % 10)

    return jax.jit(jax.vmap(one))(jnp.arange(num))


render_all = jax.jit(jax.vmap(generated.render))


def test_pictures_equal_a_rendering_in_float64_to_one_grey_level():
    # Other arithmetic, other order of operations: what another machine may do, and more.
    images, labels = generated.pictures(0, np.arange(20))
    host = jax.device_get(scenes(200))
    for i, image in enumerate(images):
        scene = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i], np.float64), host)
        assert 2 * int(scene.shape) + int(scene.texture) == labels[i]
        levels = 255.0 * render_in_numpy(scene)
        assert np.abs(levels - image).max() <= 0.5 + 0.02


def render_in_numpy(scene):
    position = np.array([complex(x, y) for y in range(32) for x in range(32)]).reshape(32, 32)
    position -= complex(scene.centre[1], scene.centre[0])
    light = np.exp(1j * scene.light_angle)

    def outline(position):
        turned = position * np.exp(-1j * scene.angle)
        x, y = turned.real * scene.stretch, turned.imag / scene.stretch
        radius, far = scene.radius, np.sqrt(x**2 + y**2 + 1e-6)
        if scene.shape == 0:
            return far - 0.92 * radius
        if scene.shape == 1:
            return np.max([x, -x, y, -y], axis=0) - 0.82 * radius
        if scene.shape == 2:
            normals = [-1j, np.exp(1j * np.pi / 6), np.exp(5j * np.pi / 6)]
            sides = [(np.conj(n) * (x + 1j * y)).real for n in normals]
            return np.max(sides, axis=0) - 0.62 * radius
        if scene.shape == 3:
            upright = np.maximum(abs(x) - 0.36 * radius, abs(y) - 1.08 * radius)
            flat = np.maximum(abs(y) - 0.36 * radius, abs(x) - 1.08 * radius)
            return np.minimum(upright, flat)
        return abs(far - 0.74 * radius) - 0.3 * radius

    def ramp(t):
        t = np.minimum(np.maximum(t, 0), 1)
        return 3 * t**2 - 2 * t**3

    waves = position * np.exp(-1j * scene.texture_angle) * 2 * np.pi / scene.texture_period
    one = np.cos(waves.real + scene.texture_phase[0])
    other = np.cos(waves.imag + scene.texture_phase[1])
    texture = one if scene.texture == 0 else (one + other) / np.sqrt(2)

    rows, columns = np.fft.fftfreq(48)[:, None], np.fft.fftfreq(48)[None, :]
    frequency = np.sqrt(rows**2 + columns**2)
    frequency[0, 0] = np.inf
    filtered = np.fft.fft2(scene.clutter, axes=(0, 1)) / frequency[..., None]
    filtered /= np.sqrt(np.mean(frequency**-2.0) / 3)
    fields = np.fft.ifft2(filtered, axes=(0, 1)).real[:32, :32]
    clutter = fields[..., :1] + fields[..., 1:] * scene.clutter_tint

    shade = 0.5 * scene.light_strength * (position * np.conj(light)).real / scene.radius
    rim = 1 - ramp(1 + outline(position) / 2.5) / 4
    surface = np.multiply.outer((1 + shade) * rim, scene.fill)
    surface += (scene.texture_contrast * texture)[..., None]
    surface += scene.clutter_contrast * clutter / 4
    shadow = 1 - 0.3 * ramp(0.5 - outline(position + 2.5 * light) / 6)
    ground = np.multiply.outer((1 + 0.3 * shade) * shadow, scene.ground)
    ground += scene.clutter_contrast * clutter
    inside = ramp(0.5 - outline(position) / 1.5)[..., None]
    image = inside * surface + (1 - inside) * ground + scene.grain_strength * scene.grain
    return np.clip(image, 0, 1)


def test_pictures_stay_the_ones_that_shipped_parameters_and_records_are_about():
    # A pin and not an oracle: when it breaks, the fingerprint must change with it.
    images, _ = generated.pictures(generated.SEED, np.arange(10))
    means = images.mean((1, 2, 3))
    np.testing.assert_allclose(means, PINNED_MEANS, atol=0.05)


PINNED_MEANS = [154.83, 72.12, 123.36, 81.28, 67.68, 159.38, 198.92, 142.94, 103.83, 113.27]


def test_a_picture_does_not_depend_on_its_batch():
    together, labels = generated.pictures(0, np.arange(300))
    for chosen in ([7], [299, 3, 250], [11, 11]):
        alone, its_labels = generated.pictures(0, np.array(chosen))
        np.testing.assert_array_equal(alone, together[chosen])
        np.testing.assert_array_equal(its_labels, labels[chosen])


def test_a_picture_does_not_depend_on_the_settings_of_jax():
    expected, _ = generated.pictures(0, np.arange(5))
    with jax.default_prng_impl("rbg"):
        found, _ = generated.pictures(0, np.arange(5))
    np.testing.assert_array_equal(found, expected)


def test_another_seed_gives_other_pictures():
    first, _ = generated.pictures(0, np.arange(4))
    second, _ = generated.pictures(1, np.arange(4))
    assert np.abs(first.astype(int) - second).mean((1, 2, 3)).min() > 5


def test_rendered_scenes_are_float_images_in_range():
    images = render_all(scenes(200))
    chex.assert_shape(images, (200, 32, 32, 3))
    assert images.dtype == jnp.float32
    assert 0.0 <= float(images.min()) <= float(images.max()) <= 1.0


@pytest.mark.parametrize("split", generated.SPLITS)
def test_ten_pictures_in_a_row_hold_all_ten_classes(split):
    pictures = data.load("builtin", split)
    labels = pictures.labels(np.arange(len(pictures)))
    np.testing.assert_array_equal(np.bincount(labels), [len(pictures) // 10] * 10)
    assert sorted(labels[:10]) == list(range(10))
    np.testing.assert_array_equal(pictures.get(np.arange(20))[1], labels[:20])


def test_splits_are_disjoint():
    ranges = sorted(generated.SPLITS.values(), key=lambda indices: indices.start)
    for before, after in itertools.pairwise(ranges):
        assert before.stop <= after.start


def test_background_has_amplitude_one_over_frequency():
    # The shape is moved out of sight, and so is all that is not background.
    chosen = scenes(200)._replace(
        centre=np.full((200, 2), -200.0),
        light_strength=np.zeros(200),
        grain_strength=np.zeros(200),
        clutter_contrast=np.full(200, 0.05),
        ground=np.full((200, 3), 0.5),
        clutter_tint=np.zeros((200, 3)),
    )
    fields = np.asarray(render_all(chosen))[..., 0].astype(float)
    assert fields.std() == pytest.approx(0.05, rel=0.15)
    # A window, because a cut-out field does not continue at the opposite border.
    window = np.multiply.outer(np.hanning(32), np.hanning(32))
    power = (abs(np.fft.fft2((fields - 0.5) * window)) ** 2).mean(0)
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :])
    band = (frequency > 0.12) & (frequency < 0.45)
    slope, _ = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)
    assert slope == pytest.approx(-2.0, abs=0.15)


def test_textures_differ_in_direction_and_not_in_power():
    stripes, checks = (_texture_alone(texture) for texture in (0, 1))
    power = [abs(np.fft.fft2(images, axes=(1, 2))) ** 2 for images in (stripes, checks)]
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :])
    # Periods of 2.6 to 4.8 pixels, and the width of the window.
    fine = (frequency > 0.15) & (frequency < 0.45)
    for spectrum in power:
        assert spectrum[:, fine].sum() > 0.97 * spectrum.sum()
        # Neither out of reach of a picture of half the size, nor safe in it.
        assert 0.4 < spectrum[:, frequency > 0.25].sum() / spectrum.sum() < 0.9
    assert power[0].sum() == pytest.approx(power[1].sum(), rel=0.05)
    rows, columns = np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :]
    across = fine & (abs(columns) > abs(rows))
    along = fine & (abs(rows) > abs(columns))
    assert power[0][:, along].sum() < 0.02 * power[0][:, across].sum()
    assert power[1][:, along].sum() == pytest.approx(power[1][:, across].sum(), rel=0.1)


def _texture_alone(texture):
    """A shape that fills the picture, with its texture and nothing else but grey."""
    chosen = scenes(200)._replace(
        shape=np.ones(200, np.int32),
        texture=np.full(200, texture, np.int32),
        centre=np.full((200, 2), 15.5),
        radius=np.full(200, 300.0),
        texture_contrast=np.full(200, 0.1),
        light_strength=np.zeros(200),
        clutter_contrast=np.zeros(200),
        grain_strength=np.zeros(200),
        fill=np.full((200, 3), 0.5),
    )
    images = np.asarray(render_all(chosen))[..., 0].astype(float) - 0.5
    window = np.multiply.outer(np.hanning(32), np.hanning(32))
    return images * window


def test_splits_name_what_is_missing_or_outside():
    with pytest.raises(ValueError, match=r"no split 'tset'; it has train, validation, test"):
        data.load("builtin", "tset")
    pictures = data.load("builtin", "validation")
    message = r"position 2000 is outside 'builtin', split 'validation', whose 2000 pictures"
    with pytest.raises(IndexError, match=message):
        pictures.get(np.array([3, 2000, -1]))
    with pytest.raises(IndexError, match=r"position -1 is outside"):
        pictures.image(-1)
    with pytest.raises(ValueError, match=r"a line of integers, not float64 \(1,\)"):
        pictures.check_indices(np.array([0.5]))


def test_the_built_in_set_reads_like_any_other():
    pictures = data.load("builtin", "test")
    assert (len(pictures), pictures.num_classes) == (4000, 10)
    assert pictures.class_names[:3] == ("disc/stripes", "disc/checks", "square/stripes")
    assert pictures.fingerprint == "builtin-v1"
    assert repr(pictures) == "<builtin/test: 4000 pictures, 10 classes>"
    images, labels = pictures.get(np.array([260, 5]))
    chex.assert_shape(images, (2, 32, 32, 3))
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    source = pictures.source_index(np.array([260, 5]))
    np.testing.assert_array_equal(source, [2_000_260, 2_000_005])
    again, _ = generated.pictures(generated.SEED, source)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(pictures.image(5), images[1])
    assert pictures.get(np.array([], np.int64))[0].shape == (0, 32, 32, 3)
