"""RAIN before and after fine-tuning, in front of one classifier, against five attackers."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

from eval.studies.common import StudyOptions, load_edsr
from rainjax import RAIN, Defended, Identity, zoo
from rainjax.attacks import EOT, PGD
from rainjax.evaluation import (
    CLEAN,
    ClassifierAlone,
    Itself,
    Knowledge,
    MeanField,
    Robustness,
    Study,
    Subject,
    ThreatModel,
    When,
)
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.extras import Panels, Spectrum


@dataclasses.dataclass(frozen=True)
class RAINStudy(StudyOptions):
    """Measures a classifier behind RAIN, before and after fine-tuning, against five attackers.

    Every option is part of the records. Radii and step sizes are in units of the [0, 1] range.
    """

    short_names: ClassVar[dict[str, str]] = {
        "undefended": "no defense",
        "rain_pretrained": "RAIN, before fine-tuning",
        "rain_finetuned": "RAIN, fine-tuned",
    }
    sanity_rows: ClassVar[tuple[str, ...]] = ("undefended", "rain_finetuned")
    smoothing_rows: ClassVar[tuple[str, ...]] = sanity_rows

    pretrained: str = "builtin_edsr"
    """RAIN's EDSR before fine-tuning: a zoo name or a path."""
    finetuned: str = "builtin_edsr_rain"
    """RAIN's EDSR after fine-tuning: a zoo name or a path."""
    shift_fraction: float = 0.0625
    """Largest circular shift as a share of the low-resolution height, rounded down."""
    radius: float = 8 / 255
    """Radius of the L-inf ball."""
    step_size: float = 2 / 255
    """Size of one PGD step; on the radius axis it scales with the radius."""
    eight_bit: bool = False
    """Also score the adversarial images rounded to 8 bits, as a file would hold them."""
    autoattack: Literal["standard", "rand", "plus"] | None = None
    """Also run this version of AutoAttack's ensemble, with `num_steps` and `num_eot`, against
    every random pipeline."""
    known_key: bool = False
    """Also run the attacker who holds the scoring keys (tells masking from robustness)."""
    num_sweep_examples: int = 200
    """Images for the curves over the number of draws and over the radius; never more than
    `num_examples`."""
    eot_sweep: tuple[int, ...] = (1, 4, 16, 64)
    """Numbers of draws on the EOT curve; empty for none."""
    radius_sweep: tuple[float, ...] = ()
    """Radii on the curve over the radius, for every threat model; empty for none."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.radius <= 1 or not all(0 < r <= 1 for r in self.radius_sweep):
            raise ValueError(
                f"radius={self.radius} and radius_sweep={self.radius_sweep} must lie in (0, 1]; "
                "8/255 is 0.03137."
            )
        if not all(k >= 1 for k in self.eot_sweep):
            raise ValueError(f"eot_sweep={self.eot_sweep} starts at 1.")
        if (self.eot_sweep or self.radius_sweep) and self.num_sweep_examples < 1:
            raise ValueError(
                f"num_sweep_examples={self.num_sweep_examples} leaves the sweeps no image: "
                "raise it, or empty eot_sweep and radius_sweep."
            )

    def study(self) -> Study:
        """Loads the networks and the images; raises ValueError where they do not fit."""
        return dataclasses.replace(
            super().study(),
            measure=Robustness(eight_bit=self.eight_bit),
            extras=(Panels(), Spectrum(("RAIN, before fine-tuning", "RAIN, fine-tuned"))),
        )

    def subjects(self) -> tuple[Subject, ...]:
        """Returns the classifier alone, then behind RAIN before and after fine-tuning."""
        classifier = zoo.load_any(self.classifier, self.classifier_arch)
        found = [
            Subject(
                "no defense",
                Defended(Identity(), classifier.network),
                {"defense": (), "classifier": classifier.params},
                {"classifier": classifier.name},
            )
        ]
        for title, name in (
            ("RAIN, before fine-tuning", self.pretrained),
            ("RAIN, fine-tuned", self.finetuned),
        ):
            network, params, source = load_edsr(name)
            defense = RAIN(network, shift_fraction=self.shift_fraction)
            found.append(
                Subject(
                    title,
                    Defended(defense, classifier.network),
                    {"defense": params, "classifier": classifier.params},
                    {"classifier": classifier.name, "defense": source},
                )
            )
        return tuple(found)

    def threats(self) -> Iterator[ThreatModel]:
        """Yields the columns of the table, then the points of the curves."""
        few, sweep = self.num_eot_examples, self.num_sweep_examples
        yield CLEAN
        yield from self._attacks(self.radius, None, few, ("table",))
        if self.autoattack:
            yield self._autoattack(self.autoattack)
        if self.known_key:
            yield self._known_key()
        for radius in self.radius_sweep:
            yield from self._attacks(radius, sweep, sweep, ("radius",))
        for num in self.eot_sweep:
            yield self._eot(self.radius, num, sweep, ("draws",))
        if self.eot_sweep:  # the level that the curve is held against
            yield self._mean_field(self.radius, sweep, ("draws",))

    def _attacks(
        self, radius: float, num: int | None, num_eot: int, tags: tuple[str, ...]
    ) -> Iterator[ThreatModel]:
        """The attackers of one radius; without a defense there is nothing to be blind to."""
        yield ThreatModel(
            f"PGD-{self.num_steps}, blind",
            self._pgd(radius),
            When(ClassifierAlone(), defended=True),
            Knowledge.CLASSIFIER,
            num,
            "blind to the defense: gradients of the classifier alone",
            tags,
        )
        yield ThreatModel(
            f"PGD-{self.num_steps}, one draw",
            self._pgd(radius),
            Itself(),
            num_examples=num,
            description="white box: gradients of the whole pipeline, one draw a step",
            tags=tags,
        )
        yield self._eot(radius, self.num_eot, num_eot, tags)
        yield self._mean_field(radius, num_eot, tags)

    def _eot(self, radius: float, num_eot: int, num: int, tags: tuple[str, ...]) -> ThreatModel:
        return ThreatModel(
            f"EOT-PGD-{self.num_steps}",
            self._pgd(radius, self.eot(num_eot)),
            When(Itself(), random=True),
            num_examples=num,
            description=f"white box: gradients averaged over {num_eot} draws a step",
            tags=tags,
        )

    def _mean_field(self, radius: float, num: int, tags: tuple[str, ...]) -> ThreatModel:
        return ThreatModel(
            "mean field",
            self._pgd(radius, self.eot(self.num_eot)),
            MeanField(),
            num_examples=num,
            description="white box: mean pixel for the random pick, all shifts enumerated",
            tags=tags,
        )

    def _autoattack(self, version: Literal["standard", "rand", "plus"]) -> ThreatModel:
        attack = AutoAttack(
            version=version,
            radius=self.radius,
            num_steps=self.num_steps,
            eot=self.eot(self.num_eot),
        )
        names = ", ".join(member.name for member in attack.members)
        return ThreatModel(
            f"AutoAttack, {version}",
            attack,
            When(Itself(), random=True),
            num_examples=self.num_eot_examples,
            description=f"white box: the worst of {names}, answers averaged over "
            f"{self.num_eot} draws",
        )

    def _known_key(self) -> ThreatModel:
        draws = self.eot(self.num_eot)
        return ThreatModel(
            "known key",
            self._pgd(self.radius, dataclasses.replace(draws, draws="enumerated")),
            Itself(),
            Knowledge.KEYS,
            num_examples=self.num_eot_examples,
            description=f"white box, holding the {self.num_score_draws} keys that will be scored",
        )

    def _pgd(self, radius: float, eot: EOT | None = None) -> PGD:
        return PGD(
            radius=radius,
            step_size=self.step_size * radius / self.radius,
            num_steps=self.num_steps,
            eot=eot or EOT(),
        )


QUICK = RAINStudy(
    name="quick",
    num_examples=256,
    num_eot_examples=64,
    num_sweep_examples=64,
    num_steps=10,
    num_eot=8,
    eot_sweep=(1, 4, 8, 16),
    radius_sweep=(4 / 255, 8 / 255),
    autoattack="rand",
    eight_bit=True,
    batch_size=64,
)

CIFAR10 = RAINStudy(
    name="cifar10",
    data="cifar10",
    classifier="cifar10_resnet20.npz",
    classifier_arch="resnet20",
    pretrained="cifar10_edsr",
    finetuned="cifar10_edsr_rain",
    batch_size=50,
)

IMAGENETTE96 = RAINStudy(
    name="imagenette96",
    data="imagenette96",
    split="validation",
    classifier="runs/imagenette96_mobilenet",
    pretrained="imagenette96_edsr",
    finetuned="imagenette96_edsr_rain",
    shift_fraction=0.05,
    num_examples=300,
    num_eot_examples=64,
    num_sweep_examples=64,
    eot_sweep=(1, 4, 16),
    batch_size=32,
)

STUDIES = {
    "quick": (QUICK, "The built-in set with the shipped networks, in minutes on two cores."),
    "cifar10": (
        CIFAR10,
        "CIFAR-10 and a published ResNet-20: import the data first, give --classifier FILE.npz. "
        "80 minutes on two busy cores, 2.3 million gradients.",
    ),
    "imagenette96": (
        IMAGENETTE96,
        "Photographs at 96 pixels: import Imagenette and train the classifier first. 41 minutes "
        "on two busy cores, 270 thousand gradients.",
    ),
}
