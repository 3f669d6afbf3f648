"""A defense that returns no image is named at once, and randomness that is not its key's too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import nets
from rainjax.attacks import PGD, fgsm
from rainjax.defenses import Chain, Defense, Deterministic, GaussianNoise, Identity
from rainjax.evaluation import attack_batch, keep_worst, run_attack, score
from rainjax.evaluation.probes import check_purified, check_randomness
from rainjax.evaluation.universal import universal_perturbation
from rainjax.gradients import BPDA
from rainjax.nets import Network
from rainjax.pipeline import Defended, Pipeline
from tests.tiny import Linear, Mask, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = np.random.default_rng(0).uniform(size=(6, 4, 4, 3)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 6)
LABELS = np.zeros(6, np.int32)
NETWORK = Linear(48, 3)
PARAMS = {"defense": (), "classifier": {"kernel": jnp.ones((48, 3))}}


@dataclasses.dataclass(frozen=True)
class Returns(Deterministic):
    """Returns what one of several wrong defenses would."""

    what: str

    def purify(self, image):
        return {
            "fine": lambda: 1 - image,
            "smaller": lambda: image[::2],
            "batch": lambda: image[None],
            "half": lambda: image.astype(jnp.float16),
            "whole": lambda: (255 * image).astype(jnp.int32),
            "pair": lambda: (image, image),
            "nothing": lambda: None,
            "nan": lambda: jnp.where(image > 0.99, jnp.nan, image),
            "nan in one": lambda: jnp.where(image.sum() > IMAGES[0].sum(), image, jnp.nan),
            "grey levels": lambda: 255 * image,
            "negative": lambda: image - 0.5,
            "rounding": lambda: image * (1 + 1e-6),
        }[self.what]()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (
            "smaller",
            r"returned float32 of shape \(2, 4, 3\) for an image of float32 of shape \(4,",
        ),
        ("batch", r"returned float32 of shape \(1, 4, 4, 3\) for an image of"),
        ("half", r"returned float16 of shape \(4, 4, 3\) for an image of float32"),
        ("whole", r"returned int32 of shape"),
        ("pair", "returned a tuple for an image"),
        ("nothing", "returned a NoneType for an image"),
        ("nan", "returned NaN for an image"),
        ("nan in one", "returned NaN for an image"),
        ("grey levels", r"returned values in \[.*, 25.*\] for an image in \[0, 1\], .*jnp.clip"),
        ("negative", r"returned values in \[-0.*, 0.*\] for an image"),
    ],
)
def test_a_defense_that_returns_no_image_is_named_at_the_first_batch(what, sentence):
    images = IMAGES.copy()
    images[0, 0, 0] = 1.0
    target = Defended(Returns(what), NETWORK)
    sentence = rf"^Returns {sentence}"
    with unchecked():
        with pytest.raises(ValueError, match=sentence):
            score(target, PARAMS, KEYS, images, num_draws=1)
        with pytest.raises(ValueError, match=sentence):
            run_attack(target, fgsm(), PARAMS, KEYS, images, LABELS)
        with pytest.raises(ValueError, match=sentence):
            attack_batch(
                target, Defended(Identity(), NETWORK), fgsm(), PARAMS, KEYS, KEYS, images, LABELS,
                num_score_draws=1,
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Late(Defense):
    """Breaks on one image alone, whose first value says which; on one of two draws if `random`."""

    how: str
    random: bool = False

    @property
    def is_random(self):
        return self.random

    def apply(self, params, key, image):
        bad = {"below": -image, "above": 300 * image, "nan": image * jnp.nan}[self.how]
        broken = image[0, 0, 0] == IMAGES[5, 0, 0, 0]
        if self.random:
            broken &= jax.random.bernoulli(key)
        return jnp.where(broken, bad, image)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("below", r"^Late returned values in \[-0\.\d+, -0\.\d+\] .*number 5 of the batch"),
        ("above", r"^Late returned values in \[\d\S*, 2\d\d\S*\] .*number 5 of the batch"),
        ("nan", r"^Late returned NaN .*number 5 of the batch"),
    ],
)
def test_a_defense_that_breaks_on_a_later_image_is_named(how, sentence, random):
    target = Defended(Late(how, random), NETWORK)
    with pytest.raises(ValueError, match=sentence):
        score(target, PARAMS, KEYS, IMAGES, num_draws=8 if random else 1)
    if random:
        return
    clean = Defended(Identity(), NETWORK)
    images = jnp.asarray(IMAGES)
    with pytest.raises(ValueError, match=sentence):  # an attacker's surrogate is no better
        keep_worst(target, fgsm(), PARAMS, KEYS, images, images, LABELS, num_draws=1)
    if how == "nan":
        with pytest.raises(ValueError, match=sentence):
            run_attack(target, fgsm(), PARAMS, KEYS, IMAGES, LABELS)
        with pytest.raises(ValueError, match=r"^Late returned .* for an image"):
            universal_perturbation(target, PARAMS, 0, np.arange(6), IMAGES, LABELS, num_epochs=1)
    # Under `jit` nobody can be told, and the image does not look robust.
    still = PGD(radius=1e-12, num_steps=1, step_size=1e-12, random_start=False)
    run = jax.jit(lambda images: attack_batch(
        target, clean, still, PARAMS, KEYS, KEYS, images, LABELS
    )[1])  # fmt: skip
    np.testing.assert_array_equal(run(images)[:, 0], np.arange(6) != 5)


def test_images_beyond_the_range_promise_nothing_to_smoothing():
    """Its noise leaves [0, 1], and its target answers all the same, whatever it makes of it."""
    for defense in (Identity(), Returns("grey levels")):
        target = Defended(defense, NETWORK)
        for image in (IMAGES[0], IMAGES[0] + 1, IMAGES[0] - 1):
            assert np.isfinite(target.logits(PARAMS, KEYS[0], jnp.asarray(image))).all()
    broken = Defended(Returns("nan"), NETWORK)
    assert np.isnan(broken.logits(PARAMS, KEYS[0], jnp.asarray(IMAGES[0] + 1))).all()


def test_what_is_wrong_in_shape_is_refused_where_it_is_traced():
    with unchecked(), pytest.raises(ValueError, match=r"^Returns returned float32 of shape"):
        jax.eval_shape(Defended(Returns("smaller"), NETWORK).logits, PARAMS, KEYS[0], IMAGES[0])


@dataclasses.dataclass(frozen=True)
class Odd(Network):
    """Returns no logits."""

    what: str

    def init(self, key):
        return ()

    def apply(self, params, *inputs):
        logits = jnp.ones(3)
        return {
            "batch": logits[None],
            "classes": jnp.argmax(logits),
            "whole": logits.astype(jnp.int32),
            "pair": (logits, logits),
        }[self.what]


@pytest.mark.parametrize(
    ("what", "returned"),
    [
        ("batch", r"float32 of shape \(1, 3\)"),
        ("classes", r"int32 of shape \(\)"),
        ("whole", r"int32 of shape \(3,\)"),
        ("pair", "a tuple"),
    ],
)
def test_a_classifier_that_returns_no_logits_is_named(what, returned):
    target, params = Defended(Identity(), Odd(what)), {"defense": (), "classifier": ()}
    with unchecked(), pytest.raises(ValueError, match=rf"^Odd returned {returned} for one image"):
        score(target, params, KEYS, IMAGES, num_draws=1)


def test_what_is_an_image_passes():
    for defense in (Identity(), Returns("fine"), Returns("rounding"), Mask(), GaussianNoise()):
        check_purified(Defended(defense, NETWORK), PARAMS, IMAGES)
        logits = score(Defended(defense, NETWORK), PARAMS, KEYS, IMAGES, num_draws=1)
        assert np.isfinite(logits).all()


@dataclasses.dataclass(frozen=True)
class Service(Pipeline):
    """Has no image to look at; its logits are drawn if `noisy`."""

    noisy: bool

    def init(self, key):
        return ()

    @property
    def is_random(self):
        return self.noisy

    def logits(self, params, key, image):
        return jnp.ones(3) * image.mean() + self.noisy * jax.random.normal(key, (3,))


def test_a_pipeline_without_a_defense_is_judged_by_its_logits():
    check_purified(Service(False), (), IMAGES)
    for noisy in (False, True):
        found = check_randomness(Service(noisy), (), IMAGES)
        assert (found.says_random, found.varies, found.repeats) == (noisy, noisy, True)
        assert found.problem is None


# -- Randomness ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Frozen(Defense):
    """Draws with NumPy: once, when it is compiled."""

    random: bool = True

    @property
    def is_random(self):
        return self.random

    def apply(self, params, key, image):
        return image * np.random.uniform(0.2, 0.8, image.shape).astype(np.float32)  # noqa: NPY002 (the mistake)


@dataclasses.dataclass(frozen=True)
class Seeded(Frozen):
    """Draws with NumPy, the same every time: nothing is random here."""

    def apply(self, params, key, image):
        return image * np.random.default_rng(0).uniform(size=image.shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Calling(Frozen):
    """Asks the host for a number at every call."""

    def apply(self, params, key, image):
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        draw = lambda: np.float32(np.random.uniform(0.2, 0.8))  # noqa: NPY002 (the mistake)
        return image * jax.pure_callback(draw, shape, vmap_method="sequential")


@dataclasses.dataclass(frozen=True)
class Both(Frozen):
    """Draws from the key, and from NumPy as well."""

    def apply(self, params, key, image):
        return super().apply(params, key, image) * jax.random.uniform(key, image.shape)


@dataclasses.dataclass(frozen=True)
class Secretly(Defense):
    """Draws from its key, and says that it does not."""

    @property
    def is_random(self):
        return False

    def apply(self, params, key, image):
        return image * jax.random.uniform(key)


@pytest.mark.parametrize(
    ("defense", "varies", "repeats", "sentence"),
    [
        (Identity(), False, True, None),
        (Mask(), True, True, None),
        (Chain((Mask(), Identity())), True, True, None),
        (BPDA(Mask(), Identity()), True, True, None),
        (Seeded(random=False), False, True, None),
        (Seeded(), False, True, "is_random is True, but other keys give the same"),
        (Frozen(), False, False, r"compiled anew: .* \(np.random is drawn once"),
        (Frozen(random=False), False, False, "compiled anew"),
        (Both(), True, False, "compiled anew"),
        (Calling(), False, False, "compiled anew"),
        (Secretly(), True, True, "is_random is False, but other keys give other results"),
    ],
    ids=lambda case: type(case).__name__,
)
def test_randomness_is_what_it_says(defense, varies, repeats, sentence):
    params = {**PARAMS, "defense": ((), ()) if isinstance(defense, Chain) else ()}
    found = check_randomness(Defended(defense, NETWORK), params, IMAGES[:2])
    assert (found.varies, found.repeats) == (varies, repeats)
    assert found.says_random == defense.is_random
    if sentence is None:
        assert found.problem is None
    else:
        with pytest.raises(ValueError, match=sentence):
            raise ValueError(found.problem)


def _noise(how):
    if how == "host":
        shape = jax.ShapeDtypeStruct((3,), jnp.float32)
        draw = lambda: np.random.normal(size=3).astype(np.float32)  # noqa: NPY002 (the mistake)
        return jax.pure_callback(draw, shape, vmap_method="sequential")
    return np.random.normal(size=3).astype(np.float32)  # noqa: NPY002 (the mistake)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("how", ["compiled", "host"])
@pytest.mark.parametrize("defense", [Identity(), Mask()])
def test_randomness_of_a_classifier_is_found(defense, how, scale):
    def noisy(kernel, image):
        return scale * (image.reshape(-1) @ kernel + 0.1 * _noise(how))

    kernel = jax.random.normal(jax.random.key(1), (48, 3))
    model = nets.from_function(noisy, kernel)
    params = {"defense": (), "classifier": model.params}
    found = check_randomness(Defended(defense, model.network), params, IMAGES[:2])
    assert not found.repeats
    assert "the classifier not at all" in str(found.problem)
    quiet = nets.from_function(lambda kernel, image: scale * (image.reshape(-1) @ kernel), kernel)
    found = check_randomness(Defended(defense, quiet.network), params, IMAGES[:2])
    assert found.problem is None


def test_what_cannot_be_compared_is_refused():
    target = Defended(Identity(), NETWORK)
    with pytest.raises(ValueError, match="num_keys=1 must be at least 2"):
        check_randomness(target, PARAMS, IMAGES, num_keys=1)
    with pytest.raises(ValueError, match="There are no images"):
        check_randomness(target, PARAMS, IMAGES[:0])
    with (
        unchecked(),
        pytest.raises(ValueError, match="check_randomness takes a Pipeline, not a N"),
    ):
        check_randomness(NETWORK, PARAMS, IMAGES)
