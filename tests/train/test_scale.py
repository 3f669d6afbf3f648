"""Training on many devices and in several processes: the steps of one device, to rounding."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from tests import scaled
from train.compute import SHARDS, Compute, partition
from train.step import init_state, make_step
from train.super_resolution import loss

ROOT = pathlib.Path(__file__).parents[2]
# Sums over a batch are taken in another order: float32 rounding, which Adam's division by small
# second moments makes somewhat larger. Losses are of the order of 10 grey levels.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-5}


def start(devices, *jobs, count=1) -> None:
    """Runs `tests.scaled` in `count` processes that find each other on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(count):
        environment = {
            **os.environ,
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(rank),
        }
        command = [sys.executable, "-m", "tests.scaled", str(devices), *map(str, jobs)]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, **output))
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text


def log(folder) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = ("epoch", "step", "loss", "gradient_norm", "validation_psnr")
    return [{k: v for k, v in json.loads(line).items() if k in kept} for line in lines]


def assert_same_run(one, other):
    assert [line["epoch"] for line in one] == [line["epoch"] for line in other]
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), **TOLERANCE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of three epochs on one device, and what came out of it."""
    folder = tmp_path_factory.mktemp("alone")
    devices = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices[:1])
        outcome = scaled.train(folder / "run", 3, Compute())
    return folder / "run", outcome


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """Two epochs on eight devices, by whole copies and with parameters shared by four."""
    folder = tmp_path_factory.mktemp("eight")
    start(8, f"{folder / 'copies'}:2:1", f"{folder / 'shared'}:2:4")
    return folder


@pytest.mark.parametrize("kind", ["copies", "shared"])
def test_eight_devices_train_as_one_does(alone, on_eight, kind):
    assert_same_run(log(on_eight / kind), log(alone[0])[:3])


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("kind", ["copies", "shared"])
def test_what_eight_devices_saved_goes_on_on_one_or_two(
    alone, on_eight, kind, num_devices, tmp_path, monkeypatch
):
    shutil.copytree(on_eight / kind, tmp_path / "run")
    devices = jax.devices()[:num_devices]
    assert len(devices) == num_devices
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    outcome = scaled.train(tmp_path / "run", 3, Compute(shards=num_devices))
    assert_same_run(log(tmp_path / "run"), log(alone[0]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), outcome.params, alone[1].params
    )


def test_two_processes_train_as_one_does_and_go_on_with_its_checkpoint(alone, on_eight, tmp_path):
    shutil.copytree(on_eight / "shared", tmp_path / "resumed")
    start(4, f"{tmp_path / 'fresh'}:3:1", f"{tmp_path / 'resumed'}:3:2", count=2)
    for name in ("fresh", "resumed"):
        assert_same_run(log(tmp_path / name), log(alone[0]))


def run_steps(number, compute, optimizer, *, learn=None):
    """Returns the state after so many steps, the metrics of the last, and all parameters."""

    def usual(*args):
        return loss(*args, network=scaled.NETWORK, degradation="random", compute=compute)

    mesh, average = compute.mesh(8), compute.average
    step = make_step(
        learn or usual, optimizer, mesh, accumulate=compute.accumulate, average=average
    )
    params = scaled.NETWORK.init(jax.random.key(0))
    state = init_state(params, optimizer, mesh, average=average)
    history, metrics = [], {}
    for _ in range(number):
        state, metrics = step(state, jax.random.key(5), scaled.examples(8, 16))
        history.append(jax.tree.map(np.asarray, state.params))
    return state, metrics, history


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"accumulate": 4}, {"shards": 2}])
def test_a_step_in_parts_or_on_shared_parameters_is_the_same_step(changes):
    optimizer = optax.sgd(1e-4, momentum=0.9)
    plain, metrics, _ = run_steps(3, Compute(), optimizer)
    other, metrics_other, _ = run_steps(3, Compute(**changes), optimizer)
    assert len(jax.tree.leaves(other.params)[0].sharding.device_set) == 2
    compare = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=2e-5)
    jax.tree.map(compare, plain.params, other.params)
    jax.tree.map(compare, metrics, metrics_other)


def test_shared_parameters_take_a_share_of_each_device():
    state, _, _ = run_steps(2, Compute(shards=2), optax.adam(1e-3))
    for tree in (state.params, state.opt_state[0].mu, state.opt_state[0].nu):
        kernel = tree["blocks"][0]["conv1"]["kernel"]
        assert kernel.shape == (3, 3, 16, 16)
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 16, 8)}
        bias = tree["blocks"][0]["conv1"]["bias"]
        assert {shard.data.shape for shard in bias.addressable_shards} == {(16,)}


@pytest.mark.parametrize(
    ("shape", "shards", "expected"),
    [
        ((3, 3, 64, 64), 8, PartitionSpec(None, None, None, SHARDS)),
        ((3, 3, 64, 12), 8, PartitionSpec(None, None, SHARDS, None)),
        ((3, 3, 62, 62), 8, PartitionSpec()),
        ((64,), 8, PartitionSpec()),
        ((), 8, PartitionSpec()),
        ((1280, 1000), 8, PartitionSpec(SHARDS, None)),
        ((1280, 1000), 1, PartitionSpec()),
    ],
)
def test_the_rule_that_shares_arrays_out(shape, shards, expected):
    assert partition(shape, shards) == expected


def test_the_average_is_that_of_a_plain_loop():
    state, _, history = run_steps(6, Compute(average=0.4), optax.sgd(1e-3))
    average = jax.tree.map(np.asarray, scaled.NETWORK.init(jax.random.key(0)))
    for step, params in enumerate(history):
        decay = min(0.4, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.average, average)
    assert state.learned is state.average


def test_bfloat16_keeps_float32_parameters_and_nearly_the_step():
    dtypes = set()

    def watched(params, frozen, key, example):
        compute = Compute(precision="bfloat16")

        def apply(params, image):
            dtypes.update(leaf.dtype for leaf in jax.tree.leaves((params, image)))
            return scaled.NETWORK.apply(params, image)

        low = jnp.asarray(example["image"], jnp.float32)[::2, ::2] / 255
        restored = compute.lower(apply)(params, low)
        assert restored.dtype == jnp.float32
        return jnp.abs(255 * restored - example["image"]).mean(), {}

    state, _, _ = run_steps(1, Compute(), optax.sgd(1e-4), learn=watched)
    assert dtypes == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    losses = [
        float(run_steps(1, Compute(precision=p), optax.sgd(1e-4))[1]["loss"])
        for p in ("float32", "bfloat16")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)  # 8 bits of mantissa


@pytest.mark.parametrize(
    ("changes", "batch_size", "message"),
    [
        ({"accumulate": 3}, 8, "accumulate=3 does not divide batch_size=8"),
        ({"shards": 3}, 9, r"batch_size=9 in accumulate=1 parts .* shards=3"),
        ({"accumulate": 0}, 8, "accumulate=0 must be at least 1"),
        ({"shards": 0}, 8, "shards=0 must be at least 1"),
        ({"workers": -1}, 8, "workers=-1 must lie in 0"),
        ({"workers": 9999}, 8, r"workers=9999 must lie in 0..\d+ on this machine"),
        ({"average": 1.0}, 8, "average=1.0 must lie between 0 and 1"),
    ],
)
def test_bad_options_are_named(changes, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Compute(**changes).mesh(batch_size)
