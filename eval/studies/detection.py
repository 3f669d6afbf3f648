"""What detectors are worth: on images of poor quality, on blind attacks, and on adaptive ones."""

import dataclasses
from collections.abc import Iterator
from typing import get_args

from eval.studies._guards import CIFAR10, PHOTOGRAPHS, Guards
from rainjax.attacks import (
    APGD,
    EOT,
    PGD,
    CarliniWagner,
    DeepFool,
    NoisyAPGD,
    SelectivePGD,
    Square,
)
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    Detection,
    Distorted,
    Itself,
    Knowledge,
    Study,
    Subject,
    ThreatModel,
    WantsRejection,
    When,
)
from rainjax.evaluation.extras import MostSuspicious
from rainjax.report import (
    DetectionOverRadius,
    DetectionSummary,
    DetectionTable,
    DistortionMap,
    RiskCoverageCurves,
    RocCurves,
    ScoreHistograms,
)
from rainjax.report import MostSuspicious as ShowMostSuspicious
from rainjax.transforms import SEVERITIES
from rainjax.transforms.distortions import DistortionName, Scale

_TABLE, _RADIUS, _POOR = "table", "radius", "distortions"
# Figures of few lines: of blind attackers, of some of every kind, and of images.
_BLIND, _SOME, _IMAGES = "blind", "some", "images"
# The score itself attacked: fine images made to look poor, and poor ones made to look fine.
_SABOTAGE, _WASHED = "sabotage", "washed"


@dataclasses.dataclass(frozen=True)
class DetectionStudy(Guards):
    """Measures detectors: the image-quality student beside what others look at.

    Clean images; images of poor quality; attacks on the classifier by who is blind to the
    detector; and by who knows it, to whom a rejected image is worth nothing: joint objectives,
    the two gradients taken apart, scores alone. Beside them the score itself is attacked: a fine
    image made to look suspicious, and a poor one made to look fine.
    """

    scale: Scale = "cifar10_c"
    """The constants of distortions: cifar10_c for images of 32 pixels, imagenet_c of 224."""
    severities: tuple[int, ...] = SEVERITIES
    """The severities of every distortion."""
    radii: tuple[float, ...] = (1 / 255, 2 / 255, 4 / 255, 8 / 255)
    """Radii of the L-inf ball of blind attacks, in units of the [0, 1] range."""
    adaptive_radii: tuple[float, ...] = (2 / 255, 8 / 255)
    """Those of attacks on classifier and detector together."""
    num_steps: int = 20
    """Steps of blind attacks."""
    adaptive_steps: int = 50
    """Steps of attacks on classifier and detector together."""
    num_queries: int = 500
    """What Square asks, an image."""
    washed: tuple[DistortionName, ...] = ("gaussian_noise", "defocus_blur")
    """Distortions, at the highest severity, that an attacker makes look fine."""
    num_eot: int = 4
    """Draws that an attack on a random detector averages over."""
    num_examples: int = 500
    """Images for blind attacks and for those of poor quality."""
    num_eot_examples: int = 100
    """Images for adaptive attacks, and for the blind ones that look for the nearest success."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("radii", "adaptive_radii"):
            radii = getattr(self, name)
            if not radii or not all(0 < r <= 1 for r in radii) or len(set(radii)) < len(radii):
                raise ValueError(f"{name}={radii} must be different, in (0, 1]; 8/255 is 0.03137.")
        for name in ("adaptive_steps", "num_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def study(self) -> Study:
        """Loads and fits the detectors; raises ValueError where a part is missing."""
        displays = (
            DetectionSummary(_TABLE, _POOR, _SABOTAGE, _WASHED),
            DetectionTable("detected", _TABLE, "blind", "successful"),
            DetectionTable("detected", _TABLE, "blind", "successful", 0.01),
            DetectionTable("answered_wrong", _TABLE, "blind"),
            DetectionTable("answered_right", _TABLE),
            DetectionTable("right_among_answered", _TABLE),
            DetectionTable("rejected", _TABLE),
            RocCurves(_BLIND, log_x=True),
            DetectionOverRadius(_RADIUS),
            ScoreHistograms(_SOME),
            RiskCoverageCurves(_SOME),
            DistortionMap(_POOR),
            ShowMostSuspicious(_IMAGES),
        )
        extras = (MostSuspicious(tag=_IMAGES),)
        return dataclasses.replace(
            super().study(), measure=Detection(), displays=displays, extras=extras
        )

    def subjects(self) -> tuple[Subject, ...]:
        """Returns the classifier behind every detector."""
        return self.guarded()

    def threats(self) -> Iterator[ThreatModel]:
        """Yields clean images, poor ones, blind attackers, and those that know the detector."""
        yield dataclasses.replace(CLEAN, tags=(_TABLE, _SOME, _IMAGES))
        yield from self._poor()
        yield from self._blind()
        for radius in self.adaptive_radii:
            yield from self._adaptive(radius)
        for name in self.washed:
            yield from self._washed(name)

    def _poor(self) -> Iterator[ThreatModel]:
        for name in get_args(DistortionName):
            words = name.replace("_", " ")
            for severity in self.severities:
                washed = name in self.washed and severity == max(self.severities)
                yield ThreatModel(
                    f"{words} {severity}",
                    Distorted(distortion=name, severity=severity, scale=self.scale),
                    ClassifierAlone(),
                    Knowledge.NONE,
                    description=f"nobody attacks: {words} at severity {severity}",
                    tags=(_POOR, _WASHED) if washed else (_POOR,),
                )

    def _blind(self) -> Iterator[ThreatModel]:
        def blind(name, attack, tags, num=None):
            return ThreatModel(
                name,
                attack,
                ClassifierAlone(),
                Knowledge.CLASSIFIER,
                num_examples=num,
                description="blind to the detector: found on the classifier alone",
                tags=tags,
            )

        steps, few = self.num_steps, self.num_eot_examples
        for radius in self.radii:
            widest = radius == max(self.radii)
            in_table = widest or radius in self.adaptive_radii
            shown = (_TABLE, _BLIND, _RADIUS) if in_table else (_RADIUS,)
            some = (_SOME, _IMAGES) if widest else ()
            pgd = PGD(radius=radius, step_size=radius / 4, num_steps=steps)
            yield blind("PGD", pgd, (*shown, *some))
            square = Square(radius=radius, num_queries=self.num_queries, paired=False)
            yield blind("Square", square, shown, few)
        yield blind("DeepFool", DeepFool(num_steps=steps), (_TABLE, _BLIND, _SOME), few)
        far = CarliniWagner(confidence=0.0, num_search_steps=3, num_steps=3 * steps)
        yield blind("CW L2", far, (_TABLE, _BLIND), few)

    def _adaptive(self, radius: float) -> Iterator[ThreatModel]:
        tags = (_TABLE, _SOME, _IMAGES) if radius == max(self.adaptive_radii) else (_TABLE, _SOME)
        few = self.num_eot_examples
        steps, eot = self.adaptive_steps, self.eot(self.num_eot)
        ways = (
            (False, APGD(radius=radius, num_steps=steps, loss="margin"), EOT()),
            (True, NoisyAPGD(radius=radius, num_steps=steps, loss="margin", eot=eot), eot),
        )
        yield ThreatModel(
            "joint, targeted",
            APGD(radius=radius, num_steps=steps, num_targets=3),
            When(Itself(), random=False),
            description="knows the detector: towards each of the three next classes, by a loss "
            "that no scale of the score makes flat",
            num_examples=few,
        )
        for random, joint, average in ways:
            yield ThreatModel(
                "joint margin",
                joint,
                When(Itself(), random=random),
                description="knows the detector: climbs the smaller of what a wrong answer and "
                "what a rejection lack",
                num_examples=few,
                tags=tags,
            )
            for name, orthogonal in (("selective", False), ("orthogonal", True)):
                yield ThreatModel(
                    f"{name} gradients",
                    SelectivePGD(
                        radius=radius,
                        step_size=radius / 8,
                        num_steps=steps,
                        orthogonal=orthogonal,
                        eot=average,
                    ),
                    When(Itself(), random=random),
                    description="knows the detector: one gradient at a time, "
                    + ("without its part along the other" if orthogonal else "as it is"),
                    num_examples=few,
                )
            yield ThreatModel(
                "Square, joint",
                Square(radius=radius, num_queries=self.num_queries, paired=random, eot=average),
                When(Itself(), random=random),
                Knowledge.SCORES,
                description="black box: logits and score of the whole, and no gradient",
                num_examples=few,
            )
            yield ThreatModel(
                "sabotage",
                PGD(
                    radius=radius,
                    step_size=radius / 8,
                    num_steps=self.num_steps,
                    loss="rejection",
                    best_iterate=True,
                    eot=average,
                ),
                When(WantsRejection(), random=random),
                description="knows the detector: makes a fine image look suspicious",
                num_examples=few,
                tags=(_SABOTAGE,),
            )

    def _washed(self, name: DistortionName) -> Iterator[ThreatModel]:
        severity, eot = max(self.severities), self.eot(self.num_eot)
        poor = f"{name.replace('_', ' ')} {severity}"
        for radius in self.adaptive_radii:
            for random, average in ((False, EOT()), (True, eot)):
                attack = PGD(
                    radius=radius,
                    step_size=radius / 8,
                    num_steps=self.num_steps,
                    loss="acceptance",
                    best_iterate=True,
                    eot=average,
                )
                yield ThreatModel(
                    f"{poor}, whitewashed by {255 * radius:g}/255",
                    Distorted(
                        distortion=name,
                        severity=severity,
                        scale=self.scale,
                        then=attack,
                        eot=average,
                    ),
                    When(Itself(), random=random),
                    description=f"knows the detector: makes an image of {poor} look fine, within "
                    f"{255 * radius:g}/255 of it",
                    num_examples=self.num_eot_examples,
                    tags=(_WASHED,),
                )


STUDIES = {
    "detection": (
        DetectionStudy(
            name="detection",
            num_examples=200,
            num_eot_examples=50,
            radii=(2 / 255, 8 / 255),
            severities=(1, 3, 5),
        ),
        "Detectors in front of the built-in classifier: images of poor quality, blind attacks and "
        "adaptive ones.",
    ),
    "cifar10_detection": (
        DetectionStudy(name="cifar10_detection", **CIFAR10),
        "The same of a published ResNet-20: import the data first, give --classifier FILE.npz.",
    ),
    "photographs_detection": (
        DetectionStudy(
            name="photographs_detection",
            scale="imagenet_c",
            severities=(1, 3, 5),
            radii=(2 / 255, 8 / 255),
            num_steps=10,
            adaptive_steps=20,
            num_queries=100,
            num_examples=64,
            num_eot_examples=16,
            **PHOTOGRAPHS,
        ),
        "The same of photographs at 224 pixels: import Imagenette first, give --classifier "
        "FILE.npz of MobileNetV2's.",
    ),
}
