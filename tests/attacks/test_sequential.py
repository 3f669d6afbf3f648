"""Sequential tests of labels against the gambler's ruin, and attacks that decide by them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import EOT, Boundary, HopSkipJump, RayS, SequentialTest, Square
from rainjax.attacks.hop_skip_jump import VOTES
from rainjax.attacks.labels import SEARCHING
from rainjax.attacks.sequential import Votes
from rainjax.defenses import Identity
from rainjax.evaluation import CLEAN, Knowledge, ThreatModel, evaluate
from tests.attacks.test_label_attacks import IMAGE, KEY, OFFSET, WEIGHTS, history
from tests.small_studies import linear, study_of
from tests.tiny import unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

TEST = SequentialTest()


def noisy(key, image):
    """Two logits with a plane between, of which one draw in five has them exchanged."""
    logits = jnp.stack([jnp.full((), OFFSET), jnp.sum(WEIGHTS * image)])
    return jnp.where(jax.random.bernoulli(key, 0.2), logits[::-1], logits)


def paths(test, chance, share=0.5, count=20_000):
    """Returns the votes and the evidence at which each of many tests ends."""
    rng = np.random.default_rng(1)
    successes, ended = np.zeros(count), np.zeros(count, bool)
    draws = np.zeros(count)
    while not ended.all():
        won = rng.random(count) < chance
        successes, draws = successes + (won & ~ended), draws + ~ended
        votes = Votes(jnp.asarray(successes, jnp.float32), jnp.asarray(draws, jnp.float32))
        ended |= np.asarray(test.decides(votes, share))
    return draws, np.asarray(test.evidence(votes, share)) >= 0


@pytest.mark.parametrize("chance", [0.75, 0.6, 0.25])
def test_decides_as_often_and_as_late_as_a_gambler_is_ruined(chance):
    """With these shares it is a walk of steps of one to a lead of three: a closed form."""
    draws, success = paths(SequentialTest(max_draws=10_000), chance)
    odds, lead = (1 - chance) / chance, 3
    wins = (1 - odds**lead) / (1 - odds ** (2 * lead))
    assert success.mean() == pytest.approx(wins, abs=0.01)
    mean = lead * (2 * wins - 1) / (2 * chance - 1)
    assert draws.mean() == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize(("share", "margin", "error"), [(0.5, 0.25, 0.05), (0.8, 0.1, 0.02)])
def test_is_wrong_no_more_often_than_stated(share, margin, error):
    """Wald's bound on either mistake, at the two shares that are told apart."""
    test = SequentialTest(error=error, margin=margin, max_draws=10_000)
    for chance, is_success in ((share - margin, False), (share + margin, True)):
        _, success = paths(test, chance, share)
        assert 0 < (success != is_success).mean() < error / (1 - error)


def test_ends_at_its_cap():
    draws, success = paths(SequentialTest(max_draws=4), 0.5)
    assert draws.max() == 4
    assert 0.4 < success.mean() < 0.75  # two of four are the likelier a success: a tie is one


def test_a_question_is_asked_until_it_is_decided():
    """Every draw is a query; the next question waits for three more on one side."""
    attack = RayS(num_queries=120, test=TEST)
    _, states, last = history(attack, noisy)
    asked = np.asarray(states.asked).reshape(120, -1)
    fresh = np.append(True, (asked[1:] != asked[:-1]).any(1))
    np.testing.assert_array_equal(np.asarray(states.votes.draws) == 0, fresh)
    counts = np.diff(np.flatnonzero(np.append(fresh, True)))
    assert counts[:-1].min() >= 3
    assert 3 < counts.mean() < 6  # the ruin above: 3 * 0.97 / 0.6
    assert counts.max() <= TEST.max_draws
    assert last.queries == 120
    # A majority of three draws is three forward passes a query.
    assert RayS(num_queries=40, eot=EOT(3)).num_gradients == attack.num_gradients


def test_votes_that_are_averaged_are_not_tested():
    _, states, _ = history(HopSkipJump(num_queries=220, initial_votes=20, test=TEST), noisy)
    votes = (np.asarray(states.phase) == SEARCHING) & (np.asarray(states.search.part) == VOTES)
    drawn = np.asarray(states.votes.draws)
    assert votes.sum() > 20
    assert (drawn[votes] == 0).all()
    assert (drawn[~votes] > 0).any()


def test_tested_decisions_stay_beyond_the_boundary():
    """One draw at a time ends at the luckiest point on the near side; tested, hardly any does."""

    def share_beyond(attack):
        run = jax.jit(jax.vmap(lambda key: attack(key, noisy, IMAGE, jnp.array(0))))
        found = np.asarray(run(jax.random.split(KEY, 24)), float)
        return (np.sum(WEIGHTS * found, axis=(1, 2, 3)) - OFFSET > -1e-3).mean()

    attack = RayS(num_queries=400)
    naive, tested = share_beyond(attack), share_beyond(dataclasses.replace(attack, test=TEST))
    assert naive < 0.2, naive
    assert tested > 0.5, tested


def test_a_study_may_have_attacks_by_labels(tmp_path):
    threats = (
        CLEAN,
        ThreatModel("RayS", RayS(radius=0.2, num_queries=60), knowledge=Knowledge.LABELS),
    )
    found = evaluate(study_of(linear(Identity()), threats=threats), tmp_path, progress=False)
    by_name = {record.content["threat"]["name"]: record for record in found}
    assert by_name["RayS"].knowledge is Knowledge.LABELS
    assert by_name["RayS"].num_steps == 60
    assert by_name["RayS"].score().accuracy < by_name["clean"].score().accuracy
    with pytest.raises(
        ValueError, match="knows LABELS, and Square asks for more: give SCORES for"
    ):
        ThreatModel("Square", Square(), knowledge=Knowledge.LABELS)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SequentialTest(error=0.5), r"error=0.5 must lie in \(0, 0.5\)"),
        (lambda: SequentialTest(margin=0.0), r"margin=0.0 must lie in \(0, 0.5\)"),
        (lambda: SequentialTest(max_draws=0), "max_draws=0 must be at least 1"),
        (lambda: RayS(test=TEST, success_share=0.8), "success_share=0.8 is told from 0.25 more"),
        (lambda: RayS(test=TEST, eot=EOT(2, common=True)), "without common=True"),
        (lambda: RayS(test=TEST, eot=EOT(4, draws="enumerated")), "draws='enumerated'"),
        (lambda: RayS(test=TEST, eot=EOT(4, first=1)), "first=1"),
        (lambda: Boundary(eot=EOT(2, average="logits")), "Boundary sees labels alone"),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()
