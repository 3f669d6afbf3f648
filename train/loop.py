"""The training loop all programs share: epochs of one pure step, checkpoints, resumption."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from rainjax._types import Params
from rainjax.checkpoints import Note
from rainjax.keys import Purpose, purpose_key
from train.batches import ahead
from train.compute import Compute, place_batch, whole
from train.run import Run, Stop
from train.step import LossFn, Metrics, TrainState, init_state, make_step

# How many steps lie between two questions to the other processes whether to stop.
_ASK_EVERY = 10


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
    compute: Compute | None = None,
) -> Outcome:
    """Trains, and returns the epoch with the highest validation number, the start included.

    A checkpoint is written after every epoch and when the run is asked to stop; a run that
    finds one goes on from it, and ends with the parameters it would have had in one go.

    Raises:
      Stop: the loss is no longer finite, the gradient is zero, or the run was asked to stop.
    """
    compute = compute or Compute()
    mesh = compute.mesh(task.batch_size)
    state = init_state(params, optimizer, mesh, average=compute.average)
    step_fn = make_step(
        task.loss, optimizer, mesh, frozen,
        accumulate=compute.accumulate, average=compute.average,
    )  # fmt: skip
    key = purpose_key(seed, Purpose.TRAIN)
    num_steps = task.num_epochs * task.steps_per_epoch

    resumed = run.resume(state)
    if resumed is None:
        first, history = 0, _start(task, state, run)
    else:
        first, state, note = resumed
        history = _History.from_note(note)
    started = time.monotonic() - history.seconds

    def save(step: int, state: TrainState, value: float | None = None) -> None:
        history.seconds = time.monotonic() - started
        run.save(step, state, dataclasses.asdict(history), value=value)

    window = _Window(history, task, run)
    pending = None
    batches = ahead(window.without_corrupt(task.batches(first)), lambda b: place_batch(b, mesh))
    bar = tqdm(
        total=num_steps, initial=first, unit="step", dynamic_ncols=True, mininterval=1,
        disable=jax.process_index() > 0,
    )  # fmt: skip
    with bar, run.listening() as asked_to_stop:
        for step in range(first, num_steps):
            state, metrics = step_fn(state, key, window.next_of(batches))
            # One step behind, so that the devices never wait for the host.
            window.add(pending)
            pending = metrics, step + 1
            bar.set_postfix_str(window.summary(), refresh=False)
            bar.update()
            epoch, position = divmod(step + 1, task.steps_per_epoch)
            if position == 0:
                window.add(pending)
                pending = None
                window.check_learning(epoch)
                line = {"epoch": epoch, "step": step + 1, **window.means()}
                validation = task.evaluate(whole(state.learned))
                line |= _prefixed(validation)
                run.log(line)
                is_best = history.take(validation, validation[task.select])
                run.say(_sentence(line, task.num_epochs, is_best=is_best))
                save(step + 1, state, validation[task.select])
                _draw(task, state, run, epoch, step + 1)
                window.restart()
            if (step + 1 < num_steps) and (position == 0 or (step + 1) % _ask_every() == 0):
                if not asked_to_stop():
                    continue
                if position:
                    window.add(pending)
                    save(step + 1, state)
                run.wait()
                raise Stop(
                    f"Stopped after step {step + 1} of {num_steps}, which is saved in "
                    f"{run.folder}: the same command, without --fresh, goes on from there."
                )
    best_step, best, value = run.best(state)
    final = {
        "selected_epoch": best_step // task.steps_per_epoch,
        "num_epochs": task.num_epochs,
        "validation": {"metric": task.select, "value": value},
        "validation_before": history.before,
        "validation_last_epoch": history.validation,
    }
    if history.corrupt:
        final["corrupt_images"] = len(history.corrupt)
    return Outcome(whole(best.learned), final, time.monotonic() - started)


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
    value = before[task.select]
    if not math.isfinite(value):
        raise Stop(
            f"The parameters to start from have {task.select} = {value} on the "
            "validation images, and no epoch compares with that: look at these images."
        )
    run.log({"epoch": 0, "step": 0, **_prefixed(before)})
    history = _History(before, before, value)
    run.save(0, state, dataclasses.asdict(history), value=value)
    return history


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
    """Running means of the steps since the last epoch's end, and a check that learning goes on."""

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
        """Takes `corrupt` out of each batch, and says which pictures were passed over."""
        for batch in batches:
            passed_over = {int(index) for index in batch.get("corrupt", ()) if index >= 0}
            for index in sorted(passed_over - set(self._history.corrupt)):
                self._history.corrupt.append(index)
                self._run.say(
                    f"Picture {index} cannot be decoded, and the next one is taken in its place "
                    f"({len(self._history.corrupt)} such so far)."
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
                    "checkpoint is kept. Lower optimizer.learning_rate or set "
                    "optimizer.clip_norm, and start again with --fresh."
                )
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

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
