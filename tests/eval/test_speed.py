"""The benchmark of transformations: it runs, and its table says what was measured."""

import json
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from eval import report
from eval.benchmarks import _ncis_cost, _speed_entries, _speed_tables, _turns, speed
from eval.benchmarks.speed import Speed
from rainjax.defenses import FeatureDistillation
from rainjax.nets import BlindSpot
from rainjax.report import update_readme
from tests.tiny import BLIND_SPOT_TINY

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def path(tmp_path_factory, quick_compilation):
    options = Speed(
        size=40, other_sizes=(16,), batch_sizes=(1, 2), bank_size=60, num_slow=1, num_repeats=3,
        min_seconds=0.001, out=tmp_path_factory.mktemp("speed"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ncis_cost, "NETWORKS", {"tiny": BLIND_SPOT_TINY})
        patch.setattr(_ncis_cost, "_SIDE", 64)
        return speed.run(options)


def test_both_sides_of_every_ratio_are_there(path):
    record = speed.RECORD.load(path)
    entries = [e for e in record["entries"] if e["size"] == 40]
    times = {(e["name"], e["whose"], e["batch_size"]): e for e in entries}
    for entry in times.values():
        assert len(entry["ms_per_image"]) == 3
        assert entry["median_ms"] == pytest.approx(statistics.median(entry["ms_per_image"]))
        assert (entry["mib_per_image"] is not None) == (entry["whose"] == "rainjax")
    for size in (1, 2):
        fd, slow = (
            times[name, "rainjax", size]["median_ms"]
            for name in ("Feature Distillation", "quilting")
        )
        ratios = _speed_tables.ratios(record)
        assert ratios[f"quilting (rainjax), batch {size}"] == pytest.approx(slow / fd)
        whose = {w for name, w, _ in times if name == "total variation"}
        assert {f"total variation ({w}), batch {size}" for w in whose} <= ratios.keys()
        assert not any("non-local" in name for name in ratios)  # the paper says nothing of them
    assert times["quilting", "rainjax", 2]["num_timed"] == 1


def test_non_local_means_are_timed_beside_scikit_images(path):
    record = speed.RECORD.load(path)
    entries = [e for e in record["entries"] if "non-l" in e["name"] and e["size"] == 40]
    found = {(e["whose"], e["batch_size"]): e for e in entries}
    whose = {"rainjax", "scikit-image", "scikit-image, fast"}
    assert found.keys() == {(name, size) for name in whose for size in (1, 2)}
    settings = {entry["settings"] for (name, _), entry in found.items() if name != "rainjax"}
    assert all("patch_size=3, patch_distance=5, h=0.08, sigma=0.0" in s for s in settings)
    table, _ = speed.RECORD.tables(record)
    assert "non-local means, NCIS and other people's" in " ".join(table.notes)


def test_multiply_adds_are_those_of_the_convolutions():
    network = BlindSpot(num_layers=4, num_features=6)
    image = jax.ShapeDtypeStruct((12, 10, 3), jnp.float32)
    program = jax.make_jaxpr(network.apply)(network.shapes(), image)
    assert _ncis_cost.work_of(network, 12, 10).computed == _convolved(program.jaxpr)
    # Of 9, 25 and twice 9 taps the masks keep 8, 9 and twice 5.
    dropped = 1 * 3 * 6 + (16 + 4 + 4) * 6 * 6
    work = _ncis_cost.work_of(network, 1, 1)
    assert work.computed - work.kept == dropped


def _convolved(jaxpr):
    """The multiply-adds of the convolutions of a program, and of those that it calls."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            out_channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += equation.outvars[0].aval.size * kernel.size // out_channels
        for inner in jaxprs_in_params(equation.params):
            total += _convolved(inner)
    return total


def test_ncis_is_timed_at_every_size_and_held_against_the_limit(path):
    record = speed.RECORD.load(path)
    found = {(e["name"], e["size"], e["batch_size"]) for e in record["entries"]}
    names = ("Gaussian smoothing", "NCIS, tiny", "total variation", "non-local means")
    assert {(n, size, b) for n in names for size in (16, 40) for b in (1, 2)} <= found
    (entry,) = (
        e for e in record["entries"] if (e["name"], e["size"], e["batch_size"])
        == ("NCIS, tiny", 40, 2)
    )  # fmt: skip
    assert entry["num_timed"] == 1
    assert entry["multiply_adds"] == 3 * _ncis_cost.work_of(BLIND_SPOT_TINY, 40, 40).computed
    limit = record["arithmetic"]["multiply_adds_per_second"]
    share = entry["multiply_adds"] / entry["median_ms"] * 1000 / limit
    table, others = speed.RECORD.tables(record)
    (note,) = (n for n in table.notes if n.startswith("The arithmetic limit"))
    assert f"NCIS, tiny at 40, batch 2: {entry['multiply_adds'] / 1e9:,.3g} billion" in note
    assert f"{share:.0%} of the limit" in note
    assert [str(cell) for cell in others.rows[0][:2]] == ["Gaussian smoothing", "16 × 16"]
    times = {e["name"]: e["median_ms"] for e in record["entries"]
             if (e["whose"], e["size"], e["batch_size"]) == ("rainjax", 40, 2)}  # fmt: skip
    ratio = times["NCIS, tiny"] / times["total variation"]
    assert f"({ratio:.3g} × total variation, " in _speed_tables.ncis_texts(record)["NCIS, tiny"]


def test_records_from_before_ncis_are_read(path, tmp_path):
    record = json.loads(path.read_text())
    record["entries"] = [
        {k: v for k, v in e.items() if k not in ("size", "multiply_adds", "kept_multiply_adds")}
        for e in record["entries"]
        if e["size"] == 40 and e["name"] not in ("NCIS, tiny", "Gaussian smoothing")
    ]
    del record["arithmetic"], record["options"]["other_sizes"]
    old = tmp_path / "speed.json"
    old.write_text(json.dumps(record))
    (table,) = speed.RECORD.tables(speed.RECORD.load(old))
    assert not any("limit" in note for note in table.notes)
    assert _speed_tables.ncis_texts(record) == {}


def test_a_turn_is_the_mean_over_its_calls_without_the_first(monkeypatch):
    clock, called = [0.0], []

    def call():
        called.append(None)
        clock[0] += 1.0 if len(called) == 1 else 0.25

    monkeypatch.setattr(_turns.time, "perf_counter", lambda: clock[0])
    assert _turns.turn(call, 0.9) == 0.25
    assert len(called) == 5  # one that is not counted, and four that fill 0.9 seconds
    assert _turns.turn(call, 0.0) == 0.25
    assert len(called) == 7


def test_scipys_is_the_same_transform():
    # No whole numbers: sums of those lie half-way between two steps at times.
    image = np.random.default_rng(0).uniform(0, 255, (16, 24, 3)).astype(np.float32)
    ours = FeatureDistillation().purify(jnp.asarray(image) / 255)
    np.testing.assert_allclose(_speed_entries._fd_scipy(image), ours, atol=2e-6)


def test_jpeg_is_near_pillows(path):
    record = json.loads(path.read_text())
    errors = {words: error["mean"] for words, error in record["jpeg_error"].items()}
    assert 0 < errors["true rounding"] < 0.5
    # Straight through, values are those of true rounding; soft rounding has values of its own.
    assert errors["straight through"] == pytest.approx(errors["true rounding"], rel=1e-3)
    assert errors["soft rounding"] > 2 * errors["true rounding"]
    assert {f"JPEG and its gradient, {w}" for w in ("straight through", "soft rounding")} <= {
        entry["name"] for entry in record["entries"]
    }


def test_readme_shows_the_table(path, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:speed -->\n<!-- /results:speed -->\n")
    update_readme(readme, report.blocks([path]))
    assert "| quilting" in readme.read_text()
    text = readme.read_text()
    assert "Feature Distillation (rainjax) is faster than total variation (rainjax): " in text
    assert "total variation (rainjax): TotalVariation(weight=0.1, num_iterations=50)" in text


def test_damaged_records_are_named(path, tmp_path):
    record = json.loads(path.read_text())
    copy = tmp_path / "speed.json"
    for damage in ({"kind": "other"}, {"entries": []}, {"jpeg_error": None}):
        copy.write_text(json.dumps(record | damage))
        with pytest.raises(ValueError, match=r"speed\.json is no usable record"):
            speed.RECORD.load(copy)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_sizes": ()}, r"batch_sizes=\(\) must be whole numbers"),
        ({"batch_sizes": (2, 2)}, r"batch_sizes=\(2, 2\) holds one twice"),
        ({"other_sizes": (224,)}, r"other_sizes=\(224,\) must be from 1 on, and smaller than"),
        ({"other_sizes": (8, 8)}, r"other_sizes=\(8, 8\) holds one twice"),
        ({"size": 30}, "size=30 must be a multiple of 8"),
        ({"num_repeats": 0}, "num_repeats=0 must be at least 1"),
        ({"min_seconds": -1.0}, "min_seconds=-1.0 must be finite and not negative"),
    ],
)
def test_bad_options_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Speed(**options)


def test_too_few_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="too few to make 64 of 2048"):
        speed.run(Speed(size=2048, out=tmp_path))
