"""The built-in data set: labelled 32x32 pictures, each a pure function of a seed and an index.

A class is a shape (five) with a fine texture (two). Both textures have the same spectrum but
for its directions, around a quarter cycle per pixel, where halving a picture begins to lose
or garble: whoever loses the upper half of the frequencies still sees the shape, and of the
texture only the coarser part.

A picture is the same on every machine up to one grey level: its random numbers are threefry
bits, every choice among alternatives is integer arithmetic, and what follows is continuous in
them, so that another machine's rounding moves a value by about 1e-5.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rainjax.keys import Purpose
from rainjax.typing import Image, PRNGKey

SIZE = 32
SEED = 0
SHAPES = ("disc", "square", "triangle", "cross", "ring")
TEXTURES = ("stripes", "checks")
CLASS_NAMES = tuple(f"{shape}/{texture}" for shape in SHAPES for texture in TEXTURES)
# Positions in the one endless sequence of pictures, far apart so that a split can grow.
SPLITS = {
    "train": range(0, 20_000),
    "validation": range(1_000_000, 1_002_000),
    "test": range(2_000_000, 2_004_000),
}


class Scene(NamedTuple):
    """Everything random about one picture; lengths in pixels, angles in radians."""

    shape: Int[Array, ""]
    texture: Int[Array, ""]
    centre: Float[Array, "2"]
    radius: Float[Array, ""]
    stretch: Float[Array, ""]
    angle: Float[Array, ""]
    texture_angle: Float[Array, ""]
    texture_period: Float[Array, ""]
    texture_phase: Float[Array, "2"]
    texture_contrast: Float[Array, ""]
    fill: Float[Array, "3"]
    ground: Float[Array, "3"]
    light_angle: Float[Array, ""]
    light_strength: Float[Array, ""]
    clutter_contrast: Float[Array, ""]
    clutter_tint: Float[Array, "3"]
    clutter: Float[Array, "m m 2"]
    grain_strength: Float[Array, ""]
    grain: Float[Array, "h w c"]


def picture_label(index):
    """Returns the class of picture `index`: classes take turns, so ten in a row hold all ten.

    For numbers and for arrays of NumPy or JAX alike.
    """
    return index % len(CLASS_NAMES)


def picture_key(seed: int | Int[Array, ""], index: Int[Array, ""]) -> PRNGKey:
    """Returns the key of picture `index`; always threefry, whatever JAX's default generator."""
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(root, int(Purpose.DATA)), index)


def draw_scene(key: PRNGKey, label: Int[Array, ""]) -> Scene:
    """Draws pose, colours, light, background and grain for a picture of class `label`.

    The order of the draws is part of the data set: a number moved is another set of pictures.
    """
    scalars_key, clutter_key, grain_key = jax.random.split(key, 3)
    scalars = jax.random.uniform(scalars_key, (_NUM_SCALARS,), jnp.float32)
    # Without the barrier XLA repeats the generator in every use, and compiles for seconds.
    scalars = iter(jax.lax.optimization_barrier(scalars))

    def uniform(low, high):
        return low + (high - low) * next(scalars)

    fill_level = uniform(0.34, 0.72)
    # The ground is darker or lighter than the shape by at least a visible step.
    side = jnp.where(uniform(0.0, 1.0) < 0.5, -1.0, 1.0)
    ground_level = fill_level + side * uniform(0.03, 0.22)
    hue = uniform(0.0, 1.0)
    # Wider than the picture, because a filtered field repeats at its border.
    wide = SIZE * 3 // 2
    return Scene(
        shape=label // len(TEXTURES),
        texture=label % len(TEXTURES),
        centre=SIZE / 2 + jnp.stack([uniform(-3.0, 3.0), uniform(-3.0, 3.0)]),
        radius=uniform(6.5, 12.0),
        stretch=uniform(0.88, 1.14),
        angle=uniform(0.0, 2 * np.pi),
        texture_angle=uniform(-0.5, 0.5),
        texture_period=uniform(2.6, 4.8),
        texture_phase=jnp.stack([uniform(0.0, 2 * np.pi), uniform(0.0, 2 * np.pi)]),
        texture_contrast=0.025 * 5.0 ** uniform(0.0, 1.0),
        fill=_colour(fill_level, hue, uniform(0.04, 0.22)),
        ground=_colour(ground_level, hue + uniform(0.2, 0.8), uniform(0.02, 0.16)),
        light_angle=uniform(0.0, 2 * np.pi),
        light_strength=uniform(0.1, 0.45),
        clutter_contrast=uniform(0.05, 0.16),
        clutter_tint=jnp.stack([uniform(-0.6, 0.6), uniform(-0.6, 0.6), uniform(-0.6, 0.6)]),
        clutter=jax.random.uniform(clutter_key, (wide, wide, 2), jnp.float32, -1.0, 1.0),
        grain_strength=uniform(0.0, 0.045),
        grain=jax.random.uniform(grain_key, (SIZE, SIZE, 3), jnp.float32, -1.0, 1.0),
    )


def render(scene: Scene) -> Image:
    """Returns the picture of `scene`, 32x32 RGB in [0, 1]. Smooth edges: nothing is aliased."""
    grid = jnp.arange(SIZE, dtype=jnp.float32)
    down = (grid[:, None] - scene.centre[0]) * jnp.ones((1, SIZE))
    right = (grid[None, :] - scene.centre[1]) * jnp.ones((SIZE, 1))

    sdf = _signed_distance(scene, right, down)
    inside = _smooth_step(0.5 - sdf / 1.5)
    shadow_x, shadow_y = 2.5 * jnp.cos(scene.light_angle), 2.5 * jnp.sin(scene.light_angle)
    shadow = _smooth_step(0.5 - _signed_distance(scene, right + shadow_x, down + shadow_y) / 6.0)

    towards_light = (
        right * jnp.cos(scene.light_angle) + down * jnp.sin(scene.light_angle)
    ) / scene.radius
    shade = 1.0 + scene.light_strength * 0.5 * towards_light
    rim = 1.0 - 0.25 * _smooth_step(1.0 + sdf / 2.5)  # darker where the surface turns away
    texture = scene.texture_contrast * _texture(scene, right, down)

    surface = scene.fill[None, None, :] * (shade * rim)[..., None] + texture[..., None]
    fields = _pink(scene.clutter)[:SIZE, :SIZE]
    clutter = fields[..., :1] + fields[..., 1:] * scene.clutter_tint[None, None, :]
    ground_shade = (1.0 + 0.3 * (shade - 1.0)) * (1.0 - 0.3 * shadow)
    ground = scene.ground[None, None, :] * ground_shade[..., None]
    ground = ground + scene.clutter_contrast * clutter
    surface = surface + 0.25 * scene.clutter_contrast * clutter

    image = ground + inside[..., None] * (surface - ground)
    return jnp.clip(image + scene.grain_strength * scene.grain, 0.0, 1.0)


def pictures(
    seed: int, indices: Int[np.ndarray, "n"]
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
    """Returns pictures and labels at these positions of the endless sequence grown from `seed`.

    Works through chunks of one fixed size, so that any number of pictures compiles once.
    """
    indices = np.asarray(indices, np.int32)
    images = np.empty((len(indices), SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(indices), _CHUNK):
        chunk = indices[start : start + _CHUNK]
        padded = np.pad(chunk, (0, _CHUNK - len(chunk)), mode="edge")
        images[start : start + _CHUNK] = np.asarray(_render_chunk(seed, padded))[: len(chunk)]
    return images, picture_label(indices)


_CHUNK = 250
_NUM_SCALARS = 32


@jax.jit
def _render_chunk(seed, indices):
    def one(index):
        image = render(draw_scene(picture_key(seed, index), picture_label(index)))
        return jnp.round(image * 255.0).astype(jnp.uint8)

    return jax.vmap(one)(indices)


def _colour(level, hue, saturation):
    """A colour around grey `level`: the three channels ride one cosine, a third apart."""
    turns = hue + jnp.array([0.0, 1 / 3, 2 / 3], jnp.float32)
    return level + saturation * jnp.cos(2 * np.pi * turns)


def _smooth_step(x):
    x = jnp.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _signed_distance(scene, right, down):
    """Distance to the outline in pixels, negative inside; sizes chosen for similar areas."""
    cos, sin = jnp.cos(scene.angle), jnp.sin(scene.angle)
    x = (right * cos + down * sin) * scene.stretch
    y = (down * cos - right * sin) / scene.stretch
    size = scene.radius
    # The tiny constant keeps the square root smooth at the centre.
    distance = jnp.sqrt(x * x + y * y + 1e-6)
    ax, ay = jnp.abs(x), jnp.abs(y)
    disc = distance - 0.92 * size
    square = jnp.maximum(ax, ay) - 0.82 * size
    half = 0.5 * np.sqrt(3.0)
    triangle = jnp.maximum(-y, jnp.maximum(half * x + 0.5 * y, 0.5 * y - half * x)) - 0.62 * size
    bar, arm = 0.36 * size, 1.08 * size
    cross = jnp.minimum(jnp.maximum(ax - arm, ay - bar), jnp.maximum(ax - bar, ay - arm))
    ring = jnp.abs(distance - 0.74 * size) - 0.3 * size
    return jax.lax.select_n(scene.shape, disc, square, triangle, cross, ring)


def _texture(scene, right, down):
    """One plane wave, or two at right angles: the same power at the same frequency."""
    cos, sin = jnp.cos(scene.texture_angle), jnp.sin(scene.texture_angle)
    turn = 2 * np.pi / scene.texture_period
    first = jnp.cos(turn * (right * cos + down * sin) + scene.texture_phase[0])
    second = jnp.cos(turn * (down * cos - right * sin) + scene.texture_phase[1])
    return jax.lax.select_n(scene.texture, first, (first + second) * np.sqrt(0.5))


def _pink(white):
    """Filters white fields `m m k` to amplitude 1/f with standard deviation about one."""
    size = white.shape[0]
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    gain = np.where(frequency > 0, 1.0 / np.maximum(frequency, 1.0 / size), 0.0)
    full = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    power = np.mean(np.where(full > 0, 1.0 / np.maximum(full, 1.0 / size), 0.0) ** 2)
    gain = (gain / np.sqrt(power / 3.0)).astype(np.float32)  # a uniform's variance is 1/3
    spectrum = jnp.fft.rfft2(white, axes=(0, 1)) * gain[..., None]
    return jnp.fft.irfft2(spectrum, s=(size, size), axes=(0, 1))
