"""Proofs as numbers of a study: the lower end beside what its attacks leave."""

import dataclasses
import json

import numpy as np
import pytest

from rainjax.attacks import ReachableOutputs
from rainjax.defenses import BitDepth, GaussianNoise, Identity
from rainjax.evaluation import (
    CLEAN,
    Knowledge,
    RoundedOutputs,
    RoundingCertificate,
    Shard,
    ThreatModel,
    evaluate,
    load_records,
    merge,
    over_seeds,
    proved,
)
from rainjax.evaluation.records import Record
from rainjax.evaluation.study import cells
from rainjax.metrics import wilson_interval
from rainjax.report import BlindAgainstAdaptive, DrawsTable, Leaderboard, ResultsTable, report
from tests.small_studies import KERNEL, RIGHT, SMALL, linear, study_of

pytestmark = pytest.mark.usefixtures("quick_compilation")

RADIUS, LEVELS = 0.004, 7
NAME = "BitDepth"


def threats(**changes):
    reach = ReachableOutputs(radius=RADIUS, num_steps=2, num_restarts=1)
    return (
        CLEAN,
        ThreatModel("reachable outputs", reach, RoundedOutputs()),
        dataclasses.replace(proved(RADIUS), **changes),
    )


def rounding(*others, **changes):
    tags = ("table", "comparison")
    models = [dataclasses.replace(t, tags=tags) for t in threats(**changes)]
    return study_of(linear(BitDepth(3), NAME), *others, threats=models, num_examples=16)


def robust(radius):
    """Which images a loop over all levels within reach finds no other class for.

    Of a linear classifier each value matters by itself, and so each other class has one worst
    image.
    """
    weights, found = np.asarray(KERNEL, np.float64), []
    for image, label in zip(SMALL.reshape(16, -1) / 255, RIGHT, strict=True):
        ends = [np.round(np.clip(image + d, 0, 1) * LEVELS) / LEVELS for d in (-radius, radius)]
        others = [c for c in range(10) if c != label]
        leads = [
            max(
                end @ (weights[:, c] - weights[:, label])
                for end in [np.where(weights[:, c] > weights[:, label], ends[1], ends[0])]
            )
            for c in others
        ]
        found.append(max(leads) < 0)
    return np.array(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("proofs")
    evaluate(rounding(linear(Identity())), out, progress=False)
    return out / "small"


def of(records, threat):
    (found,) = [r for r in records if r.subject == NAME and r.threat == threat]
    return found


def test_a_proof_is_a_record_of_its_own_where_the_defense_bounds_what_it_rounds(folder):
    records = load_records(folder)
    found = of(records, "proved")
    assert [r.subject for r in records if r.is_proof] == [NAME]
    assert found.ball == ("linf", RADIUS)
    assert not found.scored
    assert found.knowledge is Knowledge.NONE
    expected = robust(RADIUS)
    assert list(found.proved) == list(range(16))
    np.testing.assert_array_equal(list(found.proved.values()), expected)
    assert 0 < expected.sum() < 16
    assert found.result["proved"]["accuracy"] == expected.mean()
    # The attack that chooses outputs is exact on a linear classifier: both ends meet.
    left = of(records, "reachable outputs")
    np.testing.assert_array_equal(left.correct_draws, expected)


def test_every_place_that_names_the_strongest_attack_prints_both_ends(folder):
    made = report(folder)
    share = f"{100 * robust(RADIUS).mean():.1f} %"
    both = f"{share} (proved)"  # which are one number here
    tables = [
        *ResultsTable().tables(made.results),
        *Leaderboard().tables(made.results),
        *BlindAgainstAdaptive(radii=(RADIUS,)).tables(made.results),
    ]
    for table in tables:
        rows = {str(row[0]): row for row in table.rows}
        assert str(rows[NAME][-1]).startswith(both)
        assert not any("proved" in str(cell) for cell in rows.get("Identity", ()))
        # The proof is no column, and no attack.
        assert not any("proved" in str(cell) for cell in table.header)
        assert any(note.startswith("**proved** (proved)") for note in table.notes)
    texts = [finding.text for finding in made.findings]
    assert any(f"Proved, whatever the attack: {share}" in text for text in texts)
    assert not any("nobody can" in text for text in texts)
    assert both in made.markdown()
    assert f"{NAME.lower()}--proved--linf-" in made.markdown()


def changed(folder, out, threat, change):
    """The subject's records in another folder, with one of them changed."""
    (out / "records").mkdir(parents=True)
    for path in (folder / "records").glob("*.json"):
        content = json.loads(path.read_text())
        if content["subject"]["name"] == NAME:
            if content["threat"]["name"] == threat:
                change(content)
            (out / "records" / path.name).write_text(json.dumps(content))
    return report(out)


def test_a_table_says_between_where_an_attack_leaves_more_than_is_proved(folder, tmp_path):
    image = int(np.flatnonzero(~robust(RADIUS))[0])

    def mend_image(content):
        counts = list(content["result"]["correct_draws"])
        counts[image] = "1"
        content["result"]["correct_draws"] = "".join(counts)
        share = counts.count("1") / 16
        low, high = wilson_interval(16 * share, 16)
        for rule in ("mean", "worst", "vote"):
            content["result"][rule] = {"accuracy": share, "low": low, "high": high}

    made = changed(folder, tmp_path / "small", "reachable outputs", mend_image)
    low, high = (f"{100 * (robust(RADIUS).sum() + more) / 16:.1f} %" for more in (0, 1))
    assert f"between {low} (proved) and ≤ {high} (attacked)" in made.markdown()


def test_a_record_that_leaves_less_than_is_proved_is_flagged(folder, tmp_path):
    image = int(np.flatnonzero(robust(RADIUS))[0])

    def break_image(content):
        counts = list(content["result"]["correct_draws"])
        counts[image] = "0"
        content["result"]["correct_draws"] = "".join(counts)
        share = counts.count("1") / 16
        for name in ("mean", "worst", "vote"):
            content["result"][name] |= {"low": 0.0, "accuracy": share, "high": 1.0}

    for threat in ("reachable outputs", "clean"):
        made = changed(folder, tmp_path / threat, threat, break_image)
        flags = [finding.text for finding in made.findings if finding.flag]
        (found,) = [flag for flag in flags if "it is proved that nobody can" in flag]
        within = " within L∞ radius 1/255" * (threat != "clean")
        assert found.startswith(f"{NAME}: {threat}{within} broke image {image} ")
    cell = str(
        ResultsTable().tables(report(tmp_path / "reachable outputs").results)[0].rows[0][-1]
    )
    assert " (proved) contradicts " in cell


def test_a_proof_that_reaches_further_holds_within_a_smaller_ball_and_no_other_way_round(
    folder, tmp_path
):
    for factor, there in ((1.5, True), (0.5, False)):
        further = lambda content, by=factor: content["axes"].update(radius=by * RADIUS)
        made = changed(folder, tmp_path / str(factor), "proved", further)
        (table,) = ResultsTable().tables(made.results)
        assert ("(proved)" in str(table.rows[0][-1])) is there
        assert any("Proved, whatever" in finding.text for finding in made.findings) is there


def test_what_is_proved_as_well_is_no_bound(folder):
    """Where the undefended classifier falls lower, no ladder is wanting of a number proved."""
    records = load_records(folder)
    bare = json.loads(json.dumps(of(records, "reachable outputs").content))
    bare["subject"] = next(r for r in records if not r.defended).content["subject"]
    bare["id"] = "bare--attacked"
    bare["result"]["correct_draws"] = "0" * 16
    for name in ("mean", "worst", "vote"):
        bare["result"][name] = {"low": 0.0, "accuracy": 0.0, "high": 1.0}
    for there, bound in ((records, False), ([r for r in records if not r.is_proof], True)):
        made = report([*there, Record(bare)])
        shown = [*ResultsTable().tables(made.results), *DrawsTable().tables(made.results)]
        cells = [str(cell) for table in shown for row in table.rows for cell in row]
        assert any("≤" in cell for cell in cells) is bound
        assert any("≤" in note for table in shown for note in table.notes) is bound
        assert any("≤" in finding.text for finding in made.findings) is bound


def test_a_proof_of_fewer_images_says_of_how_many(folder, tmp_path):
    def first_four(content):
        found = robust(RADIUS)[:4].astype(int)
        content["data"]["indices"] = "0-3"
        content["result"] |= {
            "num_examples": 4,
            "proved_images": "".join(map(str, found)),
            "proved": {"low": 0.0, "accuracy": found.mean(), "high": 1.0},
        }

    made = changed(folder, tmp_path / "few", "proved", first_four)
    (table,) = ResultsTable().tables(made.results)
    share = f"{100 * robust(RADIUS)[:4].mean():.1f} %"
    assert f"between {share} (proved, n = 4) and" in str(table.rows[0][-1])


def test_shares_that_are_merged_give_the_same_proofs(folder, tmp_path):
    study = rounding(linear(Identity()))
    for index in range(2):
        evaluate(study, tmp_path, shard=Shard(index, 2), progress=False)
    merged = merge(tmp_path / "small", out=tmp_path / "merged")
    one, other = of(merged, "proved").content, of(load_records(folder), "proved").content
    assert {**one, "run": None} == {**other, "run": None}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["result"].update(proved_images="2" * 16), "0 or 1"),
        (lambda c: c["result"].update(proved_images="1" * 15), "names 16 images"),
        (lambda c: c["result"].update(proved_images="1" * 16), "add up to 1.0000"),
        (lambda c: c["result"]["proved"].update(low=1.0), "0 to 1, in order"),
        (lambda c: c["axes"].update(radius=None), "lacks 'axes.radius'"),
        (lambda c: c["threat"].update(knowledge="defense"), "nobody attacks"),
    ],
)
def test_a_damaged_proof_is_refused(folder, tmp_path, change, problem):
    content = dict(of(load_records(folder), "proved").content)
    content = json.loads(json.dumps(content))
    change(content)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "one.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=problem):
        load_records(tmp_path)


def test_seeds_do_not_spread_proofs_and_proofs_alone_are_no_report(tmp_path):
    small = dataclasses.replace(rounding(), threats=(CLEAN, proved(RADIUS)))
    spreads = over_seeds(small, range(2), tmp_path, progress=False).spreads
    assert [spread.threat for spread in spreads.values()] == ["clean"]
    alone = evaluate(dataclasses.replace(small, threats=(proved(RADIUS),)), tmp_path / "alone")
    with pytest.raises(ValueError, match="proofs alone"):
        report(alone)


def test_a_certificate_is_no_attack():
    certificate = RoundingCertificate(radius=RADIUS)
    with pytest.raises(
        ValueError, match="with NONE there is no attack, a certificate or a distortion"
    ):
        ThreatModel("proved", certificate)
    with pytest.raises(ValueError, match="max_outcomes=0 must be at least 1"):
        RoundingCertificate(radius=RADIUS, max_outcomes=0)
    with pytest.raises(ValueError, match="radius=2"):
        RoundingCertificate(radius=2.0)
    found = {cell.threat.name: cell for cell in cells(rounding(linear(GaussianNoise(0.01))))}
    assert found["proved"].attack is None
    assert found["proved"].proof == certificate
    assert all(cell.proof is None for name, cell in found.items() if name != "proved")
