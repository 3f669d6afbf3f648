"""Attacks and scores of whole batches: a score is taken with draws the attacker never saw."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, PGD, Square, fgsm
from rainjax.defenses import RAIN, Defense, Identity, MeanFieldRAIN
from rainjax.devices import data_mesh
from rainjax.evaluation import attack_batch, driver, keep_worst, run_attack, score
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.gradients import BPDA
from rainjax.keys import Purpose, example_keys, purpose_key
from rainjax.nets import EDSR, ResNet
from rainjax.pipeline import Defended, majority
from tests.tiny import EDSR_TINY, Linear, Mask, edsr_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
SIZE = 12 * 12 * 3


# -- A whole attack -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    """Eight images, a defended classifier with its parameters, and its keys."""

    target: Defended
    params: dict
    images: np.ndarray
    labels: np.ndarray

    def keys(self, purpose, rows=slice(None)):
        return example_keys(3, purpose, jnp.arange(1234, 1242)[rows])

    def run(self, attack, rows=slice(None), **options):
        """Attacks some of the images."""
        images, labels = jnp.asarray(self.images[rows]), jnp.asarray(self.labels[rows])
        keys = self.keys(Purpose.ATTACK, rows)
        surrogate = options.pop("surrogate", self.target)
        return np.asarray(
            run_attack(surrogate, attack, self.params, keys, images, labels, **options)
        )


@pytest.fixture(scope="module")
def setting():
    images = RNG.uniform(size=(8, 12, 12, 3)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32)
    classifier = {"kernel": jnp.asarray(RNG.normal(size=(SIZE, 10)), jnp.float32)}
    target = Defended(RAIN(EDSR_TINY, shift_fraction=0.17), Linear(SIZE, 10))
    return Setting(target, {"defense": edsr_params(), "classifier": classifier}, images, labels)


EOT_PGD = PGD(num_steps=2, eot=EOT(4), step_size=2 / 255)


@pytest.fixture(scope="module")
def attacked(setting):
    return setting.run(EOT_PGD)


def test_attack_is_the_same_on_any_devices_and_batches(setting, attacked):
    assert np.abs(attacked - setting.images).max() == pytest.approx(8 / 255, abs=1e-6)
    on_two = setting.run(EOT_PGD, mesh=data_mesh(2))
    np.testing.assert_allclose(on_two, attacked, atol=1e-5)
    for rows in (slice(2, 3), slice(0, 3)):
        np.testing.assert_allclose(setting.run(EOT_PGD, rows), attacked[rows], atol=1e-5)


@pytest.mark.parametrize("chunk", [2, 4])
def test_attack_is_the_same_in_any_chunks(setting, attacked, chunk):
    chunked = setting.run(dataclasses.replace(EOT_PGD, eot=EOT(4, chunk_size=chunk)))
    np.testing.assert_allclose(chunked, attacked, atol=1e-5)


def test_progress_counts_every_gradient(setting):
    ticks = []
    setting.run(dataclasses.replace(EOT_PGD, best_iterate=True), on_gradient=ticks.append)
    assert ticks == [1] * 4 * 3  # one more call, to know the last image's loss


def test_scores_are_the_targets_logits_under_fresh_draws(setting, attacked):
    keys = setting.keys(Purpose.SCORE)
    logits = score(setting.target, setting.params, keys, jnp.asarray(attacked), num_draws=3)
    assert logits.shape == (8, 3, 10)
    one = jax.jit(setting.target.logits)
    for i, draw in itertools.product(range(8), range(3)):
        expected = one(setting.params, jax.random.fold_in(keys[i], draw), attacked[i])
        np.testing.assert_allclose(logits[i, draw], expected, atol=1e-4)
    assert len(np.unique(np.asarray(logits[0]), axis=0)) == 3


# -- Honesty ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Secret(Defense):
    """Shows the image against a secret pattern of signs: who knows it, moves it at will."""

    def apply(self, params, key, image):
        signs = jnp.where(jax.random.bernoulli(key, 0.5, image.shape), 1.0, -1.0)
        return jnp.full_like(image, 0.5 + jnp.mean(signs * (image - 0.5)))


# Class 0 unless the pattern is met by more than half of what radius 0.1 could do.
SECRET_PARAMS = {"defense": (), "classifier": {"kernel": jnp.array([[0.0, 1.0]] * SIZE) / SIZE}}


@dataclasses.dataclass(frozen=True)
class Biased(Linear):
    """Adds a constant to the first of two logits."""

    bias: float = 0.05

    def apply(self, params, *inputs):
        return super().apply(params, *inputs) + jnp.array([self.bias, 0.0])


SECRET_TARGET = Defended(Secret(), Biased(SIZE, 2, bias=0.55))
GREY = jnp.full((16, 12, 12, 3), 0.5)
ZEROS = jnp.zeros(16, jnp.int32)


def _score_keys(seed=0):
    return example_keys(seed, Purpose.SCORE, jnp.arange(16))


def _attack_keys(seed=0):
    return example_keys(seed, Purpose.ATTACK, jnp.arange(16))


def test_an_attack_that_exploits_its_own_draw_does_not_score():
    args = (SECRET_PARAMS, _attack_keys(), _score_keys(), GREY, ZEROS)
    attack = fgsm(0.1, loss="margin")
    attacked, right = jax.jit(
        lambda *a: attack_batch(SECRET_TARGET, SECRET_TARGET, attack, *a, num_score_draws=4)
    )(*args)
    assert right.shape == (16, 4)
    assert right.all()
    # It did exploit the draw it had: that draw is fooled on every image.
    loop_keys = jax.vmap(lambda k: jax.random.split(k)[1])(_attack_keys())
    own = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(k, 0))[0])(loop_keys)
    own = jax.vmap(jax.random.fold_in, (0, None))(own, 0)
    fooled = jax.vmap(SECRET_TARGET.predict, (None, 0, 0))(SECRET_PARAMS, own, attacked)
    assert fooled.tolist() == [1] * 16


@pytest.mark.parametrize("num_draws", [1, 2])
def test_a_known_key_is_really_used(num_draws):
    attack = fgsm(0.1, loss="margin", eot=EOT(num_draws, draws="enumerated"))
    args = (SECRET_PARAMS, _attack_keys(), _score_keys(), GREY, ZEROS)
    options = {"num_score_draws": num_draws, "known_key": True}
    attacked, right = jax.jit(
        lambda *a: attack_batch(SECRET_TARGET, SECRET_TARGET, attack, *a, **options)
    )(*args)
    # The signs of two patterns agree on half the pixels, which is half of what one gives.
    assert not right.any() if num_draws == 1 else right.mean() < 0.9
    from_host = run_attack(
        SECRET_TARGET, attack, SECRET_PARAMS, *_pick(args, 1, 3, 4), score_keys=_score_keys()
    )
    np.testing.assert_array_equal(from_host, attacked)
    # With other scoring keys the very same images are harmless.
    logits = score(SECRET_TARGET, SECRET_PARAMS, _score_keys(1), attacked, num_draws=2)
    assert (np.asarray(logits).argmax(-1) == 0).all()


def test_attack_batch_is_run_attack_and_score():
    attack = PGD(radius=0.1, step_size=0.05, num_steps=3, eot=EOT(4), loss="margin")
    target = Defended(Mask(), Biased(SIZE, 2))
    images = jnp.asarray(RNG.uniform(size=(16, 12, 12, 3)), jnp.float32)
    kernel = jnp.asarray(RNG.normal(size=(SIZE, 2)) / SIZE, jnp.float32)
    params = {"defense": (), "classifier": {"kernel": kernel}}
    labels = jnp.arange(16) % 2
    args = (params, _attack_keys(), _score_keys(), images, labels)
    attacked, right = jax.jit(
        lambda *a: attack_batch(target, target, attack, *a, num_score_draws=2)
    )(*args)
    from_host = run_attack(target, attack, *_pick(args, 0, 1, 3, 4))
    np.testing.assert_allclose(attacked, from_host, atol=1e-6)
    logits = score(target, params, _score_keys(), from_host, num_draws=2)
    np.testing.assert_array_equal(right, np.asarray(logits).argmax(-1) == labels[:, None])
    assert 0 < np.mean(right) < 1


def _pick(args, *places):
    return [args[place] for place in places]


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (fgsm(), "known_key needs an attack with draws='enumerated', not EOT"),
        (fgsm(eot=EOT(3, draws="enumerated")), "set num_samples=2, not 3"),
    ],
)
def test_attacks_that_cannot_use_a_known_key_are_refused(attack, sentence):
    args = (SECRET_PARAMS, _attack_keys(), _score_keys(), GREY, ZEROS)
    with pytest.raises(ValueError, match=sentence):
        attack_batch(
            SECRET_TARGET, SECRET_TARGET, attack, *args, num_score_draws=2, known_key=True
        )
    if attack.eot.draws == "independent":
        with pytest.raises(ValueError, match=sentence):
            run_attack(SECRET_TARGET, attack, *_pick(args, 0, 1, 3, 4), score_keys=_score_keys())


def test_mean_field_attack_needs_no_luck(setting):
    """Its outcomes are listed, so two seeds differ by nothing once the start is fixed."""
    surrogate = Defended(MeanFieldRAIN(setting.target.defense), setting.target.classifier)
    attack = PGD(num_steps=2, eot=EOT(9, draws="enumerated"), random_start=False)
    images, labels = jnp.asarray(setting.images), jnp.asarray(setting.labels)
    first, second = (
        run_attack(surrogate, attack, setting.params, keys, images, labels)
        for keys in (setting.keys(Purpose.ATTACK), setting.keys(Purpose.INIT))
    )
    np.testing.assert_array_equal(first, second)


# -- Errors and votes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"images": 255 * GREY}, r"Images must lie in \[0, 1\], these in \[127.5, 127.5\]"),
        ({"images": GREY.at[3, 0, 0, 0].set(jnp.nan)}, r"lie in \[0, 1\], these in \[nan, nan"),
        ({"images": np.zeros((16, 12, 12, 3), np.uint8)}, "not uint8: divide by 255"),
        ({"labels": ZEROS + 2}, "Labels lie in 2..2, but the classifier has 2 classes"),
        ({"labels": ZEROS - 1}, "Labels lie in -1..-1, but the classifier has 2 classes"),
        ({"keys": jax.random.split(jax.random.key(0), 3)}, "16 images came with 3 keys and 16"),
        ({"labels": ZEROS[:5]}, "16 images came with 16 keys and 5 labels"),
        (
            {"attack": fgsm(eot=EOT(draws="enumerated"))},
            "num_samples=1 and Secret lists none: draw keys",
        ),
        ({"images": GREY[0]}, r"Images must be a batch `n h w c`, not of shape \(12, 12, 3\)"),
        ({"labels": ZEROS.astype(float)}, r"of shape \(16,\), not float32 of shape \(16,\)"),
        ({"images": GREY.astype(jnp.float16)}, "not float16: use .astype"),
        (
            {"attack": AutoAttack()},
            "takes an Attack, not an ensemble .AutoAttack.: give its members to rainjax.run_ens",
        ),
        ({"keys": jax.random.key(0)}, "Keys must be an array of one key per image"),
        ({"params": {"classifier": ()}}, 'Parameters must be {"defense": ..., "classifier"'),
        ({"labels": ZEROS[:, None]}, r"not int32 of shape \(16, 1\)"),
        (
            {
                "keys": jax.random.split(jax.random.key(0), 15),
                "images": GREY[:15],
                "labels": ZEROS[:15],
                "mesh": data_mesh(2),
            },
            "15 images cannot be spread over .* 2 dev",
        ),
        (
            {
                "score_keys": jax.random.split(jax.random.key(0), 3),
                "attack": fgsm(eot=EOT(draws="enumerated")),
            },
            "16 images came with 3 scoring keys",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused(changes, sentence):
    given = {"images": GREY, "labels": ZEROS, "keys": _attack_keys(), "attack": fgsm()} | changes
    with unchecked(), pytest.raises(ValueError, match=sentence):
        run_attack(
            SECRET_TARGET, given["attack"], given.get("params", SECRET_PARAMS),
            given["keys"], given["images"], given["labels"],
            score_keys=given.get("score_keys"), mesh=given.get("mesh"),
        )  # fmt: skip


def test_attack_batch_refuses_what_run_attack_does():
    args = SECRET_PARAMS, _attack_keys(), _score_keys()
    run = lambda attack, *rest: attack_batch(SECRET_TARGET, SECRET_TARGET, attack, *args, *rest)
    with pytest.raises(ValueError, match=r"Labels lie in 2\.\.2"):
        run(fgsm(), GREY, ZEROS + 2)
    with pytest.raises(ValueError, match=r"Images must lie in \[0, 1\]"):
        run(fgsm(), 255 * GREY, ZEROS)
    listed = fgsm(eot=EOT(draws="enumerated"))
    for batch in (run, jax.jit(run, static_argnums=0)):  # which the shapes tell
        with pytest.raises(ValueError, match="Secret lists none"):
            batch(listed, GREY, ZEROS)


def test_a_defense_that_returns_nan_is_refused_whatever_the_classifier_makes_of_it():
    """A maximum and a sum in one loop lose NaN on CPU, and the logits look sound."""

    @dataclasses.dataclass(frozen=True)
    class Cracked(Defense):
        def apply(self, params, key, image):
            return jnp.where(image.mean() > 0.45, jnp.nan, image)

    @dataclasses.dataclass(frozen=True)
    class Forgetful(Linear):
        def apply(self, params, *inputs):
            return super().apply(params, jnp.nan_to_num(inputs[0]))

    target = Defended(Cracked(), Forgetful(SIZE, 2))
    params = {"defense": (), "classifier": {"kernel": jnp.ones((SIZE, 2))}}
    late = GREY.at[:4].set(0.3)  # those that are looked at first are fine
    for attack in (fgsm(), Square(num_queries=2), Square(num_queries=2, paired=False)):
        with pytest.raises(ValueError, match=r"Cracked returned NaN .* number 4 of the batch"):
            run_attack(target, attack, params, _attack_keys(), late, ZEROS)
        with pytest.raises(ValueError, match="Cracked returned NaN for an image"):
            run_attack(target, attack, params, _attack_keys(), GREY, ZEROS)
    with pytest.raises(ValueError, match=r"Cracked returned NaN .* number 4 of the batch"):
        score(target, params, _score_keys(), late, num_draws=1)
    with pytest.raises(ValueError, match="Cracked returned NaN for an image"):
        score(target, params, _score_keys(), GREY, num_draws=1)


def test_lucky_draws_do_not_undo_an_attack():
    """An original is handed out where every draw got it wrong, not where one did."""
    target = Defended(Mask(), Linear(SIZE, 2))
    kernel = np.where(np.arange(SIZE) % 2, 1.0, -1.0)
    params = {"defense": (), "classifier": {"kernel": jnp.stack([kernel, -kernel], 1)}}
    keys = jax.random.split(jax.random.key(4), 16)
    noisy = GREY + 0.1 * jax.random.uniform(keys[0], GREY.shape)  # right and wrong by turns
    right = jnp.clip(GREY + 0.5 * kernel.reshape(12, 12, 3)[None], 0, 1)
    labels = np.zeros(16, np.int32)
    keep = functools.partial(keep_worst, target, PGD(), params, keys)
    many = keep(noisy, right, labels, num_draws=16)
    np.testing.assert_array_equal(many, right)
    one = keep(noisy, right, labels, num_draws=1)
    undone = (np.asarray(one) == np.asarray(noisy)).all((1, 2, 3))
    assert 2 < undone.sum() < 14
    wrong = keep(1 - right, right, labels, num_draws=16)
    np.testing.assert_array_equal(wrong, 1 - right)
    assert (keep(1 - right, noisy, labels, num_draws=16) == 1 - right).all()


def test_targeted_successes_are_kept():
    """The label is the class to be reached: an image that is there counts, whatever it was."""
    target = Defended(Identity(), Linear(SIZE, 3))
    kernel = np.random.default_rng(0).normal(size=(SIZE, 3)).astype(np.float32)
    params = {"defense": (), "classifier": {"kernel": jnp.asarray(kernel)}}
    keys = jax.random.split(jax.random.key(4), 9)
    towards = np.repeat(np.arange(3), 3)
    reached = np.clip(0.5 + 0.2 * kernel.T.reshape(3, 12, 12, 3), 0, 1)[towards]
    labels = np.tile(np.arange(3), 3)
    for original, attacked in ((GREY[:9], reached), (reached, np.asarray(GREY[:9]))):
        there = [(x.reshape(9, -1) @ kernel).argmax(1) == labels for x in (original, attacked)]
        assert all(0 < found.sum() < 9 for found in there)
        attack = PGD(targeted=True)
        kept = keep_worst(target, attack, params, keys, original, attacked, labels, num_draws=1)
        at_target = (np.asarray(kept).reshape(9, -1) @ kernel).argmax(1) == labels
        np.testing.assert_array_equal(at_target, there[0] | there[1])
        np.testing.assert_array_equal(np.asarray(kept)[there[1]], attacked[there[1]])


def test_outcomes_are_enumerated_once_each(setting):
    surrogate = Defended(MeanFieldRAIN(setting.target.defense), setting.target.classifier)
    with pytest.raises(ValueError, match=r"num_samples=4 and MeanFieldRAIN has 9"):
        setting.run(PGD(num_steps=2, eot=EOT(4, draws="enumerated")), surrogate=surrogate)
    straight = Defended(BPDA(surrogate.defense, Identity()), setting.target.classifier)
    setting.run(PGD(num_steps=1, eot=EOT(9, draws="enumerated")), surrogate=straight)


def test_scores_and_seeds_out_of_range_are_refused():
    with pytest.raises(ValueError, match="num_draws=0 must be a whole number, and at least 1"):
        score(SECRET_TARGET, SECRET_PARAMS, _score_keys(), GREY, num_draws=0)
    with pytest.raises(ValueError, match=r"Images must lie in \[0, 1\]"):
        score(SECRET_TARGET, SECRET_PARAMS, _score_keys(), GREY - 1, num_draws=1)
    for seed in (-1, 2**32):
        with pytest.raises(
            ValueError, match=rf"seed={seed} must be a whole number in 0..2\*\*32-1"
        ):
            purpose_key(seed, Purpose.SCORE)
    assert purpose_key(2**32 - 1, Purpose.SCORE) != purpose_key(0, Purpose.SCORE)


def test_a_full_device_is_told_what_to_lower(setting, monkeypatch):
    def full(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(driver, "_add_chunk", full)
    sentence = (
        r"8 images of \(12, 12\) with chunk_size=2 do not fit .* lower the EOT's chunk_size first"
    )
    with pytest.raises(MemoryError, match=sentence):
        setting.run(dataclasses.replace(EOT_PGD, eot=EOT(4, chunk_size=2)))


def test_other_runtime_errors_pass_unchanged(setting, monkeypatch):
    def broken(*args):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(driver, "_add_chunk", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        setting.run(EOT_PGD)


def test_majority_is_numpys_with_ties_to_the_least_class():
    fixed = [[3, 3, 1], [2, 1], [1, 2, 2, 1, 0], [4], [0, 1, 2, 3, 4], [4, 4, 0, 0]]
    random = RNG.integers(0, 5, size=(30, 6)).tolist()
    ties = 0
    for votes in fixed + random:
        counts = np.bincount(votes, minlength=5)
        ties += (counts == counts.max()).sum() > 1
        assert majority(jnp.array(votes), 5) == np.argmax(counts)
    assert ties > 5


def test_vote_is_the_majority_of_predictions(setting):
    keys = jax.random.split(jax.random.key(8), 5)
    vote, predict = jax.jit(setting.target.vote), jax.jit(setting.target.predict)
    for image in setting.images[:4]:
        predictions = [int(predict(setting.params, key, image)) for key in keys]
        expected = np.argmax(np.bincount(predictions))
        assert vote(setting.params, keys, image) == expected


def test_defended_initialises_both_parts():
    target = Defended(RAIN(EDSR(num_blocks=1, num_features=2)), ResNet(depth=8, width=2))
    shapes = jax.eval_shape(target.init, jax.random.key(0))
    expected = {
        "defense": target.defense.network.shapes(),
        "classifier": target.classifier.shapes(),
    }
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, expected)
