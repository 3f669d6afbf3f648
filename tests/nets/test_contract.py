"""What every network keeps to: one example in, one out, the same in any batch."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rainjax.nets import (
    CARNM,
    EDSR,
    EDSR_BASELINE,
    EDSR_SMALL,
    IMDN,
    BlindSpot,
    ImageNetResNet,
    MobileNetV2,
    QualityNet,
    ResNet,
    ResNet4b,
    SqueezeNet,
    TinyDarknet,
    num_params,
)
from tests.golden import seeded
from tests.tiny import unchecked

NETWORKS = [
    EDSR(num_blocks=1, num_features=8),
    EDSR(num_blocks=1, num_features=8, scale=3),
    EDSR(num_blocks=1, num_features=8, scale=4, res_scale=0.1),
    EDSR(num_blocks=1, num_features=8, mean=(0.5,)),
    CARNM(num_features=8, num_groups=2),
    IMDN(num_blocks=1, num_features=32),
    BlindSpot(num_layers=4, num_features=8),
    ResNet(depth=8),
    ResNet(depth=8, norm="group"),
    ResNet4b(size=16, width=4, hidden=12, num_classes=3),
    MobileNetV2(num_classes=7, class_subset=(6, 2), stages=((1, 8, 1, 1), (4, 12, 2, 2))),
    ImageNetResNet(blocks=(1, 1), width=4, num_classes=6, class_subset=(5, 2)),
    SqueezeNet(
        num_classes=7, class_subset=(6, 2), width=6, groups=(((4, 8), (4, 8)), ((4, 8),)), size=24
    ),
    SqueezeNet(num_classes=5, width=8, groups=(((4, 8),),), size=13, mean=(0.4,), std=(0.3,)),
    TinyDarknet(num_classes=7, class_subset=(6, 2), groups=(((3, 4),), ((1, 4), (3, 8)))),
    QualityNet(num_classes=4, width=4, num_stages=2, hidden=8),
]
SIZE = 16


def _images(network, number=3):
    images = np.stack([seeded.picture(SIZE, SIZE, seed=s) for s in range(number)])
    return jnp.asarray(images[..., : len(getattr(network, "mean", (0, 0, 0)))])


@pytest.fixture(scope="module", params=NETWORKS, ids=repr)
def network(request):
    return request.param


@pytest.fixture(scope="module")
def params(network):
    return network.init(jax.random.key(0))


def test_one_image_alone_compiled_or_in_a_batch_gives_the_same_output(network, params):
    images = _images(network)
    batch = jax.jit(jax.vmap(network.apply, (None, 0)))(params, images)
    alone = network.apply(params, images[1])
    scale = float(jnp.abs(alone).max())
    assert alone.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(network.apply)(params, images[1]), alone, atol=1e-4 * scale)
    np.testing.assert_allclose(batch[1], alone, atol=1e-4 * scale)


def test_nan_is_not_lost_on_the_way(network, params):
    """In the image or in any one parameter: XLA on CPU loses it in a maximum before a sum."""
    images = jnp.concatenate([_images(network, 4)] * 2)
    run = jax.jit(jax.vmap(network.apply, (None, 0)))
    out = np.asarray(run(params, images.at[:, 3:5, 3:5].set(jnp.nan)))
    assert np.isnan(out.reshape(len(images), -1)).any(1).all()
    leaves, structure = jax.tree.flatten(params)
    for place, leaf in enumerate(leaves):
        broken = [*leaves[:place], jnp.full_like(leaf, jnp.nan), *leaves[place + 1 :]]
        assert np.isnan(run(structure.unflatten(broken), images)).any(), place


def test_output_does_not_depend_on_the_rest_of_the_batch(network, params):
    images = _images(network)
    others = jnp.concatenate([images[:1], 1 - images[1:]])
    run = jax.jit(jax.vmap(network.apply, (None, 0)))
    np.testing.assert_array_equal(run(params, images)[0], run(params, others)[0])
    assert not np.array_equal(run(params, images)[1], run(params, others)[1])


def test_shapes_describes_what_init_makes(network, params):
    shapes = network.shapes()
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda s: s.shape, shapes)
    assert num_params(params) == num_params(shapes) == sum(a.size for a in jax.tree.leaves(params))


def test_init_is_a_function_of_the_key(network, params):
    again = network.init(jax.random.key(0))
    other = network.init(jax.random.key(1))
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(again)))
    assert not all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(other)))


def test_gradients_are_finite_and_reach_image_and_kernels(network, params):
    (image,) = _images(network, 1)
    loss = lambda p, x: (network.apply(p, x) ** 2).sum()
    params_bar, image_bar = jax.jit(jax.grad(loss, (0, 1)))(params, image)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((params_bar, image_bar)))
    assert np.abs(image_bar).max() > 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params_bar):
        if path[-1].key == "kernel":
            assert np.abs(leaf).max() > 0, path


def test_network_is_a_hashable_value(network):
    assert hash(dataclasses.replace(network)) == hash(network)
    assert dataclasses.replace(network) == network


def test_wrong_number_of_channels_is_refused(network, params):
    with pytest.raises(ValueError, match=r"channels, got shape \(16, 16, 2\)"):
        network.apply(params, jnp.zeros((SIZE, SIZE, 2)))


ENLARGING = [n for n in NETWORKS if hasattr(n, "scale")]
ENLARGING += [CARNM(8, 2, scale=3), CARNM(8, 2, scale=4), IMDN(1, 16, scale=3)]


@pytest.mark.parametrize("network", ENLARGING, ids=repr)
def test_super_resolution_enlarges_by_its_scale(network):
    channels = len(getattr(network, "mean", (0, 0, 0)))
    out = jax.eval_shape(network.apply, network.shapes(), jnp.zeros((5, 7, channels)))
    assert out.shape == (5 * network.scale, 7 * network.scale, channels)


def test_sizes_are_the_published_ones():
    assert num_params(EDSR_BASELINE.shapes()) == 1_369_859
    # 3x3 kernels and biases by hand: head, 4 blocks of two and the end, upsampling, tail.
    by_hand = (27 * 32 + 32) + 9 * (9 * 32 * 32 + 32) + (9 * 32 * 128 + 128) + (9 * 32 * 3 + 3)
    assert num_params(EDSR_SMALL.shapes()) == by_hand
    running_statistics = 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert num_params(ResNet(20).shapes()) - running_statistics == 269_722
    assert num_params(MobileNetV2().shapes()) == 3_487_816
    assert num_params(ResNet4b().shapes()) == 123_734
    groups = ((3, 64), (4, 128), (6, 256), (3, 512))  # a block normalises 6 widths, a shortcut 4
    running_statistics = 2 * (64 + sum((6 * blocks + 4) * width for blocks, width in groups))
    assert num_params(ImageNetResNet().shapes()) - running_statistics == 25_557_032
    assert num_params(IMDN().shapes()) == 694_404
    assert num_params(SqueezeNet().shapes()) == 1_248_424
    assert num_params(TinyDarknet().shapes()) == 1_046_488
    # The published file of CARN-M holds the upsampling of three scales and, twice, the mean's
    # shift; there are grouped 3x3 convolutions from 64 features to 64 r**2, two of them for 4.
    upsampling = {r: 64 * r**2 * (9 * 16 + 1) for r in (2, 3)}
    rest = num_params(CARNM().shapes()) - upsampling[2]
    assert rest + 3 * upsampling[2] + upsampling[3] + 2 * (9 + 3) == 414_811


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDSR(scale=5), r"2, 3 or 4, got scale=5"),
        (lambda: EDSR(num_blocks=0), r"num_blocks=0"),
        (lambda: EDSR(value_range=0.0), r"value_range must be positive and finite, got 0.0"),
        (lambda: CARNM(scale=5), r"2, 3 or 4, got scale=5"),
        (lambda: CARNM(num_features=6), r"num_groups=4 must divide num_features=6"),
        (lambda: CARNM(mean=(float("nan"),)), r"mean must be some finite numbers, got \(nan,\)"),
        (lambda: IMDN(scale=1), r"2, 3 or 4, got scale=1"),
        (lambda: IMDN(num_blocks=0), r"num_blocks=0"),
        (lambda: IMDN(num_features=24), r"multiple of 16, got 24"),
        (lambda: ResNet(depth=18), r"6n \+ 2 .* got 18"),
        (lambda: ResNet(norm="group", num_groups=5), r"num_groups=5 does not divide width=16"),
        (lambda: ResNet(width=15), r"even, got 15"),
        (lambda: ResNet(std=(0.5,)), r"differ in length"),
        (lambda: ResNet4b(hidden=0), r"hidden=0"),
        (lambda: ResNet4b(mean=()), r"mean and std are empty"),
        (lambda: ResNet4b(std=(0.2, 0.0, 0.2)), r"std=\(0.2, 0.0"),
        (lambda: MobileNetV2(num_classes=10, class_subset=(3, 10)), r"class 10; .* 0 to 9"),
        (lambda: MobileNetV2(class_subset=()), r"class_subset is empty"),
        (lambda: MobileNetV2(mean=(0.5,)), r"differ in length"),
        (lambda: ImageNetResNet(blocks=()), r"got blocks=\(\)"),
        (lambda: ImageNetResNet(blocks=(2, 0)), r"blocks=\(2, 0\)"),
        (lambda: ImageNetResNet(width=0), r"width=0"),
        (lambda: ImageNetResNet(num_classes=0), r"num_classes=0"),
        (lambda: SqueezeNet(size=20), r"size=20 leaves nothing behind 3 pools: .* least 21"),
        (lambda: SqueezeNet(groups=()), r"at least one group, .* got width=96, groups=\(\)"),
        (lambda: SqueezeNet(groups=(((16, 64),), ())), r"groups=\(\(\(16, 64\),\), \(\)\)"),
        (lambda: SqueezeNet(groups=(((0, 64),),)), r"groups=\(\(\(0, 64\),\),\)"),
        (lambda: SqueezeNet(width=0), r"width=0"),
        (lambda: SqueezeNet(class_subset=(1000,)), r"class 1000; .* 0 to 999"),
        (lambda: SqueezeNet(std=(1.0,)), r"differ in length"),
        (lambda: TinyDarknet(groups=()), r"at least one group, .* got groups=\(\)"),
        (lambda: TinyDarknet(groups=(((3, 0),),)), r"groups=\(\(\(3, 0\),\),\)"),
        (lambda: TinyDarknet(groups=(((2, 8),),)), r"odd sizes, got groups=\(\(\(2, 8\),\),\)"),
        (lambda: TinyDarknet(num_classes=0), r"num_classes=0"),
        (lambda: TinyDarknet(mean=()), r"mean and std are empty"),
    ],
)
def test_impossible_hyperparameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_squeezenet_needs_the_size_that_it_asks_for():
    for num_groups, size in ((1, 9), (3, 21)):
        network = SqueezeNet(2, width=2, groups=(((2, 2),),) * num_groups, size=size)
        out = jax.jit(network.apply)(network.init(jax.random.key(0)), jnp.ones((5, 7, 3)))
        assert np.isfinite(out).all()
        with pytest.raises(ValueError, match=f"at least {size}"):
            dataclasses.replace(network, size=size - 1)


def test_resnet4b_refuses_images_of_another_size():
    network = ResNet4b(size=16, width=4)
    with pytest.raises(ValueError, match=r"size=16 squared, got shape \(16, 24, 3\)"):
        jax.eval_shape(network.apply, network.shapes(), jnp.zeros((16, 24, 3)))


def test_attention_to_a_constant_image_has_a_gradient():
    """The standard deviation of a constant is where the slope of a root is infinite."""
    network = IMDN(num_blocks=1, num_features=16)
    params = network.init(jax.random.key(0))
    loss = lambda x: network.apply(params, x).sum()
    assert np.isfinite(jax.jit(jax.grad(loss))(jnp.full((1, 1, 3), 0.5))).all()


def test_parameters_of_another_network_are_refused():
    network, other = EDSR(num_blocks=1, num_features=4), EDSR(num_blocks=2, num_features=4)
    params, image = network.init(jax.random.key(0)), jnp.zeros((4, 4, 3))
    with pytest.raises(ValueError, match=r"'blocks/1/conv1/bias' of shape .* is missing"):
        other.apply(params, image)
    wider = EDSR(num_blocks=1, num_features=5)
    with pytest.raises(ValueError, match=r"has shape .*, the network needs"):
        jax.jit(wider.apply)(params, image)


@pytest.mark.parametrize("network", [ResNet(depth=8, norm="group"), EDSR(num_blocks=1)])
def test_images_that_are_not_one_float_image_are_refused(network):
    params = network.init(jax.random.key(0))
    with pytest.raises(ValueError, match="floats in \\[0, 1\\], got uint8 of shape"):
        network.apply(params, jnp.zeros((8, 8, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"got float32 of shape \(2, 8, 8, 3\).*jax.vmap"):
        network.apply(params, jnp.zeros((2, 8, 8, 3)))


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: ResNet(std=(0.2, 0.0, 0.2)), "std="),
        (lambda: ResNet(mean=(0.2, float("nan"), 0.2)), "mean="),
        (lambda: ResNet(num_classes=0), "num_classes=0"),
        (lambda: ResNet(norm="group", num_groups=0), "num_groups=0"),
        (lambda: EDSR(value_range=float("inf")), "inf"),
        (lambda: EDSR(res_scale=float("nan")), "res_scale=nan"),
        (lambda: MobileNetV2(num_classes=0), "num_classes=0"),
    ],
)
def test_impossible_fields_are_refused(make, value):
    with pytest.raises(ValueError, match=value):
        make()


def test_unknown_padding_is_refused():
    with (
        unchecked(),
        pytest.raises(ValueError, match="padding='valid' is none of 'same', 'torch'"),
    ):
        MobileNetV2(padding="valid")


def test_training_mode_takes_statistics_over_the_batch_and_moves_the_running_ones():
    network = ResNet(depth=8)
    params, images = network.init(jax.random.key(0)), _images(network, 4)
    apply = lambda image: network.apply_in_training(params, image, axis_name="batch")
    outputs, moved = jax.vmap(apply, axis_name="batch")(images)

    module = network.build(nnx.Rngs(0))
    state = nnx.state(module)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(module, state)
    module.set_attributes(use_running_average=False, momentum=0.9)
    np.testing.assert_allclose(outputs, module(images), atol=1e-5)
    wanted = nnx.to_pure_dict(nnx.state(module))
    chex.assert_trees_all_close(jax.tree.map(lambda m: m[2], moved), wanted, rtol=1e-5, atol=1e-6)
    # By hand: a mean of nine tenths of zero and a tenth of the first convolution's own.
    standard = (np.asarray(images) - np.array(network.mean)) / np.array(network.std)
    first = np.asarray(module.conv1(jnp.asarray(standard, jnp.float32)))
    np.testing.assert_allclose(moved["norm1"]["mean"][0], first.mean((0, 1, 2)) / 10, atol=1e-5)


@pytest.mark.parametrize("network", [n for n in NETWORKS if not n.has_batch_norm], ids=repr)
def test_training_mode_needs_batch_norm(network):
    assert network != ResNet(depth=8)
    params = network.init(jax.random.key(0))
    with pytest.raises(ValueError, match="has no batch norm whose statistics"):
        network.apply_in_training(params, _images(network)[0], axis_name="batch")
