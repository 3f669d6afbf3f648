"""Checkpoints of a training run; the one file that knows Orbax."""

import pathlib
import warnings
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from rainjax._types import Params

Note = dict[str, Any]


class Checkpoints:
    """The last `keep` checkpoints of one run and the best one, numbered by training step.

    Each holds a tree of arrays and a note. It is written while the run goes on, and appears whole
    or not at all, so a run killed while it saves still has the one before. One that is damaged
    all the same is passed over with a warning. Where several processes train, all of them make
    every call, and `folder` is one that all of them see. Use as a context manager.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        self._folder = folder.absolute()
        # Any: Orbax annotates its own policies and the parameter that takes them differently.
        policies: Any = ocp.training.preservation_policies
        kept = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        self._checkpointer = ocp.training.Checkpointer(
            str(self._folder), preservation_policy=kept, cleanup_tmp_directories=True
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._checkpointer.close()

    def save(self, step: int, tree: Params, note: Note, *, value: float | None = None) -> None:
        """Begins to write `tree` and the JSON-like `note` as the checkpoint of `step`.

        The arrays may be used up as soon as this returns. The checkpoint with the highest `value`
        is kept, of equal ones the first; one without a value is never the best.
        """
        facts: dict[str, Any] = {"note": note, "shapes": _shapes(tree)}
        self._checkpointer.save_async(
            step,
            tree,
            custom_metadata=facts,
            metrics=None if value is None else {"value": value, "step": step},
            force=True,
            overwrite=True,
        )

    def wait(self) -> None:
        """Returns when all that `save` began is on the disk."""
        self._checkpointer.wait()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints that are there, damaged ones among them."""
        return [found.step for found in self._checkpointer.checkpoints]

    def latest(self) -> tuple[int, Note] | None:
        """Returns step and note of the newest checkpoint whose note can be read, or None.

        Raises:
          ValueError: there are checkpoints, and all of them are damaged.
        """
        return self._first_readable(self.steps()[::-1], lambda step: self._note(step)["note"])

    def resume(self, like: Params) -> tuple[int, tuple[Params, Note]] | None:
        """Returns step, tree and note of the newest checkpoint that can be read, or None.

        Raises:
          ValueError: all of them are damaged, or the tree has other parameters than `like`; the
            sentence names the first that differs.
        """
        return self._first_readable(
            self.steps()[::-1], lambda step: (self._restore(step, like), self._note(step)["note"])
        )

    def best(self, like: Params) -> tuple[int, tuple[Params, float]] | None:
        """Returns step, tree and value of the best checkpoint that can be read, or None.

        Raises:
          ValueError: as `resume`.
        """
        found = self._checkpointer.checkpoints
        rated = {c.step: _rank(c.metrics) for c in found if c.metrics is not None}
        return self._first_readable(
            sorted(rated, key=rated.__getitem__, reverse=True),
            lambda step: (self._restore(step, like), rated[step][0]),
        )

    def restore(self, step: int, like: Params) -> Params:
        """Returns the tree saved at `step`, placed on devices as the arrays of `like` are.

        Raises:
          ValueError: the checkpoint is damaged, or its tree has other parameters than `like`.
        """
        try:
            return self._restore(step, like)
        except _Damaged as error:
            raise ValueError(f"{error}; delete that folder.") from error

    def _first_readable(self, steps, read):
        damaged = []
        for step in steps:
            try:
                found = step, read(step)
            except _Damaged as error:
                damaged.append(error)
                continue
            for error in damaged:
                warnings.warn(f"{error}; the one of step {step} is taken.", stacklevel=3)
            return found
        if damaged:
            raise ValueError(f"{damaged[0]}, and there is no other: start over with --fresh.")
        return None

    def _note(self, step: int) -> Note:
        try:
            found = self._checkpointer.metadata(step).custom_metadata
        except Exception as error:  # whatever Orbax raises on damaged files
            raise self._damaged(step, repr(error)) from error
        if not isinstance(found, dict) or not {"note", "shapes"} <= found.keys():
            # Orbax reads damaged metadata as empty.
            raise self._damaged(step, "its metadata is missing")
        return found

    def _restore(self, step: int, like: Params) -> Params:
        saved = self._note(step)["shapes"]
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
        try:
            with warnings.catch_warnings():
                # Said when the machine has other devices than the one that saved.
                warnings.filterwarnings("ignore", message=".*[Ss]harding")
                return self._checkpointer.load(step, abstract)
        except Exception as error:  # whatever Orbax and TensorStore raise on damaged files
            raise self._damaged(step, repr(error)) from error

    def _damaged(self, step: int, reason: str) -> "_Damaged":
        return _Damaged(f"The checkpoint {self._folder / str(step)} is damaged ({reason:.200})")


class _Damaged(Exception):
    """A checkpoint that cannot be read."""


def _rank(metrics: Any) -> tuple[float, int]:
    return metrics["value"], -metrics["step"]


def _shapes(tree: Params) -> dict[str, list]:
    """Returns shape and dtype of each array by its path, as JSON gives them back."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): [*leaf.shape, str(leaf.dtype)] for path, leaf in leaves}


def _words(shape: list | None) -> str:
    return "absent" if shape is None else f"{shape[-1]}[{', '.join(map(str, shape[:-1]))}]"
