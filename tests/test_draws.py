"""Draws reach what knows them, and a defense names what an attacker should follow."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, PGD
from rainjax.defenses import (
    JPEG,
    RAIN,
    SHIELD,
    BitDepth,
    Chain,
    Defense,
    FeatureDistillation,
    GaussianNoise,
    Identity,
    LowPass,
    MeanFieldRAIN,
    Quilting,
    RandomSubset,
)
from rainjax.defenses._base import Enumerable, Stratified, apply_draw, num_outcomes, stratifies
from rainjax.evaluation import run_attack
from rainjax.gradients import BPDA
from rainjax.pipeline import Defended, Pipeline
from rainjax.typing import Stratum
from tests.contracts import DEFENSES
from tests.tiny import Linear, Mask, Scale, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(size=(8, 8, 3)), jnp.float32)
KEY = jax.random.key(7)
STRATUM, NUMBER = Stratum(KEY, jnp.array(2)), jnp.array(3)


@dataclasses.dataclass(frozen=True)
class Keyed(Defense):
    """Fills the image with the value that says which method was called."""

    def apply(self, params, key, image):
        return jnp.full_like(image, 0.1)


@dataclasses.dataclass(frozen=True)
class Spread(Keyed, Stratified):
    fair: bool = True

    @property
    def stratifies(self):
        return self.fair

    def apply_stratum(self, params, stratum, image):
        return jnp.full_like(image, 0.2) + stratum.number


@dataclasses.dataclass(frozen=True)
class Listed(Keyed, Enumerable):
    def num_outcomes(self, height):
        return 2 * height

    def apply_outcome(self, params, number, image):
        return jnp.full_like(image, 0.3) + number


@dataclasses.dataclass(frozen=True)
class Fixed(Keyed):
    """Somebody's defense without randomness, not made from `Deterministic`."""

    @property
    def is_random(self):
        return False


def test_a_draw_reaches_the_method_that_knows_it():
    for defense, expected in (
        (Keyed(), (0.1, None, None)),
        (Spread(), (0.1, 2.2, None)),
        (Spread(fair=False), (0.1, None, None)),
        (Listed(), (0.1, None, 3.3)),
        (Fixed(), (0.1, 0.1, 0.1)),
        (BPDA(Spread(), Identity()), (0.1, 2.2, None)),
        (BPDA(Listed(), Identity()), (0.1, None, 3.3)),
        (Chain((Identity(), Spread())), (0.1, 2.2, None)),
    ):
        params = ((), ()) if isinstance(defense, Chain) else ()
        for draw, value in zip((KEY, STRATUM, NUMBER), expected, strict=True):
            if value is None:
                with pytest.raises(TypeError, match="draw keys, not"):
                    apply_draw(defense, params, draw, IMAGE)
            else:
                found = apply_draw(defense, params, draw, IMAGE)
                np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=f"{defense} {draw}")
        assert stratifies(defense) == (expected[1] is not None)


def test_outcomes_are_counted_where_they_are_listed():
    assert num_outcomes(Listed(), 8) == num_outcomes(BPDA(Listed(), Identity()), 8) == 16
    assert Defended(Listed(), Linear(192, 4)).num_outcomes(8) == 16
    for defense in (Keyed(), Spread(), Fixed(), BPDA(Spread(), Identity())):
        assert num_outcomes(defense, 8) is None


# -- Pipelines ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Service(Pipeline):
    """Logits linear in the image, with noise of the key's if `noisy`."""

    noisy: bool

    def init(self, key):
        return jax.random.normal(key, (IMAGE.size, 4))

    @property
    def is_random(self):
        return self.noisy

    def logits(self, params, key, image):
        return image.reshape(-1) @ params + self.noisy * jax.random.normal(key, (4,))


def test_a_pipeline_knows_keys_and_without_randomness_strata():
    steady, noisy = Service(noisy=False), Service(noisy=True)
    params = steady.init(KEY)
    assert steady.stratifies
    assert not noisy.stratifies
    assert steady.num_outcomes(8) is noisy.num_outcomes(8) is None
    expected = steady.logits(params, KEY, IMAGE)
    for draw in (KEY, STRATUM):
        np.testing.assert_array_equal(steady.logits_of_draw(params, draw, IMAGE), expected)
    drawn = noisy.logits_of_draw(params, KEY, IMAGE)
    np.testing.assert_array_equal(drawn, noisy.logits(params, KEY, IMAGE))
    for pipeline, draw in ((noisy, STRATUM), (noisy, NUMBER), (steady, NUMBER)):
        with pytest.raises(TypeError, match="Service knows no draws but keys, not"):
            pipeline.logits_of_draw(params, draw, IMAGE)


@dataclasses.dataclass(frozen=True)
class Half(Defense):
    """Halves an image: no randomness, and nothing of `Deterministic`."""

    @property
    def is_random(self):
        return False

    def apply(self, params, key, image):
        return image / 2


@pytest.mark.parametrize(
    "pipeline",
    [Service(noisy=False), Defended(Half(), Linear(IMAGE.size, 4))],
    ids=["own", "half"],
)
def test_without_randomness_stratified_draws_change_nothing(pipeline):
    params, labels = pipeline.init(KEY), jnp.array([0, 3])
    images, keys = jnp.stack([IMAGE, IMAGE[::-1]]), jax.random.split(KEY, 2)
    one, four = (
        run_attack(pipeline, PGD(num_steps=2, eot=eot), params, keys, images, labels)
        for eot in (EOT(1), EOT(4, draws="stratified"))
    )
    np.testing.assert_allclose(four, one, atol=1e-6)
    assert np.abs(np.asarray(one) - images).max() > 0.01


def test_strata_are_refused_where_nothing_spreads_them():
    images, labels = IMAGE[None], jnp.array([0])
    attack = PGD(num_steps=1, eot=EOT(4, draws="stratified"))
    for pipeline, name in (
        (Service(noisy=True), "Service"),
        (Defended(Mask(), Linear(IMAGE.size, 4)), "Mask"),
    ):
        params = pipeline.init(KEY)
        with pytest.raises(ValueError, match=f"evenly, and {name} cannot: draw independent keys"):
            run_attack(pipeline, attack, params, KEY[None], images, labels)


def test_a_defense_that_checks_nothing_is_covered_by_its_pipeline():
    pipeline = Defended(Scale(0.5), Linear(IMAGE.size, 4))
    params = pipeline.init(KEY)
    for given in (jnp.full((8, 8, 3), 200, jnp.uint8), IMAGE[None]):
        for draw in (KEY, STRATUM, NUMBER):
            with unchecked(), pytest.raises(ValueError, match="takes one image `h w c` of floats"):
                pipeline.logits_of_draw(params, draw, given)


# -- What an attacker follows -------------------------------------------------------------


@pytest.mark.parametrize("case", DEFENSES, ids=lambda case: case.name)
def test_what_rounds_names_its_soft_twin_and_nothing_else_does(case):
    rounds = any(field.name == "rounding" for field in dataclasses.fields(case.defense))
    soft = case.defense.smooth()
    if rounds:
        assert soft == dataclasses.replace(case.defense, rounding="cubic")
    elif isinstance(case.defense, Quilting):
        assert soft == LowPass(4)
    else:
        assert soft == case.defense


def test_wholes_are_made_of_their_stages_twins():
    for stages, twins in (
        ((BitDepth(3), GaussianNoise()), (BitDepth(3, rounding="cubic"), GaussianNoise())),
        ((JPEG(60), SHIELD()), (JPEG(60, rounding="cubic"), SHIELD(rounding="cubic"))),
        (
            (Quilting(), Chain((FeatureDistillation(),))),
            (LowPass(4), Chain((FeatureDistillation(rounding="cubic"),))),
        ),
    ):
        assert Chain(stages).smooth() == Chain(twins)
        subset = RandomSubset(stages, num_min=1, num_max=2)
        assert subset.smooth() == RandomSubset(twins, num_min=1, num_max=2)


def test_the_twin_gives_the_gradient_and_the_true_defense_the_values():
    """With the true defense's parameters, and where its own gradient is zero."""
    true = Chain((Quilting(num_neighbours=2), BitDepth(3)))
    params = jnp.asarray(RNG.uniform(size=(40, 5, 5, 3)), jnp.float32), ()

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradient(defense, image):
        values, back = jax.vjp(lambda x: defense.apply(params, KEY, x), image)
        return values, back(image)[0]

    values, gradient = values_and_gradient(true, IMAGE)
    both_values, both_gradient = values_and_gradient(BPDA(true, true.smooth()), IMAGE)
    np.testing.assert_array_equal(both_values, values)
    assert np.abs(gradient).max() == 0
    _, twin_gradient = values_and_gradient(true.smooth(), IMAGE)
    np.testing.assert_allclose(both_gradient, twin_gradient, atol=1e-6)
    assert np.abs(both_gradient).max() > 0.1


@pytest.mark.parametrize("case", DEFENSES, ids=lambda case: case.name)
def test_rain_alone_offers_a_mean_field(case):
    mean = case.defense.mean_field()
    if isinstance(case.defense, RAIN):
        assert mean == MeanFieldRAIN(case.defense)
    else:
        assert mean is None
