"""What transformations cost, an image: `python -m eval speed`.

Ours, other people's, and the ratios between them, from one run in which all take turns. Times
are of a batch that lies on the device, in a program that is compiled already; other people's
code gets what it wants to be given, and is handed images one after the other, as it takes them.
"""

import concurrent.futures
import dataclasses
import importlib
import io
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import scipy.fft
from tqdm import tqdm

from eval.benchmarks._ncis_cost import (
    matrix_product,
    ncis_rows,
    other_sizes_table,
    rate,
    rivals,
    share_notes,
    work_of,
)
from rainjax import data, defenses, transforms
from rainjax._files import write_json
from rainjax.defenses import (
    JPEG,
    NCIS,
    Defense,
    FeatureDistillation,
    NonLocalMeans,
    Quilting,
    TotalVariation,
)
from rainjax.devices import batch_sharding, data_mesh, num_cores
from rainjax.evaluation.provenance import provenance
from rainjax.keys import Purpose, example_keys, purpose_key
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import ABSENT, Cell, Table


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


# What JPEG does for a gradient, and in what words the table says so.
_ROUNDINGS: dict[transforms.Rounding, str] = {
    "true": "true rounding",
    "straight_through": "straight through",
    "cubic": "soft rounding",
}


@dataclasses.dataclass
class _Entry:
    """One line of the table: what is timed, on how many images, and what came of it."""

    name: str
    whose: str
    batch_size: int
    num_timed: int
    run: Callable[[], Any]
    mib_per_image: float | None = None
    settings: str = ""
    size: int | None = None
    multiply_adds: int | None = None
    kept_multiply_adds: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)


def run(options: Speed) -> pathlib.Path:
    """Runs the benchmark, writes the record and returns its path.

    Raises:
        ValueError: the data set is missing or has too few pictures of the size.
    """
    images = _images(options)
    entries = [e for size in options.batch_sizes for e in _entries(options, images, size)]
    limit = _Entry("a matrix product", "rainjax", 1, 1, matrix_product())
    every = [*entries, limit]
    with tqdm(total=len(every) * options.num_repeats, desc="speed", unit="run") as bar:
        for entry in every:
            entry.run()  # compiles, and fills what caches there are
        for _ in range(options.num_repeats):
            for entry in every:
                bar.set_postfix_str(f"{entry.name}, {entry.batch_size}")
                entry.seconds.append(_turn(entry.run, options.min_seconds))
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
            for entry in entries
        ],
        "arithmetic": rate(limit.seconds),
        "jpeg_error": _jpeg_error(options, images),
        "run": provenance(),
    }
    print(f"\n{RECORD.text(record)}\n")
    path = options.out / "speed.json"
    write_json(path, record)
    print(f"Wrote {path}.")
    return path


def _turn(call: Callable[[], Any], min_seconds: float) -> float:
    """Returns the seconds of a call, the mean over as many as fill `min_seconds`.

    One call before them is not counted: right after another turn's work, a call of one
    millisecond was seen to take three.
    """
    call()
    begun, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - begun < min_seconds:
        call()
        calls += 1
    return (time.perf_counter() - begun) / calls


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


def _entries(options: Speed, images: np.ndarray, batch_size: int) -> list[_Entry]:
    batch, few = images[:batch_size], images[: min(batch_size, options.num_slow)]
    fd, jpeg = FeatureDistillation(), JPEG(options.quality)
    bank = defenses.patch_bank(purpose_key(0, Purpose.DATA), images, options.bank_size)
    entries = [
        _ours("Feature Distillation", fd, (), batch, batch_size),
        _loop("Feature Distillation", "SciPy's dctn", _fd_scipy, batch, batch_size),
        _ours("JPEG", jpeg, (), batch, batch_size),
        *(
            _ours(
                f"JPEG and its gradient, {words}",
                dataclasses.replace(jpeg, rounding=rounding),
                (),
                batch,
                batch_size,
                gradient=True,
            )
            for rounding, words in _ROUNDINGS.items()
            if rounding != "true"
        ),
        _loop("JPEG", "Pillow, one thread", _pillow(options.quality), batch, batch_size),
        _threads("JPEG", "Pillow, all cores", _pillow(options.quality), batch, batch_size),
        _ours("total variation", TotalVariation(), (), batch, batch_size),
        _ours("non-local means", NonLocalMeans(), (), few, batch_size),
        _ours("quilting", Quilting(), bank, few, batch_size),
    ]
    entries += _ncis_entries(batch, few, batch_size)
    for size in options.other_sizes:
        start = (options.size - size) // 2
        cut = slice(start, start + size)
        smaller = batch[:, cut, cut]
        entries += _ncis_entries(smaller, smaller[: len(few)], batch_size)
        for name, defense in rivals():
            entries.append(_ours(name, defense, (), smaller[: len(few)], batch_size))
    for (name, whose), (fn, settings) in _others().items():
        entries.append(_loop(name, whose, fn, few, batch_size, settings))
    return entries


def _ncis_entries(batch: np.ndarray, few: np.ndarray, batch_size: int) -> list[_Entry]:
    """Returns Gaussian smoothing on a batch, and NCIS on a few of it."""
    found = []
    for name, defense, params, settings, network in ncis_rows():
        entry = _ours(name, defense, params, batch if network is None else few, batch_size)
        entry.settings = settings
        if network is not None and isinstance(defense, NCIS):
            work = work_of(network, *batch.shape[1:3])
            entry.multiply_adds = defense.num_iterations * work.computed
            entry.kept_multiply_adds = defense.num_iterations * work.kept
        found.append(entry)
    return found


def _ours(
    name: str, defense: Defense, params, images: np.ndarray, batch_size: int, gradient=False
) -> _Entry:
    def one(params, key, image):
        if not gradient:
            return defense.apply(params, key, image)
        purified, vjp = jax.vjp(lambda x: defense.apply(params, key, x), image)
        return purified, vjp(purified)

    place = batch_sharding(data_mesh(batch_size=len(images)))
    args = (
        params,
        jax.device_put(example_keys(0, Purpose.SCORE, np.arange(len(images))), place),
        jax.device_put(jnp.asarray(images, jnp.float32) / 255, place),
    )
    program = jax.jit(jax.vmap(one, (None, 0, 0))).lower(*args).compile()
    analysis = program.memory_analysis()
    held = analysis.temp_size_in_bytes + analysis.output_size_in_bytes if analysis else None
    run = lambda: jax.block_until_ready(program(*args))
    # What the compiler says is of one device's share.
    share = len(images) / place.mesh.size
    mib = None if held is None else held / share / 2**20
    chosen = isinstance(defense, TotalVariation | NonLocalMeans | Quilting)
    settings = repr(defense) if chosen else ""
    size = images.shape[1]
    return _Entry(name, "rainjax", batch_size, len(images), run, mib, settings, size)


def _loop(
    name: str, whose: str, fn, images: np.ndarray, batch_size: int, settings: str = ""
) -> _Entry:
    run = lambda: [fn(x) for x in images]
    return _Entry(name, whose, batch_size, len(images), run, settings=settings)


def _threads(name: str, whose: str, fn, images: np.ndarray, batch_size: int) -> _Entry:
    pool = concurrent.futures.ThreadPoolExecutor(num_cores())
    return _Entry(name, whose, batch_size, len(images), lambda: list(pool.map(fn, images)))


def _fd_scipy(image: np.ndarray) -> np.ndarray:
    """Feature Distillation as one would write it without JAX: all blocks at once."""
    steps = np.asarray(FeatureDistillation().steps, np.float32)[:, None, :, None]
    height, width, _ = image.shape
    cells = image.reshape(height // 8, 8, width // 8, 8, 3).astype(np.float32)
    kept = np.round(np.asarray(scipy.fft.dctn(cells, axes=(1, 3), norm="ortho")) / steps) * steps
    whole = np.asarray(scipy.fft.idctn(kept, axes=(1, 3), norm="ortho")).reshape(image.shape)
    return np.clip(whole / 255, 0, 1)


def _pillow(quality: int):
    def through(image: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        PIL.Image.fromarray(image).save(stream, "JPEG", quality=quality)
        return np.asarray(PIL.Image.open(stream))

    return through


def _others() -> dict[tuple[str, str], tuple[Callable[[np.ndarray], np.ndarray], str]]:
    """Returns other people's transformations, by name and whose, and their settings.

    Those of what is installed: total variation and non-local means.
    What these libraries call total variation differs in kind: ART's leaves pixels out and
    minimises by SciPy.
    """
    found = {}
    try:
        from skimage import restoration

        scaled = lambda x: x.astype(np.float32) / 255
        found["total variation", "scikit-image, Chambolle"] = (
            lambda x: restoration.denoise_tv_chambolle(scaled(x), weight=0.1, channel_axis=-1),
            "weight=0.1, until it moves little",
        )
        found["total variation", "scikit-image, Bregman"] = (
            lambda x: restoration.denoise_tv_bregman(scaled(x), channel_axis=-1),
            "defaults (weight=5.0, until it moves little)",
        )
        ours = dataclasses.asdict(NonLocalMeans())
        settings = ", ".join(f"{name}={value}" for name, value in ours.items())
        for fast, whose in ((False, "scikit-image"), (True, "scikit-image, fast")):
            found["non-local means", whose] = (
                lambda x, fast=fast: restoration.denoise_nl_means(
                    scaled(x), **ours, fast_mode=fast, channel_axis=-1
                ),
                f"{settings}, fast_mode={fast}" + (", patches without a Gaussian" if fast else ""),
            )
    except ImportError:
        pass
    try:
        library = importlib.import_module("art.defences.preprocessor")
        art = library.TotalVarMin(clip_values=(0.0, 1.0))
        chosen = ("prob", "norm", "lamb", "solver", "max_iter")
        found["total variation", "ART"] = (
            lambda x: art(x[None].astype(np.float32) / 255)[0][0],
            "TotalVarMin, defaults ("
            + ", ".join(f"{name}={getattr(art, name)}" for name in chosen if hasattr(art, name))
            + ")",
        )
    except ImportError:
        pass
    return found


def _jpeg_error(options: Speed, images: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns how far our JPEG is from Pillow's, in grey levels, by how it rounds."""
    wanted = np.stack([_pillow(options.quality)(x) for x in images])
    found = {}
    for rounding, words in _ROUNDINGS.items():
        jpeg = JPEG(options.quality, rounding=rounding)
        ours = jax.jit(jax.vmap(jpeg.purify))
        off = [
            np.abs(255 * np.asarray(ours(x[None].astype(np.float32) / 255))[0] - theirs)
            for x, theirs in zip(images, wanted, strict=True)
        ]
        found[words] = {"mean": float(np.mean(off)), "max": float(np.max(off))}
    return found


# What the paper compares its speed with, whoever wrote it: none is left out for being fast.
_SLOW = ("total variation", "quilting")


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Returns how many times Feature Distillation is faster, by what than and at which batch."""
    times = {(e["name"], e["whose"], e["batch_size"]): e["median_ms"] for e in _at_size(record)}
    found = {}
    for (name, whose, size), median in times.items():
        if name in _SLOW:
            own = times["Feature Distillation", "rainjax", size]
            found[f"{name} ({whose}), batch {size}"] = median / own
    return found


def ratio_texts(record: dict[str, Any]) -> dict[str, str]:
    """Returns the ratios as they are quoted, a batch size after the other, by what than."""
    found: dict[str, list[str]] = {}
    for name, ratio in ratios(record).items():
        than, size = name.rsplit(", ", 1)
        quoted = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
        found.setdefault(than, []).append(f"{quoted} × ({size})")
    return {than: ", ".join(quoted) for than, quoted in found.items()}


def _at_size(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of the size that all were timed at; older records have no other."""
    size = record["options"]["size"]
    return [entry for entry in record["entries"] if entry.get("size", size) == size]


def _tables(record: dict[str, Any]) -> tuple[Table, ...]:
    others = other_sizes_table(record, _ms)
    return (_table(record), *([] if others is None else [others]))


def _table(record: dict[str, Any]) -> Table:
    options = record["options"]
    sizes = options["batch_sizes"]
    lines = {}
    for entry in _at_size(record):
        lines.setdefault((entry["name"], entry["whose"]), {})[entry["batch_size"]] = entry
    rows = []
    for (name, whose), line in lines.items():
        times = (line.get(size) for size in sizes)
        cells = [Cell(_ms(e["median_ms"])) if e else ABSENT for e in times]
        mib = line[max(line)]["mib_per_image"]
        memory = ABSENT if mib is None else Cell(f"{mib:.1f} MiB")
        rows.append((Cell(name), Cell(whose), *cells, memory))
    slow = options["num_slow"]
    # Records from before it joined have none.
    more = ", non-local means" if ("non-local means", "rainjax") in lines else ""
    more += ", NCIS" if any(name.startswith("NCIS") for name, _ in lines) else ""
    run = record["run"]
    errors = ", ".join(
        f"{error['mean']:.2f} ({error['max']:.0f} at most) with {words}"
        for words, error in record["jpeg_error"].items()
    )
    faster = "; ".join(f"{than}: {quoted}" for than, quoted in ratio_texts(record).items())
    settings = {
        f"{e['name']} ({e['whose']}): {e['settings']}"
        for e in _at_size(record)
        if e.get("settings")
    }
    source = "built-in pictures, tiled" if options["data"] == "builtin" else options["data"]
    return Table(
        f"What a transformation costs an image of {options['size']} × {options['size']}",
        tuple(map(Cell, ("", "whose", *(f"batch {size}" for size in sizes), "memory"))),
        tuple(rows),
        (
            f"Medians of {options['num_repeats']} rounds in which all take turns, on {source}, a "
            f"turn the mean over the calls of {options['min_seconds']:g} s at least, after one "
            "that is not counted; "
            f"rainjax on {run['num_devices']} × {run['device']}, compiled before and given "
            "float32 images that lie on the device, a batch spread over all of them; other "
            "people's code is given uint8 ones, one after the other unless it says otherwise. "
            "Pillow writes and reads a file, whose "
            "entropy coding rainjax leaves out.",
            "**memory**: what the compiled program holds beyond its arguments, an image of the "
            f"largest batch. Quilting ({options['bank_size']:,} patches){more} and other people's "
            f"total variation are timed on {slow} images of a batch at most.",
            f"Feature Distillation (rainjax) is faster than {faster}.",
            *share_notes(record),
            *([f"Settings: {'; '.join(sorted(settings))}."] if settings else []),
            f"Our JPEG and Pillow's, quality {options['quality']}, differ by so many grey levels "
            f"in the mean: {errors}.",
        ),
    )


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


RECORD = SingleFileRecord(
    "speed",
    "python -m eval speed",
    _tables,
    lambda record: "" if record["entries"] else "it has no entries",
)
