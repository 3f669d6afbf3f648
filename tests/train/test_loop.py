"""The training loop: one step on any number of devices, and runs that are cut short."""

import dataclasses
import gc
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest

from rainjax.checkpoints import Checkpoints
from rainjax.data.splits import Data
from rainjax.devices import data_mesh
from rainjax.nets import MobileNetV2
from train import loop
from train.batches import Batches, Held
from train.compute import Compute
from train.optimizers import Optimizer
from train.run import Run, Stop
from train.step import init_state, make_step

ROOT = pathlib.Path(__file__).parents[2]


def fails_in_orbax(test):
    """Lets go what Orbax leaves behind where a checkpoint cannot be read or written.

    Event loops, coroutines, and answers to writes that come when their loop is closed: Python
    complains of them wherever the garbage collector next runs or the answer comes.
    """
    for ignored in (
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore::ResourceWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ):
        test = pytest.mark.filterwarnings(ignored)(test)
    return test


def line_task(**changes) -> tuple[loop.Task, dict]:
    """Fits a line: cheap enough to run many times."""

    def line_loss(params, frozen, key, example):
        noise = 0.1 * jax.random.normal(key)
        error = params["w"] * example["x"] + frozen["b"] + noise - example["y"]
        return error**2, {"absolute_error": jnp.abs(error)}

    x = np.linspace(-1, 1, 32, dtype=np.float32)

    examples = {"x": x, "y": 3 * x + 1, "index": np.arange(32, dtype=np.int32)}
    task = loop.Task(
        loss=line_loss,
        batches=Batches(Held(examples), seed=0, batch_size=8),
        evaluate=lambda params: {"closeness": -abs(float(params["w"]) - 3)},
        select="closeness",
        batch_size=8,
        num_epochs=4,
        steps_per_epoch=5,
    )
    return dataclasses.replace(task, **changes), {"w": jnp.zeros(())}


def fit_line(folder, *, optimizer=None, **changes) -> loop.Outcome:
    task, params = line_task(**changes)
    frozen = {"b": jnp.ones(())}
    with Run(folder, {"task": "line"}) as run:
        return loop.fit(task, params, optimizer or optax.sgd(0.1), run, seed=0, frozen=frozen)


def _epochs(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


def test_an_example_draws_the_same_in_any_batch():
    seen = []

    def draw_loss(params, frozen, key, example):
        return params * 0.0, {"draw": jax.random.uniform(key) * example["weight"]}

    mesh = Compute().mesh(4)
    step = make_step(draw_loss, optax.sgd(0.0), mesh)
    for rows in ([3, 1, 2, 0], [9, 3, 7, 5]):
        state = init_state(jnp.zeros(()), optax.sgd(0.0), mesh)
        weight = (np.array(rows) == 3).astype(np.float32)
        batch = {"weight": weight, "index": np.array(rows, np.int32)}
        seen += [float(step(state, jax.random.key(0), batch)[1]["draw"])]
    assert seen[0] == seen[1] > 0


def test_fit_finds_the_line_and_keeps_the_best_epoch(tmp_path):
    outcome = fit_line(tmp_path, num_epochs=8)
    assert float(outcome.params["w"]) == pytest.approx(3, abs=0.3)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation_closeness"] for line in lines]
    assert [line["epoch"] for line in lines] == list(range(9))
    assert outcome.metrics["validation"]["value"] == max(values)
    assert outcome.metrics["selected_epoch"] == int(np.argmax(values))
    assert lines[-1]["loss"] < lines[1]["loss"]


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_goes_on_to_the_same_parameters(tmp_path, sent):
    whole = fit_line(tmp_path / "whole")
    task, _ = line_task()

    def interrupting(first):
        for step, batch in enumerate(task.batches(first), first):
            if step == 12:
                os.kill(os.getpid(), sent)
            yield batch

    with pytest.raises(Stop, match=r"after step 1[123] of 20, which is saved"):
        fit_line(tmp_path / "cut", batches=interrupting)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = fit_line(tmp_path / "cut")
    assert np.array_equal(resumed.params["w"], whole.params["w"])
    assert resumed.metrics == whole.metrics
    assert _epochs(tmp_path / "cut") == [0, 1, 2, 3, 4]


def test_a_killed_run_goes_on_to_the_same_parameters(tmp_path):
    whole = fit_line(tmp_path / "whole", num_epochs=40)
    program = (
        "import jax; jax.config.update('jax_num_cpu_devices', 2)\n"
        "import pathlib, sys; from tests.train.test_loop import fit_line\n"
        "fit_line(pathlib.Path(sys.argv[1]), num_epochs=40)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cut")]
    log = tmp_path / "cut/metrics.jsonl"
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **output) as process:
        while process.poll() is None and not (log.exists() and '"epoch": 2' in log.read_text()):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.4))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    resumed = fit_line(tmp_path / "cut", num_epochs=40)
    assert np.array_equal(resumed.params["w"], whole.params["w"])
    assert resumed.metrics == whole.metrics
    assert _epochs(tmp_path / "cut") == list(range(41))


def test_pictures_that_were_passed_over_are_named_once_and_counted(tmp_path, capsys):
    task, _ = line_task()

    def some_corrupt(first):
        for step, batch in enumerate(task.batches(first), first):
            yield {**batch, "corrupt": np.array([-1, 17, -1, 4 if step else -1, -1, -1, -1, -1])}

    outcome = fit_line(tmp_path, batches=some_corrupt)
    assert outcome.metrics["corrupt_images"] == 2
    said = capsys.readouterr().out
    assert said.count("Picture 17 cannot be decoded or is too small") == 1
    assert "and the next one is taken in its place (2 such so far)" in said


def test_a_run_leaves_files_for_tensorboard_and_panels(tmp_path):
    def panel(params, path):
        PIL.Image.new("RGB", (4, 4), (0, 0, int(20 * params["w"]))).save(path)

    fit_line(tmp_path, panel=panel)
    assert [path.name for path in sorted((tmp_path / "panels").iterdir())] == [
        f"epoch-000{epoch}.png" for epoch in range(1, 5)
    ]
    (events,) = (tmp_path / "tensorboard").glob("events.*")
    written = events.read_bytes()
    for tag in (b"training/loss", b"training/input_wait", b"validation/closeness", b"panel"):
        assert tag in written


def test_another_configuration_is_refused_and_fresh_starts_over(tmp_path):
    tree = {"w": jnp.ones(())}
    identity = {"batch_size": 4, "optimizer": Optimizer()}
    with Run(tmp_path, identity) as run:
        run.save(3, tree, {})
    with Run(tmp_path, identity) as run:
        assert run.resume(tree) is not None
    other = {"batch_size": 2, "optimizer": Optimizer(learning_rate=0.5)}
    expected = r"batch_size = 4, not 2 \(and optimizer.learning_rate\): .*--fresh"
    with pytest.raises(Stop, match=expected):
        Run(tmp_path, other)
    with Run(tmp_path, other, fresh=True) as run:
        assert run.resume(tree) is None


def test_a_run_goes_on_whatever_its_options_are_made_of(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "train.x"])
    # MobileNetV2's stages are tuples in a tuple; JSON knows lists alone.
    identity = {"network": MobileNetV2(class_subset=(1, 2))}
    tree = {"w": jnp.ones(())}
    with Run(tmp_path, identity) as run:
        run.save(3, tree, {})
        began = run.made_by
    with Run(tmp_path, identity) as run:
        assert run.resume(tree) is not None
        assert run.made_by == began
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "train.y"])
    with Run(tmp_path, identity) as run:
        run.resume(tree)
        stored = run.made_by  # nothing was added yet, but a file would be written by this one
        assert stored.pop("stored_by")["command"].split()[2] == "train.y"
        assert stored == began
        run.save(4, tree, {})
        assert run.made_by["command"] == began["command"]
        assert [other["command"].split()[2] for other in run.made_by["continued_by"]] == [
            "train.y"
        ]


def test_fresh_leaves_no_parameters_of_the_run_before(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.safetensors", "run.json", "metrics.jsonl", "mine.txt"):
        (folder / name).write_text("")
    with Run(folder, {}, fresh=True) as run:
        run.resume({})
        assert {path.name for path in folder.iterdir()} <= {"mine.txt", "checkpoints", ".lock"}


def test_a_start_that_cannot_be_measured_stops(tmp_path):
    with pytest.raises(Stop, match="closeness of the parameters to start from is nan"):
        fit_line(tmp_path, evaluate=lambda params: {"closeness": float("nan")})


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    # The slope grows by a factor of about -3e4 a step, beyond float32 within the second epoch.
    with pytest.raises(Stop, match=r"of step \d+ is (inf|nan); the last checkpoint is kept"):
        fit_line(tmp_path, optimizer=optax.sgd(1e5), steps_per_epoch=3, num_epochs=10)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        latest = checkpoints.latest()
        assert latest is not None
        found = checkpoints.resume(init_state(line_task()[1], optax.sgd(1e5), Compute().mesh(8)))
    assert latest[0] >= 3
    assert found is not None
    assert np.isfinite(found[1][0].params["w"])


def test_a_gradient_that_vanished_stops_and_keeps_the_checkpoint(tmp_path):
    def clipped_loss(params, frozen, key, example):
        return jnp.clip(params["w"] * example["x"] + 10, 0, 1), {}

    with pytest.raises(Stop, match=r"all of epoch 1 the gradient was zero.*checkpoint is kept"):
        fit_line(tmp_path, loss=clipped_loss)


@fails_in_orbax
@pytest.mark.parametrize("part", ["arrays", "metadata"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, part):
    tree = lambda step: {"w": jnp.full((2,), float(step))}
    with Checkpoints(tmp_path) as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, tree(step), {"note": step}, value=float(step))
    if part == "metadata":
        (file,) = (tmp_path / "7").rglob("_CHECKPOINT_METADATA")
        file.write_text("")
    for file in (tmp_path / "7").rglob("*"):
        if part == "arrays" and file.is_file() and file.parent.name == "d":
            file.write_bytes(b"damaged")
    with Checkpoints(tmp_path) as checkpoints:
        said = r"7 is damaged \(.*; the one of step 3 is taken"
        with pytest.warns(UserWarning, match=said):
            found = checkpoints.resume(tree(0))
        assert found is not None
        step, (restored, note) = found
        assert (step, note, restored["w"].tolist()) == (3, {"note": 3}, [3.0, 3.0])
        best = checkpoints.best(tree(0))
        assert best is not None
        assert (best[0], best[1][1]) == (3, 3.0)
        checkpoints.save(7, tree(8), {"note": 8}, value=8.0)  # and is written over in its turn
        checkpoints.wait()
        again = checkpoints.resume(tree(0))
        assert again is not None
        assert (again[0], again[1][0]["w"].tolist()) == (7, [8.0, 8.0])
    gc.collect()


@fails_in_orbax
def test_where_all_checkpoints_are_damaged_nothing_is_taken(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"w": jnp.ones(2)}, {})
    (file,) = (tmp_path / "3").rglob("_CHECKPOINT_METADATA")
    file.write_text("")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"3 is damaged .*, and there is no other: start over"),
    ):
        checkpoints.latest()
    gc.collect()


def test_the_last_checkpoints_and_the_best_stay(tmp_path):
    tree = lambda step: {"w": jnp.full((2,), float(step))}
    values = {1: 0.1, 2: 0.7, 3: 0.7, 4: None, 5: 0.2, 6: 0.3, 7: None}
    with Checkpoints(tmp_path) as checkpoints:
        for step, value in values.items():
            checkpoints.save(step, tree(step), {}, value=value)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 6, 7]
        found = checkpoints.best(tree(0))
        assert found is not None
        assert (found[0], found[1][0]["w"].tolist(), found[1][1]) == (2, [2.0, 2.0], 0.7)


@fails_in_orbax
def test_a_damaged_checkpoint_takes_no_place(tmp_path):
    tree = lambda step: {"w": jnp.full((2,), float(step))}
    with Checkpoints(tmp_path) as checkpoints:
        for step, value in ((4, 0.9), (8, 0.1), (12, 0.8)):
            checkpoints.save(step, tree(step), {}, value=value)
    for file in (tmp_path / "4").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(b"damaged")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match=r"4 is damaged .* the one of step 12 is taken"):
            found = checkpoints.best(tree(0))
        assert found is not None
        assert found[0] == 12
        for step in (16, 20, 24):
            checkpoints.save(step, tree(step), {}, value=0.3)
        checkpoints.wait()
        assert checkpoints.steps() == [12, 20, 24]
    gc.collect()


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_validation_that_is_not_finite_is_never_saved(tmp_path, epoch):
    def evaluate(params):
        seen.append(params)
        return {"closeness": float("nan") if len(seen) > epoch else float(len(seen))}

    seen = []
    with pytest.raises(Stop, match=f"closeness after epoch {epoch} is nan.*checkpoint is kept"):
        fit_line(tmp_path, evaluate=evaluate)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps()[-1] == 5 * (epoch - 1)


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    # The gradient is finite in every step, what the last one of an epoch makes of it is not.
    late = optax.scale_by_schedule(lambda count: jnp.where(count == 9, jnp.inf, -0.1))
    with pytest.raises(Stop, match=r"parameters after step 10 are no longer finite"):
        fit_line(tmp_path, optimizer=late, evaluate=lambda params: {"closeness": 1.0})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [0, 5]


def test_fresh_deletes_nothing_for_a_run_that_cannot_begin(tmp_path):
    fit_line(tmp_path)
    task, params = line_task()
    for changes, compute, refused in (
        ({}, Compute(accumulate=3), ValueError),
        ({"loss": None}, Compute(), TypeError),
    ):
        broken = dataclasses.replace(task, **changes)
        with Run(tmp_path, {"task": "line"}, fresh=True) as run, pytest.raises(refused):
            loop.fit(
                broken, params, optax.sgd(0.1), run, seed=0, frozen={"b": jnp.ones(())},
                compute=compute,
            )  # fmt: skip
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps()[-1] == 20


def test_two_runs_do_not_share_a_folder(tmp_path):
    with Run(tmp_path, {}), pytest.raises(Stop, match="Another process trains in"):
        Run(tmp_path, {})
    with Run(tmp_path, {}):
        pass


def test_another_architecture_is_refused_by_its_first_parameter(tmp_path):
    params = lambda width: {"head": {"bias": jnp.ones(2), "kernel": jnp.ones((3, width))}}
    optimizer, mesh = optax.adam(0.1), Compute().mesh(2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, init_state(params(4), optimizer, mesh), {})
        checkpoints.wait()
        for like, first in (
            (params(5), r"params/head/kernel = float32\[3, 4\], wanted is float32\[3, 5\]"),
            ({"neck": jnp.ones(2)}, r"params/neck = absent, wanted is float32\[2\]"),
        ):
            with pytest.raises(ValueError, match=f"another network or optimizer: it has {first}"):
                checkpoints.resume(init_state(like, optimizer, mesh))


def test_schedules_have_the_rates_they_promise():
    steps = Optimizer(learning_rate=0.8, schedule="steps", boundaries=(2, 3), factor=0.5)
    rate = steps.rate(num_epochs=4, steps_per_epoch=10)
    assert [float(rate(s)) for s in (0, 19, 21, 29, 31)] == pytest.approx(
        [0.8, 0.8, 0.4, 0.4, 0.2]
    )
    cosine = Optimizer(learning_rate=1.0, schedule="cosine").rate(num_epochs=2, steps_per_epoch=50)
    assert float(cosine(25)) == pytest.approx((1 + np.cos(np.pi / 4)) / 2)
    cycle = Optimizer(learning_rate=1.0).rate(num_epochs=1, steps_per_epoch=100)
    assert float(cycle(15)) == pytest.approx(1.0)
    assert float(cycle(99)) < 0.01


def test_sgd_is_the_textbook_rule():
    update = Optimizer(
        method="sgd", learning_rate=0.1, schedule="constant", momentum=0.9, weight_decay=0.01
    ).build(num_epochs=1, steps_per_epoch=1)
    params, state = jnp.array(2.0), update.init(jnp.array(2.0))
    weight, velocity = 2.0, 0.0
    for gradient in (1.0, -3.0, 0.5):
        change, state = update.update(jnp.array(gradient), state, params)
        params = optax.apply_updates(params, change)
        velocity = 0.9 * velocity + gradient + 0.01 * weight
        weight -= 0.1 * velocity
        assert float(params) == pytest.approx(weight, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optimizer(learning_rate=0.0), "learning_rate=0.0 must be positive"),
        (lambda: Optimizer(clip_norm=float("inf")), "clip_norm=inf must be positive and finite"),
        (lambda: Optimizer(factor=-1.0), "factor=-1.0 must be positive"),
        (lambda: Optimizer(weight_decay=-1.0), "weight_decay=-1.0 must be at least 0"),
        (lambda: Optimizer(momentum=1.0), r"momentum=1.0 must lie in \[0, 1\)"),
        (lambda: Optimizer(schedule="steps"), "needs boundaries"),
        (lambda: Optimizer(schedule="steps", boundaries=(3, 2)), "must increase"),
        (lambda: Data(num_validation=0), "num_validation=0"),
        (lambda: line_task(num_epochs=0), "num_epochs=0 must be at least 1"),
        (lambda: data_mesh(99), "num_devices=99 must lie in"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
