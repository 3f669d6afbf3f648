"""The transformations that are compared, by name, with what each takes its parameters from."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from eval.studies.common import load_edsr, load_ncis
from rainjax import data, defenses, zoo
from rainjax.defenses import NCIS, Defense, FeatureDistillation, GaussianSmoothing, Identity
from rainjax.evaluation.provenance import without_folder
from rainjax.keys import Purpose, purpose_key
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Shelf:
    """What transformations are made of, read when the first one asks.

    `small` says whether the pictures are CIFAR's size, for which some papers' numbers are too
    large.
    """

    small: bool
    enhancer: str = "builtin_edsr"
    rain: str = "builtin_edsr_rain"
    shift_fraction: float = 0.0625
    smoothing: GaussianSmoothing = GaussianSmoothing()
    blind_spot: str | None = None
    ncis_iterations: int = NCIS.num_iterations
    table: str | None = None
    bank_data: str = "builtin"
    bank_split: str = "train"
    bank_size: int = 50_000
    data_dir: pathlib.Path | None = None
    seed: int = 0

    @functools.cached_property
    def bank(self) -> tuple[Params, str]:
        """Patches of training pictures, for quilting, and what they are."""
        try:
            train = data.load(self.bank_data, self.bank_split, data_dir=self.data_dir)
        except ValueError as error:
            raise ValueError(
                f"The patches of the row 'quilting': {error} Name others with --bank-data and "
                "--bank-split."
            ) from error
        images, _ = train.get(np.arange(min(len(train), 2000)))
        bank = defenses.patch_bank(purpose_key(self.seed, Purpose.DATA), images, self.bank_size)
        return bank, f"{self.bank_size} patches of {train.name}, {train.split}"


@dataclasses.dataclass(frozen=True)
class Maker:
    """A row's title, and how its defense, its parameters and their source come about."""

    title: str
    make: Callable[[Shelf], tuple[Defense, Params, str | None]]


def _plain(title: str, make: Callable[[Shelf], Defense]) -> Maker:
    """Returns the maker of a defense without parameters."""

    def made(shelf: Shelf):
        defense = make(shelf)
        return defense, defense.init(jax.random.key(0)), None

    return Maker(title, made)


def _designed(shelf: Shelf):
    if not shelf.table:
        raise ValueError("The row 'fd_designed' needs the table it is made of: give --table.")
    steps = zoo.load_steps(shelf.table)
    path = pathlib.Path(shelf.table)
    path = path / "table.json" if path.is_dir() else path
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return FeatureDistillation(steps), (), f"{without_folder(shelf.table)}, {digest}"


def _quilting(shelf: Shelf):
    bank, where = shelf.bank
    return defenses.Quilting(), bank, where


def _super_resolution(shelf: Shelf):
    network, params, name = load_edsr(shelf.enhancer)
    return defenses.SuperResolution(network), params, name


def _rain(shelf: Shelf):
    network, params, name = load_edsr(shelf.rain)
    return defenses.RAIN(network, shift_fraction=shelf.shift_fraction), params, name


def _ncis(shelf: Shelf):
    if not shelf.blind_spot:
        raise ValueError(
            "The row 'ncis' needs a blind-spot network: give --blind-spot, what "
            "`python -m train.blind_spot` wrote on images like these."
        )
    return load_ncis(shelf.blind_spot, shelf.ncis_iterations)


def _subset(shelf: Shelf):
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
    "fd_designed": Maker("Feature Distillation, designed", _designed),
    "jpeg": _plain("JPEG, quality 75", lambda shelf: defenses.JPEG(75)),
    "shield": _plain("SHIELD", lambda shelf: defenses.SHIELD()),
    "bit_depth": _plain("bit depth, 3 bits", lambda shelf: defenses.BitDepth(3)),
    "median": _plain("median filter, 2 × 2", lambda shelf: defenses.MedianFilter(2)),
    "bilateral": _plain("bilateral filter", lambda shelf: defenses.BilateralFilter()),
    "non_local_means": _plain("non-local means", lambda shelf: defenses.NonLocalMeans()),
    "smoothing": _plain("Gaussian smoothing", lambda shelf: shelf.smoothing),
    "low_pass": _plain("DCT low-pass", lambda shelf: defenses.LowPass()),
    "total_variation": _plain("total variation", lambda shelf: defenses.TotalVariation(0.03)),
    "wavelet": _plain("wavelet shrinkage", lambda shelf: defenses.WaveletDenoising()),
    "super_resolution": Maker("super-resolution", _super_resolution),
    "quilting": Maker("image quilting", _quilting),
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
    "rain": Maker("RAIN, fine-tuned", _rain),
    "ncis": Maker("NCIS", _ncis),
}
