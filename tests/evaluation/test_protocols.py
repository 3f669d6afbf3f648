"""Published protocols: their numbers, and that every deviation is recorded and printed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax.attacks import APGD, EOT, FAB, PGD, VMI, Admix, DeepFool, ImagePool, Square
from rainjax.defenses import GaussianNoise
from rainjax.evaluation import ClassifierAlone, Knowledge, ThreatModel, evaluate, protocols
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.published import propagations
from rainjax.evaluation.study import cells
from rainjax.evaluation.validation import find_problem
from rainjax.report import DrawsTable, Leaderboard, ResultsTable, report
from tests.report.made_records import make_record, results_of
from tests.small_studies import linear, study_of
from tests.tiny import Linear

SMALLEST = {"num_steps": 2, "num_draws": 2}


def attacked(protocol):
    return [threat.attack for threat in protocol.threats()[1:]]


def test_numbers_are_those_of_the_published_code():
    (lee,) = attacked(protocols.lee_kim_2023())
    assert (lee.num_steps, lee.eot, lee.step_size) == (200, EOT(20), 0.007)
    assert (lee.norm, lee.radius, lee.random_start) == ("linf", 8 / 255, False)
    (large,) = attacked(protocols.lee_kim_2023(data="imagenet"))
    assert (large.num_steps, large.radius) == (20, 4 / 255)
    (l2,) = attacked(protocols.lee_kim_2023("l2"))
    assert l2.radius == 0.5
    # As long as their step along the sign of an image's gradient.
    length = np.linalg.norm(0.007 * np.sign(np.random.default_rng(0).normal(size=(32, 32, 3))))
    assert l2.step_size == pytest.approx(length)
    pgd, square = attacked(protocols.adbm())
    assert (pgd.num_steps, pgd.eot, pgd.step_size, pgd.random_start) == (200, EOT(20), 0.007, True)
    assert square.num_queries == 5000
    assert [attacked(protocols.adbm(norm))[0].radius for norm in ("l2", "l1")] == [1.0, 12.0]
    (hammer,) = attacked(protocols.diffhammer())
    assert (hammer.num_restarts, hammer.num_steps) == (3, 50)
    (standard,) = attacked(protocols.robustbench())
    assert [m.name for m in standard.members] == ["APGD-CE", "APGD-T", "FAB-T", "Square"]
    assert standard.num_steps == 100
    for name, num in (("lee_kim_2023", 512), ("diffpure_aa", 512), ("adbm", 512)):
        threats = getattr(protocols, name)().threats()
        assert {threat.num_examples for threat in threats[1:]} == {num}


def test_the_published_loop_is_what_the_attack_does():
    """Their loop in NumPy, on a linear network whose gradient of cross-entropy is known."""
    kernel = np.random.default_rng(1).normal(size=(4 * 4 * 3, 3)).astype(np.float32)
    image, label = np.random.default_rng(2).uniform(size=(4, 4, 3)).astype(np.float32), 1
    (attack,) = attacked(protocols.lee_kim_2023())
    attack = dataclasses.replace(attack, num_steps=7, eot=EOT())
    params, point = {"kernel": jnp.asarray(kernel)}, image.copy()
    for _ in range(7):
        logits = point.ravel() @ kernel
        share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        slope = (kernel @ (share - np.eye(3)[label])).reshape(image.shape)
        moved = point + 0.007 * np.sign(slope)
        point = np.clip(image + np.clip(moved - image, -8 / 255, 8 / 255), 0, 1)
    logits_fn = lambda key, x: Linear(48, 3).apply(params, x)
    found = attack(jax.random.key(0), logits_fn, jnp.asarray(image), jnp.array(label))
    np.testing.assert_allclose(found, point, atol=1e-6)


def test_both_versions_of_autoattack_are_one_ensemble():
    (both,) = attacked(protocols.diffpure_aa())
    rand = AutoAttack(version="rand", eot=EOT(20)).members
    standard = AutoAttack(version="standard").members
    assert [m.attack for m in both.members] == [m.attack for m in (*rand, *standard)]
    assert len({member.name for member in both.members}) == 6
    assert both.num_gradients == sum(m.attack.num_gradients for m in both.members)


@pytest.fixture(scope="module")
def records(tmp_path_factory, quick_compilation):
    """A noisy linear classifier under two protocols, with fewer images, steps and draws."""
    lee = protocols.lee_kim_2023().threats(num_examples=8, radius=0.05, **SMALLEST)
    adbm = protocols.adbm("l2").threats(**SMALLEST)
    study = study_of(linear(GaussianNoise(0.1)), threats=(*lee, *adbm))
    return evaluate(study, tmp_path_factory.mktemp("protocols"), progress=False)


def test_records_name_every_deviation(records):
    by_name = {record.threat: record for record in records}
    assert by_name["clean"].protocol is None
    lee = by_name["lee-kim-2023 PGD"].protocol
    assert lee["name"] == "lee-kim-2023"
    for said in (
        "steps 2 (published: 200)", "radius 0.05 (published: 8/255)",
        "draws a step 2 (published: 20)", "n 8 (published: 512)",
        "scoring draws 3 (published: 1)", "network Linear (published: WideResNet-28-10)",
        "one-shot for every purifier (published: the vote of 10 for their own)",
        "data arrays (published: cifar10)",
    ):  # fmt: skip
        assert said in lee["deviations"]
    assert not any("step size" in said for said in lee["deviations"])
    adbm = by_name["adbm PGD"].protocol["deviations"]
    assert "n 12 (published: 512)" in adbm
    assert any(said.startswith("left out:") for said in adbm)


def test_tables_print_them_with_the_number(records):
    text = report(records, [ResultsTable(), DrawsTable(), Leaderboard()])
    for table in text.tables:
        marked = [str(cell) for row in table.rows for cell in row if "§" in str(cell)]
        (note,) = [note for note in table.notes if "§" in note and "adbm" in note] or [""]
        if "L2" in table.title:
            assert marked
            assert "steps 2 (published: 200)" in note
            assert "left out: AutoAttack" in note
        else:
            assert not note
        clean = [row[1] for row in table.rows if row[0].value == "clean"]
        assert not any("§" in str(cell) for cell in clean)


def test_a_changed_attack_is_found_out_and_the_published_one_is_not():
    (threat,) = protocols.robustbench().published
    facts = {"num_examples": 10000, "num_score_draws": 1, "network": "any", "data": "cifar10"}
    facts |= {"surrogate": threat.surrogate, "knowledge": threat.knowledge}
    assert threat.protocol is not None
    assert threat.protocol.deviations(attack=threat.attack, **facts) == ()
    eot = EOT(1, chunk_size=1)  # memory, and no result
    same = dataclasses.replace(threat.attack, eot=eot)
    assert threat.protocol.deviations(attack=same, **facts) == ()
    other = dataclasses.replace(threat, attack=PGD())  # by hand, and not by `threats`
    (said,) = other.protocol.deviations(attack=other.attack, **facts)
    assert said == "attack PGD (published: AutoAttack)"
    elsewhere = threat.protocol.deviations(attack=threat.attack, **{**facts, "data": "photos"})
    assert elsewhere == ("data photos (published: cifar10)",)
    facts |= {"surrogate": ClassifierAlone(), "knowledge": Knowledge.CLASSIFIER}
    assert threat.protocol.deviations(attack=threat.attack, **facts) == (
        "surrogate ClassifierAlone (published: OwnGradient)",
        "knowledge classifier (published: defense)",
    )


def test_numbers_of_two_protocols_are_not_joined():
    (lee,) = protocols.lee_kim_2023().threats(**SMALLEST)[1:]
    alone = dataclasses.replace(lee, protocol=None)
    with pytest.raises(ValueError, match="both be recorded"):
        cells(study_of(linear(GaussianNoise(0.1)), threats=(lee, alone)))


def test_an_option_that_nobody_has_is_refused():
    with pytest.raises(ValueError, match=r"No attack .* 'num_querys'.*num_queries"):
        protocols.adbm().threats(num_querys=100)
    for name in ("num_gradients", "query", "num_calls"):  # an attack has them; nobody sets them
        with pytest.raises(ValueError, match=f"No attack .* {name!r}"):
            protocols.lee_kim_2023().threats(**{name: 5})
    assert protocols.lee_kim_2023().threats(eot=EOT(3))[1].attack.num_draws == 3
    with pytest.raises(ValueError, match="leave norm='l2' out"):
        protocols.lee_kim_2023("l2", "imagenet")


_POOL = ImagePool.of(np.random.default_rng(1).uniform(size=(6, 6, 6, 3)), np.arange(6))


@pytest.mark.parametrize(
    "attack",
    [
        PGD(num_steps=3, eot=EOT(2)),
        PGD(num_steps=2, num_restarts=2),
        APGD(num_steps=3, num_targets=2),
        DeepFool(num_steps=2, num_candidates=4),
        FAB(num_steps=2),
        VMI(num_steps=3, num_neighbors=2, eot=EOT(2)),
        Admix(pool=_POOL, num_steps=2, num_mixed=2, num_scales=3),
        Square(num_queries=4),
        Square(num_queries=4, eot=EOT(2), paired=True),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_propagations_are_those_that_happen(attack):
    """Counted as they run, by a network that reports each pass through it."""
    counts = {"forward": 0, "backward": 0}

    def count(kind):
        def add(_):
            counts[kind] += 1

        return add

    of = lambda image: image.ravel()[:100].reshape(5, 20).sum(1)

    @jax.custom_vjp
    def network(image):
        return logits(image)

    def logits(image):
        jax.debug.callback(count("forward"), image.sum())
        return of(image)

    def forward(image):
        return logits(image), image

    def backward(image, cotangent):
        jax.debug.callback(count("backward"), cotangent.sum())
        return (jax.vjp(of, image)[1](cotangent)[0],)

    network.defvjp(forward, backward)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 6, 3)), jnp.float32)
    label = jnp.argmax(logits(image))
    jax.effects_barrier()
    counts.update(forward=0, backward=0)
    noisy = lambda key, x: network(x + 1e-6 * jax.random.normal(key))
    attack(jax.random.key(0), noisy, image, label)
    jax.effects_barrier()
    assert propagations(attack) == (counts["forward"], counts["backward"])


def test_attackbench_refuses_what_costs_more():
    protocol = protocols.attackbench(PGD(num_steps=1000))
    for steps in (1001, 5000):
        with pytest.raises(ValueError, match=rf"costs {2 * steps} .*{steps} forward.* 2000"):
            protocols.attackbench(PGD(num_steps=steps))
        with pytest.raises(ValueError, match="allows 2000"):
            protocol.threats(num_steps=steps)
    with pytest.raises(ValueError, match="10000 forward, 0 backward"):
        protocols.attackbench(Square(num_queries=5000))
    (threat,) = protocol.published
    with pytest.raises(ValueError, match="allows 2000"):
        dataclasses.replace(threat, attack=PGD(num_steps=100, eot=EOT(11)))


def test_scores_say_how_they_count_draws():
    random, keys = make_record("mine", "eot", [5, 3]), make_record("mine", "known_key", [1, 2])
    results = results_of([make_record("mine", "clean", [5, 5]), random, keys])
    by = {record.threat: record for record in results.records}
    assert by["EOT-PGD"].shot() == "one-shot"
    assert by["EOT-PGD"].shot("worst") == "5-shot"
    assert by["EOT-PGD"].shot("vote") == "vote of 5"
    assert by["known key"].shot() == "known key, one-shot"
    still = make_record("mine", "eot", [5, 3])
    still["subject"]["is_random"], still["num_score_draws"] = False, 1
    assert results_of([still]).records[0].shot("worst") == "one-shot"
    (table,) = ResultsTable().tables(results)
    assert table.title.endswith(", one-shot")
    (counted,) = DrawsTable().tables(results)
    assert [cell.value for cell in counted.header[2:5]] == ["one-shot", "vote", "N-shot"]
    keys["threat"]["name"] = "the defender's draws"
    (table,) = ResultsTable().tables(results_of([random, keys]))
    assert "known key" in {cell.detail for cell in table.header}


def test_records_hold_the_words_of_their_scores(records):
    noisy = next(record for record in records if record.threat == "clean")
    assert noisy.result["shots"] == {"mean": "one-shot", "worst": "3-shot", "vote": "vote of 3"}
    assert noisy.score("worst").accuracy <= noisy.score().accuracy


@pytest.mark.parametrize(
    "protocol",
    [
        "lee-kim-2023",
        {"name": "a", "source": "b", "shots": "c"},
        {"name": "a", "source": "b", "shots": "c", "deviations": [1]},
        {"name": 1, "source": "b", "shots": "c", "deviations": []},
    ],
)
def test_a_damaged_protocol_is_named(protocol):
    record = make_record("mine", "eot", [5, 3])
    record["threat"]["protocol"] = protocol
    assert "protocol" in (find_problem(record) or "")
    assert ThreatModel("it", PGD()).protocol is None
