"""Shares put together: the records of one process, from the shares undisturbed, or a sentence."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from rainjax._files import read_arrays, write_arrays
from rainjax.attacks import EOT
from rainjax.evaluation import (
    CLEAN,
    Robustness,
    Shard,
    ThreatModel,
    driver,
    evaluate,
    load_records,
    merge,
    scoring,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.extras import Gallery
from tests import measured
from tests.measured import NAME, content, finish, start, study


@dataclasses.dataclass(frozen=True)
class Largest(Robustness):
    """A measure of somebody's own."""

    def reduce(self, kept, labels):
        return {**super().reduce(kept, labels), "largest": float(kept["logits"].max())}


def make(out, count=3, *, shares=None, **options):
    """Makes shares in a folder of their own each; returns those."""
    folders = []
    for index in range(count) if shares is None else shares:
        evaluate(study(**options), out / f"{index}", shard=Shard(index, count), progress=False)
        folders.append(out / f"{index}" / NAME)
    return folders


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shares"))


@pytest.fixture
def copies(shares, tmp_path):
    """The shares, to be damaged."""
    return [shutil.copytree(folder, tmp_path / f"share-{folder.parent.name}") for folder in shares]


def unit_of(folder, kind="s"):
    return sorted((folder / "work").glob(f"{kind}-*.npz"))[0]


def test_three_merged_shares_are_the_records_of_one_process(undisturbed, shares, tmp_path):
    records = merge(shares, tmp_path)
    assert content(tmp_path) == content(undisturbed)
    assert [record.id for record in records] == [r.id for r in load_records(undisturbed / NAME)]
    order = json.loads((tmp_path / NAME / "study.json").read_text())
    assert order == json.loads((undisturbed / NAME / "study.json").read_text())


def test_shares_in_one_folder_are_merged_where_they_are(undisturbed, tmp_path):
    for index in range(2):
        evaluate(study(), tmp_path, shard=Shard(index, 2), progress=False)
    merge(tmp_path / NAME)
    assert content(tmp_path) == content(undisturbed)
    kept = {path: path.read_bytes() for path in (tmp_path / NAME / "records").iterdir()}
    merge(tmp_path / NAME)  # nothing is missing
    assert kept == {path: path.read_bytes() for path in (tmp_path / NAME / "records").iterdir()}


def test_merging_attacks_nothing_and_scores_nothing(shares, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("everything was kept")

    monkeypatch.setattr(driver, "run_attack", forbidden)
    monkeypatch.setattr(scoring, "score", forbidden)
    merge(shares, tmp_path)
    # Nor does whoever has the study: what was merged is measured.
    kept = content(tmp_path)
    evaluate(study(), tmp_path, progress=False)
    assert content(tmp_path) == kept


def test_a_record_tells_which_shares_made_it(shares, tmp_path):
    path = shares[1] / "shards" / "1-of-3.json"
    manifest = json.loads(path.read_text())
    copy = shutil.copytree(shares[1], tmp_path / "copy")
    manifest["run"]["command"] = "rainjax evaluate mine.py --shard 1/3"
    manifest["run"]["device"] = "another one"
    (copy / "shards" / path.name).write_text(json.dumps(manifest))
    merge([shares[0], copy, shares[2]], tmp_path / "merged")
    runs = [r.content["run"] for r in load_records(tmp_path / "merged" / NAME)]
    named = [{share["share"]: share for share in run["shares"]} for run in runs]
    assert set().union(*named) == {"0/3", "1/3", "2/3"}
    told = [(run, one) for run, one in zip(runs, named, strict=True) if {"0/3", "1/3"} <= set(one)]
    assert told
    for run, one in told:
        assert run["device"] != "another one"
        assert "device" not in one["0/3"]
        assert one["1/3"]["device"] == "another one"
        assert one["1/3"]["command"] == "rainjax evaluate mine.py --shard 1/3"
    # The seconds are those of the units that this record rests on.
    plan = json.loads(next(copy.glob("shards/plan-*.json")).read_text())
    for cell in plan["cells"]:
        names = [n for unit in cell["units"] for n in (unit["attacked"], unit["scored"]) if n]
        files = [tmp_path / "merged" / NAME / "work" / f"{name}.npz" for name in names]
        spent = sum(float(read_arrays(path)["seconds"]) for path in files)
        path = tmp_path / "merged" / NAME / "records" / f"{cell['record']['id']}.json"
        told = json.loads(path.read_text())["run"]["seconds"]
        assert spent - 0.01 <= told <= spent + 1


def test_other_splits_of_one_study_make_one(undisturbed, shares, tmp_path):
    """A share of three, and what two shares have beside it: they overlap, and agree."""
    halves = make(tmp_path / "halves", count=2)
    merge([shares[1], *halves], tmp_path / "merged")
    assert content(tmp_path / "merged") == content(undisturbed)


def test_a_share_that_is_missing_is_named(shares, tmp_path):
    with pytest.raises(ValueError, match=r"\d+ of \d+ units were made by no share, .*: share 1/3"):
        merge([shares[0], shares[2]], tmp_path)
    with pytest.raises(ValueError, match=r"shares 1/3, 2/3 not found"):
        merge(shares[:1], tmp_path)
    assert not (tmp_path / NAME / "records").exists()


def test_a_unit_that_is_missing_is_named(copies, tmp_path):
    unit = unit_of(copies[1], "a")
    unit.unlink()
    sentence = rf"{unit.stem} of .*, images \d-\d is not in .*share-1/work, though share 1/3 made"
    with pytest.raises(ValueError, match=sentence):
        merge(copies, tmp_path)
    path = copies[1] / "shards" / "1-of-3.json"
    manifest = json.loads(path.read_text())
    manifest["units"].remove(unit.stem)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"1 of \d+ units were made by no share, .*{unit.stem}"):
        merge(copies, tmp_path)


def test_overlaps_that_differ_are_refused(copies, tmp_path):
    unit = unit_of(copies[0])
    other = copies[1] / "work" / unit.name
    arrays = read_arrays(unit)
    write_arrays(other, {**arrays, "seconds": np.array(99.0)})
    merge(copies, tmp_path / "same")  # took longer, and came to the same
    logits = arrays["logits"].copy()
    logits[0, 0, 0] = np.nextafter(logits[0, 0, 0], np.inf)
    write_arrays(other, {**arrays, "logits": logits})
    with pytest.raises(ValueError, match=rf"{unit} and {other} are one unit, of .*, and differ"):
        merge(copies, tmp_path / "other")


@pytest.mark.parametrize("damage", ["cut short", "of another batch", "without arrays"])
def test_damaged_units_are_named(copies, tmp_path, damage):
    unit = unit_of(copies[2])
    arrays = read_arrays(unit)
    if damage == "cut short":
        unit.write_bytes(unit.read_bytes()[:100])
    elif damage == "of another batch":
        write_arrays(unit, {**arrays, "logits": arrays["logits"][:-1]})
    else:
        write_arrays(unit, {"seconds": arrays["seconds"]})
    with pytest.raises(ValueError, match=rf"{unit} is damaged .*: delete it and run again"):
        merge(copies, tmp_path)


def test_damaged_manifests_and_plans_are_named(copies, tmp_path):
    plan = next(copies[0].glob("shards/plan-*.json"))
    whole = plan.read_text()
    plan.write_text(whole.replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(ValueError, match=rf"{plan} is damaged"):
        merge(copies, tmp_path)
    plan.unlink()
    with pytest.raises(ValueError, match=rf"{plan}, which .* is not there: copy it too"):
        merge(copies, tmp_path)
    plan.write_text(whole)
    manifest = copies[1] / "shards" / "1-of-3.json"
    manifest.write_text('{"kind": "shard", "schema": 2}')
    with pytest.raises(ValueError, match=rf"{manifest} is no share that this program wrote"):
        merge(copies, tmp_path)
    manifest.write_text('{"kind": "sh')
    with pytest.raises(ValueError, match=rf"{manifest} is damaged"):
        merge(copies, tmp_path)
    with pytest.raises(ValueError, match="holds no share that was finished: name the folder"):
        merge(tmp_path / "nothing", tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"images": 1}, r"the images 0-3 or their labels differ"),
        ({"kernel": 1}, r"bare--.* has subject\.params\.classifier\.sha256 '\w+ \.\.\. and '"),
        ({"sigma": 0.3}, r"noise--.* has subject\.target\.defense\.\w+ 0\.3 and 0\.2"),
        ({"seed": 3}, r"seed is 3 and 0"),
        ({"num_score_draws": 3}, r"num_score_draws is 3 and 2"),
        ({"batch_size": 3}, r"bare--.* has batch_size 3 and 4"),
        ({"threats": (CLEAN,)}, r".* is in one of them only"),
        ({"measure": Robustness(eight_bit=True)}, r"measure\.eight_bit is True and False"),
    ],
)
def test_shares_of_other_studies_are_refused(shares, tmp_path, options, sentence):
    (other,) = make(tmp_path, shares=[1], **options)
    with pytest.raises(ValueError, match=rf"is a share of another study than .*: {sentence}"):
        merge([shares[0], other, shares[2]], tmp_path)


def rewrite(folder, **changes):
    """Changes a plan as if it were of other surroundings, and what points to it."""
    from rainjax.evaluation.plan import plan_digest

    path = next(folder.glob("shards/plan-*.json"))
    plan = {**json.loads(path.read_text()), **changes}
    path.with_name(f"plan-{plan_digest(plan)}.json").write_text(json.dumps(plan))
    path.unlink()
    for manifest in folder.glob("shards/*-of-*.json"):
        found = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**found, "plan": plan_digest(plan)}))


def test_shares_of_other_code_or_another_backend_are_refused(copies, tmp_path):
    rewrite(copies[1], code="0" * 16)
    with pytest.raises(ValueError, match=r"1-of-3.json .*: the code of the library differs"):
        merge(copies, tmp_path)
    with pytest.raises(ValueError, match=r"made by other code than this rainjax"):
        merge(copies[1], tmp_path)
    rewrite(copies[2], backend="tpu")
    with pytest.raises(ValueError, match=r"the backend is 'tpu' and 'cpu'"):
        merge([copies[0], copies[2]], tmp_path)


def test_a_file_does_not_decide_what_code_runs(copies, tmp_path):
    for folder in copies:
        plan = json.loads(next(folder.glob("shards/plan-*.json")).read_text())
        rewrite(folder, measure={**plan["measure"], "class": "os.system"})
    with pytest.raises(ValueError, match=r"measured by os\.system, which no file can bring"):
        merge(copies, tmp_path)


def test_a_measure_of_ones_own_comes_with_the_study(tmp_path):
    folders = make(tmp_path, measure=Largest())
    with pytest.raises(ValueError, match=r"measured by \S+Largest, .* give the study as well"):
        merge(folders, tmp_path / "merged")
    with pytest.raises(ValueError, match=r"is not that of the shares: measure\.\S+ is"):
        merge(folders, tmp_path / "merged", study=study())
    merge(folders, tmp_path / "merged", study=study(measure=Largest()))
    evaluate(study(measure=Largest()), tmp_path / "alone", progress=False)
    found = content(tmp_path / "merged")
    assert found == content(tmp_path / "alone")
    assert all("largest" in record["result"] for record in found.values())


def test_the_only_share_there_is_needs_no_merge_and_takes_one(undisturbed, tmp_path):
    evaluate(study(), tmp_path, shard=Shard(0, 1), progress=False)
    assert content(tmp_path) == content(undisturbed)
    merge(tmp_path / NAME)
    merge(tmp_path / NAME, tmp_path / "elsewhere")
    assert content(tmp_path) == content(tmp_path / "elsewhere") == content(undisturbed)


def test_a_study_is_taken_at_the_size_that_its_shares_had(tmp_path):
    """The command line made another study of the file's; extras are written."""
    sized = {"num_examples": 5, "seed": 2, "batch_size": 2, "num_score_draws": 3}
    few = (CLEAN, study().threats[1])
    folders = make(tmp_path, threats=few, extras=[Gallery()], **sized)
    merge(folders, tmp_path / "merged", study=study(threats=few, extras=[Gallery()]))
    evaluate(study(threats=few, **sized), tmp_path / "alone", progress=False)
    assert content(tmp_path / "merged") == content(tmp_path / "alone")
    assert (tmp_path / "merged" / NAME / "gallery.npz").exists()


def test_the_members_of_an_ensemble_are_added_up(tmp_path):
    """Two shares may have attacked one batch; seconds aside they have the same to say of it."""
    attack = AutoAttack(version="rand", radius=0.05, num_steps=4, eot=EOT(2), num_select_draws=1)
    options = {
        "threats": [ThreatModel("AutoAttack", attack)],
        "subjects": study().subjects[:1],
        "num_examples": 6,
        "batch_size": 3,
    }
    folders = [*make(tmp_path, 2, **options), *make(tmp_path / "again", 1, **options)]
    records = merge(folders, tmp_path / "merged")
    evaluate(study(**options), tmp_path / "alone", progress=False)
    assert content(tmp_path / "merged") == content(tmp_path / "alone")
    members = records[0].result["members"]
    assert [member["name"] for member in members] == [member.name for member in attack.members]
    assert members[0]["num_attacked"] <= 6
    assert sum(member["num_best"] for member in members) <= 6


def test_where_shares_are_put_together(shares, tmp_path):
    with pytest.raises(ValueError, match=r"Shares in 3 folders need another one .* --out"):
        merge(shares)
    evaluate(study(seed=1), tmp_path, shard=Shard(0, 3), progress=False)
    with pytest.raises(ValueError, match=r"holds a study with seed=1, not 0"):
        merge(shares, tmp_path)


def test_the_program_merges(undisturbed, shares, tmp_path):
    (said,) = finish(start(tmp_path, "merge", *shares))
    assert content(tmp_path) == content(undisturbed), said
    assert measured.NAME == NAME
