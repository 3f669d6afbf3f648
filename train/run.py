"""The folder of one training run: configuration, checkpoints, metrics, and stopping politely."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import jax
import numpy as np
import PIL.Image
from tensorboardX import SummaryWriter
from tqdm import tqdm

from rainjax._output import until_closed
from rainjax.checkpoints import Checkpoints, Note
from rainjax.devices import wait_for_all
from rainjax.evaluation.provenance import provenance
from rainjax.typing import Params
from train.compute import anywhere


class Stop(Exception):
    """Ends a program with one sentence instead of a traceback."""


class Paused(Stop):
    """Ends a program that was asked to stop, and can go on; its exit status is 75."""


class Run:
    """One run in `folder`: goes on where it was if the folder holds its checkpoints.

    `identity` is everything that decides the outcome (options, sha256 of initial parameters,
    the data's fingerprint), as JSON; `keep` the checkpoints that stay beside the best. Where
    several processes train, each has a `Run` of the same folder, and the first of them writes. Use
    as a context manager.

    Raises:
      Stop: the folder holds a run of another identity, and the sentence names what differs; or
        another process trains there.
      ValueError: all its checkpoints are damaged.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        identity: dict[str, Any],
        *,
        fresh: bool = False,
        keep: int = 2,
    ):
        self.folder = folder
        self._writes = jax.process_index() == 0
        self._here = provenance()
        self._sessions: list[dict[str, Any]] = []
        self._identity = json.loads(json.dumps(flat(identity)))  # as a checkpoint gives it back
        self._metrics = folder / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        self._keep = keep
        self.fresh = fresh
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock() if self._writes else None
        wait_for_all("the run's folder")
        self._open: Checkpoints | None = None
        if not fresh:
            try:
                self._require_same_identity()
            except BaseException:
                self.__exit__()
                raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.ExitStack() as closing:
            if self._lock is not None:
                closing.callback(self._lock.close)
            if self._open is not None:
                closing.callback(self._open.close)
            if self._board is not None:
                with contextlib.suppress(OSError):  # `log` says so, and it holds nothing else
                    self._board.close()

    @property
    def _checkpoints(self) -> Checkpoints:
        if self._open is None:
            self._open = Checkpoints(self.folder / "checkpoints", keep=self._keep)
        return self._open

    def resume(self, like: Any) -> tuple[int, Params, Note] | None:
        """Returns the newest readable checkpoint's step, tree and note; None at a fresh start.

        What a run before left is deleted here, where nothing but training can go wrong any more.
        """
        if self.fresh:
            if self._writes:
                self._clear()
                if (self.folder / "checkpoints").exists():
                    shutil.rmtree(self.folder / "checkpoints")
                for ending in ("safetensors", "json", "png"):  # not to be taken for this run's
                    (self.folder / f"{self.folder.name}.{ending}").unlink(missing_ok=True)
            wait_for_all("the folder is empty")
            return None
        found = self._checkpoints.resume(like)
        if found is None:
            if self._writes:
                self._clear()
            return None
        step, (tree, note) = found
        self._sessions = note.get("sessions", [])
        self.say(f"Going on from step {step} in {self.folder} (--fresh starts over).")
        # What was logged after this checkpoint is about to be logged again.
        if self._writes and self._metrics.exists():
            lines = self._metrics.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            part = self._metrics.with_suffix(".part")
            part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            part.replace(self._metrics)
        self._open_board(purge_step=step + 1)
        return step, tree, note

    def save(self, step: int, tree: Params, note: Note, *, value: float | None = None) -> None:
        """Begins to write a checkpoint; the one with the highest `value` stays."""
        if self._here not in self._sessions:
            self._sessions = [*self._sessions, self._here]
        facts = {"identity": self._identity, "sessions": self._sessions}
        self._checkpoints.save(step, tree, {**note, **facts}, value=value)

    def best(self, like: Any) -> tuple[int, Params, float]:
        """Returns step, tree and value of the best checkpoint that can be read.

        Raises:
          ValueError: none can, or none was saved with a value.
        """
        self._checkpoints.wait()
        found = self._checkpoints.best(like)
        if found is None:
            raise ValueError(f"{self.folder} holds no checkpoint with a value.")
        step, (tree, value) = found
        return step, tree, value

    def wait(self) -> None:
        """Returns when the checkpoints that `save` began are whole."""
        self._checkpoints.wait()

    @property
    def made_by(self) -> dict[str, Any]:
        """Command, versions and machine that began the run, and any others that went on."""
        first, *others = self._sessions or [self._here]
        made = {**first, "continued_by": others} if others else first
        # A finished run trains no more, but may store what it learned in another way.
        return made if self._here in (first, *others) else {**made, "stored_by": self._here}

    def log(self, line: dict[str, Any]) -> None:
        """Appends a line to `metrics.jsonl`, and its numbers to the files TensorBoard reads."""
        if not self._writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        board = self._open_board()
        for name, value in line.items():
            if isinstance(value, (int, float)) and name != "step":
                kind = "validation" if name.startswith("validation_") else "training"
                tag = f"{kind}/{name.removeprefix('validation_')}"
                board.add_scalar(tag, value, line["step"])
        board.flush()

    def picture(self, step: int, name: str, draw: Callable[[pathlib.Path], None]) -> None:
        """Has `draw` write `panels/<name>.png`, and shows it in TensorBoard."""
        if not self._writes:
            return
        path = self.folder / "panels" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path)
        with PIL.Image.open(path) as image:
            self._open_board().add_image(
                "panel", np.asarray(image.convert("RGB")), step, dataformats="HWC"
            )

    def say(self, sentence: str) -> None:
        """Prints above the progress bar, once however many processes there are."""
        if self._writes:
            tqdm.write(sentence)
            sys.stdout.flush()

    def _open_board(self, purge_step: int | None = None) -> SummaryWriter:
        if self._board is None:
            # What was written after `purge_step` is about to be written again.
            self._board = SummaryWriter(
                logdir=str(self.folder / "tensorboard"), purge_step=purge_step
            )
        return self._board

    def _take_lock(self) -> TextIO | None:
        """Keeps other runs out of the folder, on systems that can; it ends with the process."""
        try:
            import fcntl
        except ImportError:
            return None
        file = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise Stop(
                f"Another process trains in {self.folder}: wait for it, or choose another --name."
            ) from None
        return file

    def _clear(self) -> None:
        """Deletes what a run before noted in this folder."""
        for name in ("tensorboard", "panels"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self._metrics.unlink(missing_ok=True)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Callable[[], bool]]:
        """Yields a function that says whether Ctrl-C or SIGTERM has come; a second one kills.

        It has come for all processes when it has for one, and all of them have to ask.
        """
        received = []

        def note(number, frame):
            del frame
            received.append(number)
            signal.signal(number, signal.default_int_handler)

        previous = {number: signal.signal(number, note) for number in _SIGNALS}
        try:
            yield lambda: anywhere(bool(received))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _require_same_identity(self) -> None:
        latest = self._checkpoints.latest()
        if latest is None:
            return
        saved = latest[1].get("identity", {})
        names = sorted(saved.keys() | self._identity.keys())
        differing = [name for name in names if saved.get(name) != self._identity.get(name)]
        if differing:
            name = differing[0]
            others = f" (and {', '.join(differing[1:])})" if differing[1:] else ""
            raise Stop(
                f"{self.folder} holds a run with {name} = {saved.get(name)!r}, not "
                f"{self._identity.get(name)!r}{others}: choose another --name, or start over "
                "with --fresh."
            )


def flat(tree: Any) -> dict[str, Any]:
    """Returns nested dataclasses, dicts and tuples as one JSON dict with dotted names."""
    plain = tree if isinstance(tree, dict) else dataclasses.asdict(tree)
    leaves: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict) or dataclasses.is_dataclass(value):
            leaves |= {f"{name}.{inner}": leaf for inner, leaf in flat(value).items()}
        elif isinstance(value, tuple):
            leaves[name] = list(value)
        elif isinstance(value, pathlib.PurePath):
            leaves[name] = value.name
        else:
            leaves[name] = value
    return leaves


def main(
    program: Callable[[], None],
    *,
    interrupted: str = "What was saved is kept: the same command, without --fresh, goes on.",
) -> None:
    """Runs a program; expected errors become one sentence on stderr and a non-zero exit.

    The exit status is 75, which asks to try again later, where the run was stopped politely.
    """
    try:
        with until_closed():
            program()
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. {interrupted}")
    except (Stop, ValueError, OSError, ImportError) as error:
        if os.environ.get("RAINJAX_TRACEBACK"):
            raise
        if isinstance(error, Paused):
            print(error, file=sys.stderr)
            sys.exit(75)
        sys.exit(f"error: {error}" if not isinstance(error, Stop) else str(error))


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _step_of(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a line cut short by a kill
