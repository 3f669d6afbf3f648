"""The blind-spot network: what its output sees, and that it is FBI-Net."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.nets import BLIND_SPOT, FBI_MASKS, BlindSpot, Mask, from_torch, num_params, to_torch
from rainjax.nets.blind_spot import _prelu
from tests.golden import seeded
from train.compute import Compute

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "blind_spot_torch.npz"

# The three half-planes of FC-AIDE (Cha and Moon, 2019), and two squares larger than FBI-Net's:
# everything but the middle, and everything but the middle 3x3.
UP_LEFT = (Mask(((1, 1, 0), (1, 0, 0), (0, 0, 0))), Mask(((1, 1, 1), (1, 1, 0), (1, 0, 0))))
UP_RIGHT = (Mask(((0, 1, 1), (0, 0, 1), (0, 0, 0))), Mask(((1, 1, 1), (0, 1, 1), (0, 0, 1))))
DOWN = (Mask(((0, 0, 0), (0, 0, 0), (1, 1, 1))), Mask(((0, 0, 0), (1, 1, 1), (1, 1, 1))))
PLUS = ((0, 1, 0), (1, 1, 1), (0, 1, 0))


def _square(size, hole):
    ring = np.ones((size, size), int)
    inner = slice(size // 2 - hole // 2, size // 2 + hole // 2 + 1)
    ring[inner, inner] = 0
    return Mask(tuple(tuple(map(int, row)) for row in ring))


LARGE = (_square(5, hole=1), Mask(PLUS, dilation=3))
HOLE = (_square(7, hole=3), Mask(PLUS, dilation=5))


def _sees(network):
    """Returns where one output's gradient is not zero, under positive numbers everywhere.

    Every activation is positive then, so no path is closed, and none cancels another.
    """
    rng = np.random.default_rng(0)
    positive = lambda leaf: jnp.asarray(
        rng.uniform(0.5, 1.0, leaf.shape) / np.prod(leaf.shape[:-1]), jnp.float32
    )
    params = jax.tree.map(positive, network.shapes())
    reach = [size // 2 for size in network.receptive_field().shape]
    image = jnp.asarray(rng.uniform(0.2, 1, [2 * r + 3 for r in reach] + [network.in_channels]))
    pixel = lambda x: network.apply(params, x)[reach[0] + 1, reach[1] + 1].sum()
    slope = np.asarray(jax.jit(jax.grad(pixel))(image.astype(jnp.float32)))
    assert slope.min() >= 0
    assert not slope[[0, -1]].any()  # beyond the receptive field
    assert not slope[:, [0, -1]].any()
    assert ((slope > 0).all(-1) == (slope > 0).any(-1)).all()  # all channels alike
    return slope[1:-1, 1:-1, 0] > 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_slopes_derivative_is_that_of_the_plain_function(dtype):
    plain = lambda x, slope: jnp.where(x <= 0, slope[None, None, None] * x, x)
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)
    x, slope = draw(2, 3, 4, 5).at[0, 0, 0, :2].set(0), draw(5)
    tangents = draw(*x.shape), draw(5)
    cubed = lambda fn: lambda x, slope: (fn(x, slope).astype(jnp.float32) ** 3).sum()
    along = lambda fn: jax.jvp(fn, (x, slope), tangents)
    back = lambda fn: jax.grad(cubed(fn), (0, 1))(x, slope)
    twice = lambda fn: jax.jvp(jax.grad(cubed(fn), (0, 1)), (x, slope), tangents)
    each = lambda fn: jax.vmap(lambda x: jax.grad(cubed(fn), 1)(x[None], slope))(x)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    for derivative in (along, back, twice, each):
        found, wanted = (jax.tree.leaves(derivative(fn)) for fn in (_prelu, plain))
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(
                one.astype(jnp.float32), other.astype(jnp.float32), tolerance, tolerance
            )
    assert jnp.isnan(_prelu(jnp.full_like(x, jnp.nan), slope)).all()


@pytest.mark.parametrize(("num_layers", "num_seen"), [(8, 1736), (17, 8864)])
def test_an_output_sees_a_square_but_for_a_lattice_through_its_own_pixel(num_layers, num_seen):
    network = BlindSpot(num_layers, num_features=2, in_channels=2)
    radius = 3 + 3 * (num_layers - 2)
    down, right = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    lattice = (down % 3 == 0) & (right % 3 == 0) & ((down + right) // 3 % 2 == 0)
    np.testing.assert_array_equal(_sees(network), ~lattice)
    np.testing.assert_array_equal(network.receptive_field(), ~lattice)
    assert network.receptive_field().sum() == num_seen


@pytest.mark.parametrize("masks", [UP_LEFT, UP_RIGHT, DOWN, LARGE, HOLE])
def test_other_masks_are_as_blind_as_their_receptive_field_says(masks):
    network = BlindSpot(num_layers=4, num_features=2, in_channels=1, masks=masks)
    sees = _sees(network)
    np.testing.assert_array_equal(sees, network.receptive_field())
    reach = sees.shape[0] // 2
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    if masks is UP_LEFT:
        assert not sees[down + right >= 0].any()
    elif masks is UP_RIGHT:
        assert not sees[down - right >= 0].any()
    elif masks is DOWN:
        np.testing.assert_array_equal(sees, down >= 1)
    else:
        hole, square = {LARGE: (0, 2), HOLE: (1, 3)}[masks]
        distance = np.maximum(abs(down), abs(right))
        assert not sees[distance <= hole].any()
        assert sees[(distance > hole) & (distance <= square)].all()


def test_what_a_mask_drops_counts_for_nothing_whatever_it_holds():
    network = BlindSpot(num_layers=4, num_features=4)
    params = network.init(jax.random.key(0))
    image = jnp.asarray(seeded.picture(9, 8, seed=0))
    dropped = {
        number: 1e3 * (1 - np.array(mask.rows))[:, :, None, None]
        for number, mask in enumerate(network.layer_masks)
    }
    noisy = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf + dropped[path[1].key]
            if (path[0].key, path[-1].key) == ("convs", "kernel")
            else leaf
        ),
        params,
    )
    assert not np.array_equal(params["convs"][0]["kernel"], noisy["convs"][0]["kernel"])
    outputs = [jax.jit(network.apply)(p, image) for p in (params, noisy)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(("name", "layers", "features"), [("small", 5, 8), ("published", 17, 64)])
def test_the_grey_form_agrees_with_pytorch(name, layers, features):
    with np.load(GOLDEN) as archive:
        stored = {key: archive[f"{name}/{key}"] for key in ("num_params", "output", "gradient")}
        shapes = json.loads(archive[f"{name}/shapes"].item())
    network = BlindSpot(layers, features, in_channels=1, out_channels=2)
    seed = ["small", "published"].index(name)
    arrays = seeded.weights(shapes, seed=seed)
    # The authors' first activation has a slope for each channel of the image, which is one.
    arrays["new1.activation_new1.weight"] = np.repeat(
        arrays["new1.activation_new1.weight"], features
    )
    params = from_torch(network, arrays)
    assert num_params(params) == stored["num_params"] + features - 1
    image = jnp.asarray(seeded.picture(*stored["output"].shape[:2], seed=seed)[..., :1])

    @jax.jit
    def run(params, image):
        output, vjp = jax.vjp(lambda x: network.apply(params, x), image)
        return output, vjp(output)[0]

    output, gradient = run(params, image)
    for actual, wanted in ((output, stored["output"]), (gradient, stored["gradient"])):
        np.testing.assert_allclose(actual, wanted, atol=1e-5 * np.abs(wanted).max())
    back = to_torch(network, params)
    assert all(np.array_equal(back[key], arrays[key]) for key in arrays)


def test_it_has_the_published_number_of_parameters():
    # Those of the authors' network, whose first activation has one slope for 64.
    assert num_params(BlindSpot(in_channels=1, out_channels=2).shapes()) == 811_331 + 63
    # Two more channels in: 9 taps of 64 features each; one more out, with its bias.
    assert num_params(BLIND_SPOT.shapes()) == 811_331 + 63 + 2 * 9 * 64 + 65


def test_it_computes_in_bfloat16():
    network = BlindSpot(num_layers=4, num_features=8)
    params = network.init(jax.random.key(0))
    image = jnp.asarray(seeded.picture(12, 10, seed=0))
    lowered = Compute(precision="bfloat16").lower(network.apply)
    program = str(jax.make_jaxpr(lowered)(params, image))
    convolutions = [line for line in program.splitlines() if "= conv_general_dilated" in line]
    assert len(convolutions) == 4 + 2 * 5 + 1
    assert all("bf16[" in line for line in convolutions)
    exact = jax.jit(network.apply)(params, image)
    rounded = jax.jit(lowered)(params, image)
    np.testing.assert_allclose(rounded, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlindSpot(num_features=0), "num_features=0 must be at least 1"),
        (lambda: BlindSpot(in_channels=0), "in_channels=0 must be at least 1"),
        (lambda: BlindSpot(num_layers=2), "num_layers=2 and 3 masks"),
        (lambda: BlindSpot(masks=()), "and 0 masks"),
        (lambda: BlindSpot(num_layers=10**9), "num_layers=1000000000 and 3 masks"),
        (lambda: BlindSpot(num_layers=200), "num_layers=200 reach 597 pixels"),
        (lambda: BlindSpot(masks=(Mask(((1, 0, 1),), 10**9),)), "reach 17000000000 pixels"),
        (lambda: BlindSpot(masks=(Mask(((1, 1, 1),)),)), "from layer 1 on"),
        # A ring that is walked there and back; and FBI-Net's own with its taps two pixels apart.
        (lambda: BlindSpot(masks=FBI_MASKS[:1]), "from layer 2 on"),
        (
            lambda: BlindSpot(masks=(*FBI_MASKS[:2], Mask(FBI_MASKS[2].rows, dilation=2))),
            "from layer 3 on",
        ),
        (lambda: Mask(((1, 1), (0, 1))), r"odd .* lengths \(2, 2\)"),
        (lambda: Mask(((1, 1, 1), (1,), (1, 1, 1))), r"lengths \(3, 1, 3\)"),
        (lambda: Mask(()), r"lengths \(\)"),
        (lambda: Mask(((0,),)), r"once at least.* got \(\(0,\),\)"),
        (lambda: Mask(((2,),)), r"got \(\(2,\),\)"),
        (lambda: Mask(((1,),), dilation=0), "dilation=0 must be at least 1"),
    ],
)
def test_impossible_masks_and_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
