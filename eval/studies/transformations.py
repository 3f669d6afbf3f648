"""Transformations of an image side by side, in front of one classifier."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import tyro

from eval.studies.common import StudyOptions
from eval.studies.defenses import MAKERS, Shelf
from eval.studies.two_pass import Compressed
from rainjax import Defended, zoo
from rainjax.attacks import (
    APGD,
    EOT,
    PGD,
    CarliniWagner,
    DeepFool,
    NoisyAPGD,
    ReachableOutputs,
    fgsm,
)
from rainjax.data import ImageSet
from rainjax.defenses import FeatureDistillation
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    IdentityGradient,
    Knowledge,
    OwnGradient,
    RoundedOutputs,
    Study,
    Subject,
    ThreatModel,
    When,
    ladders,
    proved,
)
from rainjax.evaluation.extras import Gallery

_TAGS = ("comparison", "table")


@dataclasses.dataclass(frozen=True)
class Transformations(StudyOptions):
    """Measures transformations of an image side by side, in front of one classifier.

    Each meets attacks that do not know of it, found on the classifier alone, and attacks that
    do: with the identity for its gradient, with a gradient of its own, averaged over draws, and
    by a choice among the outputs that a rounding can be led to. Beside them stands what is proved,
    where the transformation bounds what it rounds.
    """

    short_names: ClassVar[dict[str, str]] = {name: maker.title for name, maker in MAKERS.items()}
    sanity_rows: ClassVar[tuple[str, ...]] = ("fd", "quilting")
    smoothing_rows: ClassVar[tuple[str, ...]] = ("undefended", "fd")

    rows: tuple[str, ...] = ()
    """The transformations by name, empty for all: fd, fd_designed (with --table), jpeg, shield,
    bit_depth, median, bilateral, non_local_means, low_pass, total_variation, wavelet,
    super_resolution, quilting, noise, resize_pad, crop, pixel_deflection, subset, rain. The bare
    classifier, undefended, is measured in any case."""
    radii: tuple[float, ...] = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    """Radii of the L-inf ball, in units of the [0, 1] range: 8/255 is 0.03137."""
    num_steps: int = 20
    """Steps of BIM, of PGD and of the attacks that know the transformation."""
    reach_steps: int = 30
    """Steps of each start of the attack on what a rounding can return: four, one if random."""
    num_eot: int = 8
    """Draws that an attack on a random transformation averages over."""
    ladder_radii: tuple[float, ...] = ()
    """Radii, of those above, at which a strength ladder is climbed under every surrogate too: what
    a number above the undefended classifier's needs to be more than a bound. Empty for none."""
    ladder_budget: int = 4000
    """The most gradients that one ladder takes per image."""
    num_examples: int = 200
    """Images for clean accuracy, for blind attacks and for those on what is not random."""
    num_eot_examples: int = 100
    """Images for the other attacks on what is random; never more than `num_examples`."""
    num_ladder_examples: int = 50
    """Images for strength ladders; never more than `num_examples`."""
    cw_steps: int = 60
    """Steps of each of Carlini and Wagner's three searches."""
    two_pass: bool = False
    """Feature Distillation's two-pass process: images are compressed by it (25/30) and rounded to
    8 bits before the attacker, who stays near the compressed ones, sees them. Then --name
    another study."""
    table: str | None = None
    """Also measure Feature Distillation with this table: a file or a folder that
    `python -m eval design` wrote."""
    enhancer: str = "builtin_edsr"
    """The EDSR of the super-resolution defense: a zoo name or a path."""
    rain: Annotated[str, tyro.conf.arg(aliases=["--finetuned"])] = "builtin_edsr_rain"
    """RAIN's EDSR: a zoo name or a path."""
    shift_fraction: float = 0.0625
    """RAIN's largest circular shift as a share of the low-resolution height, rounded down."""
    bank_data: str | None = None
    """Whose pictures the patches of quilting are from; by default those of `data`."""
    bank_split: str = "train"
    """The split of those pictures."""
    bank_size: int = 50_000
    """Patches in quilting's bank."""

    def __post_init__(self):
        super().__post_init__()
        if not self.radii or not all(0 < r <= 1 for r in self.radii):
            raise ValueError(f"radii={self.radii} must lie in (0, 1]; 8/255 is 0.03137.")
        # As precise as the names of records are.
        if len({f"{255 * r:.6g}" for r in self.radii}) < len(self.radii):
            raise ValueError(f"radii={self.radii} holds one twice: leave it out.")
        odd = [radius for radius in self.ladder_radii if radius not in self.radii]
        if odd:
            raise ValueError(f"ladder_radii={odd[0]} is none of radii={self.radii}.")
        for name in ("cw_steps", "reach_steps", "bank_size", "num_ladder_examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        unknown = [name for name in self.rows if name not in MAKERS]
        if unknown:
            raise ValueError(f"rows={unknown[0]!r} is none of {', '.join(MAKERS)}.")

    def images(self) -> ImageSet:
        images = super().images()
        return Compressed(images, FeatureDistillation()) if self.two_pass else images

    def study(self) -> Study:
        """Loads what the rows need and returns the study.

        Raises:
            ValueError: `fd_designed` is asked for without a table, or a network is missing.
        """
        return dataclasses.replace(super().study(), extras=(Gallery(),))

    def subjects(self) -> tuple[Subject, ...]:
        """Returns the rows, the bare classifier first."""
        names = self.rows or tuple(n for n in MAKERS if n != "fd_designed" or self.table)
        classifier = zoo.load_any(self.classifier, self.classifier_arch)
        shelf = Shelf(
            small=max(self.images().image(0).shape[:2]) < 96,
            enhancer=self.enhancer,
            rain=self.rain,
            shift_fraction=self.shift_fraction,
            table=self.table,
            bank_data=self.bank_data or self.data,
            bank_split=self.bank_split,
            bank_size=self.bank_size,
            data_dir=self.data_dir,
            seed=self.seed,
        )
        found = []
        for name in dict.fromkeys(("undefended", *names)):
            defense, params, source = MAKERS[name].make(shelf)
            sources = {"classifier": classifier.name}
            found.append(
                Subject(
                    MAKERS[name].title,
                    Defended(defense, classifier.network),
                    {"defense": params, "classifier": classifier.params},
                    sources | ({"defense": source} if source else {}),
                )
            )
        return tuple(found)

    def threats(self) -> Iterator[ThreatModel]:
        """Yields clean images, blind attackers, and those that know the transformation."""
        yield dataclasses.replace(CLEAN, tags=_TAGS)
        for radius in self.radii:
            for name, attack in self._blind(radius):
                yield self._alone(name, attack)
        # DeepFool stops where its paper does, 2 % behind the boundary, so that almost any change
        # of the image undoes it; Carlini and Wagner's goes on to a margin of 5.
        yield self._alone("DeepFool", DeepFool())
        far = CarliniWagner(confidence=5.0, num_search_steps=3, num_steps=self.cw_steps)
        yield self._alone("CW L2", far)
        for radius in self.radii:
            yield from self._adaptive(radius)
            yield proved(radius, tags=_TAGS)
        for radius in self.ladder_radii:
            yield from ladders(
                radius,
                num_steps=self.num_steps,
                eot=self.eot(min(self.num_eot, 4)),
                max_gradients=self.ladder_budget,
                num_examples=self.num_ladder_examples,
                tags=("comparison", "ladder"),
            )

    def _blind(self, radius: float):
        step_size = radius / 4
        yield "FGSM", fgsm(radius)
        bim = PGD(radius=radius, step_size=step_size, num_steps=self.num_steps, random_start=False)
        yield "BIM", bim
        yield "PGD", dataclasses.replace(bim, random_start=True)

    def _alone(self, name: str, attack) -> ThreatModel:
        return ThreatModel(
            name,
            attack,
            ClassifierAlone(),
            Knowledge.CLASSIFIER,
            description="blind to the transformation: found on the classifier alone",
            tags=_TAGS,
        )

    def _adaptive(self, radius: float) -> Iterator[ThreatModel]:
        # Of two rows a curve over the radius can be read.
        tags = (*_TAGS, "radius") if self.two_pass else _TAGS
        # The published rule keeps the highest loss it met, which on a random pipeline is a lucky
        # one.
        rules = ((APGD, False), (NoisyAPGD, True))
        ways = (
            ("BPDA, identity", IdentityGradient(), "the identity's gradient"),
            ("own gradient", OwnGradient(), "its own gradient, or its soft twin's"),
        )
        for name, surrogate, words in ways:
            for rule, random in rules:
                yield ThreatModel(
                    name,
                    rule(radius=radius, num_steps=self.num_steps, loss="margin"),
                    When(surrogate, random=random),
                    num_examples=self.num_eot_examples if random else None,
                    description=f"white box: the true transformation, {words}",
                    tags=tags,
                )
        averaged = self.eot(self.num_eot)
        for random, eot in ((False, EOT()), (True, averaged)):
            yield ThreatModel(
                "reachable outputs",
                ReachableOutputs(
                    radius=radius,
                    num_steps=self.reach_steps,
                    num_restarts=1 if random else 4,
                    best_iterate=not random,
                    eot=eot,
                    early_stop=not random,
                ),
                When(RoundedOutputs(), random=random),
                num_examples=self.num_eot_examples if random else None,
                description="white box: the best of the outputs that the rounding can be led to",
                tags=tags,
            )
        yield ThreatModel(
            "EOT",
            NoisyAPGD(
                radius=radius,
                num_steps=self.num_steps,
                loss="margin",
                eot=averaged,
            ),
            When(OwnGradient(), random=True),
            num_examples=self.num_eot_examples,
            description="white box: its own gradient, or its soft twin's, averaged over "
            f"{self.num_eot} draws a step",
            tags=tags,
        )


STUDIES = {
    "transformations": (
        Transformations(name="transformations"),
        "Every transformation side by side, on the built-in set.",
    ),
    "cifar10_transformations": (
        Transformations(
            name="cifar10_transformations",
            data="cifar10",
            classifier="cifar10_resnet20.npz",
            classifier_arch="resnet20",
            enhancer="cifar10_edsr",
            rain="cifar10_edsr_rain",
        ),
        "Every transformation in front of a published ResNet-20: import the data first, give "
        "--classifier FILE.npz. The README's options make it 45 minutes on two busy cores.",
    ),
    "cifar10_robust_base": (
        Transformations(
            name="cifar10_robust_base",
            data="cifar10",
            classifier="cifar10_resnet4b_adv2.npz",
            classifier_arch="resnet4b",
            enhancer="cifar10_edsr",
            rain="cifar10_edsr_rain",
            rows=("fd", "noise", "rain"),
            radii=(2 / 255, 4 / 255, 8 / 255),
            batch_size=50,
        ),
        "Does a transformation help or harm a network that was trained against attacks? Feature "
        "Distillation, noise and RAIN in front of a published one (alpha-beta-CROWN's "
        "cifar10_resnet, 2/255): import the data first, give --classifier FILE.npz.",
    ),
    "nips2017_transformations": (
        Transformations(
            name="nips2017_transformations",
            data="nips2017",
            classifier="mobilenetv2.npz",
            classifier_arch="mobilenetv2",
            enhancer="imagenette96_edsr",
            rain="imagenette96_edsr_rain",
            shift_fraction=0.05,
            bank_data="imagenette224",
            num_steps=10,
            num_eot=4,
            num_examples=48,
            num_eot_examples=24,
            cw_steps=30,
            batch_size=24,
        ),
        "Every transformation of photographs at 224 pixels, not stored as JPEG: import the "
        "pictures of the NIPS 2017 competition and Imagenette (for quilting's patches) first, "
        "give --classifier FILE.npz of MobileNetV2's. Its blind attacks take half an hour on two "
        "cores, those that know the transformation longer.",
    ),
}
