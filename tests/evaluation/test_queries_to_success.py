"""With which forward pass a black box first has a success: counted by hand, kept, and read."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, NES, PGD, SPSA, HopSkipJump, RayS, SequentialTest, SimBA, Square
from rainjax.defenses import GaussianNoise, Identity
from rainjax.evaluation import CLEAN, Knowledge, ThreatModel, evaluate, load_records
from rainjax.evaluation.driver import watched_attack
from rainjax.evaluation.spent import queries_to_success
from rainjax.evaluation.validation import find_problem
from rainjax.pipeline import Defended
from tests.small_studies import KERNEL, RIGHT, SIZE, SMALL, linear, study_of
from tests.tiny import Linear

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGES = (SMALL / 255).astype(np.float32)
PARAMS = {"defense": (), "classifier": {"kernel": KERNEL}}
BARE = Defended(Identity(), Linear(SIZE, 10))
NOISY = Defended(GaussianNoise(0.05), Linear(SIZE, 10))
KEYS = jax.random.split(jax.random.key(5), 16)


def counted(attack, pipeline=BARE, num=6, labels=RIGHT) -> np.ndarray:
    found = measured(attack, pipeline, num, labels)
    assert found is not None
    return found


def measured(attack, pipeline=BARE, num=6, labels=RIGHT):
    _, watch = watched_attack(
        pipeline, attack, PARAMS, KEYS[:num], IMAGES[:num], jnp.asarray(labels[:num])
    )
    return queries_to_success(attack, watch)


def asked_about(attack, number, label):
    """The points of one image's attack, asked one after the other."""
    init_key, loop_key = jax.random.split(KEYS[number])
    logits = lambda draw, image: image.reshape(-1) @ KERNEL
    run = attack.start(init_key, jnp.asarray(IMAGES[number]), jnp.asarray(label))
    step = jax.jit(lambda call, run: attack.step(loop_key, call, logits, run))
    for call in range(attack.num_calls):
        yield np.asarray(attack.ask(run.state)[0], np.float64)
        run = step(call, run)


def first_by_hand(attack, number, label, slack=1e-6):
    """How many points were asked about with the first wrong one within the L-inf radius."""
    for count, point in enumerate(asked_about(attack, number, label), start=1):
        wrong = np.argmax(point.reshape(-1) @ np.asarray(KERNEL, np.float64)) != label
        if wrong and np.abs(point - IMAGES[number]).max() <= attack.radius + slack:
            return count
    return 0


@pytest.mark.parametrize(
    "attack",
    [
        Square(radius=0.04, num_queries=30, paired=False),
        SimBA(radius=0.04, step_size=0.04, num_queries=40, paired=False),
        SimBA(radius=0.04, step_size=0.04, num_queries=40, paired=False, early_stop=True),
        NES(radius=0.03, num_pairs=3, num_queries=50, ask_iterate=True, step_size=0.01),
        SPSA(radius=0.02, num_pairs=2, num_queries=50, probe_size=0.05, early_stop=True),
        RayS(radius=0.06, num_queries=60),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_the_first_success_is_that_of_the_points_asked_about(attack):
    found = counted(attack)
    expected = [first_by_hand(attack, number, RIGHT[number]) for number in range(6)]
    assert found.tolist() == expected
    assert any(count > 0 for count in expected)


def test_an_image_that_is_wrong_already_takes_one_query():
    wrong = (RIGHT + 1) % 10
    for attack in (
        Square(radius=0.01, num_queries=5, paired=False),
        RayS(radius=0.01, num_queries=5),
        HopSkipJump(norm="linf", radius=0.01, num_queries=5),
        NES(radius=0.01, num_pairs=1, num_queries=6, ask_iterate=True),
    ):
        assert counted(attack, labels=wrong).tolist() == [1] * 6


def test_a_query_is_one_draw_of_one_image_whatever_the_attack_counts():
    """All are wrong already, so each is there with its first call."""
    wrong, eot = (RIGHT + 1) % 10, EOT(3)
    for attack, passes in (
        (Square(radius=0.01, num_queries=5, paired=False, eot=eot), 3),
        (Square(radius=0.01, num_queries=5, eot=eot), 6),  # and the incumbent's
        (NES(radius=0.01, num_pairs=1, num_queries=20, ask_iterate=True, eot=eot), 3),
        (RayS(radius=0.01, num_queries=5, eot=eot), 3),
    ):
        assert counted(attack, labels=wrong).tolist() == [passes] * 6
        assert attack.num_gradients >= passes
    tested = RayS(radius=0.01, num_queries=9, test=SequentialTest())
    assert counted(tested, labels=wrong).tolist() == [3] * 6  # three votes of a kind decide


def test_draws_that_grow_are_added_up():
    attack = Square(radius=0.04, num_queries=20, paired=False, eot=EOT(4, first=1))
    found, once = counted(attack), counted(dataclasses.replace(attack, eot=EOT()))
    draws = np.cumsum([0, *(attack.eot.count(call, 20) for call in range(20))])
    assert found.tolist() == draws[once].tolist()  # on a network without randomness


def test_nearest_successes_count_within_the_radius_only():
    far = RayS(num_queries=60)
    near = dataclasses.replace(far, radius=0.06)
    everywhere, within = counted(far), counted(near)
    assert (everywhere > 0).all()
    assert ((within == 0) | (within >= everywhere)).all()
    assert (within > everywhere).any()


def test_whoever_takes_a_gradient_has_no_queries_to_count():
    attack = PGD(radius=0.03, num_steps=3)
    assert measured(attack) is None


def test_asking_about_the_iterate_goes_on_after_a_success():
    attack = NES(radius=0.05, num_pairs=3, num_queries=35, ask_iterate=True, step_size=0.02)
    stopping = dataclasses.replace(attack, early_stop=True)
    assert attack.num_calls == stopping.num_calls == 35
    assert not attack.stops_early
    assert counted(attack).tolist() == counted(stopping).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("queries")
    threats = (
        CLEAN,
        ThreatModel("PGD", PGD(radius=0.04, num_steps=2)),
        ThreatModel("Square", Square(radius=0.04, num_queries=15), knowledge=Knowledge.SCORES),
        ThreatModel("RayS", RayS(radius=0.06, num_queries=40), knowledge=Knowledge.LABELS),
        ThreatModel("secretly Square", Square(radius=0.04, num_queries=15)),
    )
    study = study_of(linear(Identity(), "bare"), linear(GaussianNoise(0.02)), threats=threats)
    evaluate(study, out, progress=False)
    return out / "small"


def test_records_of_black_boxes_keep_it_over_all_batches(folder):
    records = {(r.subject, r.threat): r for r in load_records(folder)}
    square = records["bare", "Square"]
    assert square.query_budget == 30  # calls of two passes
    first = square.queries_to_success
    assert first is not None
    assert len(first) == 12
    calls = first // 2
    right = square.correct_draws > 0
    assert (calls[~right] > 0).all()  # nothing is random: what is wrong had a first success
    labels = records["bare", "RayS"]
    assert labels.query_budget == 40
    first = labels.queries_to_success
    assert first is not None
    assert ((first > 0) == (labels.correct_draws == 0)).all()
    for threat in ("clean", "PGD", "secretly Square"):  # of who differentiates, no word
        assert records["bare", threat].query_budget is None
        assert records["bare", threat].queries_to_success is None


def test_records_of_older_versions_load_and_damaged_ones_do_not(folder):
    (path,) = (folder / "records").glob("bare--square--*.json")
    content = json.loads(path.read_text())
    assert find_problem(content) is None
    older = {name: value for name, value in content.items() if name != "queries"}
    older["axes"] = {n: v for n, v in older["axes"].items() if n != "num_gradients"}
    assert find_problem(older) is None
    budget, packed = content["queries"]["budget"], content["queries"]["to_success"]
    for queries, words in (
        ({"budget": 0, "to_success": packed}, "queries.budget is 0"),
        ({"budget": budget, "to_success": None}, "holds no counts"),
        ({"budget": budget, "to_success": "1" * 5}, "for each of 12 images"),
        ({"budget": 1, "to_success": "2" * 12}, "to 1 for each of 12 images"),
        ("many", "queries.budget is None"),
    ):
        assert words in str(find_problem({**content, "queries": queries}))
