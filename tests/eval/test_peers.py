"""The comparison with other libraries: its record, and that PyTorch is given the same pipeline."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.benchmarks import _peers_jax as peers_jax
from eval.benchmarks import peers
from eval.benchmarks._peers_worker import ATTACKS, MODULES, Case, measure
from eval.benchmarks.peers import Peers
from rainjax import zoo
from rainjax.nets.convert import to_torch
from tests.tiny import EDSR_TINY, RESNET_TINY, Linear, edsr_params

pytestmark = pytest.mark.usefixtures("quick_compilation")

CARD = {"data": {"name": "builtin"}, "command": "none", "seed": 0, "metrics": {}}
TINY = {
    "num_images": 2, "num_steps": 2, "num_eot": 2, "num_repeats": 2, "num_rounds": 1,
    "num_score_draws": 2, "early_images": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The path of a classifier with random numbers."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: rng.normal(0.2, 0.3, a.shape), RESNET_TINY.shapes())
    params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
    folder = tmp_path_factory.mktemp("classifier")
    return str(zoo.save(folder, "classifier", RESNET_TINY, params, CARD))


@pytest.fixture
def here(monkeypatch):
    """Workers run in this process, which has its devices and has compiled; peers are absent."""
    monkeypatch.setattr(peers_jax, "use_all_cores", lambda: None)
    monkeypatch.setattr(peers, "_missing", lambda name: list(MODULES[name][1]))

    def measured(name, folder):
        case = Case.read(folder)
        numbers, images = measure(peers_jax.make(name, case), case.options["num_repeats"])
        np.savez(folder / f"{name}.npz", **images)
        return numbers

    monkeypatch.setattr(peers, "_in_a_new_process", measured)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_images": 0}, "num_images=0 must be at least 1"),
        ({"num_rounds": 0}, "num_rounds=0 must be at least 1"),
        ({"early_images": -1}, "early_images=-1 must not be negative"),
        ({"eot_chunk": 3}, "eot_chunk=3 does not divide num_eot=10"),
        ({"radius": 8.0}, r"radius=8.0, .* must lie in \(0, 1\]"),
        ({"early_radii": (0.1, 0.0)}, r"early_radii=\(0.1, 0.0\) must lie in \(0, 1\]"),
        ({"libraries": ("art",)}, "must name rainjax, with which the others are compared"),
        ({"libraries": ("rainjax", "cleverhans")}, "may name foolbox_jax, foolbox_torch"),
    ],
)
def test_bad_options_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Peers(**changes)


def test_only_a_resnet_is_compared(tmp_path):
    path = zoo.save(tmp_path, "edsr", EDSR_TINY, edsr_params(), CARD)
    with pytest.raises(ValueError, match="holds a EDSR: only a ResNet"):
        peers.run(Peers(classifier=str(path), out=tmp_path))


def test_the_record_holds_rainjax_alone_where_nothing_else_is_installed(
    here, classifier, tmp_path, capsys
):
    peers.run(Peers(classifier=classifier, out=tmp_path, **TINY))
    record = json.loads((tmp_path / "peers.json").read_text())
    assert (record["schema"], record["kind"]) == (1, "peers")
    assert set(record["libraries"]) == {"rainjax"}
    assert record["not_installed"]["art"] == ["torch", "art"]
    assert record["fastest_other_over_rainjax"] == {"pgd": None, "eot_pgd": None}
    row = record["libraries"]["rainjax"]
    assert row["max_logit_difference"] < 1e-4
    for name in ATTACKS:
        of_attack = row["attacks"][name]
        assert of_attack["over_rainjax"] == 1
        assert len(of_attack["rounds"]) == 1
        assert len(of_attack["rounds"][0]["seconds"]) == 2
        assert of_attack["median_seconds"] > 0
        assert of_attack["peak_mib"] >= of_attack["above_compiled_mib"] > -100
        assert 0 <= of_attack["accuracy"] <= 1
    printed = capsys.readouterr().out
    assert "art was left out: torch, art is not installed." in printed
    assert record["early_stopping"] == []
    record["early_stopping"] = [
        {"radius": 0.5 / 255, "broken": 0.5, "time_over_whole": 0.25, "cpu_over_whole": 0.5}
    ]
    printed = peers.RECORD.tell(_written(tmp_path / "early.json", record))
    assert ["0.5/255", "50", "%", "0.25", "0.50"] in [
        line.split() for line in printed.splitlines()
    ]
    with pytest.raises(ValueError, match="is no usable record of `python -m eval peers`"):
        peers.RECORD.load(_written(tmp_path / "other.json", record | {"kind": "study"}))
    for part in ("options", "libraries", "early_stopping"):
        less = {name: value for name, value in record.items() if name != part}
        with pytest.raises(ValueError, match=rf"json is no usable record .*KeyError: '{part}'"):
            peers.RECORD.load(_written(tmp_path / "less.json", less))


def _written(path, record):
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


def test_images_outside_the_ball_or_of_another_network_are_refused(classifier):
    options = Peers(classifier=classifier, **TINY)
    case, params = peers._case(options)
    plain = peers_jax.plain_logits(peers._network(case), params, case.images)
    made = {"plain_logits": plain, "pgd": case.images, "eot_pgd": case.images}
    assert peers._check(options, "it", case, params, made)["max_logit_difference"] == 0
    with pytest.raises(ValueError, match="it runs another network: its logits differ"):
        peers._check(options, "it", case, params, made | {"plain_logits": plain + 1})
    with pytest.raises(ValueError, match="it's eot_pgd leaves the ball: it goes"):
        peers._check(options, "it", case, params, made | {"eot_pgd": abs(case.images - 0.5)})


def test_the_case_survives_its_folder(classifier, tmp_path):
    case, _ = peers._case(Peers(classifier=classifier, **TINY))
    case.write(tmp_path)
    read = Case.read(tmp_path)
    assert (read.options, read.network) == (case.options, case.network)
    np.testing.assert_array_equal(read.images, case.images)
    assert read.weights.keys() == case.weights.keys()
    assert peers._network(read) == RESNET_TINY
    for name, array in to_torch(RESNET_TINY, zoo.load(classifier).params).items():
        np.testing.assert_array_equal(read.weights[name], array)


def test_a_failing_worker_is_an_error_with_its_last_words(tmp_path):
    with pytest.raises(
        ValueError, match=r"Measuring rainjax failed: FileNotFoundError: .*case\.json"
    ):
        peers._in_a_new_process("rainjax", tmp_path)


def test_the_random_pipeline_keeps_pixels_of_the_image():
    """A constant channel stays constant, and one draw's pixels lie within the image's."""
    image = jnp.stack([jnp.full((8, 8), v) for v in (0.0, 0.4, 1.0)], axis=-1)
    for defense in (peers_jax.PickAndShift(), peers_jax.PickAndShift(random=False)):
        purified = jax.jit(defense.apply)((), jax.random.key(3), image)
        np.testing.assert_allclose(purified, image, atol=1e-6)


def test_early_stopping_tells_the_share_that_breaks():
    """A linear classifier breaks at its margin over the L1 norm of its slope."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (4, 4, 4, 3)).astype(np.float32)
    kernel = rng.normal(size=(48, 2)).astype(np.float32)
    logits = images.reshape(4, 48) @ kernel
    labels = logits.argmax(1)
    slope = kernel[:, 0] - kernel[:, 1]
    reach = np.sort(abs(logits[:, 0] - logits[:, 1]) / abs(slope).sum())
    radius = float(reach[1] + reach[2]) / 2  # every other radius would compile again
    params = {"defense": (), "classifier": {"kernel": jnp.asarray(kernel)}}
    rows = peers_jax.early_stopping(
        Linear(48, 2), params, images, labels, num_steps=10, radii=[radius], num_repeats=1
    )
    assert [row["broken"] for row in rows] == [0.5]
    assert rows[0]["stopped_seconds"] > 0
    assert rows[0]["whole_seconds"] > 0


def test_torch_runs_the_same_network_and_the_same_bicubic_kernel():
    torch = pytest.importorskip("torch", reason="needs PyTorch, which rainjax does not require")
    from eval.benchmarks import _peers_torch as peers_torch

    class OnTorch(peers_torch._OnTorch):
        """Some library's side: the network alone is asked for."""

        def run(self, name):
            raise AssertionError

    rng = np.random.default_rng(0)
    images = rng.random((3, 32, 32, 3), np.float32)
    batch = dataclasses.replace(RESNET_TINY, norm="batch")
    for network in (RESNET_TINY, batch):
        params = jax.tree.map(lambda a: rng.uniform(0.2, 0.4, a.shape), network.shapes())
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)
        options = dataclasses.asdict(Peers(num_images=3))
        weights = to_torch(network, params)
        fields = json.loads(json.dumps(dataclasses.asdict(network)))
        case = Case(options, fields, images, np.zeros(3, np.int64), weights)
        ours = peers_jax.plain_logits(network, {"defense": (), "classifier": params}, images)
        theirs = OnTorch(case).plain_logits()
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * np.abs(ours).max())
    assert torch.get_num_threads() >= 1


def test_torch_draws_the_same_picks_and_shifts():
    """Every value comes from one cell, all 9 shifts and all 4 picks occur, evenly, per image."""
    torch = pytest.importorskip("torch", reason="needs PyTorch, which rainjax does not require")
    from eval.benchmarks import _peers_torch as peers_torch

    torch.manual_seed(0)
    number = torch.arange(8 * 8.0).reshape(1, 1, 8, 8).expand(4000, 2, 8, 8)
    small = peers_torch.PickAndShift().shrink(number).numpy().astype(int)
    row, column = small // 8, small % 8
    moved = np.stack(
        [
            (np.arange(4)[:, None] - row // 2) % 4,
            (np.arange(4) - column // 2) % 4,
        ]
    )
    moved = (moved + 1) % 4 - 1
    assert (moved == moved[..., :1, :1, :1]).all()  # one shift for all of an image
    shifts, counts = np.unique(moved[:, :, 0, 0, 0], axis=1, return_counts=True)
    assert shifts.shape == (2, 9)
    assert set(shifts.ravel()) == {-1, 0, 1}
    np.testing.assert_allclose(counts / 4000, 1 / 9, atol=0.02)
    picks = 2 * (row % 2) + column % 2
    np.testing.assert_allclose(np.bincount(picks.ravel()) / picks.size, 1 / 4, atol=0.01)
    assert np.corrcoef(picks[:, 0].ravel(), picks[:, 1].ravel())[0, 1] < 0.05  # channels differ
