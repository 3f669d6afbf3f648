"""Transformations of an image side by side, in front of one classifier."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from eval.studies.comparison import Comparison, blind
from eval.studies.two_pass import Compressed
from rainjax.attacks import PGD, DeepFool, fgsm
from rainjax.data import ImageSet
from rainjax.defenses import FeatureDistillation
from rainjax.evaluation import ThreatModel


@dataclasses.dataclass(frozen=True)
class Transformations(Comparison):
    """Measures transformations of an image side by side, in front of one classifier.

    Each meets attacks that do not know of it, found on the classifier alone, and attacks that
    do: with the identity for its gradient, with a gradient of its own, averaged over draws, and
    by a choice among the outputs that a rounding can be led to. Beside them stands what is proved,
    where the transformation bounds what it rounds.
    """

    sanity_rows: ClassVar[tuple[str, ...]] = ("fd", "quilting")
    smoothing_rows: ClassVar[tuple[str, ...]] = ("undefended", "fd")

    two_pass: bool = False
    """Feature Distillation's two-pass process: images are compressed by it (25/30) and rounded to
    8 bits before the attacker, who stays near the compressed ones, sees them. Then --name
    another study."""

    def images(self) -> ImageSet:
        images = super().images()
        return Compressed(images, FeatureDistillation()) if self.two_pass else images

    def _blind(self, radius: float) -> Iterator[ThreatModel]:
        """Yields the blind attackers within a radius."""
        bim = PGD(
            radius=radius, step_size=radius / 4, num_steps=self.num_steps, random_start=False
        )
        yield blind("FGSM", fgsm(radius))
        yield blind("BIM", bim)
        yield blind("PGD", dataclasses.replace(bim, random_start=True))

    def _blind_and_nearest(self) -> Iterator[ThreatModel]:
        """Yields the blind attackers that look for the nearest success."""
        # DeepFool stops where its paper does, 2 % behind the boundary, so that almost any change
        # of the image undoes it; Carlini and Wagner's goes on to a margin of 5.
        yield blind("DeepFool", DeepFool())
        yield self._carlini_wagner()

    @property
    def _more_tags(self) -> tuple[str, ...]:
        # Of two rows a curve over the radius can be read.
        return ("radius",) if self.two_pass else ()


STUDIES = {
    "transformations": (
        Transformations(name="transformations", blind_spot="builtin_blind_spot"),
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
            blind_spot="cifar10_blind_spot",
            ncis_iterations=1,  # chosen by `cifar10_ncis_iterations`
        ),
        "Every transformation in front of a published ResNet-20: import the data first, give "
        "--classifier FILE.npz. The options of docs/results make it 45 minutes on two busy cores, "
        "without smoothing and NCIS, which have joined since.",
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
            blind_spot="natural_blind_spot",
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
        "cores, those that know the transformation longer, without smoothing and NCIS, which have "
        "joined since.",
    ),
}
