"""The comparison of transformations from end to end, on a tiny network and a few pictures."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eval.__main__ as program
from eval import bench, comparison, comparison_report, report
from eval import records as rec
from eval.config import Transformations
from rainjax import data, defenses, zoo
from rainjax.defenses import JPEG, Chain, FeatureDistillation, Identity, RandomSubset
from rainjax.gradients import BPDA
from tests.tiny import EDSR_TINY, RESNET_TINY, edsr_params, resnet_params

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
CARD = {"data": {"name": "builtin"}, "command": "none", "seed": 0, "metrics": {}}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    images, labels = data.load("builtin", "train").get(np.arange(200))
    classifier = resnet_params(images.astype(np.float32) / 255, labels)
    edsr = zoo.save(folder, "edsr", EDSR_TINY, edsr_params(1), CARD)
    return Transformations(
        name="tiny",
        rows=("fd", "bit_depth", "noise"),
        classifier=str(zoo.save(folder, "classifier", RESNET_TINY, classifier, CARD)),
        enhancer=str(edsr),
        rain=str(edsr),
        radii=(2 / 255, 8 / 255),
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
    for row in ("undefended", "fd", "bit-depth", "noise"):
        expected |= {f"{row}--clean--n6"}
        expected |= {f"{row}--{name}--nearest--k1--n6" for name in ("deepfool", "cw")}
        for radius in (2, 8):
            blind = [f"{name}--r{radius}--k1" for name in ("fgsm", "bim", "pgd")]
            own = [] if row == "undefended" else ["bpda", "own"]
            expected |= {f"{row}--{name}--n6" for name in blind}
            expected |= {f"{row}--{name}--r{radius}--k1--n6" for name in own}
            expected |= {f"{row}--eot--r{radius}--k2--n4"} if row == "noise" else set()
    assert found == expected


def test_blind_images_are_made_once_for_all_rows(folder):
    # Two batches of 8 blind attacks; of 2 informed ones for 3 rows at 2 radii, and of EOT's.
    assert len(list(folder.glob("work/*.npz"))) == 2 * 8 + 2 * 2 * 3 * 2 + 2 * 2


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


def test_short_table_holds_the_lowest_of_each_kind(folder):
    records = report.load_records(folder)
    table = comparison_report.short_table(records)
    assert [str(cell) for cell in table.header][1:] == [
        "clean", "2/255, blind", "2/255, informed", "8/255, blind", "8/255, informed",
    ]  # fmt: skip
    line = {str(row[0]): row for row in table.rows}["Gaussian noise"]
    for place, names, radius in ((2, ("fgsm", "bim", "pgd"), 2), (5, ("bpda", "own", "eot"), 8)):
        shares = []
        for name in names:
            (path,) = folder.glob(f"records/noise--{name}--r{radius}--*.json")
            counts = json.loads(path.read_text())["result"]["correct_draws"]
            shares.append(sum(counts) / (2 * len(counts)))
        assert line[place].value == f"{100 * min(shares):.1f} %"
    assert str(table.rows[0][3]) == "—"  # nothing to be informed of without a defense


def test_claims_need_feature_distillation(folder):
    records = report.load_records(folder)
    table = comparison_report.claims_table(records)
    assert table is not None
    clean = {key: rec_clean(records, key) for key in ("undefended", "fd")}
    fall = 100 * (clean["undefended"] - clean["fd"])
    assert f"falls by {fall:.1f} points" in str(table.rows[0][2])
    without = [record for record in records if record["row"]["key"] != "fd"]
    assert comparison_report.claims_table(without) is None


def rec_clean(records, key):
    (clean,) = [r for r in records if (r["row"]["key"], r["column"]["key"]) == (key, "clean")]
    return clean["result"]["mean"]["accuracy"]


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
    assert comparison.own_gradient(defenses.Quilting()) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": ("fd", "magic")}, "rows='magic' is none of undefended, fd,"),
        ({"rows": ("fd_designed",)}, "needs the table it is made of: give --table"),
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
        ({"bank_size": 0}, "bank_size=0 must be at least 1"),
        ({"num_eot": 0}, "num_eot=0 must be at least 1"),
    ],
)
def test_bad_options_are_refused(config, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(config, **changes)


def test_command_line_knows_it(capsys):
    with pytest.raises(SystemExit):
        program.tyro.cli(program.Command, args=["transformations", "--help"])
    assert "--cw-steps" in capsys.readouterr().out


def test_folder_is_where_it_was_asked_for(folder, config):
    assert folder == pathlib.Path(config.out) / "tiny"
