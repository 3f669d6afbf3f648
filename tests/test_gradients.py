"""Expectations, BPDA and straight-through gradients against closed forms and plain loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rainjax import gradients
from rainjax.defenses import RAIN, Identity, MeanFieldRAIN
from rainjax.gradients import BPDA, expectation, straight_through
from tests.tiny import EDSR_TINY, Mask, Scale, edsr_params, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 8, 3)), jnp.float32)
KEY = jax.random.key(5)
RAIN_TINY = RAIN(EDSR_TINY, shift_fraction=0.25)


def test_expectation_approaches_the_mean_known_in_closed_form():
    """E[(x + z)^2] is x^2 + 1 for a standard normal z, with variance 4 x^2 + 2."""
    x, num = jnp.array([0.0, 0.5, -2.0]), 4096
    shifted = lambda key, x: (x + jax.random.normal(key, x.shape)) ** 2
    mean = jax.jit(expectation(shifted, num, chunk_size=512))(KEY, x)
    error = np.abs(np.asarray(mean) - (x**2 + 1))
    assert (error < 5 * np.sqrt((4 * x**2 + 2) / num)).all()


def test_gradient_of_an_expectation_is_the_expectation_of_gradients():
    """The derivative of E[(x + z)^2] is 2 x: both orders of averaging, on the same draws."""
    shifted = lambda key, x: jnp.sum((x + jax.random.normal(key, x.shape)) ** 2)
    x, num = jnp.array([0.0, 0.5, -2.0]), 1024
    outside = jax.jit(jax.grad(expectation(shifted, num, chunk_size=64), argnums=1))(KEY, x)
    inside = jax.jit(expectation(jax.grad(shifted, argnums=1), num, chunk_size=64))(KEY, x)
    np.testing.assert_allclose(outside, inside, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(inside) - 2 * np.asarray(x)).max() < 5 * 2 / np.sqrt(num)
    quadratic = expectation(lambda i, x: jnp.sum(x**2) * i, 3, draws="enumerated")
    check_grads(jax.jit(lambda x: quadratic(KEY, x)), (x,), order=2, atol=0.02, rtol=0.02)


def test_enumerated_outcomes_are_averaged_exactly():
    """The mean of i * x over i = 0..9 is 4.5 x."""
    for chunk in (None, 1, 2, 5):
        mean = expectation(lambda i, x: i * x, 10, chunk_size=chunk, draws="enumerated")
        np.testing.assert_array_equal(jax.jit(mean)(KEY, jnp.array([2.0, -4.0])), [9.0, -18.0])


def test_chunks_change_nothing():
    """Sums of whole numbers are exact, so equality to the bit shows that the draws are."""
    roll = lambda key, x: {"a": x + jax.random.randint(key, (3,), 0, 100), "b": x[0]}
    x = jnp.array([1.0, 2.0, 3.0])
    # The oracle: every draw by itself, in a plain loop.
    loop = sum(np.asarray(roll(jax.random.fold_in(KEY, i), x)["a"]) for i in range(8)) / 8
    for chunk in (None, 1, 4):
        mean = jax.jit(expectation(roll, 8, chunk_size=chunk))(KEY, x)
        np.testing.assert_array_equal(mean["a"], np.float32(loop))
        assert mean["b"] == 1.0


def test_draws_are_keys_numbers_or_strata():
    data = jax.random.key_data
    keys = [gradients.draw(KEY, i) for i in range(8)]
    for i, key in enumerate(keys):  # how many there are is nothing to a draw
        np.testing.assert_array_equal(data(key), data(jax.random.fold_in(KEY, i)))
    assert len(np.unique([data(key) for key in keys], axis=0)) == 8
    assert [int(gradients.draw(KEY, i, "enumerated")) for i in (3, 4)] == [3, 4]
    stratum = gradients.draw(KEY, 5, "stratified")
    assert (stratum.key == KEY, int(stratum.number)) == (True, 5)
    with unchecked(), pytest.raises(ValueError, match="draws='sorted' is none of 'independent'"):
        expectation(lambda draw: 0.0, 2, draws="sorted")


@pytest.mark.parametrize(
    ("num_samples", "chunk_size"), [(0, None), (-1, None), (4, 3), (4, 0), (4, 8), (4, -2)]
)
def test_chunks_that_do_not_fit_are_refused(num_samples, chunk_size):
    sentence = rf"num_samples={num_samples} (into whole chunks|must be at least 1)"
    with pytest.raises(ValueError, match=sentence):
        expectation(lambda key, x: x, num_samples, chunk_size=chunk_size)


def test_bpda_runs_forward_and_differentiates_backward():
    defense, params = BPDA(RAIN_TINY, Scale(3.0)), edsr_params()

    @jax.jit
    def value_and_vjp(params, key, image):
        value, vjp = jax.vjp(lambda p, x: defense.apply(p, key, x), params, image)
        return value, vjp(image)

    value, (params_bar, image_bar) = value_and_vjp(params, KEY, IMAGE)
    np.testing.assert_array_equal(value, jax.jit(RAIN_TINY.apply)(params, KEY, IMAGE))
    np.testing.assert_allclose(image_bar, 3 * IMAGE, rtol=1e-6)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(params_bar))


def test_bpda_replays_the_draw():
    """A random mask is its own gradient, so a replayed draw shows as value = x * gradient."""
    defense = BPDA(Mask(), Mask())
    value, vjp = jax.vjp(lambda x: defense.apply((), KEY, x), IMAGE)
    (gradient,) = vjp(jnp.ones_like(IMAGE))
    assert set(np.unique(gradient)) == {0.0, 1.0}
    np.testing.assert_array_equal(value, IMAGE * gradient)


def test_bpda_of_a_defense_with_itself_is_the_defense():
    """RAIN behind RAIN: value and exact gradient of every draw, under jit and vmap."""
    params, keys = edsr_params(), jax.random.split(KEY, 3)
    images = jnp.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]])

    def value_and_grad(defense):
        total = lambda p, k, x: jnp.sum(defense.apply(p, k, x) ** 2)
        both = jax.vmap(jax.value_and_grad(total, argnums=(0, 2)), (None, 0, 0))
        return jax.jit(both)(params, keys, images)

    ours, plain = value_and_grad(BPDA(RAIN_TINY, RAIN_TINY)), value_and_grad(RAIN_TINY)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bpda_takes_enumerated_draws():
    mean_field, params = MeanFieldRAIN(RAIN_TINY), edsr_params()
    defense = BPDA(mean_field, Identity())

    @jax.jit
    def value_and_vjp(number):
        value, vjp = jax.vjp(lambda x: defense.apply_outcome(params, number, x), IMAGE)
        return value, vjp(IMAGE)[0]

    forward = jax.jit(mean_field.apply_outcome)
    for number in jnp.array([0, 7]):
        value, image_bar = value_and_vjp(number)
        np.testing.assert_allclose(value, forward(params, number, IMAGE), atol=1e-6)
        np.testing.assert_array_equal(image_bar, IMAGE)


def test_straight_through_has_the_values_of_one_and_the_slope_of_the_other():
    x = jnp.concatenate([IMAGE.ravel(), jnp.array([-3.0, 1e6, 0.0, 1e-20])])
    rounded = lambda x: jnp.round(x * 7) / 7
    for surrogate, slope in ((None, np.ones(x.size)), (jnp.sin, np.cos(np.asarray(x, float)))):
        options = () if surrogate is None else (surrogate,)
        through = straight_through(rounded, *options)
        np.testing.assert_array_equal(jax.jit(through)(x), jax.jit(rounded)(x))
        gradient = jax.jit(jax.grad(lambda x, fn=through: jnp.sum(fn(x))))(x)
        np.testing.assert_allclose(gradient, slope, atol=2e-3)
        np.testing.assert_allclose(gradient[:-3], slope[:-3], atol=1e-6)


def test_rain_and_its_mean_field_are_differentiable():
    """Away from ReLU's and clip's kinks, which a finite difference would step over."""
    params = jax.tree.map(lambda a: 0.3 * a, edsr_params())
    image = 0.45 + 0.02 * IMAGE
    for defense, draw in itertools.product((RAIN_TINY, MeanFieldRAIN(RAIN_TINY)), (KEY,)):
        apply = jax.jit(lambda x, d=defense, k=draw: d.apply(params, k, x))
        check_grads(apply, (image,), order=1, modes=("rev",), atol=0.02, rtol=0.02, eps=1e-3)
