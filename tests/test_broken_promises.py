"""Every promise that `check_defense` and `check_attack` check, broken one at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rainjax
from rainjax import check_attack, check_defense
from rainjax.attacks import PGD
from rainjax.defenses import RAIN, Chain, Defense, Deterministic, GaussianNoise
from rainjax.pipeline import Defended
from tests.tiny import EDSR_TINY, Linear, Mask, edsr_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True)
class Broken(Defense):
    """Halves an image; `how` names what is wrong with it."""

    how: str = "nothing"

    @property
    def is_random(self):
        return self.how in ("says random", "second call")

    def apply(self, params, key, image):
        if self.how == "condition":
            return image / 2 if image.mean() > 0.5 else image
        halved = image / 2
        return {
            "shape": lambda: halved[::2],
            "type": lambda: halved.astype(jnp.float16),
            "bug": lambda: halved @ jnp.ones((7, 7)),
            "other bug": lambda: {}["nowhere"],
            "pair": lambda: (halved, halved),
            "range": lambda: halved + 0.6,
            "nan": lambda: jnp.where(image == 0, jnp.nan, halved),
            "numpy": lambda: halved * np.random.uniform(size=image.shape),  # noqa: NPY002 (the mistake)
            "second call": lambda: halved * _from_host(key) + 0.1 * jax.random.uniform(key),
            "says not": lambda: halved * jax.random.uniform(key),
            "gradient": lambda: jnp.sqrt(halved - jax.lax.stop_gradient(halved)) + halved,
        }.get(self.how, lambda: halved)()


def _from_host(key):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    draw = lambda _: np.float32(1 - 1e-5 * np.random.uniform())  # noqa: NPY002 (the mistake)
    return jax.pure_callback(draw, shape, jax.random.key_data(key), vmap_method="sequential")


@dataclasses.dataclass(frozen=True)
class Neighbourly(Deterministic):
    """Looks at the other images of a batch, which `vmap` gives a name."""

    def purify(self, image):
        return _mean_over_batch(image)


@jax.custom_batching.custom_vmap
def _mean_over_batch(image):
    return image


@_mean_over_batch.def_vmap
def _(axis_size, in_batched, images):
    return jnp.broadcast_to(images.mean(0), images.shape), True


@pytest.mark.parametrize(
    ("defense", "sentence"),
    [
        (
            Broken("shape"),
            r"^Broken returned .*\(4, ?8, ?3\).*: return float32 of that shape",
        ),
        (Broken("type"), r"^Broken returned .*float16.*: return float32 of that shape\.$"),
        (Broken("pair"), r"^Broken returned \(.*: return float32 of that shape"),
        (
            Broken("range"),
            r"returned values in \[0\.6\d*, 1\.\d*\]: end with jnp\.clip\(im",
        ),
        (Broken("nan"), "returned NaN or infinite values for images"),
        (Broken("numpy"), "another image under jax.jit than without, .*np.random is drawn once"),
        (Broken("second call"), "another image for the same key at a second call"),
        (Broken("says random"), "says is_random=True, and returns the same image for other keys"),
        (Broken("says not"), "says is_random=False, and returns other images for other keys"),
        (
            Broken("bug"),
            r"^Broken.apply failed on an image of shape \(8, 8, 3\) with TypeError: dot",
        ),
        (Broken("other bug"), r"^Broken.apply failed .* with KeyError: 'nowhere'$"),
        (Broken("condition"), r"^Broken.apply cannot be traced by jax.jit"),
        (Broken("gradient"), "has a gradient that is NaN or infinite"),
        (Neighbourly(), "another image under jax.vmap, among others in a batch"),
    ],
    ids=lambda case: getattr(case, "how", None),
)
def test_a_defense_that_breaks_a_promise_is_told_which(defense, sentence):
    tolerance = 1e-5 if defense != Broken("second call") else 1e-3
    with unchecked(), pytest.raises(AssertionError, match=sentence):
        check_defense(defense, image_shape=(8, 8, 3), tolerance=tolerance)


def test_grey_levels_do_not_pass_for_an_image_whatever_a_defense_makes_of_them():
    """A defense of one's own need not look at its input: its pipeline does."""
    target = Defended(Broken(), Linear(192, 4))
    params = target.init(jax.random.key(0))
    grey = jnp.full((8, 8, 3), 200, jnp.uint8)
    with unchecked(), pytest.raises(ValueError, match=r"takes one image .* got uint8 of shape"):
        target.logits(params, jax.random.key(0), grey)


def test_a_gradient_may_be_left_out():
    with unchecked():
        outputs = check_defense(Broken("gradient"), differentiable=False)
        assert outputs.gradient is None


@dataclasses.dataclass(frozen=True)
class Unequal(Deterministic):
    """Is equal to nothing, itself not excepted."""

    def __eq__(self, other):
        return False

    def __hash__(self):
        return 0

    def purify(self, image):
        return image


def test_a_value_that_is_not_equal_to_its_copy_is_told():
    with unchecked(), pytest.raises(AssertionError, match="Unequal is not equal to a copy"):
        check_defense(Unequal())


def test_what_keeps_its_promises_passes():
    with unchecked():
        outputs = check_defense(Broken(), tolerance=0.0)
        np.testing.assert_array_equal(outputs.purified, outputs.images / 2)
        np.testing.assert_allclose(outputs.gradient, outputs.images[2] / 2, atol=1e-6)
        assert outputs.params == ()
        outputs = rainjax.check_defense(Chain((GaussianNoise(), Mask())), image_shape=(6, 8, 1))
        assert outputs.purified.shape == (3, 6, 8, 1)
        rain = RAIN(EDSR_TINY, shift_fraction=0.25)
        outputs = check_defense(rain, image_shape=(8, 8, 3), params=edsr_params())
        assert (outputs.other_keys != outputs.purified).any()


def test_what_is_no_value_is_refused():
    with unchecked():
        with pytest.raises(ValueError, match="takes a Defense, not the class RAIN: make a value"):
            check_defense(RAIN)
        with pytest.raises(ValueError, match="takes an Attack, not the class PGD: make a value"):
            check_attack(PGD)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3, 1), (0, 4, 3), (4, 4.0, 3), 16, None, "abc"])
def test_what_is_no_shape_of_an_image_is_refused(shape):
    with unchecked():
        for check, value in ((check_defense, Broken()), (check_attack, PGD())):
            with pytest.raises(ValueError, match=r"^image_shape=.* must be the height, width and"):
                check(value, image_shape=shape)


def test_the_cause_of_a_failure_is_kept():
    with unchecked(), pytest.raises(AssertionError) as raised:
        check_defense(Broken("other bug"))
    assert isinstance(raised.value.__cause__, KeyError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrokenPGD(PGD):
    """Two steps of PGD; `how` names what is wrong with them."""

    how: str = "nothing"
    num_steps: int = 2
    random_start: bool = False

    def result(self, state):
        image = super().result(state)
        return {
            "ball": lambda: jnp.clip(image + 2 * self.radius, 0, 1),
            "range": lambda: image + 1e-3,
        }.get(self.how, lambda: image)()

    def finish(self, run):
        if self.how == "nan":
            return jnp.nan_to_num(super().finish(run), nan=0.5) * 0 + run.state.origin
        return super().finish(run)

    def __call__(self, key, logits_fn, image, label):
        attacked = super().__call__(key, logits_fn, image, label)
        if self.how == "driven":
            return 0.99 * attacked
        if self.how == "shape":  # in `result` it would be spread over the image
            return attacked[:1]
        if self.how == "second call":
            return attacked * _from_host(key)
        if self.how == "batch":
            return _mean_over_batch(attacked)
        return attacked


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("ball", r"moved an image by 0.0[6-9]\d* in linf, farther than its radius of 0.0313725"),
        ("range", r"returned values in \[.*, 1.0\d*\]: end with jnp.clip"),
        ("shape", "returned .* for images of shape"),
        ("nan", "returns an image without NaN in front of a pipeline that returns NaN"),
        ("driven", "another image by run_attack than by a call"),
        ("second call", "another image for the same key at a second call"),
        ("batch", "another image under jax.vmap, among others in a batch"),
    ],
)
def test_an_attack_that_breaks_a_promise_is_told_which(how, sentence):
    radius = 8 / 255 if how in ("ball", "range") else 1.0
    with unchecked(), pytest.raises(AssertionError, match=rf"^BrokenPGD .*{sentence}"):
        check_attack(BrokenPGD(how=how, radius=radius))


def test_an_attack_that_keeps_its_promises_passes():
    with unchecked():
        outputs = check_attack(BrokenPGD(), image_shape=(4, 6, 1))
        assert outputs.attacked.shape == (3, 4, 6, 1)
        assert np.abs(outputs.attacked - outputs.images).max() <= 8 / 255 + 1e-6
