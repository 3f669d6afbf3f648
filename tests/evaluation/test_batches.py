"""What an evaluation is given: keys, images and parameters of the wrong kind, and tracing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, PGD
from rainjax.defenses import RAIN, Identity
from rainjax.evaluation import (
    attack_batch,
    keep_worst,
    round_to_8bit,
    run_attack,
    score,
    universal,
)
from rainjax.evaluation.ensemble import Member, run_ensemble
from rainjax.evaluation.smoothing import Smoothed, certify, count_classes, predict
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from tests.tiny import EDSR_TINY, RESNET_TINY, Linear, Mask, edsr_params, unchecked

SIZE = 8 * 8 * 3
TARGET = Defended(Mask(), Linear(SIZE, 3))
RNG = np.random.default_rng(0)
PARAMS = {
    "defense": (),
    "classifier": {"kernel": jnp.asarray(RNG.normal(size=(SIZE, 3)), jnp.float32)},
}
IMAGES = RNG.uniform(0.1, 0.9, size=(2, 8, 8, 3)).astype(np.float32)
LABELS = np.array([0, 1])
KEYS = example_keys(0, Purpose.ATTACK, np.arange(2))
ATTACK = PGD(num_steps=2, random_start=False)


def attack(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return run_attack(TARGET, ATTACK, params, keys, images, labels)


def batch(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return attack_batch(TARGET, TARGET, ATTACK, params, keys, keys, images, labels)[0]


def scored(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return score(TARGET, params, keys, images, num_draws=2)


def kept(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return keep_worst(TARGET, ATTACK, params, keys, images, images, labels, num_draws=2)


def counted(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return count_classes(Smoothed(TARGET, 0.1), params, keys, images, num_draws=2)


def certified(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return certify(Smoothed(TARGET, 0.1), params, keys, images, num_select=2, num_estimate=10)


def predicted(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return predict(Smoothed(TARGET, 0.1), params, keys, images, num_draws=11)


def ensemble(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    members = (Member("one", ATTACK),)
    return run_ensemble(
        TARGET, members, params, 0, np.arange(2), images, labels, num_select_draws=1
    ).images


def learned(params=PARAMS, keys=KEYS, images=IMAGES, labels=LABELS):
    return universal.universal_perturbation(
        TARGET, params, 0, np.arange(2), images, labels, num_epochs=1
    )


FROM_HOST = [attack, scored, kept, counted, certified, predicted, ensemble, learned]
EVERY = [*FROM_HOST, batch]
WITH_KEYS = [attack, batch, scored, kept, counted, certified, predicted]


@pytest.mark.parametrize("run", WITH_KEYS)
@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (jax.random.key(0), "one key per image, not a single key: example_keys"),
        (7, "one key per image, not 7: example_keys"),
        ([1, 2], r"one key per image, not \[1, 2\]: example_keys"),
        (None, "one key per image, not None: example_keys"),
        (jax.random.PRNGKey(0), "one key per image, not .*: example_keys"),
        (
            jax.random.split(jax.random.PRNGKey(0), 2),
            "old ones of jax.random.PRNGKey: give jax.ra",
        ),
        (KEYS[:, None], r"not an array of shape \(2, 1\)"),
        (KEYS[:1], "2 images came with 1 keys"),
    ],
)
def test_keys_of_another_kind_are_named(run, keys, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        run(keys=keys)


def test_old_keys_become_new_ones_as_the_sentence_says():
    old = jax.random.split(jax.random.PRNGKey(0), 2)
    new = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(scored(keys=jax.random.wrap_key_data(old)), scored(keys=new))


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (
            jax.random.PRNGKey(3),
            "takes a key, not .*PRNGKey becomes one by jax.random.wrap_key_da",
        ),
        (3, r"takes a key, not 3: jax.random.key\(3\) makes one"),
        ("a", r"takes a key, not 'a': jax.random.key\(0\) makes one"),
        (KEYS, r"takes one key, not an array of shape \(2,\) of them: use jax.vmap"),
    ],
)
def test_one_key_of_another_kind_is_named(key, sentence):
    image, label = jnp.asarray(IMAGES[0]), jnp.asarray(0)
    logits_fn = lambda draw, image: TARGET.logits(PARAMS, draw, image)
    for run in (
        lambda: TARGET.logits(PARAMS, key, image),
        lambda: TARGET.predict(PARAMS, key, image),
        lambda: ATTACK(key, logits_fn, image, label),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            run()


@pytest.mark.parametrize("run", EVERY)
def test_images_of_another_layout_are_named(run):
    first = np.moveaxis(IMAGES, -1, 1)
    with (
        unchecked(),
        pytest.raises(ValueError, match=r"have their channels first: give jnp.moveax"),
    ):
        run(images=first)
    ragged = [IMAGES[0], IMAGES[0, :4]]
    with unchecked(), pytest.raises(ValueError, match=r"images=.* is no array of numbers"):
        run(images=ragged)


@pytest.mark.parametrize("defense", [RAIN(EDSR_TINY), Identity(), Mask()])
def test_one_image_of_another_layout_is_named(defense):
    params = {"defense": edsr_params(), "classifier": PARAMS["classifier"]}
    target, image = Defended(defense, Linear(SIZE, 3)), jnp.moveaxis(jnp.asarray(IMAGES[0]), -1, 0)
    with unchecked(), pytest.raises(ValueError, match=r"\(3, 8, 8\) has its channels first"):
        target.logits(params, KEYS[0], image)


@pytest.mark.parametrize("run", EVERY)
def test_a_rounding_error_beyond_one_is_clipped(run):
    inside = IMAGES.copy()
    inside[0, 0, 0, 0], inside[1, 0, 0, 0] = 1.0, 0.0
    above = inside.copy()
    above[0, 0, 0, 0], above[1, 0, 0, 0] = np.float32(1.0000001), -1e-7
    assert above.max() > 1
    for leaf, wanted in zip(
        jax.tree.leaves(_arrays(run(images=above))),
        jax.tree.leaves(_arrays(run(images=inside))),
        strict=True,
    ):
        np.testing.assert_array_equal(leaf, wanted)


def _arrays(found):
    return dataclasses.asdict(found) if dataclasses.is_dataclass(found) else found


@pytest.mark.parametrize("run", EVERY)
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (1.00001, r"these in \[.*, 1.00001\d*\]: clip them"),
        (-0.01, r"these in \[-0.01.*\]: clip them"),
        (255.0, r"these in \[.*, 255\]: divide them by 255"),
        (np.nan, r"these in \[nan, nan\]: number 1 holds NaN"),
    ],
)
def test_what_leaves_the_range_is_said_with_enough_digits(run, value, sentence):
    images = IMAGES.copy()
    images[1, 0, 0, 0] = value
    with pytest.raises(ValueError, match=sentence):
        run(images=images)


def test_rounding_to_8_bits_takes_a_rounding_error():
    images = np.round(IMAGES * 255).astype(np.float32) / 255
    images[0, 0, 0, 0] = 1.0
    above = images.copy()
    above[0, 0, 0, 0] = np.float32(1.0000001)
    rounded = round_to_8bit(above, above, "linf", 0.1)
    np.testing.assert_array_equal(rounded, round_to_8bit(images, images, "linf", 0.1))
    with pytest.raises(ValueError, match=r"The adversarial images must lie in \[0, 1\], these in"):
        round_to_8bit(images + 1, images, "linf", 0.1)
    with unchecked(), pytest.raises(ValueError, match=r"The originals must be floats in .* uint8"):
        round_to_8bit(images, (images * 255).astype(np.uint8), "linf", 0.1)


# -- Parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("run", [attack, batch, scored, counted])
def test_swapped_halves_are_named(run):
    swapped = {"defense": PARAMS["classifier"], "classifier": PARAMS["defense"]}
    sentence = 'are swapped: give {"defense": params'
    with pytest.raises(ValueError, match=sentence):
        run(params=swapped)
    with pytest.raises(ValueError, match=sentence):
        TARGET.logits(swapped, KEYS[0], jnp.asarray(IMAGES[0]))


def test_swapped_halves_of_two_networks_are_named():
    target = Defended(RAIN(EDSR_TINY), RESNET_TINY)
    classifier = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), RESNET_TINY.shapes())
    params = {"defense": classifier, "classifier": edsr_params()}
    with pytest.raises(ValueError, match="are swapped"):
        jax.eval_shape(target.logits, params, KEYS[0], jnp.asarray(IMAGES[0]))
    # What fails for another reason says so.
    params = {"defense": edsr_params(), "classifier": {"other": jnp.zeros(3)}}
    with pytest.raises(ValueError, match=r"(?!.*swapped)"):
        jax.eval_shape(target.logits, params, KEYS[0], jnp.asarray(IMAGES[0]))
    with unchecked(), pytest.raises(ValueError, match=r'Parameters must be {"defense"'):
        target.logits(classifier, KEYS[0], jnp.asarray(IMAGES[0]))


# -- Tracing ------------------------------------------------------------------------------


@pytest.mark.parametrize("run", FROM_HOST)
def test_what_runs_from_the_host_names_what_can_be_traced(run):
    sentence = "jax.jit, jax.vmap or jax.grad cannot trace it: use attack_batch within them"
    several = lambda images: jnp.stack([images, images])
    for traced in (
        lambda: jax.jit(lambda images: run(images=images))(IMAGES),
        lambda: jax.vmap(lambda images: run(images=images))(several(IMAGES)),
        lambda: jax.grad(lambda images: jnp.sum(run(images=images)))(jnp.asarray(IMAGES)),
        lambda: jax.jit(lambda params: run(params=params))(PARAMS),
        lambda: jax.jit(run)(),  # everything is a constant of the program
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            traced()


def test_attack_batch_is_what_can_be_traced():
    plain = np.asarray(batch())
    np.testing.assert_allclose(jax.jit(batch)(PARAMS, KEYS, IMAGES, LABELS), plain, atol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda: batch())(), plain, atol=1e-6)
    keys = jnp.stack([example_keys(seed, Purpose.ATTACK, np.arange(2)) for seed in (0, 1)])
    over = jax.vmap(lambda keys: batch(keys=keys))(keys)
    np.testing.assert_allclose(over[0], plain, atol=1e-6)
    assert (over[0] != over[1]).any()
    scoring = lambda keys: attack_batch(
        TARGET, TARGET, ATTACK, PARAMS, KEYS, keys, IMAGES, LABELS, num_score_draws=2
    )[1]
    assert jax.jit(scoring)(KEYS).shape == (2, 2)
    assert jax.vmap(scoring)(keys).shape == (2, 2, 2)


def test_options_and_seeds_are_not_traced():
    def accuracy(radius):
        attack = PGD(radius=radius, eot=EOT(2))
        return attack_batch(TARGET, TARGET, attack, PARAMS, KEYS, KEYS, IMAGES, LABELS)[1].mean()

    sentence = "radius=.* must be a number, not one that .* traces: make one PGD for each"
    with unchecked(), pytest.raises(ValueError, match=sentence):
        jax.jit(accuracy)(0.1)
    with unchecked(), pytest.raises(ValueError, match=sentence):
        jax.vmap(accuracy)(jnp.array([0.1, 0.2]))
    seeded = lambda seed: example_keys(seed, Purpose.ATTACK, np.arange(2))
    with unchecked(), pytest.raises(ValueError, match=r"seed=.* traces: .*over_seeds"):
        jax.vmap(seeded)(jnp.arange(3))
