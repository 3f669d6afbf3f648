"""Transformations of an image side by side: which there are, and who attacks them."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from eval import admission, bench
from eval.config import Transformations
from eval.spectra import purify
from eval.study import Cell, Row, source
from eval.two_pass import Compressed
from rainjax import data, defenses, zoo
from rainjax._files import read_array, read_json, write_arrays
from rainjax.attacks import APGD, EOT, PGD, CarliniWagner, DeepFool, NoisyAPGD, fgsm
from rainjax.data import ImageSet
from rainjax.defenses import Chain, Defense, FeatureDistillation, Identity, RandomSubset
from rainjax.evaluation.provenance import without_folder
from rainjax.gradients import BPDA
from rainjax.keys import Purpose, example_keys, purpose_key
from rainjax.nets import EDSR
from rainjax.pipeline import Defended
from rainjax.typing import Params

_ROLES = ("comparison", "table")
# The columns of attackers who know the transformation.
INFORMED = ("bpda", "own", "eot")


def run(config: Transformations) -> pathlib.Path:
    """Runs the comparison, or what is missing of it, and returns its folder.

    Raises:
        ValueError: a transformation is unknown, the folder holds a study of another
            configuration, or the data set, the networks and the options do not fit.
    """
    images = data.load(config.data, config.split, data_dir=config.data_dir)
    if config.two_pass:
        images = Compressed(images, FeatureDistillation())
    found = rows(config)
    admission.check(config, images, found[0])
    _check_shapes(config, images, found)
    cells = [cell for row in found for cell in row_cells(config, row)]
    # Rows can join later: what they are made of is each record's own.
    admission.claim(config.folder, admission.identity(config, images, found[:1]))
    _check_sources(config, found)
    # One blind attack serves every row: made once, then scored behind each of them.
    made = bench.measure(config, images, [cell for cell in cells if cell.column not in INFORMED])
    for radius in sorted(config.radii):
        wanted = [c for c in cells if c.column in INFORMED and _radius(c) == radius]
        beaten = _beaten(config, cells, radius)
        wanted = [cell for cell in wanted if cell.row.key not in beaten]
        wanted.sort(key=lambda cell: cell.column == "eot")
        made += bench.measure(config, images, wanted)
    _write_gallery(config, images, found, anew=made > 0)
    return config.folder


def _radius(cell: Cell) -> float | None:
    return None if cell.attack is None else cell.attack.radius


def _beaten(config: Transformations, cells: list[Cell], radius: float) -> set[str]:
    """Returns the rows of which an attack within a smaller radius has left nothing.

    What it made lies within this radius as well, so there is nothing to look for. EOT may have
    had fewer images than the others: then the row is reported on those.
    """
    found = set()
    for cell in cells:
        own = _radius(cell)
        path = config.folder / "records" / f"{cell.id}.json"
        if own is None or own >= radius:
            continue
        if path.exists() and not any(read_json(path)["result"]["correct_draws"]):
            found.add(cell.row.key)
    return found


def _check_shapes(config: Transformations, images: ImageSet, found: list[Row]) -> None:
    """Refuses a transformation that these images or its parameters do not fit, hours early."""
    first, _ = images.get(np.arange(1))
    shape = jax.ShapeDtypeStruct(first.shape[1:], jnp.float32)
    for row in found:
        try:
            jax.eval_shape(row.target.logits, row.params, jax.random.key(0), shape)
        except ValueError as error:
            height, width, _ = first.shape[1:]
            raise ValueError(
                f"The row {row.key!r} does not fit {config.data!r}, images of {height} x {width}: "
                f"{error} Change that, or name the other rows with --rows."
            ) from error


def _check_sources(config: Transformations, found: list[Row]) -> None:
    """Refuses to add to a row what is made of another bank, table or network than its records."""
    sources = {row.key: row.sources["defense"] for row in found}
    for path in sorted((config.folder / "records").glob("*.json")):
        row = read_json(path).get("row", {})
        there = row.get("params", {}).get("defense")
        now = sources.get(row.get("key"), there)
        if there != now:
            raise ValueError(
                f"{path} is of a {row['key']!r} made of {there}, and not of {now}: choose another "
                "--name, or delete the records of that row."
            )


def _write_gallery(
    config: Transformations, images: ImageSet, found: list[Row], *, anew: bool
) -> None:
    """Adds the rows to the gallery, in which those of earlier runs stay."""
    path, kept = config.folder / "gallery.npz", {}
    if path.exists():
        titles = read_array(path, "titles").tolist()
        kept = dict(zip(titles, read_array(path, "images"), strict=True))
    if not anew and {row.title for row in found} <= kept.keys():
        return
    shown = kept | _gallery(config, images, found)
    titles = [maker.title for maker in MAKERS.values() if maker.title in shown]
    pictures = np.stack([shown[title] for title in titles])
    write_arrays(path, {"images": pictures, "titles": np.array(titles)})


def _gallery(config: Transformations, images: ImageSet, found: list[Row]) -> dict[str, np.ndarray]:
    """Returns the first image behind every transformation, by title."""
    first = images.get(np.arange(1))[0].astype(np.float32) / 255
    keys = example_keys(config.seed, Purpose.SCORE, np.arange(1))
    shown = {
        row.title: purify(row.target.defense, row.params["defense"], keys, jnp.asarray(first))[0]
        for row in found
    }
    return {name: np.round(255 * np.asarray(x)).astype(np.uint8) for name, x in shown.items()}


@dataclasses.dataclass(frozen=True)
class _Maker:
    """A row's title, and how its defense and the parameters come about."""

    title: str
    make: Callable[["_Shelf"], tuple[Defense, Params, dict | None]]


class _Shelf:
    """What rows take their parameters from, loaded when the first one asks."""

    def __init__(self, config: Transformations):
        self.config = config

    @functools.cached_property
    def small(self) -> bool:
        """Whether pictures are CIFAR's size, for which some papers' numbers are too large."""
        config = self.config
        images = data.load(config.data, config.split, data_dir=config.data_dir)
        return max(images.image(0).shape[:2]) < 96

    @functools.cached_property
    def bank(self) -> tuple[Params, dict]:
        """Patches of training pictures, for quilting."""
        config = self.config
        name = config.bank_data or config.data
        try:
            train = data.load(name, config.bank_split, data_dir=config.data_dir)
        except ValueError as error:
            raise ValueError(
                f"The patches of the row 'quilting': {error} Name others with --bank-data and "
                "--bank-split."
            ) from error
        images, _ = train.get(np.arange(min(len(train), 2000)))
        key = purpose_key(config.seed, Purpose.DATA)
        bank = defenses.patch_bank(key, images, config.bank_size)
        name = f"{config.bank_size} patches of {train.name}, {train.split}"
        return bank, {"name": name, "sha256": train.fingerprint}

    def edsr(self, name: str) -> tuple[EDSR, Params, dict | None]:
        """Returns a super-resolution network, its parameters and where they came from."""
        entry = zoo.load_any(name)
        if not isinstance(entry.network, EDSR):
            raise ValueError(f"{name!r} holds a {type(entry.network).__name__}, not an EDSR.")
        return entry.network, entry.params, source(entry)


def _plain(title: str, make: Callable[[_Shelf], Defense]) -> _Maker:
    """Returns the maker of a defense without parameters."""

    def made(shelf: _Shelf):
        defense = make(shelf)
        return defense, defense.init(jax.random.key(0)), None

    return _Maker(title, made)


def _designed(shelf: _Shelf):
    name = shelf.config.table or ""
    steps = zoo.load_steps(name)
    path = pathlib.Path(name)
    path = path / "table.json" if path.is_dir() else path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FeatureDistillation(steps), (), {"name": without_folder(name), "sha256": digest}


def _quilting(shelf: _Shelf):
    bank, where = shelf.bank
    return defenses.Quilting(), bank, where


def _super_resolution(shelf: _Shelf):
    network, params, where = shelf.edsr(shelf.config.enhancer)
    return defenses.SuperResolution(network), params, where


def _rain(shelf: _Shelf):
    network, params, where = shelf.edsr(shelf.config.rain)
    return defenses.RAIN(network, shift_fraction=shelf.config.shift_fraction), params, where


def _subset(shelf: _Shelf):
    """Six of the stages below, of which any one to four are applied."""
    stages = (
        defenses.BitDepth(5),
        defenses.JPEG(75),
        defenses.MedianFilter(2),
        defenses.GaussianNoise(0.02),
        defenses.RandomResizePad(),
        defenses.LowPass(),
    )
    return defenses.RandomSubset(stages, 1, 4)


MAKERS = {
    "undefended": _plain("no defense", lambda shelf: Identity()),
    "fd": _plain("Feature Distillation, 25/30", lambda shelf: FeatureDistillation()),
    "fd_designed": _Maker("Feature Distillation, designed", _designed),
    "jpeg": _plain("JPEG, quality 75", lambda shelf: defenses.JPEG(75)),
    "shield": _plain("SHIELD", lambda shelf: defenses.SHIELD()),
    "bit_depth": _plain("bit depth, 3 bits", lambda shelf: defenses.BitDepth(3)),
    "median": _plain("median filter, 2 × 2", lambda shelf: defenses.MedianFilter(2)),
    "bilateral": _plain("bilateral filter", lambda shelf: defenses.BilateralFilter()),
    "low_pass": _plain("DCT low-pass", lambda shelf: defenses.LowPass()),
    "total_variation": _plain("total variation", lambda shelf: defenses.TotalVariation(0.03)),
    "wavelet": _plain("wavelet shrinkage", lambda shelf: defenses.WaveletDenoising()),
    "super_resolution": _Maker("super-resolution", _super_resolution),
    "quilting": _Maker("image quilting", _quilting),
    "noise": _plain("Gaussian noise", lambda shelf: defenses.GaussianNoise(0.05)),
    "resize_pad": _plain("random resize and pad", lambda shelf: defenses.RandomResizePad()),
    "crop": _plain(
        "random crop", lambda shelf: defenses.RandomCrop(0.75 if shelf.small else 90 / 224)
    ),
    "pixel_deflection": _plain(
        "pixel deflection",
        lambda shelf: defenses.PixelDeflection(num_deflections=100 if shelf.small else 200),
    ),
    "subset": _plain("random subset", _subset),
    "rain": _Maker("RAIN, fine-tuned", _rain),
}


def rows(config: Transformations) -> list[Row]:
    """Loads what the chosen transformations need and returns the pipelines, the bare one first.

    Raises:
        ValueError: a name is unknown, or `fd_designed` is asked for without a table.
    """
    names = config.rows or tuple(name for name in MAKERS if name != "fd_designed" or config.table)
    unknown = [name for name in names if name not in MAKERS]
    if unknown:
        raise ValueError(f"rows={unknown[0]!r} is none of {', '.join(MAKERS)}.")
    if "fd_designed" in names and not config.table:
        raise ValueError("The row 'fd_designed' needs the table it is made of: give --table.")
    classifier = zoo.load_any(config.classifier, config.classifier_arch)
    shelf, found = _Shelf(config), []
    for key in dict.fromkeys(("undefended", *names)):
        defense, params, where = MAKERS[key].make(shelf)
        found.append(
            Row(
                key,
                MAKERS[key].title,
                Defended(defense, classifier.network),
                {"defense": params, "classifier": classifier.params},
                {"classifier": source(classifier), "defense": where},
            )
        )
    return found


def row_cells(config: Transformations, row: Row) -> list[Cell]:
    """Returns the cells of one row: clean, five blind attacks, and up to three that know it."""
    cells = [Cell(row, "clean", "clean", "no attack", None, None, config.num_examples, _ROLES)]
    alone = Defended(Identity(), row.target.classifier)
    threat = "blind to the transformation: found on the classifier alone"
    for radius in config.radii:
        for column, title, attack in _blind(config, radius):
            cells.append(
                Cell(row, column, title, threat, alone, attack, config.num_examples, _ROLES)
            )
        cells += _adaptive(config, row, radius)
    for column, title, attack in _nearest(config):
        cells.append(Cell(row, column, title, threat, alone, attack, config.num_examples, _ROLES))
    return cells


def _blind(config: Transformations, radius: float):
    steps, step_size = config.num_steps, radius / 4
    yield "fgsm", "FGSM", fgsm(radius)
    bim = PGD(radius=radius, step_size=step_size, num_steps=steps, random_start=False)
    yield "bim", "BIM", bim
    yield "pgd", "PGD", dataclasses.replace(bim, random_start=True)


def _nearest(config: Transformations):
    """The two that look for the nearest success.

    DeepFool stops where its paper does, 2 % behind the boundary, so that almost any change of the
    image undoes it; Carlini and Wagner's goes on to a margin of 5.
    """
    yield "deepfool", "DeepFool", DeepFool()
    found = CarliniWagner(confidence=5.0, num_search_steps=3, num_steps=config.cw_steps)
    yield "cw", "CW L2", found


def strongest_gradient(row: Row) -> tuple[str, Defended]:
    """Returns the column of the attacker who knows most of a row, and what he differentiates."""
    defense, classifier = row.target.defense, row.target.classifier
    own = own_gradient(defense)
    return "eot" if defense.is_random else "own", Defended(own, classifier)


def _adaptive(config: Transformations, row: Row, radius: float) -> list[Cell]:
    defense, classifier = row.target.defense, row.target.classifier
    own = own_gradient(defense)
    # The published rule keeps the highest loss it met, which on a random pipeline is a lucky one.
    rule = NoisyAPGD if defense.is_random else APGD
    attack = rule(radius=radius, num_steps=config.num_steps, loss="margin")
    ways: list[tuple[str, str, Defense, str]] = []
    if row.key != "undefended":
        backward = BPDA(defense, Identity())
        ways.append(("bpda", "BPDA, identity", backward, "the identity's gradient"))
    ways.append(("own", "own gradient", own, _whose(defense, own)))
    cells = [
        Cell(
            row, column, title, f"white box: the true transformation, {words}",
            Defended(surrogate, classifier), attack, config.num_examples, _ROLES,
        )
        for column, title, surrogate, words in ways
    ]  # fmt: skip
    if defense.is_random:
        _, _, surrogate, words = ways[-1]
        draws = EOT(config.num_eot, chunk_size=config.chunk(config.num_eot))
        threat = f"white box: {words}, averaged over {config.num_eot} draws a step"
        averaged = dataclasses.replace(attack, eot=draws)
        cells.append(
            Cell(
                row, "eot", "EOT", threat, Defended(surrogate, classifier), averaged,
                config.num_eot_examples, _ROLES,
            )
        )  # fmt: skip
    return cells


def own_gradient(defense: Defense) -> Defense:
    """Returns what an attacker differentiates instead of the identity.

    That is the defense itself where it has a gradient, and where it rounds, its true values with
    the gradient of soft rounding. Quilting has none, for no pixel moves a patch of the bank: what
    it keeps of an image is coarse, so a low-pass stands in for it.
    """
    if isinstance(defense, defenses.Quilting):
        return BPDA(defense, defenses.LowPass(4))
    soft = _soft(defense)
    return defense if soft == defense else BPDA(defense, soft)


def _whose(defense: Defense, own: Defense) -> str:
    if own == defense:
        return "its own gradient"
    if isinstance(defense, defenses.Quilting):
        return "the gradient of a low-pass"
    return "the gradient of soft rounding"


def _soft(defense: Defense) -> Defense:
    if isinstance(defense, Chain | RandomSubset):
        return dataclasses.replace(defense, stages=tuple(map(_soft, defense.stages)))
    if any(field.name == "rounding" for field in dataclasses.fields(defense)):
        return dataclasses.replace(defense, rounding="cubic")
    return defense
