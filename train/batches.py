"""Training examples in random order: grain reads, decodes and batches them ahead of the steps.

Which examples make a step is a function of the seed and the step alone, whatever the number of
processes and workers: the step is the position, and a checkpoint that knows it needs no other.
"""

import dataclasses
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

    In the place of a picture that cannot be decoded comes the next one that can; `corrupt` is
    then the index of the former, and otherwise -1. `shape` is what every image has to have, where
    they are to be of one size.
    """

    def __init__(
        self,
        image_set: ImageSet,
        indices: np.ndarray,
        shape: tuple[int, ...] | None = None,
    ):
        self._set, self._indices, self._shape = image_set, indices, shape

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Element:
        corrupt = -1
        for step in range(len(self)):
            index = int(self._indices[(position + step) % len(self)])
            try:
                image, label = self._set.example(index)
            except DamagedPicture:
                corrupt = index if corrupt < 0 else corrupt
                continue
            if self._shape is not None and image.shape != self._shape:
                raise ValueError(
                    f"Picture {index} of {self._set.name!r} has shape {image.shape} where others "
                    f"have {self._shape}: import the set with --size."
                )
            numbers = {"label": label, "index": index, "corrupt": corrupt}
            return {"image": image, **{name: np.int32(n) for name, n in numbers.items()}}
        raise ValueError(f"No picture of {self._set.name!r} can be decoded: import the set anew.")


@dataclasses.dataclass(frozen=True)
class Batches:
    """An endless sequence of batches: every example once an epoch, in an order of its own.

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
        if self.batch_size < 1 or self.batch_size % jax.process_count():
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of the number of processes, "
                f"which is {jax.process_count()}."
            )

    def __call__(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        examples = grain.MapDataset.source(self.source).seed(self.seed).shuffle().repeat()
        if self.change is not None:
            examples = examples.map_with_index(self.change)
        share = examples[jax.process_index() :: jax.process_count()]
        batches = share.batch(self.batch_size // jax.process_count())[first_step:]
        reader = batches.to_iter_dataset(grain.ReadOptions(_THREADS, _AHEAD))
        if self.workers:
            absl.flags.FLAGS.mark_as_parsed()  # grain looks at flags of its own, which nobody set
            reader = reader.mp_prefetch(grain.MultiprocessingOptions(self.workers, _AHEAD))
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


def ahead(batches: Iterator[Any], place: Callable[[Any], Any]) -> Iterator[Any]:
    """Yields `place(batch)` while the one after is already on its way to the devices."""
    following = place(next(batches))
    while True:
        current, following = following, place(next(batches))
        yield current
