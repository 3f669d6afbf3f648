"""Minimum-norm attacks against the distances to planes, NumPy loops and what they visited."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, Attack, CarliniWagner, CarliniWagnerLinf, DeepFool, ElasticNet
from rainjax.attacks.minimum_norm import ConstantSearch
from rainjax.attacks.queries import CandidateClasses, CWLoss, LabelAndTarget, LogitGradients
from rainjax.defenses import Identity
from rainjax.evaluation import run_attack
from rainjax.pipeline import Defended
from tests.tiny import Linear, Mask, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

RNG = np.random.default_rng(0)
KEY = jax.random.key(2)
SHAPE, SIZE = (5, 5, 3), 75
KERNEL = RNG.normal(size=(SIZE, 4)).astype(np.float32)
GREY = (0.5 + 0.05 * RNG.normal(size=(4, *SHAPE))).astype(np.float32)  # far from black and white
CROWDED = RNG.uniform(size=(4, *SHAPE)).astype(np.float32) ** 4  # many values close to black
CROWDED[:, 0] = 0.0
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}

CARLINI = CarliniWagner(num_search_steps=8, num_steps=100, initial_const=0.1)
CARLINI_LINF = CarliniWagnerLinf(num_search_steps=15, num_steps=60)
ELASTIC = ElasticNet(num_search_steps=8, num_steps=100, initial_const=0.1, beta=3e-2)
SHORT = [
    dataclasses.replace(CARLINI, num_search_steps=2, num_steps=5),
    dataclasses.replace(CARLINI_LINF, num_search_steps=3, num_steps=5),
    dataclasses.replace(ELASTIC, num_search_steps=2, num_steps=5, initial_const=10.0),
    DeepFool(num_steps=6),
    DeepFool(norm="linf", num_steps=6),
]
names = lambda value: type(value).__name__ + (value.norm if type(value) is DeepFool else "")


def linear(key, image):
    return image.reshape(SIZE) @ KERNEL


def predictions(images):
    return np.asarray(images, float).reshape(len(images), SIZE) @ KERNEL


def attacked(attack, images, labels, logits_fn=linear):
    keys = jax.random.split(KEY, len(images))
    run = jax.jit(jax.vmap(lambda k, x, y: attack(k, logits_fn, x, y)))
    return np.asarray(run(keys, jnp.asarray(images), jnp.asarray(labels)))


def sizes(found, images, norm):
    delta = np.asarray(found, float) - np.asarray(images, float)
    return np.linalg.norm(delta.reshape(len(images), -1), ord=ORDER[norm], axis=1)


def plane_distances(images, labels, norm):
    """The distance to the nearest plane: the lead over a class, over its slope's dual norm."""
    dual, distances = {"l1": np.inf, "l2": 2, "linf": 1}[norm], []
    for logits, label in zip(predictions(images), labels, strict=True):
        wrong = [k for k in range(4) if k != label]
        slope = [np.linalg.norm(KERNEL[:, k] - KERNEL[:, label], ord=dual) for k in wrong]
        distances.append(min((logits[label] - logits[wrong]) / slope))
    return np.array(distances)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_steps_onto_the_nearest_plane(norm):
    labels = predictions(GREY).argmax(1)
    found = attacked(DeepFool(norm=norm, num_steps=3, overshoot=0.05), GREY, labels)
    assert (predictions(found).argmax(1) != labels).all()
    expected = 1.05 * (plane_distances(GREY, labels, norm) + 1e-4)
    np.testing.assert_allclose(sizes(found, GREY, norm), expected, rtol=2e-4)


@pytest.mark.parametrize("attack", [CARLINI, CARLINI_LINF], ids=names)
def test_carlini_wagner_finds_the_distance_to_the_nearest_plane(attack):
    labels = predictions(GREY).argmax(1)
    found = attacked(attack, GREY, labels)
    assert (predictions(found).argmax(1) != labels).all()
    ratio = sizes(found, GREY, attack.norm) / plane_distances(GREY, labels, attack.norm)
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.04


BLACK_AND_WHITE = (RNG.uniform(size=(4, *SHAPE)) > 0.5).astype(np.float32)
NEARLY = np.clip(BLACK_AND_WHITE, 1e-4, 1 - 1e-4)  # what resizing leaves of black and white
BOXED = {"crowded": CROWDED, "black and white": BLACK_AND_WHITE, "nearly": NEARLY}


def nearest_in_the_box(image, way, norm):
    """The size of the smallest change within [0, 1] that makes up for a negative lead.

    In L2 it is along the slope `way`, in L-inf along its sign, both cut off at the border; in L1
    the values with the largest slopes change as far as they can, one after the other.
    """
    if norm == "l1":
        room = np.where(way > 0, 1 - image, image).ravel()
        lead, size = np.sum(way * image), 0.0
        for i in np.argsort(-np.abs(way).ravel()):
            change = min(room[i], -lead / np.abs(way).ravel()[i])
            lead, size = lead + change * np.abs(way).ravel()[i], size + change
            if lead >= -1e-12:
                return size
    along = way if norm == "l2" else np.sign(way)
    low, high = 0.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        beaten = np.sum(way * np.clip(image + middle * along, 0, 1)) > 0
        low, high = (low, middle) if beaten else (middle, high)
    change = np.clip(image + high * along, 0, 1) - image
    return np.linalg.norm(change.ravel(), ord=ORDER[norm])


@pytest.mark.parametrize("kind", BOXED)
@pytest.mark.parametrize(
    ("attack", "most"),
    [(CARLINI, 1.06), (CARLINI_LINF, 1.1), (ELASTIC, 1.35), (DeepFool(), 1.05)],
    ids=lambda value: names(value) if isinstance(value, Attack) else "",
)
def test_black_and_white_bound_the_nearest_image(attack, most, kind):
    """Also in the space of arctanh, where they lie far out and tanh is flat."""
    images = BOXED[kind]
    slope = (KERNEL[:, 1] - KERNEL[:, 0]).reshape(SHAPE).astype(float)
    two = lambda key, image: linear(key, image)[:2]
    labels = predictions(images)[:, :2].argmax(1)
    expected = [
        nearest_in_the_box(image, slope if label == 0 else -slope, attack.norm)
        for image, label in zip(images.astype(float), labels, strict=True)
    ]
    if attack.norm == "l1":
        attack = dataclasses.replace(attack, decision="l1")
    found = attacked(attack, images, labels, two)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (predictions(found)[:, :2].argmax(1) != labels).all()
    ratio = sizes(found, images, attack.norm) / expected
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < most


def test_elastic_net_is_sparse():
    labels = predictions(GREY).argmax(1)
    exact = plane_distances(GREY, labels, "l1")
    found = attacked(dataclasses.replace(ELASTIC, decision="l1"), GREY, labels)
    assert (predictions(found).argmax(1) != labels).all()
    ratio = sizes(found, GREY, "l1") / exact
    assert ratio.min() > 1 - 1e-4
    assert ratio.max() < 1.3
    assert (np.abs(found - GREY) > 1e-6).reshape(4, -1).mean(1).max() < 0.3
    dense = attacked(dataclasses.replace(CARLINI, num_steps=50), GREY, labels)
    assert (sizes(dense, GREY, "l1") > 1.4 * sizes(found, GREY, "l1")).all()
    # Of the same points the other rule takes those that are nearer in L2.
    mixed = attacked(dataclasses.replace(ELASTIC, decision="en"), GREY, labels)
    net = lambda x: ELASTIC.beta * sizes(x, GREY, "l1") + sizes(x, GREY, "l2") ** 2
    assert (net(mixed) <= net(found)).all()
    assert (sizes(mixed, GREY, "l1") >= sizes(found, GREY, "l1")).all()
    assert (net(mixed) < 0.95 * net(found)).any()


@pytest.mark.parametrize("attack", [CARLINI, CARLINI_LINF, ELASTIC], ids=names)
def test_targeted_attacks_reach_their_class_with_confidence(attack):
    attack = dataclasses.replace(attack, targeted=True, confidence=0.5)
    targets = predictions(GREY).argsort(1)[:, 1]  # neither the likeliest nor the least likely
    logits = predictions(attacked(attack, GREY, targets))
    lead = logits[np.arange(4), targets] - np.sort(logits, axis=1)[:, -2]
    assert (logits.argmax(1) == targets).all()
    assert lead.min() > 0.5 - 1e-4  # and no further than asked for
    assert lead.max() < 0.9


def test_the_constant_grows_tenfold_and_is_then_bisected():
    search, constants = ConstantSearch.start(0.1), []
    for success in (False, False, True, True, False):
        for now, ends in ((success, False), (False, False), (False, True)):
            search = search.after(jnp.array(now), jnp.array(ends))
        constants.append(float(search.constant))
    np.testing.assert_allclose(constants, [1, 10, 5.5, 3.25, 4.375], rtol=1e-6)


DEEP = RNG.normal(size=(SIZE, 30)) / 4, RNG.normal(size=(30, 6))


def deep(key, image):
    first, second = (jnp.asarray(w, jnp.float32) for w in DEEP)
    return jnp.tanh(image.reshape(SIZE) @ first) @ second


@pytest.mark.parametrize("num_candidates", [2, 9])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_is_a_plain_loop(norm, num_candidates):
    """The paper's algorithm in float64, with gradients written out; six classes in all."""

    def look(x):
        hidden = np.tanh(x.ravel() @ DEEP[0])
        return hidden @ DEEP[1], (DEEP[0] * (1 - hidden**2)) @ DEEP[1]

    attack = DeepFool(norm=norm, num_candidates=num_candidates, num_steps=8)
    images = np.random.default_rng(1).uniform(size=(16, *SHAPE)).astype(np.float32)
    labels, expected, taken, ignored = [], [], [], 0
    for origin in images.astype(float):
        clean, _ = look(origin)
        label, *rivals = np.argsort(-clean)[:num_candidates]
        x, total, steps = origin, np.zeros(SHAPE), 0
        while (logits := look(x)[0]).argmax() == label:
            slopes = look(x)[1]
            best, step = np.inf, None
            for k in np.argsort(-clean)[1:]:
                slope = (slopes[:, k] - slopes[:, label]).reshape(SHAPE)
                speed = np.linalg.norm(slope) if norm == "l2" else np.abs(slope).sum()
                distance = abs(logits[k] - logits[label]) / speed
                if distance < best and k not in rivals:
                    ignored += 1
                elif distance < best:
                    unit = slope / speed if norm == "l2" else np.sign(slope)
                    best, step = distance, (distance + 1e-4) * unit
            total += step
            x, steps = np.clip(origin + 1.02 * total, 0, 1), steps + 1
        labels, expected = [*labels, label], [*expected, x]
        taken.append(steps)
    assert 2 <= max(taken) <= 8
    assert (ignored > 0) == (num_candidates == 2)
    found = attacked(attack, images, np.array(labels), deep)
    np.testing.assert_allclose(found, np.array(expected), atol=1e-4)


def hurdles(draw, image):
    """Two draws of one plane, of which the second is twice as far away."""
    way = jnp.sum(image - 0.5) / np.sqrt(SIZE)
    return jnp.stack([jnp.zeros(()), way - jnp.array([0.1, 0.2])[draw]])


@pytest.mark.parametrize("attack", [CARLINI, DeepFool(num_steps=20)], ids=names)
@pytest.mark.parametrize(("share", "distance"), [(1.0, 0.2), (0.5, 0.1)])
def test_success_is_that_of_the_share_of_draws_asked_for(attack, share, distance):
    attack = dataclasses.replace(
        attack, success_share=share, eot=EOT(2, draws="enumerated", chunk_size=1)
    )
    grey = np.full((1, *SHAPE), 0.5, np.float32)
    size = sizes(attacked(attack, grey, [0], hurdles), grey, "l2")[0]
    assert size > distance
    # The mean plane is half-way: DeepFool doubles its way behind it until both are beaten.
    far = 1.03 if type(attack) is CarliniWagner else 1.6
    assert size < far * distance


def test_more_draws_beat_more_of_the_draws_not_seen():
    """One draw of a mask is beaten by a point that the next one is not."""
    masked = lambda key, image: linear(key, Mask().apply((), key, image))
    labels = predictions(GREY).argmax(1)
    fresh = jax.random.split(jax.random.key(9), 200)
    wrong = {}
    for num_samples in (1, 16):
        attack = CarliniWagner(
            num_search_steps=4, num_steps=40, initial_const=1.0, eot=EOT(num_samples)
        )
        found = attacked(attack, GREY, labels, masked)
        logits = jax.vmap(lambda x: jax.vmap(masked, (0, None))(fresh, x))(jnp.asarray(found))
        wrong[num_samples] = (np.asarray(logits).argmax(-1) != labels[:, None]).mean()
    assert wrong[16] > wrong[1] + 0.1


def stubborn(key, image):
    """A hilly surface whose first class always wins."""
    hills = jnp.sum(KERNEL[:, 1] * jnp.sin(15 * image.reshape(SIZE)))
    return jnp.stack([jnp.array(400.0), hills, -hills])


@pytest.mark.parametrize("attack", SHORT, ids=names)
def test_an_unbeaten_image_is_handed_out_at_its_strongest_attempt(attack):
    image, label = jnp.asarray(CROWDED[1]), jnp.array(0)
    init_key, loop_key = jax.random.split(KEY)
    run, visited = attack.start(init_key, image, label), []
    step = jax.jit(lambda call, run: attack.step(loop_key, call, stubborn, run))
    for call in range(attack.num_calls):
        visited.append(np.asarray(attack.ask(run.state)[0]))
        run = step(call, run)
    margins = [float(jnp.max(stubborn(KEY, x)[1:])) - 400 for x in visited]
    assert max(margins) < 0
    margins = [m if np.any(x != image) else -np.inf for m, x in zip(margins, visited, strict=True)]
    best = int(np.argmax(margins))
    np.testing.assert_allclose(attack.finish(run), visited[best], atol=1e-6)
    assert np.any(visited[best] != np.asarray(image))
    assert sum(m > -np.inf for m in margins) > 3
    # Also where the gradient lies, and nothing visited is better than the image itself.

    def peak(key, x):
        rise = jnp.sum(x) - jax.lax.stop_gradient(jnp.sum(x))
        return jnp.stack([jnp.ones(()), rise - jnp.sum((x - image) ** 2)])

    found = jax.jit(attack, static_argnums=1)(KEY, peak, image, label)
    assert np.any(np.asarray(found) != np.asarray(image))


@pytest.mark.parametrize("attack", SHORT, ids=names)
def test_a_beaten_image_stays_as_it_is(attack):
    labels = predictions(CROWDED).argmin(1)
    np.testing.assert_array_equal(attacked(attack, CROWDED, labels), CROWDED)


@pytest.mark.parametrize("attack", [CARLINI, CARLINI_LINF, ELASTIC, DeepFool()], ids=names)
def test_the_radius_bounds_the_result_and_nothing_else(attack):
    labels = predictions(GREY).argmax(1)
    free = attacked(attack, GREY, labels)
    reach = sizes(free, GREY, attack.norm)
    assert reach.min() > 0
    radius = float(np.sort(reach)[1:3].mean())  # two images are nearer, two are not
    bound = attacked(dataclasses.replace(attack, radius=radius), GREY, labels)
    inside = reach < radius
    assert inside.sum() == 2
    np.testing.assert_allclose(bound[inside], free[inside], atol=1e-6)
    assert (predictions(bound[inside]).argmax(1) != labels[inside]).all()
    np.testing.assert_allclose(sizes(bound, GREY, attack.norm)[~inside], radius, rtol=1e-4)
    # From the host, where DeepFool's images leave the batch at their first success.
    target = Defended(Identity(), Linear(SIZE, 4))
    params = {"defense": (), "classifier": {"kernel": jnp.asarray(KERNEL)}}
    if type(attack) is DeepFool:
        attack, keys = dataclasses.replace(attack, radius=radius), jax.random.split(KEY, 4)
        ticks = []
        hosted = run_attack(target, attack, params, keys, GREY, labels, on_gradient=ticks.append)
        np.testing.assert_allclose(hosted, bound, atol=1e-6)
        assert sum(ticks) == attack.num_gradients


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_does_not_care_how_large_logits_are(norm, scale):
    """Squares of such slopes are no floats, and distances are the same all the same."""
    attack, labels = DeepFool(norm=norm), predictions(GREY).argmax(1)
    scaled = lambda key, x: jnp.float32(scale) * linear(key, x)
    found = attacked(attack, GREY, labels, scaled)
    expected = attacked(attack, GREY, labels, linear)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (predictions(expected).argmax(1) != labels).all()


def test_logit_gradients_are_rows_of_the_jacobian():
    image = jnp.asarray(GREY[0])
    query_args = CandidateClasses(
        jnp.array(2), jnp.array([4, 0, -1, 6])
    )  # six classes: two of these are none
    answer = jax.jit(lambda x: LogitGradients(4)(deep, KEY, x, query_args))(image)
    jacobian = np.asarray(jax.jit(jax.jacobian(deep, argnums=1))(KEY, image))
    expected = np.stack([jacobian[4] - jacobian[2], jacobian[0] - jacobian[2]])
    np.testing.assert_allclose(answer.gradients[:2], expected, atol=1e-5)
    assert not np.asarray(answer.gradients[2:]).any()
    logits = np.asarray(deep(KEY, image))
    np.testing.assert_allclose(answer.logits, logits, atol=1e-5)
    assert answer.value == pytest.approx(np.delete(logits, 2).max() - logits[2], abs=1e-5)
    with pytest.raises(ValueError, match=r"LogitGradients\(2\) was asked about 4 classes"):
        LogitGradients(2)(deep, KEY, image, query_args)


def test_a_hinge_is_flat_from_its_confidence_on():
    rise = lambda key, image: jnp.stack([jnp.zeros(()), jnp.sum(image) / SIZE])

    @functools.partial(jax.jit, static_argnums=0)
    def ask(hinge, image, label):
        return hinge(rise, KEY, image, LabelAndTarget(label, label))

    for value, label, options, margin, slope, success in [
        (0.3, 0, {"confidence": 0.2}, 0.3, 0, 1),
        (0.1, 0, {"confidence": 0.2}, 0.1, 1, 0),
        (0.1, 0, {}, 0.1, 0, 1),
        (0.3, 1, {"confidence": 0.2}, -0.3, -1, 0),
        (0.3, 1, {"confidence": 0.2, "targeted": True}, 0.3, 0, 1),
        (0.1, 1, {"confidence": 0.2, "targeted": True}, 0.1, 1, 0),
    ]:
        answer = ask(CWLoss(**options), jnp.full(SHAPE, value), jnp.array(label))
        assert answer.value == pytest.approx(margin, abs=1e-5)
        np.testing.assert_allclose(answer.gradient, slope / SIZE, atol=1e-6)
        assert answer.success == success


@pytest.mark.parametrize(
    ("attack", "options", "sentence"),
    [
        (CarliniWagner, {"radius": -0.1}, "radius=-0.1 must be finite and not negative"),
        (DeepFool, {"radius": float("inf")}, "radius=inf must be finite and not negative"),
        (DeepFool, {"success_share": 0.0}, r"success_share=0.0 must lie in \(0, 1\]"),
        (ElasticNet, {"success_share": float("nan")}, r"success_share=nan must lie in \(0, 1\]"),
        (CarliniWagner, {"confidence": -1.0}, "confidence=-1.0 must be finite and not negative"),
        (CarliniWagner, {"initial_const": 0.0}, "initial_const=0.0 must be finite and positive"),
        (CarliniWagner, {"step_size": 0.0}, "step_size=0.0 must be finite and positive"),
        (CarliniWagner, {"num_search_steps": 0}, "num_search_steps=0 must be at least 1"),
        (ElasticNet, {"num_steps": 1}, "num_steps=1 at least 2"),
        (ElasticNet, {"beta": -1e-3}, "beta=-0.001 must be finite and not negative"),
        (ElasticNet, {"decision": "l2"}, "decision='l2' is none of 'l1', 'en'"),
        (CarliniWagnerLinf, {"decrease": 1.0}, r"decrease=1.0 must lie in \(0, 1\)"),
        (CarliniWagnerLinf, {"const_factor": 1.0}, "const_factor=1.0 must be finite and above 1"),
        (CarliniWagnerLinf, {"largest_const": 1e-3}, "at least initial_const=0.01"),
        (DeepFool, {"norm": "l1"}, "norm='l1' is none of 'l2', 'linf'"),
        (DeepFool, {"overshoot": -0.1}, "overshoot=-0.1 must be finite and not negative"),
        (DeepFool, {"num_steps": 0}, "num_steps=0 must be at least 1"),
        (DeepFool, {"num_candidates": 1}, "num_candidates=1 at least 2"),
    ],
)
def test_bad_options_are_refused(attack, options, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        attack(**options)
