"""The training loop all programs share: one pure jitted step, epochs, checkpoints, resumption."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from rainjax._types import Params, PRNGKey
from rainjax.devices import batch_sharding, data_mesh, replicated
from rainjax.keys import Purpose, purpose_key
from train.run import Run, Stop

Example = Mapping[str, Any]
Metrics = dict[str, Any]
# (params, frozen, key, example) -> (loss, metrics), for one example.
LossFn = Callable[[Params, Params, PRNGKey, Example], tuple[Float[Array, ""], Metrics]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Task:
    """What a program teaches: the loss, where batches come from, what decides which epoch is kept.

    `batch(step)` is a pure function of the step, so that a resumed run sees what an
    uninterrupted one would have seen; its arrays have the example axis first and include
    `index`, the position of each example in the data set, which its key is made of.
    `evaluate(params)` measures on validation data; `select` names its number to maximise.
    """

    loss: LossFn
    batch: Callable[[int], dict[str, np.ndarray]]
    evaluate: Callable[[Params], Metrics]
    select: str
    batch_size: int
    num_epochs: int
    steps_per_epoch: int

    def __post_init__(self):
        for field in ("batch_size", "num_epochs", "steps_per_epoch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The parameters of the best epoch, and the numbers that go on their card."""

    params: Params
    metrics: Metrics
    seconds: float


def make_step(
    loss: LossFn, optimizer: optax.GradientTransformation, mesh: Mesh, frozen: Params = ()
) -> Callable[[TrainState, PRNGKey, Example], tuple[TrainState, Metrics]]:
    """Returns the jitted `(state, key, batch) -> (state, metrics)`; it consumes `state`.

    `frozen` is an argument of the loss and no output of the step: nothing can change it.
    """

    def step(frozen, state, key, batch):
        # The key tree: purpose (`key`) -> example index -> step.
        keys = jax.vmap(
            lambda index: jax.random.fold_in(jax.random.fold_in(key, index), state.step)
        )(batch["index"])

        def mean_loss(params):
            losses, metrics = jax.vmap(lambda k, x: loss(params, frozen, k, x))(keys, batch)
            return losses.mean(), jax.tree.map(lambda m: m.mean(), metrics)

        (value, metrics), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient), **metrics}
        return TrainState(state.step + 1, params, opt_state), metrics

    everywhere = replicated(mesh)
    frozen = jax.device_put(frozen, everywhere)
    jitted = jax.jit(step, donate_argnums=1, out_shardings=(everywhere, everywhere))
    return lambda state, key, batch: jitted(
        frozen, state, key, jax.device_put(batch, batch_sharding(mesh))
    )


def init_state(params: Params, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns the state before the first step, a whole copy on every device."""
    params = jax.tree.map(lambda p: jnp.array(p, copy=True), params)  # the steps consume it
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    return jax.device_put(state, replicated(mesh))


def mean_over(
    fn: Callable[[Params, PRNGKey, Example], Metrics],
    examples: dict[str, np.ndarray],
    *,
    seed: int,
    batch_size: int,
) -> Callable[[Params], Metrics]:
    """Returns `params -> metrics`: the mean over all `examples` of `fn` of one example.

    The keys depend on the seed and on each example's `index` alone: every epoch is measured
    with the same draws.
    """
    num_examples = len(examples["index"])
    batch_size = min(batch_size, num_examples)
    mesh = data_mesh(batch_size=batch_size)
    root = purpose_key(seed, Purpose.SCORE)

    @jax.jit
    def one_batch(params, root, batch):
        keys = jax.vmap(lambda index: jax.random.fold_in(root, index))(batch["index"])
        return jax.vmap(lambda k, x: fn(params, k, x))(keys, batch)

    def evaluate(params):
        params = jax.device_put(params, replicated(mesh))
        parts = []
        for start in range(0, num_examples, batch_size):
            # The last batch is filled up, so that there is one shape to compile.
            rows = np.minimum(np.arange(start, start + batch_size), num_examples - 1)
            batch = {name: values[rows] for name, values in examples.items()}
            part = one_batch(params, root, jax.device_put(batch, batch_sharding(mesh)))
            kept = num_examples - start
            parts.append(jax.tree.map(lambda m, kept=kept: np.asarray(m)[:kept], part))
        return {name: float(np.concatenate([p[name] for p in parts]).mean()) for name in parts[0]}

    return evaluate


def fit(
    task: Task,
    params: Params,
    optimizer: optax.GradientTransformation,
    run: Run,
    *,
    seed: int,
    frozen: Params = (),
) -> Outcome:
    """Trains, and returns the epoch with the highest validation number, the start included.

    A checkpoint is written after every epoch and when the run is asked to stop; a run that
    finds one goes on from it, and ends with the parameters it would have had in one go.

    Raises:
      Stop: the loss is no longer finite, the gradient is zero, or the run was asked to stop.
    """
    mesh = data_mesh(batch_size=task.batch_size)
    state = init_state(params, optimizer, mesh)
    step_fn = make_step(task.loss, optimizer, mesh, frozen)
    key = purpose_key(seed, Purpose.TRAIN)
    num_steps = task.num_epochs * task.steps_per_epoch

    resumed = run.resume({"state": state, "best": state.params})
    if resumed is None:
        best, best_epoch, before, seconds = _copy(state.params), 0, task.evaluate(params), 0.0
        best_value = before[task.select]
        if not math.isfinite(best_value):
            raise Stop(
                f"The parameters to start from have {task.select} = {best_value} on the "
                "validation images, and no epoch compares with that: look at these images."
            )
        run.log({"epoch": 0, "step": 0, **_prefixed(before)})
        validation = before
    else:
        tree, note = resumed
        state, best = tree["state"], tree["best"]
        best_epoch, best_value, before = note["best_epoch"], note["best_value"], note["before"]
        validation, seconds = note["validation"], note["seconds"]
    started = time.monotonic() - seconds

    def save(step):
        note = {
            "best_epoch": best_epoch,
            "best_value": best_value,
            "before": before,
            "validation": validation,
            "seconds": time.monotonic() - started,
        }
        run.save(step, {"state": state, "best": best}, note)

    first = int(state.step)
    window = _Window()
    pending = None
    bar = tqdm(total=num_steps, initial=first, unit="step", dynamic_ncols=True, mininterval=1)
    with bar, run.listening() as asked_to_stop:
        for step in range(first, num_steps):
            state, metrics = step_fn(state, key, task.batch(step))
            # One step behind, so that the devices never wait for the host.
            window.add(pending, task.batch_size)
            pending = metrics, step + 1
            bar.set_postfix_str(window.summary(), refresh=False)
            bar.update()
            epoch, position = divmod(step + 1, task.steps_per_epoch)
            if position == 0:
                window.add(pending, task.batch_size)
                pending = None
                window.check_learning(epoch)
                validation = task.evaluate(state.params)
                if validation[task.select] > best_value:
                    best, best_epoch, best_value = (
                        _copy(state.params),
                        epoch,
                        validation[task.select],
                    )
                line = {
                    "epoch": epoch,
                    "step": step + 1,
                    **window.means(),
                    **_prefixed(validation),
                }
                run.log(line)
                tqdm.write(_sentence(line, task.num_epochs, is_best=best_epoch == epoch))
                save(step + 1)
                window = _Window()
            if asked_to_stop() and step + 1 < num_steps:
                if position:
                    window.add(pending, task.batch_size)
                    save(step + 1)
                raise Stop(
                    f"Stopped after step {step + 1} of {num_steps}, which is saved in "
                    f"{run.folder}: the same command, without --fresh, goes on from there."
                )
    final = {
        "selected_epoch": best_epoch,
        "num_epochs": task.num_epochs,
        "validation": {"metric": task.select, "value": best_value},
        "validation_before": before,
        "validation_last_epoch": validation,
    }
    return Outcome(best, final, time.monotonic() - started)


class _Window:
    """Running means of the steps since the last epoch's end, and a check that learning goes on."""

    def __init__(self):
        self._sums: dict[str, float] = {}
        self._count = 0
        self._num_images = 0
        self._started = time.monotonic()

    def add(self, pending: tuple[Metrics, int] | None, num_images: int) -> None:
        if pending is None:
            return
        metrics, step = pending
        values = {name: float(value) for name, value in metrics.items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                raise Stop(
                    f"The {name.replace('_', ' ')} of step {step} is {values[name]}; the last "
                    "checkpoint is kept. Lower optimizer.learning_rate or set "
                    "optimizer.clip_norm, and start again with --fresh."
                )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._num_images += num_images

    def check_learning(self, epoch: int) -> None:
        # A network whose every output is clipped, or every unit dead, does not come back.
        if self._sums["gradient_norm"] == 0:
            raise Stop(
                f"In all of epoch {epoch} the gradient was zero: nothing is being learned any "
                "more. The last checkpoint is kept. Lower optimizer.learning_rate, and start "
                "again with --fresh."
            )

    def means(self) -> Metrics:
        seconds = time.monotonic() - self._started
        means = {name: total / self._count for name, total in self._sums.items()}
        return {**means, "images_per_second": self._num_images / seconds}

    def summary(self) -> str:
        if not self._count:
            return ""
        means = self.means()
        return f"loss {means['loss']:.4g}, {means['images_per_second']:.0f} images/s"


def _copy(tree: Params) -> Params:
    """Copies arrays, because the next step consumes the ones it is given."""
    return jax.tree.map(jnp.copy, tree)


def _prefixed(metrics: Metrics) -> Metrics:
    return {f"validation_{name}": value for name, value in metrics.items()}


def _sentence(line: Metrics, num_epochs: int, *, is_best: bool) -> str:
    numbers = ", ".join(
        f"{name} {value:.4g}" for name, value in line.items() if name not in ("epoch", "step")
    )
    return f"epoch {line['epoch']}/{num_epochs}: {numbers}{' (best so far)' if is_best else ''}"
