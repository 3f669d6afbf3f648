"""Every promise that `check_detector` checks, broken one at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rainjax
from rainjax import check_detector
from rainjax.detectors import Detector, MaxSoftmax
from rainjax.nets import from_function
from tests.test_broken_promises import _from_host, _mean_over_batch
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True)
class Broken(Detector):
    """Scores the distance of the mean from the clean images'; `how` names what is wrong."""

    how: str = "nothing"

    @property
    def is_random(self):
        return self.how in ("says random", "second call")

    def init(self, key):
        return {"mean": jnp.zeros(3)}

    def fit(self, params, images, labels=None):
        if self.how == "fit bug":
            raise KeyError("nowhere")
        mean = jnp.asarray(images.mean((0, 1, 2)))
        return {
            "fit shape": lambda: {"mean": mean[:2]},
            "fit type": lambda: {"mean": mean.astype(jnp.float16)},
            "fit more": lambda: {"mean": mean, "number": jnp.ones(())},
            "fit less": dict,
        }.get(self.how, lambda: {"mean": mean})()

    def score(self, params, key, image):
        if self.how == "condition":
            return image.mean() if image.mean() > 0.5 else -image.mean()
        away = jnp.sum((image.mean((0, 1)) - params["mean"]) ** 2)
        still = away - jax.lax.stop_gradient(away)
        return {
            "shape": lambda: away[None],
            "type": lambda: away.astype(jnp.float16),
            "whole": lambda: jnp.argmax(image),
            "pair": lambda: (away, away),
            "bug": lambda: image @ jnp.ones((7, 7)),
            "infinite": lambda: away - jnp.log(jnp.sum(image[:2])),
            "nan": lambda: jnp.where(image.min() == 0, jnp.nan, away),
            "numpy": lambda: away + np.random.uniform(),  # noqa: NPY002 (the mistake)
            "second call": lambda: away * _from_host(key) + 0.1 * jax.random.uniform(key),
            "says not": lambda: away + jax.random.uniform(key),
            "batch": lambda: _mean_over_batch(image).mean(),
            "gradient": lambda: away + jnp.sqrt(still),
        }.get(self.how, lambda: away)()


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("fit bug", r"^Broken.fit failed on 16 images of shape \(6, 8, 3\) with KeyError"),
        ("fit shape", r"^Broken returned float32 of shape \(2,\) from `fit` at params\['mean'\]"),
        ("fit type", r"^Broken returned float16 of shape \(3,\) from `fit` at params\['mean'\]"),
        ("fit more", r"from `fit` at params\['number'\], where `init` makes nothing: let both"),
        ("fit less", r"^Broken returned nothing from `fit` at params\['mean'\], where `init`"),
        ("shape", r"^Broken returned .*\(1,\).* for one image: return one number, float32"),
        ("type", r"^Broken returned .*float16.* for one image: return one number, float32"),
        ("whole", r"^Broken returned .*int32.* for one image: return one number, float32"),
        ("pair", r"^Broken returned \(.* for one image: return one number, float32"),
        ("bug", r"^Broken.score failed on an image of shape \(6, 8, 3\) with TypeError"),
        ("condition", r"^Broken.score cannot be traced by jax.jit"),
        ("infinite", r"^Broken gives an image in \[0, 1\] a score that is NaN or infinite"),
        ("nan", r"^Broken gives an image in \[0, 1\] a score that is NaN or infinite"),
        ("numpy", "^Broken gives another score under jax.jit than without, .*np.random is"),
        ("batch", "^Broken gives another score under jax.vmap, among others in a batch, than"),
        ("second call", "^Broken gives another score for the same key at a second call"),
        ("says random", "^Broken says is_random=True, and gives the same score for other keys"),
        ("says not", "^Broken says is_random=False, and gives other scores for other keys"),
        ("gradient", "^Broken has a gradient that is NaN or infinite"),
    ],
)
def test_a_detector_that_breaks_a_promise_is_told_which(how, sentence):
    tolerance = 1e-3 if how == "second call" else 1e-5
    with unchecked(), pytest.raises(AssertionError, match=sentence) as raised:
        check_detector(Broken(how), image_shape=(6, 8, 3), tolerance=tolerance)
    assert str(raised.value).endswith((".", "'nowhere'")) or how == "bug"
    assert (raised.value.__cause__ is not None) == (how in ("fit bug", "bug", "condition"))


def test_a_detector_that_keeps_its_promises_passes():
    with unchecked():
        outputs = rainjax.check_detector(Broken(), image_shape=(6, 8, 3), tolerance=1e-6)
    means = outputs.images.mean((1, 2)) - np.asarray(outputs.params["mean"])
    np.testing.assert_allclose(outputs.scores, (means**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(outputs.gradient[2, 3], 2 * means[2] / 48, rtol=1e-3)
    # The mean of 768 uniform numbers is within four standard errors of one half.
    np.testing.assert_allclose(outputs.params["mean"], 0.5, atol=4 * np.sqrt(1 / 12 / 768))
    assert repr(outputs) == "DetectorOutputs of 3 images of (6, 8, 3)"


def test_given_parameters_are_scored_with():
    with unchecked():
        given = {"mean": jnp.ones(3)}
        outputs = check_detector(Broken(), image_shape=(6, 8, 3), params=given)
    np.testing.assert_allclose(
        outputs.scores, ((outputs.images.mean((1, 2)) - 1) ** 2).sum(1), rtol=1e-4
    )


def test_a_gradient_may_be_left_out():
    with unchecked():
        assert check_detector(Broken("gradient"), differentiable=False).gradient is None


def test_a_network_that_came_with_its_parameters_needs_them():
    model = from_function(lambda kernel, image: image.mean((0, 1)) @ kernel, jnp.eye(3))
    with unchecked():
        outputs = check_detector(MaxSoftmax(model.network), params={"network": model.params})
        assert np.isfinite(outputs.scores).all()
        with pytest.raises(ValueError, match="has no fresh parameters"):
            check_detector(MaxSoftmax(model.network))


@dataclasses.dataclass(frozen=True)
class Unequal(Broken):
    """Is equal to nothing, itself not excepted."""

    def __eq__(self, other):
        return False

    def __hash__(self):
        return 0


def test_what_is_no_value_of_a_detector_is_refused():
    with unchecked():
        with pytest.raises(ValueError, match="takes a Detector, not the class Broken: make a val"):
            check_detector(Broken)
        with pytest.raises(AssertionError, match="Unequal is not equal to a copy"):
            check_detector(Unequal())
        with pytest.raises(ValueError, match=r"^image_shape=16 must be the height, width and"):
            check_detector(Broken(), image_shape=16)
