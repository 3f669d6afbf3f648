"""Training examples in random order: grain reads, decodes and batches them ahead of the steps.

Which examples make a step is a function of the seed and the step alone, whatever the number of
processes and workers: the step is the position, and a checkpoint that knows it needs no other.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import absl.flags
import grain
import jax
import numpy as np

from rainjax.data import DamagedPicture, ImageSet

Element = dict[str, Any]
# The threads that read and decode, and the batches that they are ahead of the steps.
_THREADS, _AHEAD = 2, 4
_ENDLESS = 2**48


class Held:
    """Examples held in memory, as arrays with the example axis first."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays["index"])

    def __getitem__(self, position: int) -> Element:
        return {name: values[position] for name, values in self._arrays.items()}


class Pictures:
    """Examples decoded when they are asked for: `image`, `label`, `index`, and `corrupt`.

    In the place of a picture that cannot be decoded, or is smaller than `min_size`, comes the
    next one that can; `corrupt` is then the index of the former, and otherwise -1. `shape` is
    what every image has to have, where they are to be of one size.
    """

    def __init__(
        self,
        image_set: ImageSet,
        indices: np.ndarray,
        shape: tuple[int, ...] | None = None,
        *,
        min_size: int = 1,
    ):
        self._set, self._indices = image_set, indices
        self._shape, self._min_size = shape, min_size

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Element:
        corrupt = -1
        for step in range(len(self)):
            index = int(self._indices[(position + step) % len(self)])
            image, label = None, -1
            with contextlib.suppress(DamagedPicture):
                image, label = self._set.example(index)
            if image is None or min(image.shape[:2]) < self._min_size:
                corrupt = index if corrupt < 0 else corrupt
                continue
            if self._shape is not None and image.shape != self._shape:
                raise ValueError(
                    f"Picture {index} of {self._set.name!r} has shape {image.shape} where others "
                    f"have {self._shape}: import the set with --size."
                )
            numbers = {"label": label, "index": index, "corrupt": corrupt}
            return {"image": image, **{name: np.int32(n) for name, n in numbers.items()}}
        raise ValueError(
            f"No picture of {self._set.name!r} can be decoded and is at least {self._min_size} "
            "pixels high and wide: import the set anew, or take smaller patches."
        )


@dataclasses.dataclass(frozen=True)
class Batches:
    """An endless sequence of batches: every example once, then once more in another order.

    A batch may hold the last of one pass and the first of the next.

    `change(number, example)`, a pure function of the place of an example in the sequence, may cut
    or alter it. `batch_size` counts the examples of all processes; each gets its share. Call it
    with the number of the first step to have the batches from there on.

    Raises:
      ValueError: the processes do not divide the batch.
    """

    source: Any
    seed: int
    batch_size: int
    change: Callable[[int, Element], Element] | None = None
    workers: int = 0

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1.")
        if self.batch_size % jax.process_count():
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of the number of processes, "
                f"which is {jax.process_count()}."
            )

    def __call__(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        # Not without end: lengths are machine integers, which a batch of one would not fit into.
        passes = _ENDLESS // len(self.source)
        examples = grain.MapDataset.source(self.source).seed(self.seed).shuffle().repeat(passes)
        if self.change is not None:
            examples = examples.map_with_index(self.change)
        share = examples[jax.process_index() :: jax.process_count()]
        batches = share.batch(self.batch_size // jax.process_count())[first_step:]
        reader = batches.to_iter_dataset(grain.ReadOptions(_THREADS, _AHEAD))
        if self.workers:
            absl.flags.FLAGS.mark_as_parsed()  # grain looks at flags of its own, which nobody set
            options = grain.MultiprocessingOptions(self.workers, _AHEAD)
            reader = reader.mp_prefetch(options, worker_init_fn=_keep_to_itself)
        return iter(reader)


@dataclasses.dataclass(frozen=True)
class Patch:
    """Cuts a square of `size` pixels at a random place, a pure function of seed and number."""

    size: int
    seed: int

    def __call__(self, number: int, example: Element) -> Element:
        image, size = example["image"], self.size
        height, width = image.shape[:2]
        if min(height, width) < size:
            raise ValueError(
                f"Image {example['index']} is {height} x {width}, smaller than patch={size}."
            )
        rng = np.random.default_rng((self.seed, number))
        row, column = rng.integers(height - size + 1), rng.integers(width - size + 1)
        return {**example, "image": image[row : row + size, column : column + size]}


def _keep_to_itself(index: int, count: int) -> None:
    """Takes a worker out of its parent's group of signals, and ends it when the parent is gone.

    Ctrl-C reaches all of a group: the parent is to save and stop, and needs its workers till then.
    """
    del index, count
    os.setsid()
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def ahead(batches: Iterator[Any], place: Callable[[Any], Any]) -> Iterator[Any]:
    """Yields `place(batch)` while the one after is already on its way to the devices."""
    following = place(next(batches))
    while True:
        current, following = following, place(next(batches))
        yield current
