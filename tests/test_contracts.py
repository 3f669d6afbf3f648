"""What every public defense and attack promises, checked over the lists in contracts.py."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rainjax.attacks
import rainjax.defenses
from rainjax import evaluation
from rainjax.attacks import Attack, Square, losses
from rainjax.defenses import Defense, Identity
from rainjax.pipeline import Defended
from tests.contracts import ATTACKS, DEFENSES, DETECTORS
from tests.tiny import Linear, Mask, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
IMAGES[0, :2] = 0.0  # corners of the cube belong to the domain
IMAGES[1, :2] = 1.0
IMAGES = jnp.asarray(IMAGES)
KEYS = jax.random.split(jax.random.key(0), len(IMAGES))


@dataclasses.dataclass(frozen=True)
class DefenseRun:
    """A defense, its parameters, and its outputs computed in three ways."""

    case: object
    params: object
    plain: np.ndarray
    jitted: np.ndarray
    batched: np.ndarray
    again: np.ndarray
    other_keys: np.ndarray


@pytest.fixture(scope="module", params=DEFENSES, ids=lambda case: case.name)
def defense_run(request):
    case = request.param
    make = case.params or (lambda: jax.jit(case.defense.init)(jax.random.key(7)))
    params = make()
    jitted = jax.jit(case.defense.apply)
    batched = jax.jit(jax.vmap(case.defense.apply, (None, 0, 0)))
    others = jax.random.split(jax.random.key(1), len(IMAGES))
    each = lambda fn, keys: np.stack([fn(params, k, x) for k, x in zip(keys, IMAGES, strict=True)])
    return DefenseRun(
        case,
        params,
        plain=np.asarray(case.defense.apply(params, KEYS[0], IMAGES[0])),
        jitted=each(jitted, KEYS),
        batched=np.asarray(batched(params, KEYS, IMAGES)),
        again=each(jitted, KEYS),
        other_keys=each(jitted, others),
    )


def test_defense_returns_an_image(defense_run):
    for output in (defense_run.plain[None], defense_run.jitted, defense_run.batched):
        assert output.dtype == np.float32
        assert output.shape[1:] == IMAGES.shape[1:]
        assert np.isfinite(output).all()
        assert output.min() >= 0.0
        assert output.max() <= 1.0


def test_defense_agrees_under_jit_and_vmap(defense_run):
    tolerance = 1e-5 if defense_run.case.convolves else 0.0
    np.testing.assert_allclose(defense_run.jitted[0], defense_run.plain, atol=tolerance, rtol=0)
    # An image's neighbours in the batch, and their number, are nothing to it.
    np.testing.assert_allclose(defense_run.batched, defense_run.jitted, atol=tolerance, rtol=0)


def test_defense_refuses_grey_levels_and_batches(defense_run):
    defense, params = defense_run.case.defense, defense_run.params
    name = type(defense).__name__
    for given in (jnp.full((8, 8, 3), 200, jnp.uint8), IMAGES):
        message = rf"^{name} takes one image .* got {given.dtype} of shape"
        with unchecked(), pytest.raises(ValueError, match=message):
            defense.apply(params, KEYS[0], given)


def test_defense_is_a_function_of_its_key(defense_run):
    np.testing.assert_array_equal(defense_run.again, defense_run.jitted)
    differs = (defense_run.other_keys != defense_run.jitted).any(axis=(1, 2, 3))
    assert differs.any() if defense_run.case.random else not differs.any()
    assert defense_run.case.defense.is_random == defense_run.case.random


def test_defense_does_not_hide_nan(defense_run):
    """Not a single one, wherever a draw may look: what is broken would look robust."""
    pipeline = Defended(defense_run.case.defense, Linear(IMAGES[0].size, 4))
    params = {"defense": defense_run.params, "classifier": {"kernel": jnp.ones((192, 4))}}
    logits = jax.jit(jax.vmap(pipeline.logits, (None, 0, None)))
    torn = IMAGES[2].at[4, 3, 1].set(jnp.nan)
    assert np.isnan(logits(params, jax.random.split(KEYS[0], 16), torn)).all()


def test_defense_gradient_is_finite(defense_run):
    defense, params = defense_run.case.defense, defense_run.params
    total = lambda x: jnp.sum(defense.apply(params, KEYS[2], x) ** 2)
    gradient = np.asarray(jax.jit(jax.grad(total))(IMAGES[2]))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


@dataclasses.dataclass(frozen=True)
class AttackRun:
    """An attack on a random pipeline, computed in three ways."""

    case: object
    one_by_one: np.ndarray
    batched: np.ndarray
    from_host: np.ndarray
    again: np.ndarray
    other_keys: np.ndarray


TARGET = Defended(Mask(), Linear(IMAGES[0].size, 4))
LABELS = jnp.array([0, 1, 3])


@pytest.fixture(scope="module")
def target_params():
    return TARGET.init(jax.random.key(3))


@pytest.fixture(scope="module", params=ATTACKS, ids=lambda case: case.name)
def attack_run(request, target_params):
    case = request.param

    def one(key, image, label):
        logits_fn = lambda draw, x: TARGET.logits(target_params, draw, x)
        return case.attack(key, logits_fn, image, label)

    jitted, batched = jax.jit(one), jax.jit(jax.vmap(one))
    others = jax.random.split(jax.random.key(1), len(IMAGES))
    each = lambda: np.stack([jitted(*row) for row in zip(KEYS, IMAGES, LABELS, strict=True)])
    return AttackRun(
        case,
        one_by_one=each(),
        batched=np.asarray(batched(KEYS, IMAGES, LABELS)),
        from_host=np.asarray(
            evaluation.run_attack(TARGET, case.attack, target_params, KEYS, IMAGES, LABELS)
        ),
        again=each(),
        other_keys=np.asarray(batched(others, IMAGES, LABELS)),
    )


def test_attack_stays_in_its_ball(attack_run):
    for attacked in (attack_run.one_by_one, attack_run.batched, attack_run.from_host):
        assert attacked.dtype == np.float32
        assert attacked.shape == IMAGES.shape
        assert np.isfinite(attacked).all()
        assert attacked.min() >= 0.0
        assert attacked.max() <= 1.0
        delta = (attacked.astype(np.float64) - np.asarray(IMAGES)).reshape(len(IMAGES), -1)
        order = {"linf": np.inf, "l2": 2, "l1": 1}[attack_run.case.norm]
        reach = np.linalg.norm(delta, ord=order, axis=1)
        assert reach.max() <= attack_run.case.radius + 1e-6
        moved = reach > 0.2 * attack_run.case.radius
        assert moved.all() if attack_run.case.moves else moved.any()


def test_attack_agrees_however_it_is_driven(attack_run):
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=0)
    close(attack_run.batched, attack_run.one_by_one)
    close(attack_run.from_host, attack_run.batched)


def test_attack_is_a_function_of_its_key(attack_run):
    np.testing.assert_array_equal(attack_run.again, attack_run.one_by_one)
    differs = (attack_run.other_keys != attack_run.batched).any(axis=(1, 2, 3))
    if attack_run.case.random:
        assert differs.all() if attack_run.case.moves else differs.any()
    else:
        assert not differs.any()


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_attack_is_never_worse_than_doing_nothing(case, target_params):
    """Without randomness, where it can be told: what an attack climbs does not fall."""
    plain = Defended(Identity(), TARGET.classifier)
    found = evaluation.run_attack(plain, case.attack, target_params, KEYS, IMAGES, LABELS)
    # Attacks on the nearest image have no loss to climb; the margin is theirs.
    name = getattr(case.attack, "loss", "margin")
    name = "dlr" if getattr(case.attack, "num_targets", 0) else name
    sign = -1 if getattr(case.attack, "targeted", False) else 1

    def value(image, label):
        logits = plain.logits(target_params, KEYS[0], image)
        return sign * losses.by_name(name)(logits, label), jnp.argmax(logits) != label

    before, wrong_before = jax.vmap(value)(IMAGES, LABELS)
    after, wrong_after = jax.vmap(value)(found, LABELS)
    # One that looks for the nearest success may rest on any image that is one.
    fine = (after >= before - 1e-5) | (wrong_after & (sign > 0))
    assert fine.all(), (before, after)
    assert (wrong_after | ~wrong_before).all() if sign > 0 else True


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_no_image_is_led_out_of_a_mistake(case):
    """On a surface with as many mistakes as not, half the images are wrong before any attack."""

    @dataclasses.dataclass(frozen=True)
    class Waves(Linear):
        def apply(self, params, *inputs):
            return jnp.cos(super().apply(params, *inputs))

    network = Waves(IMAGES[0].size, 4)
    target = Defended(Identity(), network)
    params = {"defense": (), "classifier": {"kernel": 4 * jax.random.normal(KEYS[0], (192, 4))}}
    images = jnp.concatenate([IMAGES, 1 - IMAGES, IMAGES[:, ::-1], IMAGES[:, :, ::-1]])
    keys = jax.random.split(jax.random.key(8), (2, 12))
    sign = -1 if getattr(case.attack, "targeted", False) else 1
    logits = np.asarray(evaluation.score(target, params, keys[0], images, num_draws=1)[:, 0])
    order = logits.argsort(-1)
    labels = np.where(np.arange(12) % 2, order[:, -1], order[:, -2])  # every other one is right
    found = evaluation.run_attack(target, case.attack, params, keys[0], images, labels)
    kept = evaluation.keep_worse(target, params, keys[1], images, found, labels, num_draws=1)
    after = np.asarray(evaluation.score(target, params, keys[1], kept, num_draws=1)[:, 0])
    if sign > 0:
        assert (after.argmax(-1) != labels)[::2].all()
    same = (np.asarray(kept) == np.asarray(found)).all((1, 2, 3))
    assert (same | (np.asarray(kept) == np.asarray(images)).all((1, 2, 3))).all()
    assert same[1::2].all()  # what was right is left to the attack


@jax.custom_jvp
def _torn(image):
    """Returns the image, with a gradient of NaN."""
    return image


_torn.defjvp(lambda primals, tangents: (primals[0], jnp.nan * tangents[0]))


@pytest.mark.parametrize("case", ATTACKS, ids=lambda case: case.name)
def test_a_pipeline_that_returns_nan_does_not_look_robust(case, target_params):
    """NaN at every point but the image itself, or in the gradient alone, ends in NaN."""
    image, whole = (
        IMAGES[2],
        functools.partial(TARGET.classifier.apply, target_params["classifier"]),
    )
    label = whole(image).argmax()
    cracked = lambda draw, x: jnp.where((x == image).all(), whole(x), jnp.nan)
    torn = lambda draw, x: whole(_torn(x))
    run = jax.jit(case.attack, static_argnums=1)
    found = run(KEYS[0], cracked, image, label)
    assert np.isnan(found).any() == (case.name != "fgsm")  # which asks about the image alone
    found = run(KEYS[0], torn, image, label)
    assert np.isnan(found).any() == (not isinstance(case.attack, Square))  # asks for no gradient


@pytest.mark.parametrize("case", [*DEFENSES, *ATTACKS, *DETECTORS], ids=lambda case: case.name)
def test_methods_are_values(case):
    value = case.attack if hasattr(case, "attack") else case.defense
    twin = dataclasses.replace(value)
    assert twin == value
    assert hash(twin) == hash(value)
    assert type(value).__name__ in repr(value)
    fields = dataclasses.fields(value)
    name = fields[0].name if fields else "anything"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_every_public_method_is_on_the_lists():
    defenses = {type(case.defense) for case in DEFENSES}
    attacks = {type(case.attack) for case in ATTACKS}
    assert _concrete(rainjax.defenses, Defense) <= defenses
    assert _concrete(rainjax.attacks, Attack) <= attacks
    names = [case.name for case in [*DEFENSES, *ATTACKS]]
    assert len(set(names)) == len(names)
    assert Identity in defenses


def _concrete(module, base) -> set[type]:
    values = (getattr(module, name) for name in module.__all__)
    classes = [v for v in values if inspect.isclass(v) and issubclass(v, base)]
    return {c for c in classes if not inspect.isabstract(c)}
