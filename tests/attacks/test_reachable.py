"""The attack on roundings, beside an exhaustive search on images small enough for one."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.optimize

from rainjax import Defended, Identity
from rainjax.attacks import EOT, NoisyAPGD, ReachableOutputs
from rainjax.attacks._cells import cell_sums, spread
from rainjax.attacks.reachable import Gains
from rainjax.defenses import JPEG, SHIELD, BitDepth, Chain, FeatureDistillation, GaussianNoise
from rainjax.defenses._base import Sample, quantizes
from rainjax.evaluation import certify_rounding, run_attack
from rainjax.gradients import BPDA
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

FD = FeatureDistillation()
STEPS = np.asarray(FD.steps)
BASIS = np.stack(
    [scipy.fft.idctn(row.reshape(8, 8), norm="ortho").ravel() for row in np.eye(64)]
)  # one basis image a row
RADIUS = 1.6 / 255
NETWORK = Linear(64, 2)


def near_boundaries(seed: int, places, distance: float = 2.0):
    """Returns one grey block, all of it on the grid but for some coefficients near a boundary."""
    rng = np.random.default_rng(seed)
    coefficients = np.zeros((8, 8))
    coefficients[0, 0] = 40 * 25
    coefficients[:3, :3] += 25 * rng.integers(-1, 2, (3, 3))
    for place in places:
        coefficients[place] += rng.choice([-1, 1]) * (STEPS[place] / 2 - distance * rng.uniform())
    image = scipy.fft.idctn(coefficients, norm="ortho") / 255
    assert image.min() > 0.02
    assert image.max() < 0.98
    return image[..., None].astype(np.float32)


def levels_of(image):
    return np.round(scipy.fft.dctn(255 * np.float64(image[..., 0]), norm="ortho") / STEPS)


def reachable_levels(image, radius, norm, slack):
    """Returns every combination of levels that some image in the ball has: by brute force.

    In L-inf linear programs say which exist, in L2 the orthonormal basis does. With a positive
    `slack` boundaries count as crossed that much too early, in grey levels.
    """
    grey = 255 * np.float64(image[..., 0]).ravel()
    now, steps = BASIS @ grey, STEPS.ravel()
    low = np.maximum(-255 * radius, -grey)
    high = np.minimum(255 * radius, 255 - grey)
    if norm == "linf":
        down = np.minimum(BASIS * low, BASIS * high).sum(1)
        up = np.maximum(BASIS * low, BASIS * high).sum(1)
    else:
        down, up = -255 * radius * np.ones(64), 255 * radius * np.ones(64)
    first = np.round((now + down - slack) / steps)
    last = np.round((now + up + slack) / steps)
    ranges = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    found = []
    for combination in itertools.product(*ranges):
        least = (np.array(combination) - 0.5) * steps - now - slack
        most = (np.array(combination) + 0.5) * steps - now + slack
        if norm == "l2":
            way = np.maximum(np.maximum(least, -most), 0)
            feasible = (way**2).sum() <= (255 * radius) ** 2
        else:
            program = scipy.optimize.linprog(
                np.zeros(64),
                np.concatenate([BASIS, -BASIS]),
                np.concatenate([most, -least]),
                bounds=list(zip(low, high, strict=True)),
            )
            feasible = program.status == 0
        if feasible:
            found.append(np.array(combination).reshape(8, 8))
    return found


def margins(kernel, levels, label):
    seen = np.stack(
        [scipy.fft.idctn(found * STEPS, norm="ortho").ravel() / 255 for found in levels]
    )
    logits = np.clip(seen, 0, 1) @ kernel
    return logits[:, 1 - label] - logits[:, label]


@functools.cache
def exhaustive(norm, seed):
    """Returns an image, a linear classifier, and all that can be reached, surely and perhaps."""
    places = ((0, 1), (1, 0), (2, 1), (0, 2))
    # Some way from the boundary no single pixel crosses it, and few combinations exist.
    image = near_boundaries(seed, places, distance=9.0)
    radius = RADIUS if norm == "linf" else 9 / 255
    surely, perhaps = (reachable_levels(image, radius, norm, s) for s in (-0.05, 0.05))
    kernel = np.random.default_rng(seed).normal(size=(64, 2)).astype(np.float32)
    label = int(np.argmax(image.ravel() @ kernel))
    return image, kernel, label, radius, surely, perhaps


def pipeline_of(defense, kernel):
    params = {"defense": defense.init(jax.random.key(0)), "classifier": {"kernel": kernel}}
    return Defended(defense, dataclasses.replace(NETWORK, size=len(kernel))), params


def attacked(image, kernel, label, radius, norm, defense=FD, **options):
    pipeline, params = pipeline_of(defense, jnp.asarray(kernel))
    surrogate = pipeline.map_defense(lambda d: BPDA(d, Identity()))
    attack = ReachableOutputs(
        **{
            "defense": defense,
            "radius": radius,
            "norm": norm,
            "num_steps": 6,
            "num_restarts": 2,
            **options,
        }
    )
    keys = jax.random.split(jax.random.key(1), 1)
    found = run_attack(surrogate, attack, params, keys, image[None], np.array([label]))
    return np.asarray(found)[0]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_the_attack_finds_what_an_exhaustive_search_finds(norm, seed):
    image, kernel, label, radius, surely, perhaps = exhaustive(norm, seed)
    assert len(surely) > 2
    found = attacked(image, kernel, label, radius, norm)
    delta = np.float64(found) - image
    reach = np.abs(delta).max() if norm == "linf" else np.linalg.norm(delta)
    assert reach <= radius + 1e-6
    levels = levels_of(found)
    assert any((levels == other).all() for other in perhaps)
    ours, best = margins(kernel, [levels], label)[0], margins(kernel, surely, label).max()
    before = margins(kernel, [levels_of(image)], label)[0]
    # The best may push three coefficients at once, where the attack lists pairs.
    assert ours - before >= 0.75 * (best - before)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold_all_that_can_be_reached(norm, seed):
    image, _, _, radius, _, perhaps = exhaustive(norm, seed)
    bounds = FD.level_bounds(jnp.asarray(image), radius, norm)
    low, high = (np.asarray(x[0])[0, 0, ..., 0] for x in (bounds.low, bounds.high))
    assert all(((low <= levels) & (levels <= high)).all() for levels in perhaps)
    # Each bound is taken of one coefficient alone: some image attains it, within the slack.
    together = np.stack(perhaps)
    if norm == "l2":
        assert (together.min(0) == low).all()
        assert (together.max(0) == high).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_proof_is_never_wrong_and_not_always_missing(norm):
    proofs = 0
    for seed in range(3):
        image, kernel, label, _, _, _ = exhaustive(norm, seed)
        pipeline, params = pipeline_of(FD, jnp.asarray(kernel))
        for share in (0.02, 0.3, 1.0):
            radius = share * (RADIUS if norm == "linf" else 9 / 255)
            perhaps = reachable_levels(image, radius, norm, 0.05)
            right = bool((margins(kernel, perhaps, label) < 0).all())
            for most in (1, 4096):
                found = certify_rounding(
                    pipeline, params, image[None], np.array([label]),
                    radius=radius, norm=norm, max_outcomes=most,
                )  # fmt: skip
                assert right or not found.proved[0]
                assert most > 1 or len(perhaps) == 1 or not found.proved[0]
                proofs += found.proved[0]
    assert proofs


def test_what_is_kept_in_half_precision_stays_in_the_ball():
    image, kernel, label, _, _, _ = exhaustive("linf", 0)
    radius = float(np.float16(RADIUS)) - 1.5e-6  # which float16 rounds up
    assert float(np.float16(radius)) > radius + 1e-6
    found = attacked(image, kernel, label, radius, "linf", max_megabytes=0.1)
    assert (levels_of(found) != levels_of(image)).any()
    assert np.abs(np.float64(found) - image).max() <= radius + 1e-7


def test_where_nothing_can_change_nothing_is_found():
    image = near_boundaries(0, ())
    kernel = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    found = attacked(image, kernel, 0, 1 / 255, "linf")
    assert (levels_of(found) == levels_of(image)).all()


def test_cells_are_summed_and_spread_as_loops_do():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    sums = np.zeros((2, 2, 2, 3))
    whole = np.zeros((5, 7, 3))
    for row, column in itertools.product(range(5), range(7)):
        sums[:, row // 4, column // 4] += values[:, row, column]
    np.testing.assert_allclose(cell_sums(jnp.asarray(values), (4, 4, 1)), sums, atol=1e-5)
    grid = np.float32(sums[0])
    for row, column in itertools.product(range(5), range(7)):
        whole[row, column] = grid[row // 4, column // 4]
    np.testing.assert_array_equal(spread(jnp.asarray(grid), (4, 4, 1), (5, 7, 3)), whole)


ROUNDINGS = (
    FD,
    FeatureDistillation(colours="ycbcr"),
    JPEG(50),
    SHIELD((30, 70), "4:4:4"),
    BitDepth(3),
    Chain((GaussianNoise(0.001), FD)),
)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("defense", ROUNDINGS, ids=lambda d: type(d).__name__)
def test_candidates_are_in_the_ball_and_lead_elsewhere(defense, norm):
    image = np.random.default_rng(3).uniform(size=(12, 9, 3)).astype(np.float32)
    radius = {"linf": 4 / 255, "l2": 0.2}[norm]
    apply = jax.jit(jax.vmap(defense.apply, (None, None, 0)))
    params = defense.init(jax.random.key(0))
    assert quantizes(defense)
    for found in jax.jit(lambda x: defense.reachable(x, radius, norm))(jnp.asarray(image)):
        moves = np.float64(found.inputs) - image
        assert np.asarray(found.inputs).min() >= 0
        assert np.asarray(found.inputs).max() <= 1
        longest = (
            np.abs(moves).max()
            if norm == "linf"
            else np.sqrt(np.asarray(cell_sums(jnp.asarray(moves**2), found.cell)).max())
        )
        # Before a chain's last stage the way to a boundary is as far as that stage sees it.
        assert longest <= radius * (1.55 if norm == "l2" else 1) + 1e-5
        several = jnp.concatenate([jnp.asarray(image)[None], found.inputs[:8]])
        outputs = np.asarray(apply(params, jax.random.key(2), several))
        assert (outputs[1:] != outputs[:1]).any((1, 2, 3)).mean() > 0.5


def test_soft_and_parameterized_defenses_list_nothing():
    for soft in (FD.smooth(), JPEG(75).smooth(), SHIELD().smooth(), BitDepth(3).smooth()):
        assert not quantizes(soft)
    assert not quantizes(Chain((FD, Identity())))
    with pytest.raises(ValueError, match="lists no outputs that can be reached"):
        ReachableOutputs(defense=FD.smooth())
    with pytest.raises(ValueError, match="norm='l1' is no norm of ReachableOutputs"):
        ReachableOutputs(norm="l1")


def test_a_random_defense_is_attacked_by_its_mean():
    rng = np.random.default_rng(5)
    image = np.float32(0.2 + 0.6 * rng.uniform(size=(8, 8, 1)))
    kernel = rng.normal(size=(64, 2)).astype(np.float32)
    defense = SHIELD((30, 70))
    pipeline, params = pipeline_of(defense, jnp.asarray(kernel))
    keys = jax.random.split(jax.random.key(3), 64)

    def mean(x):
        logits = jax.vmap(pipeline.logits, (None, 0, None))(params, keys, jnp.asarray(x))
        return float((logits[:, 1] - logits[:, 0]).mean())

    found = attacked(
        image, kernel, 0, 2 / 255, "linf", defense,
        eot=EOT(2), num_restarts=1, num_steps=3, num_output_draws=2, best_iterate=False,
    )  # fmt: skip
    assert mean(found) > mean(image)
    assert np.abs(found - image).max() <= 2 / 255 + 1e-6


@dataclasses.dataclass(frozen=True)
class Waves(Linear):
    """Two layers, the first of them sines: gradients differ from draw to draw."""

    def apply(self, params, *inputs):
        return jnp.sin((inputs[0].reshape(self.size) - 0.5) @ params["first"]) @ params["second"]


def test_a_random_defense_is_attacked_no_worse_than_along_its_soft_twins_gradient():
    rng, num = np.random.default_rng(0), 8
    coarse = rng.uniform(0.3, 0.7, size=(num, 4, 4, 1)).repeat(4, 1).repeat(4, 2)
    images = np.float32(coarse + 0.05 * rng.normal(size=(num, 16, 16, 1)).clip(-2, 2))
    first, second = 5 / 16 * rng.normal(size=(256, 32)), rng.normal(size=(32, 4))
    classifier = {"first": jnp.float32(first), "second": jnp.float32(second)}
    defense, params = SHIELD((20, 60)), {"defense": (), "classifier": classifier}
    pipeline = Defended(defense, Waves(256, 4))
    draws, keys = (jax.random.split(jax.random.key(i), n) for i, n in ((9, 16), (1, num)))

    @jax.jit
    @jax.vmap
    def mean(x):
        return jax.vmap(pipeline.logits, (None, 0, None))(params, draws, x).mean(0)

    labels = np.asarray(mean(images).argmax(-1), np.int32)

    def left(backward, attack):
        surrogate = Defended(BPDA(defense, backward), pipeline.classifier)
        logits = np.asarray(mean(run_attack(surrogate, attack, params, keys, images, labels)))
        own = logits[np.arange(num), labels]
        logits = np.where(np.eye(4, dtype=bool)[labels], -np.inf, logits)
        return (own - logits.max(1)).mean()

    shared = {"radius": 1 / 255, "num_steps": 5, "num_restarts": 1, "eot": EOT(2)}
    ours = ReachableOutputs(defense=defense, best_iterate=False, num_output_draws=2, **shared)
    assert ours.num_gradients <= NoisyAPGD(**shared).num_gradients
    usual = left(defense.smooth(), NoisyAPGD(loss="margin", **shared))
    assert (
        left(Identity(), ours) <= usual < left(Identity(), dataclasses.replace(ours, radius=0.0))
    )


def test_what_is_gained_beyond_noise_is_what_numpy_says_of_weighted_samples():
    rng = np.random.default_rng(7)
    samples = rng.normal(1.0, 2.0, size=(7, 40, 2, 1, 1)).astype(np.float32)
    none = jnp.zeros((40, 2, 1, 1))
    gains = Gains(none, none, jnp.array(0.0), jnp.array(0.0))
    for sample in samples:
        gains = gains.with_another(jnp.asarray(sample), 0.8)
    weights = 0.8 ** np.arange(7)[::-1]
    total = np.tensordot(weights, samples, 1)
    cov = [np.cov(samples[:, k, i, 0, 0], aweights=weights) for k in range(40) for i in range(2)]
    noise = np.sqrt((weights**2).sum() * np.reshape(cov, (40, 2, 1, 1)))
    expected = total - np.sqrt(2 * np.log(40)) * noise
    np.testing.assert_allclose(gains.beyond_noise(), expected, rtol=1e-4, atol=1e-3)
    # Of one gradient no noise is known, and no listed output is worth more than nothing.
    one = Gains(none, none, jnp.array(0.0), jnp.array(0.0)).with_another(
        jnp.asarray(samples[0]), 0.8
    )
    assert float(one.beyond_noise().max()) <= 0
    # What every gradient agrees on is believed in full.
    same = gains
    for _ in range(200):
        same = same.with_another(jnp.ones((40, 2, 1, 1)), 0.8)
    np.testing.assert_allclose(same.beyond_noise(), 5.0, rtol=1e-2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("defense", [FD, JPEG(75), Chain((GaussianNoise(0.01), JPEG(75)))])
def test_what_is_listed_fits_the_memory_allowed(defense, norm):
    rng = np.random.default_rng(8)
    image = jnp.asarray(rng.uniform(0.3, 0.7, size=(16, 16, 3)), jnp.float32)
    key, radius = jax.random.key(0), 0.1
    every = defense.reachable(image, radius, norm)
    values = sum(found.inputs.size for found in every)
    attack = ReachableOutputs(defense=defense, norm=norm, radius=radius)

    def kept(share):
        limited = dataclasses.replace(attack, max_megabytes=share * 8 * values / 1e6)
        groups = lambda: limited.init(key, image, jnp.array(0)).outcomes
        return jax.eval_shape(lambda: [(group.moves, group.changes) for group in groups()])

    for share, kind in ((1.001, jnp.float32), (0.501, jnp.float16)):
        assert [moves.shape for moves, _ in kept(share)] == [f.inputs.shape for f in every]
        assert {x.dtype for pair in kept(share) for x in pair} == {jnp.dtype(kind)}
    size = sum(x.size * x.dtype.itemsize for pair in kept(0.1) for x in pair)
    assert 0.05 * 8 * values < size <= 0.1 * 8 * values
    # What is listed then is among all that there is, and another key lists others.
    several = [
        defense.reachable(image, radius, norm, sample=Sample(jax.random.key(i), 0.1))
        for i in range(2)
    ]
    for one, other, found in zip(*several, every, strict=True):
        assert {x.shape for x in np.asarray(one.inputs)} == {image.shape}
        there = {np.round(x, 4).tobytes() for x in np.asarray(found.inputs)}
        assert {np.round(x, 4).tobytes() for x in np.asarray(one.inputs)} <= there
        assert not np.array_equal(one.inputs, other.inputs)
    with pytest.raises(ValueError, match=r"max_megabytes=0\.0 must be positive and finite"):
        ReachableOutputs(max_megabytes=0.0)
