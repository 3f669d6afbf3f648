"""The key tree: every random draw has one path from its seed, in any batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import transforms
from rainjax.devices import batch_sharding, data_mesh
from rainjax.keys import Purpose, choice, choices, example_keys, purpose_key
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)


def test_a_key_depends_on_seed_purpose_and_index_alone():
    data = jax.random.key_data
    places = list(itertools.product((0, 1), Purpose, (0, 1, 1233, 1234)))
    found = {
        place: tuple(np.asarray(data(example_keys(*place[:2], jnp.array([place[2]]))[0])))
        for place in places
    }
    assert len(set(found.values())) == len(places)  # nothing collides
    keys = example_keys(1, Purpose.SCORE, jnp.array([7, 1234, 5]))
    assert tuple(np.asarray(data(keys[1]))) == found[1, Purpose.SCORE, 1234]
    root = jax.random.fold_in(jax.random.key(1), 2)  # what records of old runs rely on
    expected = jax.random.fold_in(root, 1234)
    np.testing.assert_array_equal(data(keys[1]), data(expected))
    np.testing.assert_array_equal(data(purpose_key(1, Purpose.SCORE)), data(root))


def test_purposes_keep_their_numbers():
    """Records name seeds; renumbering would silently change what they mean."""
    expected = {"INIT": 0, "ATTACK": 1, "SCORE": 2, "TRAIN": 3, "DATA": 4, "SELECT": 5, "ORDER": 6}
    assert {purpose.name: int(purpose) for purpose in Purpose} == expected


def test_transforms_of_an_example_are_the_same_to_the_bit_in_any_batch():
    images = RNG.uniform(size=(2000, 8, 8, 3)).astype(np.float32)

    def transform(key, image):
        pick_key, shift_key = jax.random.split(key)
        small = transforms.random_pixel_downsample(pick_key, image)
        return transforms.random_circular_shift(shift_key, small, max_shift=2)

    run, outputs = jax.jit(jax.vmap(transform)), []
    for indices in ([1234], [3, 1234, 9], range(1230, 1238), range(1234, 1242)):
        indices = np.array(indices)
        keys = example_keys(5, Purpose.SCORE, jnp.asarray(indices))
        batches = [(keys, images[indices])]
        if len(indices) == 8:  # spread over two devices as well
            sharding = batch_sharding(data_mesh(2))
            batches.append(jax.device_put((keys, jnp.asarray(images[indices])), sharding))
        for batch in batches:
            outputs.append(np.asarray(run(*batch))[list(indices).index(1234)])
    for output in outputs[1:]:
        np.testing.assert_array_equal(output, outputs[0])


def test_every_position_of_32_bits_has_the_key_it_always_had():
    root = jax.random.fold_in(jax.random.key(3), int(Purpose.ATTACK))
    positions = [0, 1, 1234, 2**31 - 1, 2**31, 2**32 - 1]
    expected = [jax.random.key_data(jax.random.fold_in(root, np.uint32(i))) for i in positions]
    for kind in (np.int64, np.uint64, np.uint32):
        keys = example_keys(3, Purpose.ATTACK, np.array(positions, kind))
        np.testing.assert_array_equal(jax.random.key_data(keys), np.stack(expected))
    few = jnp.array(positions[:4])
    traced = jax.jit(lambda indices: example_keys(3, Purpose.ATTACK, indices))
    for keys in (example_keys(3, Purpose.ATTACK, few), traced(few)):
        np.testing.assert_array_equal(jax.random.key_data(keys), np.stack(expected[:4]))
    assert example_keys(3, Purpose.ATTACK, np.arange(0)).shape == (0,)
    with unchecked():
        for seed in (np.int64(3), jnp.int32(3)):
            assert (example_keys(seed, Purpose.ATTACK, positions[:4]) == keys).all()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((0, Purpose.ATTACK, np.array([1, 2**32 + 1])), "indices hold 4294967297, and must lie"),
        ((0, Purpose.ATTACK, np.array([2**32])), "indices hold 4294967296"),
        ((0, Purpose.ATTACK, np.array([3, -1])), "indices hold -1, and must lie in 0"),
        ((0, Purpose.ATTACK, jnp.array([-5])), "indices hold -5"),
        ((0, Purpose.ATTACK, [2**70]), "is no array of numbers"),
        (
            (0, Purpose.ATTACK, np.array([0.0, 1.0])),
            r"such as np.arange\(16\), not float64 of shape",
        ),
        ((0, Purpose.ATTACK, np.array([True, False])), "not bool of shape"),
        ((0, Purpose.ATTACK, 5), r"not int64 of shape \(\)"),
        ((0, Purpose.ATTACK, np.arange(4)[None]), r"not int64 of shape \(1, 4\)"),
        ((0, Purpose.ATTACK, ["a"]), "indices must be whole numbers"),
        ((0, Purpose.ATTACK, [[1], [1, 2]]), "is no array of numbers"),
        ((0, Purpose.ATTACK, None), "indices=None is no array of numbers"),
        ((0, 1, np.arange(2)), "takes a Purpose, not 1: give one such as Purpose.ATTACK"),
        ((0, "ATTACK", np.arange(2)), "takes a Purpose, not 'ATTACK'"),
        (("3", Purpose.ATTACK, np.arange(2)), "seed='3' must be a whole number"),
        ((1.5, Purpose.ATTACK, np.arange(2)), "seed=1.5 must be a whole number"),
        ((True, Purpose.ATTACK, np.arange(2)), "seed=True must be a whole number"),
        ((2**32, Purpose.ATTACK, np.arange(2)), "seed=4294967296 must be a whole number in 0"),
    ],
)
def test_what_has_no_key_of_its_own_is_refused(given, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence) as raised:
        example_keys(*given)
    assert "\n" not in str(raised.value)


def test_numbers_are_drawn_below_one_at_least():
    for num in (0, -1, 1.5, "2", True):
        for draw in (choice, lambda key, num: choices(key, (2,), num)):
            with (
                unchecked(),
                pytest.raises(ValueError, match=r"num=.* must be a whole number, and"),
            ):
                draw(jax.random.key(0), num)
