"""Checkpoints of a training run; the one file that knows Orbax."""

import contextlib
import logging
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import jax
from jaxtyping import PyTree

from rainjax._extras import require
from rainjax.typing import Params

Note = dict[str, Any]

ocp = require("orbax.checkpoint", name="Orbax", extra="train").v1

# Its threads log with a traceback what `_writing` says in a sentence.
logging.getLogger("absl").addFilter(lambda record: not record.exc_info)


class Checkpoints:
    """The last `keep` checkpoints of one run and the best one, numbered by training step.

    Each holds a tree of arrays and a note. It is written while the run goes on, and appears whole
    or not at all, so a run killed while it saves still has the one before. One that is damaged
    all the same is passed over with a warning. Where several processes train, all of them make
    every call, and `folder` is one that all of them see. Use as a context manager.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        self._folder = folder.absolute()
        self._keep = keep
        self._values: dict[int, float] = {}
        self._unreadable: set[int] = set()
        self._checkpointer = ocp.training.Checkpointer(
            str(self._folder), preservation_policy=self, cleanup_tmp_directories=True
        )
        for step in self.steps():
            with contextlib.suppress(_Damaged):  # said when somebody wants it
                value = self._facts(step)["value"]
                if value is not None:
                    self._values[step] = value

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written, and releases the folder; raises as `save`."""
        with self._writing():
            self._checkpointer.close()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tells Orbax which checkpoints stay: it asks after each that it has written.

        One that was found damaged takes nobody's place.
        """
        del context
        steps = [found.step for found in checkpoints if found.step not in self._unreadable]
        kept = {*steps[-self._keep :], *self._rated(steps)[:1]}
        return [found.step in kept for found in checkpoints]

    def _rated(self, steps: Sequence[int]) -> list[int]:
        """Returns the steps that have a value, the best first, of equal ones the earlier."""
        return sorted(
            (step for step in steps if step in self._values),
            key=lambda step: (-self._values[step], step),
        )

    def save(self, step: int, tree: Params, note: Note, *, value: float | None = None) -> None:
        """Begins to write `tree` and the JSON-like `note` as the checkpoint of `step`.

        The arrays may be used up as soon as this returns. The checkpoint with the highest `value`
        is kept, of equal ones the first; one without a value is never the best.

        Raises:
          OSError: the folder cannot be written to; where that shows later, `wait` and `close` say
            so. What was written before is kept.
        """
        self._values.pop(step, None)
        self._unreadable.discard(step)
        if value is not None:
            self._values[step] = value
        facts: dict[str, Any] = {"note": note, "value": value, "shapes": _shapes(tree)}
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it
            self._checkpointer.save_async(
                step, tree, custom_metadata=facts, force=True, overwrite=True
            )

    def wait(self) -> None:
        """Returns when all that `save` began is on the disk; raises as `save`."""
        with self._writing():
            self._checkpointer.wait()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are there, damaged ones among them."""
        return [found.step for found in self._checkpointer.checkpoints]

    def latest(self) -> tuple[int, Note] | None:
        """Returns step and note of the newest checkpoint whose note can be read, or None.

        Raises:
          ValueError: there are checkpoints, and all of them are damaged.
        """
        return self._first_readable(self.steps()[::-1], lambda step: self._facts(step)["note"])

    def resume(self, like: PyTree[Any]) -> tuple[int, tuple[Params, Note]] | None:
        """Returns step, tree and note of the newest checkpoint that can be read, or None.

        Raises:
          ValueError: all of them are damaged, or the tree has other parameters than `like`; the
            sentence names the first that differs.
        """
        return self._first_readable(
            self.steps()[::-1], lambda step: (self._restore(step, like), self._facts(step)["note"])
        )

    def best(self, like: PyTree[Any]) -> tuple[int, tuple[Params, float]] | None:
        """Returns step, tree and value of the best checkpoint that can be read, or None.

        Raises:
          ValueError: as `resume`.
        """
        return self._first_readable(
            self._rated(self.steps()),
            lambda step: (self._restore(step, like), self._values[step]),
        )

    def _first_readable(self, steps, read):
        damaged = []
        for step in steps:
            try:
                found = step, read(step)
            except _Damaged as error:
                if step not in self._unreadable:
                    damaged.append(error)
                self._unreadable.add(step)
                continue
            for error in damaged:
                warnings.warn(f"{error}; the one of step {step} is taken.", stacklevel=3)
            return found
        if steps:
            reason = damaged[0] if damaged else f"All checkpoints in {self._folder} are damaged"
            raise ValueError(f"{reason}, and there is no other: start over with --fresh.")
        return None

    def _facts(self, step: int) -> dict[str, Any]:
        """Returns what `save` wrote beside the arrays."""
        with self._reading(step):
            found = self._checkpointer.metadata(step).custom_metadata
        if not isinstance(found, dict) or not {"note", "value", "shapes"} <= found.keys():
            # Orbax reads damaged metadata as empty.
            raise self._damaged(step, "its metadata is missing")
        return found

    def _restore(self, step: int, like: PyTree[Any]) -> Params:
        saved = self._facts(step)["shapes"]
        wanted = _shapes(like)
        for name in [*wanted, *saved]:
            if saved.get(name) != wanted.get(name):
                raise ValueError(
                    f"The checkpoint {self._folder / str(step)} is of another network or "
                    f"optimizer: it has {name} = {_words(saved.get(name))}, wanted is "
                    f"{_words(wanted.get(name))}."
                )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        with self._reading(step), warnings.catch_warnings():
            # Said when the machine has other devices than the one that saved.
            warnings.filterwarnings("ignore", message=".*[Ss]harding")
            return self._checkpointer.load(step, abstract)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Takes what Orbax and TensorStore raise for a folder that cannot be written to."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            if "RESOURCE_EXHAUSTED" in str(error) and "space" not in str(error):  # a device's
                raise
            raise OSError(
                f"No checkpoint can be written to {self._folder} ({_first_cause(error)}): make "
                "room, or mend the folder, and run again; the checkpoints before are kept."
            ) from error

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Takes what Orbax and TensorStore raise on damaged files for damage, and no more."""
        try:
            yield
        except (MemoryError, PermissionError):
            raise
        except Exception as error:
            if "RESOURCE_EXHAUSTED" in str(error):  # of a device's memory
                raise
            raise self._damaged(step, _first_cause(error)) from error

    def _damaged(self, step: int, reason: str) -> "_Damaged":
        return _Damaged(f"The checkpoint {self._folder / str(step)} is damaged ({reason})")


class _Damaged(Exception):
    """A checkpoint that cannot be read."""


def _first_cause(error: BaseException) -> str:
    """Returns the first line of what was raised before all else."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    words = (isinstance(error, OSError) and error.strerror) or str(error).strip()
    return (words or type(error).__name__).splitlines()[0][:200]


def _shapes(tree: PyTree[Any]) -> dict[str, list]:
    """Returns shape and dtype of each array by its path, as JSON gives them back."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): [*leaf.shape, str(leaf.dtype)] for path, leaf in leaves}


def _words(shape: list | None) -> str:
    return "absent" if shape is None else f"{shape[-1]}[{', '.join(map(str, shape[:-1]))}]"
