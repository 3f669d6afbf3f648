"""Certificates for roundings, beside loops over everything that can be reached.

Feature Distillation's are measured in test_reachable.py, by linear programs.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from rainjax import Defended, Identity, transforms
from rainjax.attacks import balls
from rainjax.defenses import JPEG, SHIELD, BitDepth, Chain, FeatureDistillation
from rainjax.evaluation import certify_rounding
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)


def linear(size: int, seed: int = 0):
    kernel = np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)
    return Linear(size, 3), {"defense": (), "classifier": {"kernel": jnp.asarray(kernel)}}


def test_bit_depth_is_proved_exactly_where_a_loop_over_all_levels_says_so():
    network, params = linear(12)
    kernel = np.asarray(params["classifier"]["kernel"])
    images = np.float32(RNG.uniform(size=(40, 2, 2, 3)))
    rounded = lambda x: np.round(np.float64(x) * 7)
    labels = (rounded(images).reshape(40, -1) / 7 @ kernel).argmax(1)
    labels[::8] = (labels[::8] + 1) % 3
    radius = 4 / 255
    found = certify_rounding(
        Defended(BitDepth(3), network), params, images, labels, radius=radius, batch_size=7
    )
    expected, counts = [], []
    for image, label in zip(images, labels, strict=True):
        ends = [rounded(np.clip(image.ravel() + move, 0, 1)) for move in (-radius, radius)]
        options = [np.unique(pair) for pair in zip(*ends, strict=True)]
        seen = np.array(list(itertools.product(*options)))
        expected.append(bool(((seen / 7 @ kernel).argmax(1) == label).all()))
        counts.append(len(seen))
    np.testing.assert_array_equal(found.proved, expected)
    np.testing.assert_array_equal(np.exp2(found.log2_outcomes).round(), counts)
    np.testing.assert_array_equal(found.correct, np.arange(40) % 8 != 0)
    assert 0 < found.proved.sum() < found.correct.sum()
    accuracy, low, high = found.accuracy
    assert low < accuracy == np.mean(expected) < high
    # Fewer outcomes may be looked at, and then less is proved.
    few = certify_rounding(
        Defended(BitDepth(3), network), params, images, labels, radius=radius, max_outcomes=2
    )
    np.testing.assert_array_equal(few.proved, found.proved & (np.array(counts) <= 2))


CODECS = (
    JPEG(75),
    JPEG(40, "4:4:4"),
    FeatureDistillation(level_shift=True),
    FeatureDistillation(colours="ycbcr", subsampling="4:2:0"),
)


def levels_of(defense, image):
    """Returns the multiples of their steps that the transform itself rounds coefficients to."""
    if isinstance(defense, FeatureDistillation) and defense.colours == "rgb":
        grey = 255 * np.float64(transforms.pad_to_blocks(image)) - 128
        rows, cols, channels = grey.shape[0] // 8, grey.shape[1] // 8, grey.shape[2]
        blocks = grey.reshape(rows, 8, cols, 8, channels).transpose(0, 2, 1, 3, 4)
        steps = np.asarray(defense.steps)[None, None, :, :, None]
        return [np.round(scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho") / steps)]
    if isinstance(defense, JPEG):
        tables = transforms.quality_tables(defense.quality)
    else:
        tables = (jnp.asarray(defense.steps),) * 2
    kept = transforms.jpeg_coefficients(image, *tables, defense.subsampling)
    return [
        np.round(found / table[None, None, ..., None])
        for found, table in zip(kept, tables, strict=False)
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("defense", CODECS, ids=repr)
def test_no_image_of_the_ball_leaves_the_bounds(defense, norm, channels):
    """Neither its corners, where L-inf allows most, nor images with few pixels far away."""
    rng = np.random.default_rng(1)
    image = jnp.asarray(np.round(255 * rng.uniform(size=(12, 20, channels))) / 255, jnp.float32)
    # No whole number of grey levels: rounding them first carries some of them further.
    radius = {"linf": 1.6 / 255, "l2": 0.1}[norm]
    moves = rng.normal(size=(24, *image.shape))
    moves[::4] *= rng.random(image.shape) < 0.02
    # The last pixel is repeated where sides are no multiples of 8.
    corner = np.zeros(image.shape)
    corner[-1, -1] = 1
    moves[1::4] *= corner
    # Nothing moves a coefficient further than its own basis image.
    for move, place in zip(moves[2::4], np.eye(64)[[0, 0, 1, 8, 9, 18]], strict=True):
        block = scipy.fft.idctn(place.reshape(8, 8), norm="ortho") * rng.choice([-1, 1])
        move[...] = np.tile(block, (2, 3))[:12, :20, None]
    if norm == "linf":
        moves = radius * np.sign(moves)
    else:
        moves *= radius / np.linalg.norm(moves.reshape(24, -1), axis=1)[:, None, None, None]
    near = jnp.clip(image[None] + jnp.asarray(moves, jnp.float32), 0.0, 1.0)
    bounds = jax.jit(lambda x: defense.level_bounds(x, radius, norm))(image)
    changed = False
    own = levels_of(defense, image)
    for other in (image, *near):
        for level, least, most, before in zip(
            levels_of(defense, other), bounds.low, bounds.high, own, strict=True
        ):
            assert ((np.asarray(least) <= level) & (level <= np.asarray(most))).all()
            changed |= bool((level != before).any())
    assert changed
    # The image that the true levels make is what the defense returns.
    made = defense.from_levels(tuple(jnp.asarray(x, jnp.int32) for x in own), image.shape)
    np.testing.assert_allclose(made, defense.purify(image), atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bits", [8, 16])
def test_values_at_a_tie_keep_their_bounds_in_float32(bits, norm):
    """Values whose ball ends at a tie, to some units in the last place, and a step beyond it."""
    rng, levels, num = np.random.default_rng(0), 2**bits - 1, 20_000
    for radius in rng.uniform(0.001, 0.5, size=12).tolist():
        sign = rng.choice([-1.0, 1.0], size=num)
        values = np.float32((rng.integers(0, levels, size=num) + 0.5) / levels - sign * radius)
        values = (values.view(np.int32) + rng.integers(-3, 4, num, np.int32)).view(np.float32)
        kept = (values >= 0) & (values <= 1)
        images = jnp.asarray(values[kept])[:, None, None, None]  # of one value each
        moves = jnp.float32(sign * radius * rng.uniform(1, 3, num))[kept, None, None, None]
        into = functools.partial(balls.into_box, norm=norm, radius=radius)
        found = np.round(jax.vmap(into)(images, images + moves) * np.float32(levels))
        bounds = BitDepth(bits).level_bounds(images[:, 0], radius, norm)
        assert (bounds.low[0] <= found[:, 0]).all()
        assert (found[:, 0] <= bounds.high[0]).all()


def test_levels_too_large_for_their_type_prove_nothing():
    network, params = linear(64)
    image = np.random.default_rng(0).uniform(size=(1, 8, 8, 1)).astype(np.float32)
    for step in (1e-9, 1e-12):
        defense = FeatureDistillation(steps=((step,) * 8,) * 8)
        label = Defended(defense, network).predict(
            params, jax.random.key(0), jnp.asarray(image[0])
        )
        found = certify_rounding(
            Defended(defense, network), params, image, np.asarray(label)[None], radius=8 / 255
        )
        assert not found.proved[0]
        assert found.log2_outcomes[0] == np.inf


def test_what_is_given_is_checked():
    network, params = linear(12)
    images, labels = np.full((2, 2, 2, 3), 0.5, np.float32), np.zeros(2, int)
    certify = lambda defense, **options: certify_rounding(
        Defended(defense, network),
        params | {"defense": defense.init(jax.random.key(0))},
        images,
        labels,
        **{"radius": 0.01} | options,
    )
    for defense in (Identity(), SHIELD(), BitDepth(3).smooth(), Chain((BitDepth(3),))):
        with pytest.raises(ValueError, match=f"{type(defense).__name__} gives no bounds"):
            certify(defense)
    for options, message in (
        ({"norm": "l1"}, "norm='l1' has no bounds on levels: take 'linf' or 'l2'"),
        ({"radius": 8.0}, "radius=8.0 must lie in"),
        ({"max_outcomes": 0}, "max_outcomes=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            certify(BitDepth(3), **options)
