"""How well networks double an image, as its literature measures it: `eval super_resolution`.

Nothing here is random. Each size of image is compiled by itself, because padding would change
what IMDN's attention sees.
"""

import dataclasses
import datetime
import functools
import pathlib
import time
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval.benchmarks._super_resolution_figures import figure, gains, hardest, panel
from rainjax import data, transforms, zoo
from rainjax._files import write_bytes, write_json
from rainjax.data import ImageSet
from rainjax.evaluation.describe import describe
from rainjax.evaluation.provenance import provenance
from rainjax.nets import Network, num_params
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import ABSENT, Cell, Table
from rainjax.typing import Image, Params

# What Lim et al. (2017) are quoted with for EDSR baseline, trained on DIV2K, on Set5.
CLAIM, CLAIM_SET, CLAIM_IMAGES = 37.99, "set5", 5
_BORDER = 2
_SMALLEST = 16  # the structural similarity's window of 11 pixels, two borders, and even
_HIGHEST = 100.0  # dB; of equal images it would be infinite, which JSON cannot say


@dataclasses.dataclass(frozen=True)
class SuperResolution:
    """Measures networks that double an image: PSNR and SSIM, beside bicubic interpolation.

    As the literature does: the low resolution is the image at half its size, bicubic and in 8
    bits; what a network makes of it is rounded to 8 bits and compared on the Y channel, without a
    border of 2 pixels, by scikit-image (`pip install -e ".[test]"`). Images may differ in size; an
    odd row or column is cut off. Writes OUT/super_resolution.json, a figure, and one image's
    detail as every network restores it.
    """

    data: tuple[str, ...] = ("set5/test", "set14/test", "bsds500/validation")
    """Data sets, as NAME/SPLIT: prepared TFDS sets, or builtin/test. Labels play no part."""
    networks: tuple[str, ...] = (
        "builtin_edsr", "cifar10_edsr", "imagenette96_edsr", "natural_edsr",
    )  # fmt: skip
    """Networks: zoo names or paths, or FILE:ARCHITECTURE for a file of published weights, such as
    imdn.npz:imdn_x2, carn_m.npz:carn_m_x2 or edsr.npz:edsr_baseline_x2."""
    num_examples: int | None = None
    """Images of each set, the first ones; by default all."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    out: pathlib.Path = pathlib.Path("results/super_resolution")
    """The record is written to OUT/super_resolution.json."""

    def __post_init__(self):
        for field in ("data", "networks"):
            names = getattr(self, field)
            if not names:
                raise ValueError(f"{field}={names} must name one.")
            if len(set(names)) < len(names):
                raise ValueError(f"{field}={names} holds one twice: leave it out.")
        for name in self.data:
            if not all(name.rpartition("/")):
                raise ValueError(f"data has {name!r}: write NAME/SPLIT, such as set5/test.")
        if self.num_examples is not None and self.num_examples < 1:
            raise ValueError(f"num_examples={self.num_examples} must be at least 1.")


@dataclasses.dataclass(frozen=True, eq=False)
class _Row:
    """One way to double an image; interpolation is the one without a network."""

    title: str
    entry: zoo.Entry | None

    def enlarge(self, low: np.ndarray) -> np.ndarray:
        """Returns a uint8 image at twice its size, in uint8."""
        small = jnp.asarray(low, jnp.float32) / 255
        if self.entry is None:
            return np.asarray(_enlarge(None, (), small))
        return np.asarray(_enlarge(self.entry.network, self.entry.params, small))


def run(command: SuperResolution) -> pathlib.Path:
    """Measures, writes the record and its figures, prints the table; returns the record's path.

    Raises:
        ValueError: scikit-image is missing, or a data set or network is missing or unsuitable.
    """
    judge = _Judge()
    rows = [_Row("bicubic", None), *map(_row, command.networks)]
    titles = [row.title for row in rows]
    for title in titles:
        if titles.count(title) > 1:
            raise ValueError(f"Two of the networks are called {title!r}: rename one's file.")
    sets = [_images(command, name) for name in command.data]
    sizes = [[_original(images, i).shape for i in range(num)] for images, num in sets]

    began, started = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tqdm(total=len(rows) * sum(map(len, sizes)), unit="image") as bar:
        for place, (images, num) in enumerate(sets):
            for index in range(num):
                original = _original(images, index)
                low = _halve(original)
                for row in rows:
                    bar.set_description(f"{images.name} {index}, {row.title}")
                    scores = judge(row.enlarge(low), original)
                    found.setdefault((row.title, place), []).append(scores)
                    bar.update()
    record = {
        "schema": 1,
        "kind": "super_resolution",
        "options": {"scale": 2, "border": _BORDER, "num_examples": command.num_examples},
        "sets": [
            {
                "name": images.name,
                "split": images.split,
                "fingerprint": images.fingerprint,
                "sizes": [list(shape[:2]) for shape in shapes],
            }
            for (images, _), shapes in zip(sets, sizes, strict=True)
        ],
        "rows": [
            {
                **_describe(row),
                "results": [_summary(found[row.title, place]) for place in range(len(sets))],
            }
            for row in rows
        ],
        "run": {
            "seconds": round(time.perf_counter() - began, 2),
            "started": started.isoformat(timespec="seconds"),
            "judge": judge.version,
            **provenance(),
        },
    }
    print(f"\n{RECORD.text(record)}\n")
    path = command.out / "super_resolution.json"
    write_json(path, record)
    figures = {path.with_suffix(".png"): figure(record)}
    index = hardest(record)
    original = _original(sets[0][0], index)
    low = _halve(original)
    restored = {row.title: row.enlarge(low) for row in rows}
    drawing = panel(record, index, low, restored, original)
    figures[path.with_name("super_resolution_panel.png")] = drawing
    for place, drawing in figures.items():
        write_bytes(place, drawing.png)
    print("\n".join(f"Wrote {place}" for place in (path, *figures)))
    return path


class _Judge:
    """scikit-image's PSNR and SSIM of two uint8 images on the Y channel, without the border."""

    def __init__(self):
        try:
            from skimage import color, metrics
        except ImportError:
            raise ValueError(
                "Super-resolution is judged by scikit-image, which is not installed: "
                '`pip install -e ".[test]"`.'
            ) from None
        self._color, self._metrics = color, metrics
        self.version = f"scikit-image {version('scikit-image')}"

    def luma(self, image: np.ndarray) -> np.ndarray:
        """Returns Y of BT.601 within its studio range, 16 to 235, not rounded."""
        inner = slice(_BORDER, -_BORDER)
        return self._color.rgb2ycbcr(image)[inner, inner, 0]

    def __call__(self, image: np.ndarray, original: np.ndarray) -> tuple[float, float]:
        """Returns both measures, with a range of 255 and the window of Wang et al. (2004)."""
        ours, theirs = self.luma(image), self.luma(original)
        psnr = _HIGHEST
        if not np.array_equal(ours, theirs):
            psnr = self._metrics.peak_signal_noise_ratio(theirs, ours, data_range=255)
        ssim = self._metrics.structural_similarity(
            theirs,
            ours,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        return min(float(psnr), _HIGHEST), float(ssim)


@functools.partial(jax.jit, static_argnums=0)
def _enlarge(network: Network | None, params: Params, low: Image) -> jax.Array:
    height, width, _ = low.shape
    if network is None:
        large = transforms.resize_bicubic(low, 2 * height, 2 * width)
    else:
        large = network.apply(params, low)
    return _to_8_bits(large)


@jax.jit
def _shrink(image: Image) -> jax.Array:
    return _to_8_bits(transforms.halve_bicubic(image))


def _to_8_bits(image: Image) -> jax.Array:
    return jnp.round(255 * jnp.clip(image, 0.0, 1.0)).astype(jnp.uint8)


def _halve(original: np.ndarray) -> np.ndarray:
    return np.asarray(_shrink(jnp.asarray(original, jnp.float32) / 255))


def _row(word: str) -> _Row:
    """Loads one of the networks, or says why it is none for this."""
    path, colon, architecture = word.rpartition(":")
    if not colon or {"/", "\\"} & set(architecture):
        path, architecture = word, None
    if architecture is None and path.lower().endswith(".npz"):
        raise ValueError(
            f"networks has {word!r}, a file of published weights: say of what, such as "
            f"{word}:imdn_x2 or {word}:carn_m_x2."
        )
    entry = zoo.load_any(path, architecture)
    kind, scale = type(entry.network).__name__, getattr(entry.network, "scale", None)
    if scale != 2:
        does = "does not enlarge images" if scale is None else f"enlarges them {scale} times"
        raise ValueError(
            f"networks has {word!r}, a {kind}, which {does}: give one that does twice, an EDSR, "
            "IMDN or CARNM with scale=2."
        )
    probe = jax.ShapeDtypeStruct((8, 8, 3), jnp.float32)
    try:
        jax.eval_shape(entry.network.apply, entry.network.shapes(), probe)
    except ValueError as error:
        raise ValueError(f"networks has {word!r}, which takes no RGB images: {error}") from None
    return _Row(entry.name, entry)


def _images(command: SuperResolution, name: str) -> tuple[ImageSet, int]:
    """Returns a set, and how many of its images are measured."""
    plain, _, split = name.rpartition("/")
    images = data.load(plain, split, data_dir=command.data_dir)
    num = command.num_examples or len(images)
    if num > len(images):
        raise ValueError(
            f"num_examples={num}, but {plain!r} has {len(images)} images in its split {split!r}."
        )
    return images, num


def _original(images: ImageSet, index: int) -> np.ndarray:
    """Returns an image without its last row or column where those make it odd."""
    image = images.image(index)
    height, width = (size // 2 * 2 for size in image.shape[:2])
    if min(height, width) < _SMALLEST:
        raise ValueError(
            f"picture {index} of {images.name!r}, split {images.split!r}, is {image.shape[1]}x"
            f"{image.shape[0]}: super-resolution is judged on pictures of {_SMALLEST}x{_SMALLEST} "
            "or more; leave it out, or choose another set."
        )
    return image[:height, :width]


def _describe(row: _Row) -> dict[str, Any]:
    entry = row.entry
    if entry is None:
        return {"title": row.title, "network": None, "params": None, "num_params": 0}
    trained = [entry.card.get("data", {}).get(part) for part in ("name", "split")]
    return {
        "title": row.title,
        "network": describe(entry.network),
        "params": {"name": entry.name, "sha256": entry.sha256},
        "num_params": num_params(entry.params),
        "trained_on": "/".join(filter(None, trained)) or None,
    }


def _summary(scores: list[tuple[float, float]]) -> dict[str, Any]:
    """Returns what a record says of one row on one set."""
    return {
        name: {"mean": float(np.mean(each)), "spread": float(np.std(each)), "each": list(each)}
        for name, each in zip(("psnr", "ssim"), zip(*scores, strict=True), strict=True)
    }


def _table(record: dict[str, Any]) -> Table:
    claimed = [place for place, images in enumerate(record["sets"]) if _is_claims(images)]
    heads = [f"{images['name']} (n = {len(images['sizes'])})" for images in record["sets"]]
    heads = ["", "network, parameters", *heads, *(f"against {CLAIM} dB" for _ in claimed)]
    rows = []
    for row in record["rows"]:
        network, cells = row["network"], []
        kind = Cell(f"{network['class']}, {row['num_params']:,}") if network else ABSENT
        for place, result in enumerate(row["results"]):
            detail = f"{result['ssim']['mean']:.4f}"
            if network:
                gain = gains(record, row, place)
                detail += f", {gain.mean():+.2f} ± {gain.std():.2f}"
            cells.append(Cell(f"{result['psnr']['mean']:.2f} dB", detail))
        for place in claimed:
            cells.append(Cell(f"{row['results'][place]['psnr']['mean'] - CLAIM:+.2f} dB"))
        rows.append((Cell(row["title"]), kind, *cells))
    notes = _notes(record, claimed=bool(claimed))
    return Table("Super-resolution × 2", tuple(map(Cell, heads)), tuple(rows), notes)


def _notes(record: dict[str, Any], *, claimed: bool) -> tuple[str, ...]:
    splits = ", ".join(f"{images['name']} ({images['split']})" for images in record["sets"])
    notes = [
        f"Mean PSNR on the images of {splits}; then mean SSIM, and how far PSNR is above "
        "bicubic interpolation, ± its standard deviation among the images.",
        "The low resolution is the image at half its size, bicubic with anti-aliasing, in 8 bits. "
        "Outputs are rounded to 8 bits and compared on the Y channel (BT.601, 16 to 235, not "
        f"rounded), {record['options']['border']} pixels of border cut off; the judge is "
        f"{record['run']['judge']}.",
    ]
    trained = [
        f"{row['title']} on {row['trained_on']}" for row in record["rows"] if row.get("trained_on")
    ]
    if trained:
        notes.append(f"Trained, as their cards say: {', '.join(trained)}.")
    if claimed:
        notes.append(
            f"**against {CLAIM} dB**: what EDSR baseline (1,369,859 parameters), trained on "
            "DIV2K, is quoted with on Set5 (Lim et al., 2017). A claim: that network was not "
            "measured here."
        )
    return tuple(notes)


def _is_claims(images: dict[str, Any]) -> bool:
    name = images["name"].partition(":")[0]
    return name == CLAIM_SET and len(images["sizes"]) == CLAIM_IMAGES


def _problem(record: dict[str, Any]) -> str:
    """Says what is wrong with a record, or nothing."""
    if len(record["rows"]) < 2 or record["rows"][0]["network"] is not None:
        return "its first row is not interpolation, followed by networks"
    for row in record["rows"]:
        for images, result in zip(record["sets"], row["results"], strict=True):
            for name in ("psnr", "ssim"):
                each = np.asarray(result[name]["each"], float)
                if each.shape != (len(images["sizes"]),) or not len(each):
                    return f"{name} of {row['title']} is not of all images of {images['name']}"
                told = [result[name][part] for part in ("mean", "spread")]
                if not np.allclose(told, [each.mean(), each.std()], rtol=1e-9, atol=1e-12):
                    return (
                        f"the mean {name} of {row['title']} on {images['name']} does not follow "
                        "from that of its images"
                    )
    return ""


RECORD = SingleFileRecord(
    "super_resolution",
    "python -m eval super_resolution",
    lambda record: (_table(record),),
    _problem,
)
