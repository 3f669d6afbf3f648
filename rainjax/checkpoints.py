"""Checkpoints of a training run; the one file that knows Orbax."""

import pathlib
import warnings
from types import TracebackType
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from rainjax._types import Params


class Checkpoints:
    """The last `keep` checkpoints of one run, numbered by training step, each with a note.

    A checkpoint appears whole or not at all, so a run killed while it saves still has the one
    before. Use as a context manager.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        self._folder = folder.absolute()
        # Any: Orbax annotates its own policies and the parameter that takes them differently.
        latest: Any = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            str(self._folder),
            preservation_policy=latest,
            cleanup_tmp_directories=True,
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

    def save(self, step: int, tree: Params, note: dict[str, Any]) -> None:
        """Writes `tree` and the JSON-like `note`, not empty, as the checkpoint of `step`."""
        self._checkpointer.save(step, tree, custom_metadata=note, force=True, overwrite=True)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns the step and the note of the newest checkpoint, or None if there is none.

        Raises:
          ValueError: the newest checkpoint is damaged.
        """
        if self._checkpointer.latest is None:
            return None
        step = self._checkpointer.latest.step
        try:
            note = self._checkpointer.metadata(step).custom_metadata
        except Exception as error:  # whatever Orbax raises on damaged files
            raise self._damaged(step, repr(error)) from error
        if not isinstance(note, dict) or not note:  # Orbax reads damaged metadata as empty
            raise self._damaged(step, "its metadata is missing")
        return step, note

    def restore(self, step: int, like: Params) -> Params:
        """Returns the tree saved at `step`, placed on devices as the arrays of `like` are.

        Raises:
          ValueError: the checkpoint cannot be read as a tree of these shapes.
        """
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

    def _damaged(self, step: int, reason: str) -> ValueError:
        return ValueError(
            f"The checkpoint {self._folder / str(step)} cannot be read ({reason:.200}): "
            "delete that folder to go on from the one before, if there is one."
        )
