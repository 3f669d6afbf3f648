"""What attacks by scores promise: a budget, honest counts, and draws in common."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import Defended, Identity
from rainjax.attacks import EOT, NES, SPSA, ZOO, SimBA
from rainjax.evaluation import Knowledge, Study, Subject, ThreatModel, driver, evaluate
from rainjax.evaluation.effort import growing, grown
from rainjax.pipeline import Pipeline
from rainjax.report.text import attack_text
from tests.asking import IMAGE, KEY, WEIGHTS, history, linear
from tests.small_studies import Arrays
from tests.tiny import Linear, unchecked

pytestmark = pytest.mark.usefixtures("quick_compilation")

ATTACKS = {
    "nes": NES(radius=0.1, num_pairs=3, num_queries=29),
    "spsa": SPSA(radius=0.1, num_pairs=3, num_queries=29),
    "simba": SimBA(radius=0.1, num_queries=29),
    "zoo": ZOO(num_coordinates=4, num_queries=29, probe_size=0.01, initial_const=1.0),
    "zoo_rounds": ZOO(num_coordinates=4, num_queries=29, num_search_steps=3),
}


@dataclasses.dataclass(frozen=True)
class Led(Pipeline):
    """The linear classifier, whose label leads by as much as is said."""

    lead: float

    def init(self, key):
        return ()

    @property
    def is_random(self):
        return True

    def logits(self, params, key, image):
        return jnp.stack([jnp.array(self.lead), jnp.sum(WEIGHTS.astype(np.float32) * image)])


@pytest.fixture
def counted(monkeypatch):
    """Returns what counts the passes that the driver makes, and those that an attack tells of."""

    def run(attack, lead=100.0):
        asked = []

        def counting(query, surrogate, fold, chunk, *others):
            asked.append(chunk)
            return added(query, surrogate, fold, chunk, *others)

        added = driver._add_chunk
        keys, images = jax.random.split(KEY, 1), np.asarray(IMAGE)[None]
        with monkeypatch.context() as patch:
            patch.setattr(driver, "_add_chunk", counting)
            _, watch = driver.watched_attack(Led(lead), attack, (), keys, images, np.array([0]))
        return sum(asked), attack.spent(watch).item()

    return run


@pytest.mark.parametrize("name", ATTACKS)
def test_a_question_is_one_pass(name):
    passes = []

    def logits_fn(draw, image):
        passes.append(draw)
        return linear(draw, image)

    attack = ATTACKS[name]
    state = attack.init(KEY, IMAGE, jnp.array(0))
    attack.query(logits_fn, KEY, *attack.ask(state))
    assert len(passes) == attack.passes_per_draw == 1


@pytest.mark.parametrize("name", ATTACKS)
def test_no_more_is_asked_than_the_budget_and_all_is_counted(name, counted):
    budget, draws = 59, 2
    attack = dataclasses.replace(ATTACKS[name], num_queries=budget, eot=EOT(draws))
    passes, spent = counted(attack)
    assert passes == spent == attack.num_gradients <= budget
    # What is left would not have paid for another pair, or for a query and a pair in each round.
    rounds = getattr(attack, "num_search_steps", 0)
    assert budget - passes < (2 + 3 * rounds) * draws + 1


@pytest.mark.parametrize("name", ["nes", "spsa", "simba"])
def test_an_image_that_is_done_with_costs_no_more(name, counted):
    lead = float(np.sum(WEIGHTS * np.asarray(IMAGE))) + 0.35  # beaten soon, and not at once
    attack = dataclasses.replace(
        ATTACKS[name], num_queries=90, early_stop=True, paired=False, step_size=0.01
    )
    passes, spent = counted(attack, lead=lead)
    assert passes == spent
    assert 1 < spent < 60
    assert counted(attack, lead=lead - 1.0)[1] == 1  # which the first query tells


@pytest.mark.parametrize(
    ("attack", "groups"),
    [
        (NES(num_pairs=2, num_queries=8), [0, 0, 2, 2, 4, 4, 6, 6]),
        (NES(num_pairs=2, num_queries=8, early_stop=True), [0, 1, 1, 3, 3, 5, 6, 6]),
        (SPSA(num_pairs=1, num_queries=5), [0, 0, 2, 2]),
        (SimBA(num_queries=7), [0, 0, 0, 3, 3, 3, 6]),
        (ZOO(num_coordinates=1, num_queries=8), [0, 0, 0, 3, 3, 3, 6]),
        (
            ZOO(num_coordinates=2, num_queries=18, num_search_steps=2),
            [0, 0, 0, 0, 0, 5, 5, 5, 8, 9, 9, 9, 9, 9, 14, 14, 14, 17],
        ),
    ],
)
def test_what_is_subtracted_is_asked_on_the_same_draws(attack, groups):
    loop_key = jax.random.key(9)
    assert attack.num_calls == len(groups)

    def keys(attack):
        pairs = [attack.keys(loop_key, call) for call in range(attack.num_calls)]
        draws, updates = (
            [jax.random.key_data(k).tolist() for k in ks] for ks in zip(*pairs, strict=True)
        )
        assert len(set(map(tuple, updates))) == len(groups)
        return [draws.index(draw) for draw in draws]

    assert keys(attack) == groups
    assert keys(dataclasses.replace(attack, paired=False)) == list(range(len(groups)))
    assert set(keys(dataclasses.replace(attack, eot=EOT(common=True)))) == {0}


@pytest.mark.parametrize(
    "attack",
    [
        NES(radius=0.1, num_pairs=3, num_queries=120, loss="margin", plateau_length=1),
        SimBA(radius=0.1, num_queries=120, loss="margin"),
        ZOO(num_coordinates=4, num_queries=120, probe_size=0.05, initial_const=1.0),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_noise_of_the_draw_cancels_where_draws_are_common(attack):
    """What a draw adds, however large, changes nothing of a paired attack, and ruins another."""
    if isinstance(attack, NES):
        attack = dataclasses.replace(attack, probe_size=0.05)

    def reached(attack, noise):
        _, runs, asked = history(attack, linear, noise=noise)
        last = runs.state.coordinates.change[-1] if isinstance(attack, ZOO) else asked[-1] - IMAGE
        return np.asarray(last)

    quiet, same = (reached(attack, noise) for noise in (0.0, 20.0))
    np.testing.assert_allclose(same, quiet, atol=2e-3)
    alone = reached(dataclasses.replace(attack, paired=False), 20.0)
    gain = lambda change: np.sum(WEIGHTS * change)
    assert gain(quiet) > 2 * abs(gain(alone))


def test_a_ladder_doubles_the_budget_with_the_draws():
    attack = NES(num_pairs=3, num_queries=30, eot=EOT(2))
    assert growing(attack, True) == ("queries", "draws")
    assert growing(attack, False) == ("queries",)
    more = grown(attack, "draws")
    assert (more.num_draws, more.num_queries, more.num_calls) == (4, 60, attack.num_calls)
    assert grown(attack, "queries").num_calls == 30


def test_a_study_takes_them_as_threats_by_scores(tmp_path):
    network = Linear(IMAGE.size, 3)
    params = {"defense": (), "classifier": network.init(jax.random.key(1))}
    images = np.random.default_rng(1).integers(0, 256, (3, *IMAGE.shape), dtype=np.uint8)

    class Pictures(Arrays):
        name, split, class_names, fingerprint = "pictures", "test", tuple("abc"), "none"

    threats = [
        ThreatModel(type(attack).__name__, attack, knowledge=Knowledge.SCORES)
        for attack in (ATTACKS["nes"], ATTACKS["zoo"])
    ]
    subject = Subject("bare", Defended(Identity(), network), params)
    study = Study("scores", Pictures(images, np.arange(3)), [subject], threats, num_examples=3)
    records = {r.content["threat"]["name"]: r for r in evaluate(study, tmp_path)}
    assert {r.knowledge for r in records.values()} == {Knowledge.SCORES}
    assert [records[name].num_steps for name in ("NES", "ZOO")] == [28, 28]
    assert "29 queries, steps of 2.55/255" in attack_text(records["NES"])
    assert records["ZOO"].ball is not None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: NES(num_queries=1), "num_queries=1 does not pay for a step of NES with draws=1"),
        (lambda: NES(num_queries=7, eot=EOT(4)), "draws=4: it takes 8 at least"),
        (lambda: SPSA(num_queries=2, early_stop=True), "it takes 3 at least"),
        (lambda: SimBA(num_queries=1), "does not pay for a step of SimBA"),
        (lambda: ZOO(num_queries=7, num_search_steps=2), "it takes 8 at least"),
        (lambda: NES(eot=EOT(4, first=1)), "first=1 lets the draws grow"),
        (lambda: NES(norm="l1"), "norm='l1' is none of NES's, which knows 'linf' and 'l2'"),
        (lambda: SimBA(norm="l1"), "norm='l1' is none of SimBA's"),
        (lambda: NES(radius=-1.0), "radius=-1.0 must be finite"),
        (lambda: NES(step_size=0.0), "step_size=0.0 must be finite and positive"),
        (lambda: NES(probe_size=0.0), r"probe_size=0.0 must lie in \(0, 1\]"),
        (lambda: SPSA(probe_size=8.0), r"probe_size=8.0 must lie in \(0, 1\]"),
        (lambda: NES(num_pairs=0), "num_pairs=0 must be at least 1"),
        (lambda: NES(momentum=1.0), r"momentum=1.0 must lie in \[0, 1\)"),
        (lambda: NES(plateau_length=0), "plateau_length=0 must be at least 1"),
        (lambda: NES(plateau_drop=0.5), "plateau_drop=0.5 must be finite and at least 1"),
        (lambda: NES(min_step_size=-1.0), "min_step_size=-1.0 must be finite"),
        (lambda: NES(loss="hinge"), "loss='hinge' is none of"),
        (lambda: NES(sigma=0.1), "it is called 'probe_size' here"),
        (lambda: SimBA(step_size=-0.2), "step_size=-0.2 must be finite and positive"),
        (lambda: SimBA(basis="wavelet"), "basis='wavelet' is none of"),
        (lambda: SimBA(low_frequencies=4), "low_frequencies=4 are of basis='dct'"),
        (lambda: SimBA(basis="dct", low_frequencies=0), "low_frequencies=0 must be at least 1"),
        (lambda: ZOO(num_coordinates=0), "num_coordinates=0 and num_search_steps=1 must be at"),
        (lambda: ZOO(num_search_steps=0), "num_search_steps=0 must be at least 1"),
        (lambda: ZOO(confidence=-1.0), "confidence=-1.0 must be finite and not negative"),
        (lambda: ZOO(initial_const=0.0), "initial_const=0.0 must be finite and positive"),
        (lambda: ZOO(step_size=float("nan")), "step_size=nan must be finite and positive"),
        (lambda: ZOO(probe_size=0.0), r"probe_size=0.0 must lie in \(0, 1\]"),
        (lambda: ZOO(attack_sizes=((1, 8),)), r"attack_sizes=\(\(1, 8\),\) must begin with step"),
        (lambda: ZOO(attack_sizes=((0, 8), (5, 8))), "steps and sizes must grow"),
        (lambda: ZOO(attack_sizes=((0, 8, 2),)), "must be pairs of a step and a size"),
        (lambda: ZOO(importance=True), "importance=True chooses by the changes in a smaller"),
        (
            lambda: history(ZOO(num_coordinates=61, num_queries=200), linear),
            "num_coordinates=61 are more than the 60 that there are",
        ),
        (
            lambda: history(ZOO(attack_sizes=((0, 5),), num_queries=300), linear),
            "are to be smaller than the image, which is 4 x 5",
        ),
        (
            lambda: history(SimBA(basis="dct", low_frequencies=5, num_queries=9), linear),
            "low_frequencies=5 are more than an image of 4 x 5 has",
        ),
    ],
)
def test_bad_options_are_refused(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=sentence):
        make()
