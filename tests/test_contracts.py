"""What every public defense, attack and detector promises, checked over the lists in contracts.py.

The promises that an author's own have to keep as well are in rainjax.contracts.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rainjax.attacks
import rainjax.defenses
import rainjax.detectors
from rainjax import evaluation
from rainjax.attacks import Attack, LabelAttack, ScoreAttack, Square, losses
from rainjax.contracts import DefenseOutputs, check_attack, check_defense, check_detector
from rainjax.defenses import Defense, Identity
from rainjax.detectors import Detector
from rainjax.pipeline import Defended
from tests.attack_contracts import ATTACKS, ATTACKS_ON_DETECTORS
from tests.contracts import (
    DEFENSES,
    DETECTORS,
    DefenseCase,
    public_defenses,
    public_detectors,
)
from tests.tiny import Linear, Mask, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
IMAGES[0, :2] = 0.0  # corners of the cube belong to the domain
IMAGES[1, :2] = 1.0
IMAGES = jnp.asarray(IMAGES)
KEYS = jax.random.split(jax.random.key(0), len(IMAGES))


@dataclasses.dataclass(frozen=True)
class DefenseRun:
    """A defense, and what it returned while its promises were checked."""

    case: DefenseCase
    outputs: DefenseOutputs


@pytest.fixture(scope="module", params=DEFENSES, ids=lambda case: case.name)
def defense_run(request):
    case = request.param
    tolerance = 1e-5 if case.convolves else 0.0
    params = case.params and case.params()
    shape = (8, 8, 3)
    return DefenseRun(
        case, check_defense(case.defense, image_shape=shape, params=params, tolerance=tolerance)
    )


def test_defense_keeps_its_promises(defense_run):
    """Those that `check_defense` checks; and is as random as the list says."""
    outputs = defense_run.outputs
    differs = (outputs.other_keys != outputs.purified).any(axis=(1, 2, 3))
    assert differs.any() if defense_run.case.random else not differs.any()
    assert defense_run.case.defense.is_random == defense_run.case.random
    np.testing.assert_array_equal(outputs.images, IMAGES)


def test_defense_refuses_grey_levels_and_batches(defense_run):
    defense, params = defense_run.case.defense, defense_run.outputs.params
    name = type(defense).__name__
    for given in (jnp.full((8, 8, 3), 200, jnp.uint8), IMAGES):
        message = rf"^{name} takes one image .* got {given.dtype} of shape"
        with unchecked(), pytest.raises(ValueError, match=message):
            defense.apply(params, KEYS[0], given)


def test_defense_does_not_hide_nan(defense_run):
    """Not a single one, wherever a draw may look: what is broken would look robust."""
    pipeline = Defended(defense_run.case.defense, Linear(IMAGES[0].size, 4))
    params = {
        "defense": defense_run.outputs.params,
        "classifier": {"kernel": jnp.ones((192, 4))},
    }
    logits = jax.jit(jax.vmap(pipeline.logits, (None, 0, None)))
    torn = IMAGES[2].at[4, 3, 1].set(jnp.nan)
    assert np.isnan(logits(params, jax.random.split(KEYS[0], 16), torn)).all()


def test_defense_has_a_gradient(defense_run):
    """Its own, or that of the twin which it names for an attacker to follow."""
    gradient, defense = defense_run.outputs.gradient, defense_run.case.defense
    if not gradient.any() and defense.smooth() != defense:
        total = lambda x: jnp.sum(defense.smooth().apply(defense_run.outputs.params, KEYS[0], x))
        gradient = jax.jit(jax.grad(total))(IMAGES[2])
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


TARGET = Defended(Mask(), Linear(IMAGES[0].size, 4))
LABELS = jnp.array([0, 1, 3])


@pytest.fixture(scope="module")
def target_params():
    return TARGET.init(jax.random.key(3))


@pytest.mark.parametrize("case", [*ATTACKS, *ATTACKS_ON_DETECTORS], ids=lambda case: case.name)
def test_attack_keeps_its_promises(case):
    """Those that `check_attack` checks; goes somewhere, and as far as its radius says."""
    outputs = check_attack(case.attack)
    assert (case.attack.norm, case.attack.radius) == (case.norm, case.radius)
    np.testing.assert_array_equal(outputs.images, IMAGES)
    delta = (outputs.attacked.astype(np.float64) - IMAGES).reshape(len(IMAGES), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[case.norm]
    reach = np.linalg.norm(delta, ord=order, axis=1)
    assert reach.max() <= case.radius + 1e-6
    moved = reach > 0.2 * case.radius
    assert moved.all() if case.moves else moved.any()
    differs = (outputs.other_keys != outputs.attacked).any(axis=(1, 2, 3))
    if case.random:
        assert differs.all() if case.moves else differs.any()
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
    kept = evaluation.keep_worst(
        target, case.attack, params, keys[1], images, found, labels, num_draws=1
    )
    after = np.asarray(evaluation.score(target, params, keys[1], kept, num_draws=1)[:, 0])
    done = slice(None, None, 2) if sign > 0 else slice(1, None, 2)  # what the attacker wants
    assert ((after.argmax(-1) == labels) == (sign < 0))[done].all()
    same = (np.asarray(kept) == np.asarray(found)).all((1, 2, 3))
    assert (same | (np.asarray(kept) == np.asarray(images)).all((1, 2, 3))).all()
    assert np.delete(same, np.arange(12)[done]).all()  # the others are left to the attack


@jax.custom_jvp
def _torn(image):
    """Returns the image, with a gradient of NaN."""
    return image


_torn.defjvp(lambda primals, tangents: (primals[0], jnp.nan * tangents[0]))


@pytest.mark.parametrize("case", [*ATTACKS, *ATTACKS_ON_DETECTORS], ids=lambda case: case.name)
def test_a_pipeline_that_returns_nan_does_not_look_robust(case, target_params):
    """NaN at every point but the image itself, or in the gradient alone, ends in NaN."""
    image, whole = (
        IMAGES[2],
        functools.partial(TARGET.classifier.apply, target_params["classifier"]),
    )
    label = whole(image).argmax()
    cracked = lambda x: jnp.where((x == image).all(), whole(x), jnp.nan)
    torn = lambda x: whole(_torn(x))

    @jax.jit  # one program for both
    def run(is_torn, *row):
        logits_fn = lambda draw, x: jax.lax.cond(is_torn, torn, cracked, x)
        return case.attack(row[0], logits_fn, *row[1:])

    found = run(False, KEYS[0], image, label)
    assert np.isnan(found).any() == (case.name != "fgsm")  # which asks about the image alone
    found = run(True, KEYS[0], image, label)
    asks_for_gradients = not isinstance(case.attack, Square | ScoreAttack | LabelAttack)
    assert np.isnan(found).any() == asks_for_gradients


@pytest.mark.parametrize("case", DETECTORS, ids=lambda case: case.name)
def test_detector_keeps_its_promises(case):
    """Those that `check_detector` checks; is as random as the list says, and has a gradient."""
    outputs = check_detector(
        case.detector,
        image_shape=(16, 16, 3),
        params=case.params and case.params(),
        tolerance=case.tolerance,
    )
    assert case.detector.is_random == case.random
    assert (outputs.other_keys != outputs.scores).any() == case.random
    assert len(set(outputs.scores.tolist())) == len(outputs.scores)
    assert np.abs(outputs.gradient).max() > 0


@pytest.mark.parametrize(
    "case", [*DEFENSES, *ATTACKS, *ATTACKS_ON_DETECTORS, *DETECTORS], ids=lambda case: case.name
)
def test_methods_are_values(case):
    value = next(getattr(case, n) for n in ("attack", "defense", "detector") if hasattr(case, n))
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
    attacks = {type(case.attack) for case in [*ATTACKS, *ATTACKS_ON_DETECTORS]}
    assert _concrete(rainjax.defenses, Defense) <= defenses
    assert public_defenses() <= defenses
    assert _concrete(rainjax.attacks, Attack) <= attacks
    detectors = {type(case.detector) for case in DETECTORS}
    assert _concrete(rainjax.detectors, Detector) <= detectors
    assert public_detectors() <= detectors
    names = [case.name for case in [*DEFENSES, *ATTACKS, *ATTACKS_ON_DETECTORS, *DETECTORS]]
    assert len(set(names)) == len(names)
    assert Identity in defenses


def _concrete(module, base) -> set[type]:
    values = (getattr(module, name) for name in module.__all__)
    classes = [v for v in values if inspect.isclass(v) and issubclass(v, base)]
    return {c for c in classes if not inspect.isabstract(c)}
