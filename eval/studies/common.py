"""What the options of every study of this repository share."""

import abc
import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import ClassVar

from eval.studies.later import Later
from rainjax import data, zoo
from rainjax.attacks import EOT
from rainjax.data import ImageSet
from rainjax.defenses import NCIS
from rainjax.evaluation import Study, Subject, ThreatModel
from rainjax.nets import EDSR, BlindSpot
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True)
class StudyOptions(abc.ABC):
    """Images, a classifier, and how hard they are attacked: what a page adds to is its options.

    A page in `eval/studies/` derives a frozen dataclass with the `subjects` and `threats` that it
    measures, and declares the studies that it is good for as `STUDIES`, a dictionary from names to
    options and a description. Each of them is a word of `python -m eval`, and a study for `sanity`
    and `smoothing`.
    """

    short_names: ClassVar[Mapping[str, str]] = {}
    """Short names of subjects, for --rows on a command line."""
    sanity_rows: ClassVar[tuple[str, ...]] = ()
    """The subjects that `sanity` checks unless it is told which; empty for all."""
    smoothing_rows: ClassVar[tuple[str, ...]] = ()
    """The subjects that `smoothing` certifies unless it is told which; empty for all."""

    name: str
    """The study's name, in its records and its report."""
    data: str = "builtin"
    """`builtin`, or the name of a prepared TFDS data set (`rainjax data list`)."""
    split: str = "test"
    """The split that is reported; nothing may have been chosen on it."""
    skip: int = 0
    """Images at the start of the split that are left out. So that something can be chosen on a
    part of a split, and measured on another."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    classifier: str = "builtin_resnet"
    """The classifier: a zoo name, a path, or a file of published weights."""
    classifier_arch: str | None = None
    """The network of published weights (resnet20, resnet56, mobilenetv2_imagenette ...)."""
    num_steps: int = 40
    """Steps of the attacks that follow a gradient."""
    num_eot: int = 16
    """Draws whose gradients EOT averages at every step."""
    eot_chunk: int | None = None
    """Draws held in memory at once; by default one on CPU, all elsewhere."""
    num_examples: int = 2000
    """Images for clean accuracy and for the attacks that follow one draw."""
    num_eot_examples: int = 500
    """Images for the attacks that average over draws; never more than `num_examples`."""
    num_score_draws: int = 5
    """Fresh draws under which every image is scored: mean, worst and majority."""
    batch_size: int = 100
    """Images attacked together. Draws do not depend on it."""
    seed: int = 0
    """The root of every random number."""
    out: pathlib.Path = pathlib.Path("results")
    """The study is written to OUT/NAME and, when interrupted, continued from there."""

    def __post_init__(self):
        counts = ("num_examples", "num_eot_examples", "num_score_draws", "batch_size",
                  "num_eot", "num_steps")  # fmt: skip
        for field in counts:
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.skip < 0:
            raise ValueError(f"skip={self.skip} must be 0 or more images.")
        if self.eot_chunk is not None and self.eot_chunk < 1:
            raise ValueError(f"eot_chunk={self.eot_chunk} must be at least 1.")

    @abc.abstractmethod
    def subjects(self) -> Iterable[Subject]:
        """Returns what is measured, the undefended classifier first."""

    @abc.abstractmethod
    def threats(self) -> Iterable[ThreatModel]:
        """Returns the attackers that each of them meets, where they apply."""

    def study(self) -> Study:
        """Loads the networks and the images; raises ValueError where they do not fit."""
        return Study(
            self.name,
            self.images(),
            tuple(self.subjects()),
            tuple(self.threats()),
            num_examples=self.num_examples,
            num_score_draws=self.num_score_draws,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def images(self) -> ImageSet:
        """Returns the images; raises as `rainjax.data.load`, and where `skip` leaves none."""
        images = data.load(self.data, self.split, data_dir=self.data_dir)
        return Later(images, self.skip) if self.skip else images

    def eot(self, num: int) -> EOT:
        """Returns the average over `num` draws, in chunks that divide them."""
        most = self.eot_chunk
        chunk = most and max(n for n in range(1, most + 1) if num % n == 0)
        return EOT(num, chunk_size=chunk)


def load_edsr(name: str) -> tuple[EDSR, Params, str]:
    """Returns an EDSR, its parameters and its name, by a zoo name or a path.

    Raises:
        ValueError: it is another network.
    """
    entry = zoo.load_any(name)
    if not isinstance(entry.network, EDSR):
        raise ValueError(f"{name!r} holds a {type(entry.network).__name__}, not an EDSR.")
    return entry.network, entry.params, entry.name


def load_ncis(name: str, num_iterations: int) -> tuple[NCIS, Params, str]:
    """Returns NCIS with a blind-spot network, its parameters and its name, by zoo name or path.

    Images are smoothed as they were when the network was trained, which its card says. How often
    network and smoothing take turns no training decides.

    Raises:
        ValueError: it is another network; its card does not say how `train.blind_spot` smoothed
            images, or says what no Gaussian has; or there are no iterations.
    """
    entry = zoo.load_any(name)
    if not isinstance(entry.network, BlindSpot):
        raise ValueError(f"{name!r} holds a {type(entry.network).__name__}, not a BlindSpot.")
    said = entry.card.get("options", {})
    keys = {"given": str} | {
        f"smoothing.{key}": kind
        for key, kind in (("sigma", float | int), ("kernel_size", int), ("border", str))
    }
    for key, kind in keys.items():
        value = said.get(key)
        odd = not isinstance(value, kind) or isinstance(value, bool)
        if odd or (key == "given" and value not in ("smoothed", "raw")):
            raise ValueError(
                f"The card of {name!r} has {key}={value!r} among its options, so how NCIS "
                "has to smooth images for this network is not known: take one that "
                "`python -m train.blind_spot` wrote."
            )
    defense = NCIS(
        entry.network,
        num_iterations,
        sigma=float(said["smoothing.sigma"]),
        kernel_size=said["smoothing.kernel_size"],
        border=said["smoothing.border"],
        smooth_input=said["given"] == "smoothed",
    )
    return defense, entry.params, entry.name
