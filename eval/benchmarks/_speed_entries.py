"""What `python -m eval speed` times: our transformations, other people's, and how.

Every entry is a call that does a batch, as whoever wrote the code wants to be given it.
"""

import concurrent.futures
import dataclasses
import importlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import scipy.fft

from eval.benchmarks._ncis_cost import ncis_rows, rivals, work_of
from rainjax import defenses, transforms
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
from rainjax.keys import Purpose, example_keys, purpose_key

if TYPE_CHECKING:
    from eval.benchmarks.speed import Speed

# What JPEG does for a gradient, and in what words the table says so.
_ROUNDINGS: dict[transforms.Rounding, str] = {
    "true": "true rounding",
    "straight_through": "straight through",
    "cubic": "soft rounding",
}


@dataclasses.dataclass
class Entry:
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


def entries(options: "Speed", images: np.ndarray, batch_size: int) -> list[Entry]:
    """Returns what is timed of a batch, ours compiled; `images` are the largest batch."""
    batch, few = images[:batch_size], images[: min(batch_size, options.num_slow)]
    fd, jpeg = FeatureDistillation(), JPEG(options.quality)
    bank = defenses.patch_bank(purpose_key(0, Purpose.DATA), images, options.bank_size)
    found = [
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
    found += _ncis_entries(batch, few, batch_size)
    for size in options.other_sizes:
        start = (options.size - size) // 2
        cut = slice(start, start + size)
        smaller = batch[:, cut, cut]
        found += _ncis_entries(smaller, smaller[: len(few)], batch_size)
        for name, defense in rivals():
            found.append(_ours(name, defense, (), smaller[: len(few)], batch_size))
    for (name, whose), (fn, settings) in _others().items():
        found.append(_loop(name, whose, fn, few, batch_size, settings))
    return found


def _ncis_entries(batch: np.ndarray, few: np.ndarray, batch_size: int) -> list[Entry]:
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
) -> Entry:
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
    return Entry(name, "rainjax", batch_size, len(images), run, mib, settings, size)


def _loop(
    name: str, whose: str, fn, images: np.ndarray, batch_size: int, settings: str = ""
) -> Entry:
    run = lambda: [fn(x) for x in images]
    return Entry(name, whose, batch_size, len(images), run, settings=settings)


def _threads(name: str, whose: str, fn, images: np.ndarray, batch_size: int) -> Entry:
    pool = concurrent.futures.ThreadPoolExecutor(num_cores())
    return Entry(name, whose, batch_size, len(images), lambda: list(pool.map(fn, images)))


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


def jpeg_error(options: "Speed", images: np.ndarray) -> dict[str, dict[str, float]]:
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
