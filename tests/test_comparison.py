"""The comparison of transformations from end to end, on a tiny network and a few pictures."""

import copy
import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eval.two_pass import Compressed

import eval.__main__ as program
from eval import bench, comparison, comparison_report, report, tables
from eval import records as rec
from eval.config import Transformations
from rainjax import data, defenses, zoo
from rainjax.defenses import JPEG, Chain, FeatureDistillation, Identity, RandomSubset
from rainjax.gradients import BPDA
from rainjax.metrics import wilson_interval
from tests import saved_networks

pytestmark = pytest.mark.usefixtures("quick_compilation")

RANDOM = (
    "shield",
    "quilting",
    "noise",
    "resize_pad",
    "crop",
    "pixel_deflection",
    "subset",
    "rain",
)
BLIND = ("fgsm", "bim", "pgd")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    networks = saved_networks.save(tmp_path_factory.mktemp("networks"))
    return Transformations(
        name="tiny",
        rows=("fd", "noise", "fd"),  # twice is once
        classifier=networks["classifier"],
        enhancer=networks["pretrained"],
        rain=networks["finetuned"],
        radii=(2 / 255,),
        num_examples=6,
        num_eot_examples=4,
        num_steps=2,
        num_eot=2,
        cw_steps=2,
        num_score_draws=2,
        batch_size=3,
        bank_size=50,
        out=tmp_path_factory.mktemp("results"),
    )


@pytest.fixture(scope="module")
def folder(config, quick_compilation):
    return comparison.run(config)


def test_every_cell_has_its_record(folder):
    found = {record["id"] for record in report.load_records(folder)}
    expected = set()
    for row in ("undefended", "fd", "noise"):
        expected |= {f"{row}--clean--n6"}
        expected |= {f"{row}--{name}--nearest--k1--n6" for name in ("deepfool", "cw")}
        expected |= {f"{row}--{name}--r2--k1--n6" for name in BLIND}
        own = ["own"] if row == "undefended" else ["bpda", "own"]
        expected |= {f"{row}--{name}--r2--k1--n6" for name in own}
        expected |= {f"{row}--eot--r2--k2--n4"} if row == "noise" else set()
    assert found == expected


def test_blind_images_are_made_once_for_all_rows(folder):
    # Two batches of 5 blind attacks, of 5 informed ones, and of EOT's.
    assert len(list(folder.glob("work/*.npz"))) == 2 * 5 + 2 * 5 + 2


def test_another_run_does_nothing(folder, config, monkeypatch):
    def forbidden(*args, **options):
        raise AssertionError("nothing was left to compute")

    monkeypatch.setattr(bench.evaluation, "run_attack", forbidden)
    monkeypatch.setattr(bench.evaluation, "score", forbidden)
    assert comparison.run(config) == folder


def test_report_and_readme_show_it(folder, tmp_path, capsys):
    paths = report.write_report(folder)
    assert {p.name for p in paths} == {"report.html", "report.md", "comparison.png", "gallery.png"}
    text = (folder / "report.md").read_text()
    assert "Feature Distillation: what the abstracts claim" in text
    assert "Attacks that look for the nearest success in L2" in text
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:tiny -->\n<!-- /results:tiny -->\n")
    report.update_readme(readme, {"tiny": folder})
    assert not report.check_readme(readme, {"tiny": folder})
    assert "| Gaussian noise" in readme.read_text()


def with_counts(record, counts, radius=None):
    """Returns the record with other answers, as if they were those of another radius."""
    changed = copy.deepcopy(record)
    share = sum(counts) / (len(counts) * changed["num_score_draws"])
    low, high = wilson_interval(share * len(counts), len(counts))
    changed["result"]["correct_draws"] = counts
    changed["result"]["mean"] = {"accuracy": share, "low": low, "high": high}
    if radius is not None:
        changed["column"]["attack"]["radius"] = radius
    return changed


def of(records, row, column):
    (found,) = [r for r in records if (r["row"]["key"], r["column"]["key"]) == (row, column)]
    return found


def short_line(records, title):
    table = comparison_report.short_table(records)
    return {str(row[0]): [*map(str, row)] for row in table.rows}[title]


def test_short_table_holds_the_lowest_of_each_kind(folder):
    records = report.load_records(folder)
    columns = (*BLIND, "bpda", "own", "eot")
    fgsm, bim, pgd, bpda, own, eot = (of(records, "noise", name) for name in columns)
    made = [
        of(records, "undefended", "clean"), of(records, "undefended", "pgd"),
        with_counts(of(records, "noise", "clean"), [2, 2, 2, 2, 2, 0]),
        with_counts(fgsm, [2, 2, 2, 2, 0, 0]), with_counts(bim, [2, 2, 2, 1, 0, 0]),
        with_counts(pgd, [2, 2, 2, 2, 1, 0]), with_counts(bpda, [2, 1, 0, 0, 0, 0]),
        with_counts(own, [2, 0, 0, 0, 0, 2]),
        # Lower on its four images, and as low on all six as anybody can tell.
        with_counts(eot, [2, 0, 0, 0]),
        # At a radius as people type it, one who knows nothing does best.
        with_counts(fgsm, [2, 2, 0, 0, 0, 0], 0.03137),
        with_counts(bpda, [2, 2, 2, 0, 0, 0], 0.03137),
    ]  # fmt: skip
    table = comparison_report.short_table(made)
    assert [str(cell) for cell in table.header][1:] == [
        "clean", "2/255, blind", "2/255, informed", "8/255, blind", "8/255, informed",
    ]  # fmt: skip
    line = short_line(made, "Gaussian noise")
    assert line[1].startswith("83.3 % [")
    assert line[2].startswith("58.3 % [")
    assert line[2].endswith("] BIM")
    # On four images EOT and the own gradient are level: who knows more is named, with its n.
    assert line[3].startswith("25.0 % [")
    assert line[3].endswith("] EOT, n = 4")
    assert line[4].startswith("33.3 % [")
    assert line[4].endswith("] FGSM")
    # What was found within 2/255 lies within 8/255 too.
    assert line[5] == line[3].replace("EOT", "EOT at 2/255")
    assert str(table.rows[0][3]) == "—"  # nobody informed attacked it
    assert "first 6 images of" in table.notes[0]
    assert "the mean over 2 draws" in table.notes[0]
    assert "EOT (NoisyAPGD, 2 steps, 2 draws a step)" in table.notes[2]


def test_nothing_is_looked_for_where_a_smaller_radius_left_nothing(folder, config, monkeypatch):
    twice = dataclasses.replace(config, radii=(2 / 255, 4 / 255), rows=("fd", "noise"))
    nothing = {"noise--eot--r2--k2--n4": [0] * 4, "fd--bpda--r4--k1--n6": [0] * 6}
    read = comparison.read_json

    def without_some(path):
        record = read(path)
        if "result" not in record:
            return record
        number = record["result"]["num_examples"]
        return with_counts(record, nothing.get(record["id"], [1] * number))

    asked = []
    monkeypatch.setattr(comparison, "read_json", without_some)
    monkeypatch.setattr(bench, "measure", lambda c, i, cells: asked.append(cells) or 0)
    comparison.run(twice)
    blind, near, far = ({(c.row.key, c.column) for c in cells} for cells in asked)
    assert ("fd", "pgd") in blind
    assert not {column for _, column in blind} & set(comparison.INFORMED)
    assert ("fd", "bpda") in near
    assert far == {("undefended", "own"), ("fd", "bpda"), ("fd", "own")}


def test_short_table_of_what_little_there_is(folder):
    records = report.load_records(folder)
    clean = [record for record in records if record["column"]["key"] == "clean"]
    table = comparison_report.short_table(clean)
    assert (table.title, len(table.header), len(table.notes)) == (
        "Transformations of builtin, not attacked", 2, 1,
    )  # fmt: skip
    assert comparison_report.figure(clean) is None
    assert comparison_report.claims_table(clean) is None
    pgd = of(records, "fd", "pgd")
    other = [with_counts(pgd, [0] * 6, radius / 255) for radius in (3, 4, 12.5)]
    header = [str(cell) for cell in comparison_report.short_table([*clean, *other]).header]
    assert header[2::2] == ["3/255, blind", "12.5/255, blind"]
    assert short_line([*clean, *other], "Feature Distillation, 25/30")[3] == "—"


def test_claims_need_feature_distillation(folder):
    records = report.load_records(folder)
    bare, fd = (of(records, key, "clean") for key in ("undefended", "fd"))
    rest = [record for record in records if record not in (bare, fd)]
    bare, fd = with_counts(bare, [1, 1, 1, 1, 0, 0]), with_counts(fd, [1, 1, 0, 0, 1, 0])
    for before, after, words in ((bare, fd, "falls"), (fd, bare, "rises")):
        pair = [dict(before, row=bare["row"]), dict(after, row=fd["row"])]
        table = comparison_report.claims_table([*rest, *pair])
        assert table is not None
        error = np.std([0, 0, 1, 1, -1, 0]) * 100 / np.sqrt(6)
        assert f"{words} by 16.7 ± {error:.1f} points, to" in str(table.rows[0][2])
    share = min(of(records, "fd", name)["result"]["mean"]["accuracy"] for name in BLIND)
    assert f"to {100 * share:.1f} % [" in str(table.rows[1][2])
    without = [record for record in records if record["row"]["key"] != "fd"]
    assert comparison_report.claims_table(without) is None


def test_claims_of_time_are_held_against_the_benchmark(folder, tmp_path):
    entries = [
        {"name": name, "whose": whose, "batch_size": size, "median_ms": ms, "mib_per_image": 1.0}
        for name, whose, ms in (
            ("Feature Distillation", "rainjax", 2.0),
            ("total variation", "rainjax", 3.0),
            ("total variation", "somebody", 5000.0),
        )
        for size in (1, 64)
    ]
    speed = {
        "kind": "speed", "schema": 1, "entries": entries,
        "options": {"batch_sizes": [1, 64], "num_slow": 1, "min_seconds": 0.1,
                    "size": 8, "data": "builtin",
                    "num_repeats": 1, "bank_size": 1, "quality": 75},
        "jpeg_error": {"true rounding": {"mean": 0.0, "max": 0.0}},
        "run": {"num_devices": 1, "device": "cpu"},
    }  # fmt: skip
    for place in ("speed.json", "speed/speed.json"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(speed))
        tables = comparison_report.summaries(tmp_path / "study", report.load_records(folder))
        assert str(tables[1].rows[3][2]) == (
            "total variation (rainjax): 1.5 × (batch 1), 1.5 × (batch 64); "
            "total variation (somebody): 2,500 × (batch 1), 2,500 × (batch 64)"
        )
        path.unlink()


def test_rows_that_join_later_join_the_gallery(folder, config, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda *args: 1)
    comparison.run(dataclasses.replace(config, rows=("bit_depth",)))
    with np.load(folder / "gallery.npz") as gallery:
        assert gallery["titles"].tolist() == [
            "no defense", "Feature Distillation, 25/30", "bit depth, 3 bits", "Gaussian noise",
        ]  # fmt: skip
        shades = [len(np.unique(picture)) for picture in gallery["images"]]
    assert shades[2] <= 8 < min(shades[:2])


def test_a_row_is_not_made_of_two_things(folder, config):
    _, row = comparison.rows(dataclasses.replace(config, rows=("fd",)))
    comparison._check_sources(config, [row])
    other = dataclasses.replace(row, sources={**row.sources, "defense": {"name": "60 patches"}})
    with pytest.raises(ValueError, match=r"of a 'fd' made of None, and not of .*60 patches"):
        comparison._check_sources(config, [other])


@pytest.mark.parametrize("radius", [None, 0.5])
def test_an_unbounded_radius_is_read_and_nothing_else_for_it(folder, tmp_path, radius):
    (path,) = folder.glob("records/fd--cw--*.json")
    record = json.loads(path.read_text())
    assert record["column"]["attack"]["radius"] is None
    record["column"]["attack"]["radius"] = radius
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / path.name).write_text(json.dumps(record))
    (loaded,) = report.load_records(tmp_path)
    assert rec.ball(loaded) == ("l2", radius or float("inf"))


def test_every_transformation_of_the_list_purifies_an_image(config, tmp_path):
    """All of them, with the parameters that their rows get, on an image of two sizes."""
    steps = zoo.save_steps
    steps(tmp_path / "table.json", defenses.two_steps(), {})
    every = dataclasses.replace(config, rows=(), table=str(tmp_path / "table.json"))
    found = comparison.rows(every)
    assert [row.key for row in found] == list(comparison.MAKERS)
    images, _ = data.load("builtin", "test").get(np.arange(1))
    image, key = jnp.asarray(images[0], jnp.float32) / 255, jax.random.key(0)
    for row in found:
        purified = jax.jit(row.target.defense.apply)(row.params["defense"], key, image)
        assert purified.shape == image.shape
        assert (np.abs(purified - image).max() > 0.003) == (row.key != "undefended"), row.key
        assert row.target.defense.is_random == (row.key in RANDOM)


def test_an_attacker_has_a_gradient_wherever_there_is_one():
    soft = FeatureDistillation(rounding="cubic")
    assert comparison.own_gradient(FeatureDistillation()) == BPDA(FeatureDistillation(), soft)
    assert comparison.own_gradient(defenses.MedianFilter()) == defenses.MedianFilter()
    for group in (Chain, RandomSubset):
        pair = group((JPEG(50), Identity()))
        found = comparison.own_gradient(pair)
        assert found == BPDA(pair, group((JPEG(50, rounding="cubic"), Identity())))
    quilting = defenses.Quilting()
    assert comparison.own_gradient(quilting) == BPDA(quilting, defenses.LowPass(4))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": ("fd", "magic")}, "rows='magic' is none of undefended, fd,"),
        ({"rows": ("fd_designed",)}, "needs the table it is made of: give --table"),
        ({"name": "other", "rows": ("quilting",), "bank_size": 5}, "'quilting' does not fit .*10"),
        ({"rows": ("quilting",), "bank_split": "extra"}, "'extra'.* with --bank-data and --bank-"),
        ({"num_examples": 10**6}, "num_examples=1000000, but 'builtin' has"),
        ({"name": "other", "enhancer": "builtin_resnet", "rows": ("super_resolution",)}, "ResNet"),
    ],
)
def test_what_does_not_fit_is_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        comparison.run(dataclasses.replace(config, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"radii": ()}, r"radii=\(\) must lie in"),
        ({"radii": (2.0,)}, r"radii=\(2.0,\) must lie in"),
        ({"radii": (0.01, 0.02, 0.0100000001)}, "holds one twice: leave it out"),
        ({"bank_size": 0}, "bank_size=0 must be at least 1"),
        ({"num_eot": 0}, "num_eot=0 must be at least 1"),
    ],
)
def test_bad_options_are_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config, **changes)


def test_a_table_is_a_file_or_its_folder_and_leaves_no_folder_in_records(config, tmp_path):
    zoo.save_steps(tmp_path / "table.json", defenses.two_steps(), {})
    made = []
    for table in (tmp_path, tmp_path / "table.json"):
        chosen = dataclasses.replace(config, rows=("fd_designed",), table=str(table))
        made.append(comparison.rows(chosen)[1].sources["defense"])
    assert [where["name"] for where in made] == [tmp_path.name, "table.json"]
    assert made[0]["sha256"] == made[1]["sha256"]
    with pytest.raises(FileNotFoundError, match="There is no table of steps at"):
        comparison.rows(dataclasses.replace(chosen, table=str(tmp_path / "none.json")))


def test_command_line_knows_it(capsys):
    with pytest.raises(SystemExit):
        program.tyro.cli(program.Command, args=["transformations", "--help"])
    told = capsys.readouterr().out
    assert "--cw-steps" in told
    for name in comparison.MAKERS:
        assert re.search(rf"\b{name}\b", told), name


def test_folder_is_where_it_was_asked_for(folder, config):
    assert folder == pathlib.Path(config.out) / "tiny"


def test_fewer_images_are_held_against_the_lowest_that_others_leave_on_them(folder):
    records = report.load_records(folder)
    bpda, own, eot = (of(records, "noise", name) for name in ("bpda", "own", "eot"))
    made = [
        with_counts(bpda, [2, 1, 0, 0, 0, 0]),  # the lowest on six images, and not on the four
        with_counts(own, [0, 0, 0, 0, 2, 2]),
        with_counts(eot, [2, 0, 0, 0]),
    ]
    assert tables.lowest(made)["column"]["key"] == "bpda"
    made[1] = with_counts(own, [2, 1, 0, 0, 2, 2])
    assert tables.lowest(made)["column"]["key"] == "eot"


def test_two_passes_are_attacked_around_the_compressed_image(config, folder, tmp_path):
    twice = dataclasses.replace(
        config, two_pass=True, rows=("fd",), radii=(2 / 255,), out=tmp_path
    )
    records = report.load_records(comparison.run(twice))
    assert {record["data"]["name"] for record in records} == {"builtin, compressed"}
    # A second pass moves a compressed picture less than its rounding to 8 bits did.
    pictures, labels = Compressed(data.load("builtin", "test"), FeatureDistillation()).get(
        np.arange(6)
    )
    again = jax.vmap(FeatureDistillation().purify)(jnp.asarray(pictures, jnp.float32) / 255)
    clipped = (pictures == 0) | (pictures == 255)
    assert np.abs(255 * np.asarray(again) - pictures)[~clipped].mean() < 0.5
    assert labels.tolist() == data.load("builtin", "test").get(np.arange(6))[1].tolist()
    with pytest.raises(ValueError, match="holds a study with data_is="):
        comparison.run(dataclasses.replace(twice, two_pass=False))
