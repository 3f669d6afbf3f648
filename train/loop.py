"""The training loop all programs share: epochs of one pure step, checkpoints, resumption."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array
from tqdm import tqdm

from rainjax.checkpoints import Note
from rainjax.keys import Purpose, purpose_key
from rainjax.typing import Params
from train.batches import ahead
from train.compute import PLAIN, Compute, place_batch, whole
from train.run import Paused, Run, Stop
from train.step import LossFn, Metrics, TrainState, init_state, make_step

# How many steps lie between two questions to the other processes whether to stop.
_ASK_EVERY = 10
_MEND = "Lower optimizer.learning_rate or set optimizer.clip_norm, and start again with --fresh."


@dataclasses.dataclass(frozen=True)
class Task:
    """What a program teaches: the loss, where batches come from, what decides which epoch is kept.

    `batches(step)` begins an endless sequence of batches at that step, which depends on it alone,
    so that a resumed run sees what an uninterrupted one would have seen; their arrays have the
    example axis first and include `index`, the position of each example in the data set, which
    its key is made of. `corrupt`, where it is among them, holds the index of a picture that was
    passed over for the example, or -1. `evaluate(params)` measures on validation data; `select`
    names its number to maximise. `panel(params, path)` draws what has been learned.
    """

    loss: LossFn
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]]
    evaluate: Callable[[Params], Metrics]
    select: str
    batch_size: int
    num_epochs: int
    steps_per_epoch: int
    panel: Callable[[Params, Any], None] | None = None

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


def fit(
    task: Task,
    params: Params,
    optimizer: optax.GradientTransformation,
    run: Run,
    *,
    seed: int,
    frozen: Params = (),
    compute: Compute = PLAIN,
) -> Outcome:
    """Trains, and returns the epoch with the highest validation number, the start included.

    A checkpoint is written after every epoch and when the run is asked to stop; a run that
    finds one goes on from it, and ends with the parameters it would have had in one go.

    Raises:
      Stop: loss, gradient, parameters or validation are no longer finite, or the gradient is
        zero. The last checkpoint stays.
      Paused: the run was asked to stop, and what it had is saved.
    """
    mesh = compute.mesh(task.batch_size)
    state = init_state(params, optimizer, mesh, average=compute.average)
    step_fn = make_step(
        task.loss, optimizer, mesh, frozen,
        accumulate=compute.accumulate, average=compute.average,
    )  # fmt: skip
    key = purpose_key(seed, Purpose.TRAIN)
    if mesh.size < jax.device_count():
        run.say(
            f"A batch of {task.batch_size} is spread over {mesh.size} of {jax.device_count()} "
            f"devices: a multiple of {jax.device_count() * compute.accumulate} would use all."
        )
    if run.fresh:
        # What does not fit shows before the run that lies there is deleted.
        batch = {n: rows for n, rows in next(task.batches(0)).items() if n != "corrupt"}
        jax.eval_shape(step_fn, state, key, place_batch(batch, mesh))

    with run.listening() as asked_to_stop:
        resumed = run.resume(state)
        if resumed is None:
            first, history = 0, _start(task, state, run)
        else:
            first, state, note = resumed
            history = _History.from_note(note)
        trained = _Training(task, run, history, asked_to_stop)
        state = trained.steps(state, functools.partial(step_fn, key=key), mesh, first)

    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    del state  # the best one takes its place on the devices
    best_step, best, value = run.best(abstract)
    final = {
        "selected_epoch": best_step // task.steps_per_epoch,
        "num_epochs": task.num_epochs,
        "validation": {"metric": task.select, "value": value},
        "validation_before": history.before,
        "validation_last_epoch": history.validation,
    }
    if history.corrupt:
        final["corrupt_images"] = len(history.corrupt)
    return Outcome(whole(best.learned), final, trained.seconds)


class _Training:
    """The steps of a run from where it was, epoch by epoch."""

    def __init__(self, task: Task, run: Run, history: "_History", asked_to_stop):
        self._task, self._run, self._history = task, run, history
        self._asked_to_stop = asked_to_stop
        self._started = time.monotonic() - history.seconds
        self._window = _Window(history, task, run)

    @property
    def seconds(self) -> float:
        """The time that the run has taken so far, in all its sessions."""
        return time.monotonic() - self._started

    def steps(self, state: TrainState, step_fn, mesh: Mesh, first: int) -> TrainState:
        """Takes the steps from `first` on, and returns the state after the last."""
        task, window = self._task, self._window
        num_steps = task.num_epochs * task.steps_per_epoch
        source = task.batches(first)
        batches = ahead(window.without_corrupt(source), lambda batch: place_batch(batch, mesh))
        bar = tqdm(
            total=num_steps, initial=first, unit="step", dynamic_ncols=True, mininterval=1,
            disable=jax.process_index() > 0,
        )  # fmt: skip
        pending = None
        with bar, contextlib.ExitStack() as closing:
            # Workers and their shared memory; a plain iterator has nothing to close.
            closing.callback(getattr(source, "close", lambda: None))
            for step in range(first, num_steps):
                try:
                    batch = window.next_of(batches)
                except Exception:
                    # Who stops all of a job's processes stops those that read as well.
                    if not self._asked_to_stop():
                        raise
                    self._pause(state, step)
                state, metrics = step_fn(state, batch=batch)
                # One step behind, so that the devices never wait for the host.
                window.add(pending)
                pending = metrics, step + 1
                bar.set_postfix_str(window.summary(), refresh=False)
                bar.update()
                ends_epoch = (step + 1) % task.steps_per_epoch == 0
                if ends_epoch:
                    window.add(pending)
                    pending = None
                    self._end_epoch(state, step + 1)
                asks = ends_epoch or (step + 1) % _ask_every() == 0
                if asks and step + 1 < num_steps and self._asked_to_stop():
                    window.add(pending)
                    self._pause(state, step + 1, saved=ends_epoch)
        return state

    def _end_epoch(self, state: TrainState, step: int) -> None:
        task, run, window = self._task, self._run, self._window
        epoch = step // task.steps_per_epoch
        window.check_learning(epoch)
        line = {"epoch": epoch, "step": step, **window.means()}
        validation = task.evaluate(whole(state.learned))
        _require_finite(validation, f"after epoch {epoch}")
        line |= _prefixed(validation)
        run.log(line)
        value = validation[task.select]
        is_best = self._history.take(validation, value)
        run.say(_sentence(line, task.num_epochs, is_best=is_best))
        self._save(state, step, value)
        _draw(task, state, run, epoch, step)
        window.restart()

    def _save(self, state: TrainState, step: int, value: float | None = None) -> None:
        if not _all_finite((state.params, state.average)):
            raise Stop(
                f"The parameters after step {step} are no longer finite; the checkpoint before is "
                f"kept. {_MEND}"
            )
        self._history.seconds = self.seconds
        self._run.save(step, state, dataclasses.asdict(self._history), value=value)

    def _pause(self, state: TrainState, step: int, *, saved: bool = False) -> NoReturn:
        if not saved:
            self._save(state, step)
        self._run.wait()
        raise Paused(
            f"Stopped after step {step} of {self._task.num_epochs * self._task.steps_per_epoch}, "
            f"which is saved in {self._run.folder}: the same command, without --fresh, goes on "
            "from there."
        )


@dataclasses.dataclass
class _History:
    """What a checkpoint remembers besides the state."""

    before: Metrics
    validation: Metrics
    best_value: float
    seconds: float = 0.0
    corrupt: list[int] = dataclasses.field(default_factory=list)

    @classmethod
    def from_note(cls, note: Note) -> "_History":
        return cls(**{field.name: note[field.name] for field in dataclasses.fields(cls)})

    def take(self, validation: Metrics, value: float) -> bool:
        """Notes an epoch's validation; returns whether it is the best so far."""
        self.validation = validation
        is_best = value > self.best_value
        self.best_value = max(value, self.best_value)
        return is_best


def _start(task: Task, state: TrainState, run: Run) -> _History:
    """Measures the parameters to start from, which may turn out to be the best."""
    before = task.evaluate(whole(state.learned))
    _require_finite(before, "of the parameters to start from")
    value = before[task.select]
    run.log({"epoch": 0, "step": 0, **_prefixed(before)})
    history = _History(before, before, value)
    run.save(0, state, dataclasses.asdict(history), value=value)
    return history


def _require_finite(validation: Metrics, whose: str) -> None:
    for name, value in validation.items():
        if not math.isfinite(value):
            raise Stop(
                f"On the validation images the {name} {whose} is {value}, and no epoch compares "
                f"with that; the last checkpoint is kept. Look at these images, or: {_MEND}"
            )


@jax.jit
def _all_finite(tree: Params) -> Array:
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()


def _draw(task: Task, state: TrainState, run: Run, epoch: int, step: int) -> None:
    """Draws the panel of an epoch: some twenty of them in a run, however long, and the last."""
    panel = task.panel
    if panel is None or (epoch % math.ceil(task.num_epochs / 20) and epoch < task.num_epochs):
        return
    learned = whole(state.learned)
    run.picture(step, f"epoch-{epoch:04d}", lambda path: panel(learned, path))


def _ask_every() -> int:
    return _ASK_EVERY if jax.process_count() > 1 else 1


class _Window:
    """Running means over an epoch, and a check that learning goes on.

    In the epoch in which a run went on they are over the steps since then.
    """

    def __init__(self, history: _History, task: Task, run: Run):
        self._history, self._task, self._run = history, task, run
        self.restart()

    def restart(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0
        self._waited = 0.0
        self._started = time.monotonic()

    def next_of(self, batches: Iterator[Any]) -> Any:
        """Returns the next batch, and counts the time it keeps the host waiting."""
        before = time.monotonic()
        batch = next(batches)
        self._waited += time.monotonic() - before
        return batch

    def without_corrupt(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Takes `corrupt` out of each batch, and says which pictures were passed over.

        Of several processes the first speaks, of its own share.
        """
        for batch in batches:
            passed_over = {int(index) for index in batch.get("corrupt", ()) if index >= 0}
            for index in sorted(passed_over - set(self._history.corrupt)):
                self._history.corrupt.append(index)
                self._run.say(
                    f"Picture {index} cannot be decoded or is too small, and the next one is "
                    f"taken in its place ({len(self._history.corrupt)} such so far)."
                )
            yield {name: rows for name, rows in batch.items() if name != "corrupt"}

    def add(self, pending: tuple[Metrics, int] | None) -> None:
        if pending is None:
            return
        metrics, step = pending
        values = {name: float(value) for name, value in metrics.items()}
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                self._run.wait()
                raise Stop(
                    f"The {name.replace('_', ' ')} of step {step} is {values[name]}; the last "
                    f"checkpoint is kept. {_MEND}"
                )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def check_learning(self, epoch: int) -> None:
        # A network whose every output is clipped, or every unit dead, does not come back.
        whole_epoch = self._count == self._task.steps_per_epoch
        if whole_epoch and self._sums["gradient_norm"] == 0:
            raise Stop(
                f"In all of epoch {epoch} the gradient was zero: nothing is being learned any "
                "more. The last checkpoint is kept. Lower optimizer.learning_rate, and start "
                "again with --fresh."
            )

    def means(self) -> Metrics:
        seconds = time.monotonic() - self._started
        means = {name: total / self._count for name, total in self._sums.items()}
        return {
            **means,
            "images_per_second": self._count * self._task.batch_size / seconds,
            "input_wait": self._waited / seconds,
        }

    def summary(self) -> str:
        if not self._count:
            return ""
        means = self.means()
        return (
            f"loss {means['loss']:.4g}, {means['images_per_second']:.0f} images/s, "
            f"{means['input_wait']:.0%} waiting for input"
        )


def _prefixed(metrics: Metrics) -> Metrics:
    return {f"validation_{name}": value for name, value in metrics.items()}


def _sentence(line: Metrics, num_epochs: int, *, is_best: bool) -> str:
    numbers = ", ".join(
        f"{name} {value:.4g}" for name, value in line.items() if name not in ("epoch", "step")
    )
    return f"epoch {line['epoch']}/{num_epochs}: {numbers}{' (best so far)' if is_best else ''}"
