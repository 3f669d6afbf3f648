"""The benchmark of training: it runs, and its table says what was measured."""

import json
import sys

import pytest

from rainjax.report import check_readme
from train import benchmark
from train.benchmark import Training

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def path(tmp_path_factory, quick_compilation):
    options = Training(
        num_blocks=1, num_features=4, patch=16, batch_size=4, num_steps=3, num_repeats=3,
        peak_tflops=2.0, out=tmp_path_factory.mktemp("training"),
    )  # fmt: skip
    return benchmark.run(options)


def test_every_epoch_has_a_turn_of_the_bare_step_beside_it(path):
    record = benchmark.RECORD.load(path)
    for name in ("full_seconds", "bare_seconds", "input_wait"):
        assert len(record[name]) == 3
    assert min(record["full_seconds"] + record["bare_seconds"]) > 0
    assert record["num_devices"] == 2


def test_operations_are_those_of_the_convolutions(path):
    record = benchmark.RECORD.load(path)
    # Multiplications and additions of the convolutions at 8 x 8 and, the last, at 16 x 16.
    low = 9 * (3 * 4 + 3 * 4 * 4 + 4 * 16) * 8 * 8
    high = 9 * 4 * 3 * 16 * 16
    forward = 2 * 4 * (low + high)
    # Once forward and twice backward, but for the images, whose gradient nobody wants; borders
    # are left out, and all that is no convolution comes on top.
    assert 2.2 * forward < 1e12 * record["tflop_per_step"] < 4.5 * forward


def test_shares_are_of_what_was_measured(path):
    record = benchmark.RECORD.load(path) | {
        "full_seconds": [2.0, 4.0, 2.5], "bare_seconds": [1.0, 1.0, 2.0],
        "input_wait": [0, 1, 0.5], "tflop_per_step": 0.5, "matmul_tflops": 3.0,
    }  # fmt: skip
    found = benchmark.shares(record)
    assert found["full_images_per_second"] == pytest.approx(12 / 2.5)
    assert found["bare_images_per_second"] == pytest.approx(12 / 1.0)
    assert found["kept"] == pytest.approx(0.5)
    assert found["input_wait"] == 0.5
    assert found["of_matmul"] == pytest.approx(0.5)
    assert found["of_peak"] == pytest.approx(0.75)
    table = benchmark.RECORD.text(record)
    for shown in ("12.0 images/s", "4.8 images/s", "50 %", "1.5 TFLOP/s", "75 %"):
        assert shown.replace(" %", "%") in table


def test_readme_takes_it(path, tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:training -->\n<!-- /results:training -->\n")
    words = ["train.benchmark", "--show", str(path), "--readme", str(readme)]
    monkeypatch.setattr(sys, "argv", words)
    benchmark._program()
    table = benchmark.RECORD.tell(path, "markdown")
    assert not check_readme(readme, {"training": table})
    assert "of a matrix product" in readme.read_text()
    assert benchmark.RECORD.tell(path) in capsys.readouterr().out


def test_a_damaged_record_is_named(path, tmp_path):
    record = json.loads(path.read_text())
    del record["bare_seconds"]
    broken = tmp_path / "training.json"
    broken.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"no usable record of `python -m train\.benchmark`"):
        benchmark.RECORD.load(broken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        ({"patch": 7}, "patch=7 must be even and at least 4"),
        ({"peak_tflops": 0.0}, "peak_tflops=0.0 must be positive"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Training(**changes)
