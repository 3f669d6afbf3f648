"""The key tree: every random draw has one path from its seed, in any batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import transforms
from rainjax.devices import batch_sharding, data_mesh
from rainjax.keys import Purpose, example_keys, purpose_key

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
