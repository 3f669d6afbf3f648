"""What a ladder keeps on its way, so that a process that is killed loses one batch of a rung."""

import pathlib
import time
from collections.abc import Callable

import numpy as np

from rainjax._files import read_arrays, write_arrays
from rainjax.evaluation.describe import digest


class RungFiles:
    """Keeps the batches of a ladder's rungs in files beside the one that it will be.

    `seconds` is what all that was asked for took to make, in this process or an earlier one.
    """

    def __init__(self, attacked: pathlib.Path):
        self._attacked = attacked
        self.seconds = 0.0

    def __call__(
        self, place: list[int], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Returns what is kept of a place, and makes it where nothing is.

        Raises:
            ValueError: the file is damaged; says which to delete.
        """
        path = self._path(digest(place))
        if not path.exists():
            began = time.perf_counter()
            made = make()
            write_arrays(path, {**made, "seconds": np.array(time.perf_counter() - began)})
        kept = read_arrays(path)
        self.seconds += float(kept.pop("seconds"))
        return kept

    def remove(self) -> None:
        """Removes the files, when the ladder is one."""
        for path in self._attacked.parent.glob(self._path("*").name):
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> pathlib.Path:
        return self._attacked.with_name(f"r-{self._attacked.stem}-{name}.npz")
