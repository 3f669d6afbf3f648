"""What transformations cost, an image: `python -m eval speed`.

Ours, other people's, and the ratios between them, from one run in which all take turns. Times
are of a batch that lies on the device, in a program that is compiled already; other people's
code gets what it wants to be given, and is handed images one after the other, as it takes them.
"""

import dataclasses
import pathlib
import statistics

import numpy as np
from tqdm import tqdm

from eval.benchmarks._ncis_cost import matrix_product, rate
from eval.benchmarks._speed_entries import Entry, entries, jpeg_error
from eval.benchmarks._speed_tables import tables
from eval.benchmarks._turns import turn
from rainjax import data
from rainjax._files import write_json
from rainjax.evaluation.provenance import provenance
from rainjax.report.single_file import SingleFileRecord


@dataclasses.dataclass(frozen=True)
class Speed:
    """Measures Feature Distillation, JPEG, total variation, non-local means, quilting and NCIS.

    All of them at one size of image; NCIS, small and full, smoothing alone, total variation and
    non-local means at others too. Of NCIS the record also says how near it is to what this machine
    can multiply and add.
    """

    data: str = "builtin"
    """Whose test pictures are transformed: `builtin`, tiled to the size, or the name of a
    prepared TFDS data set of pictures that large."""
    split: str = "test"
    """The split."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    size: int = 224
    """Height and width."""
    other_sizes: tuple[int, ...] = (32,)
    """Smaller heights and widths, for NCIS and what it is held against; empty for none."""
    batch_sizes: tuple[int, ...] = (1, 64)
    """Images at a time."""
    bank_size: int = 100_000
    """Patches in quilting's bank, cut from the same pictures."""
    num_slow: int = 4
    """Images that are timed, at most, of what takes more than a tenth of a second each."""
    num_repeats: int = 5
    """Rounds, in each of which everything takes a turn; medians are compared."""
    min_seconds: float = 0.1
    """How long a turn lasts at least: of what is faster, the mean over many calls is taken."""
    quality: int = 75
    """JPEG's quality."""
    out: pathlib.Path = pathlib.Path("results/speed")
    """The record is written to OUT/speed.json."""

    def __post_init__(self):
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"batch_sizes={self.batch_sizes} must be whole numbers from 1 on.")
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ValueError(f"batch_sizes={self.batch_sizes} holds one twice: leave it out.")
        if self.size % 8:
            raise ValueError(f"size={self.size} must be a multiple of 8, the side of a block.")
        if min(self.size, self.bank_size, self.num_slow, self.num_repeats) < 1:
            raise ValueError(
                f"size={self.size}, bank_size={self.bank_size}, num_slow={self.num_slow} and "
                f"num_repeats={self.num_repeats} must be at least 1."
            )
        if not all(1 <= size < self.size for size in self.other_sizes):
            raise ValueError(
                f"other_sizes={self.other_sizes} must be from 1 on, and smaller than "
                f"size={self.size}: they are cut out of those images."
            )
        if len(set(self.other_sizes)) < len(self.other_sizes):
            raise ValueError(f"other_sizes={self.other_sizes} holds one twice: leave it out.")
        if not 0 <= self.min_seconds < float("inf"):
            raise ValueError(f"min_seconds={self.min_seconds} must be finite and not negative.")


def run(options: Speed) -> pathlib.Path:
    """Runs the benchmark, writes the record and returns its path.

    Raises:
        ValueError: the data set is missing or has too few pictures of the size.
    """
    images = _images(options)
    timed = [e for size in options.batch_sizes for e in entries(options, images, size)]
    limit = Entry("a matrix product", "rainjax", 1, 1, matrix_product())
    every = [*timed, limit]
    with tqdm(total=len(every) * options.num_repeats, desc="speed", unit="run") as bar:
        for entry in every:
            entry.run()  # compiles, and fills what caches there are
        for _ in range(options.num_repeats):
            for entry in every:
                bar.set_postfix_str(f"{entry.name}, {entry.batch_size}")
                entry.seconds.append(turn(entry.run, options.min_seconds))
                bar.update()
    record = {
        "schema": 1,
        "kind": "speed",
        "options": {**dataclasses.asdict(options), "out": None, "data_dir": None},
        "entries": [
            {
                "name": entry.name,
                "whose": entry.whose,
                "batch_size": entry.batch_size,
                "num_timed": entry.num_timed,
                "settings": entry.settings,
                "ms_per_image": [1000 * s / entry.num_timed for s in entry.seconds],
                "median_ms": 1000 * statistics.median(entry.seconds) / entry.num_timed,
                "mib_per_image": entry.mib_per_image,
                "size": entry.size or options.size,
                "multiply_adds": entry.multiply_adds,
                "kept_multiply_adds": entry.kept_multiply_adds,
            }
            for entry in timed
        ],
        "arithmetic": rate(limit.seconds),
        "jpeg_error": jpeg_error(options, images),
        "run": provenance(),
    }
    print(f"\n{RECORD.text(record)}\n")
    path = options.out / "speed.json"
    write_json(path, record)
    print(f"Wrote {path}.")
    return path


def _images(options: Speed) -> np.ndarray:
    """Returns as many uint8 pictures of the size as the largest batch has."""
    found = data.load(options.data, options.split, data_dir=options.data_dir)
    num = max(options.batch_sizes)
    height, width = found.image(0).shape[:2]
    tiles = -(-options.size // height), -(-options.size // width)
    if len(found) < num * tiles[0] * tiles[1]:
        raise ValueError(
            f"{options.data!r} has {len(found)} pictures of {height} x {width}: too few to make "
            f"{num} of {options.size}. Choose a smaller --size or --batch-sizes."
        )
    every, _ = found.get(np.arange(num * tiles[0] * tiles[1]))
    grid = every.reshape(num, *tiles, height, width, 3).transpose(0, 1, 3, 2, 4, 5)
    whole = grid.reshape(num, tiles[0] * height, tiles[1] * width, 3)
    return np.ascontiguousarray(whole[:, : options.size, : options.size])


RECORD = SingleFileRecord(
    "speed",
    "python -m eval speed",
    tables,
    lambda record: "" if record["entries"] else "it has no entries",
)
