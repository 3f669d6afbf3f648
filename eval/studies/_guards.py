"""What pages share that put detectors in front of one classifier."""

import dataclasses
from typing import ClassVar

from eval.studies.common import StudyOptions
from eval.studies.detectors import MAKERS, Bench
from eval.studies.later import Later
from rainjax import Defended, Guarded, Identity, data, zoo
from rainjax.evaluation import (
    Subject,
)


@dataclasses.dataclass(frozen=True)
class Guards(StudyOptions):
    """Detectors in front of one classifier, with thresholds that other clean images decided."""

    short_names: ClassVar[dict[str, str]] = {name: maker.title for name, maker in MAKERS.items()}

    rows: tuple[str, ...] = ()
    """The detectors by name, empty for all: quality, quality_features (with --features-student),
    max_softmax, energy, squeezing, fd, rain, statistics, mahalanobis, lid."""
    student: str = "builtin_quality"
    """The student of the row `quality`: a zoo name or a path."""
    features_student: str | None = None
    """Also measure one that sees the classifier's features too: a zoo name or a path."""
    rain: str = "builtin_edsr_rain"
    """The EDSR of the row `rain`: a zoo name or a path."""
    shift_fraction: float = 0.0625
    """RAIN's largest circular shift as a share of the low-resolution height, rounded down."""
    fit_split: str = "train"
    """The split whose first images teach detectors what clean ones are like."""
    num_fitting: int = 1000
    """How many they are."""
    calibration_split: str = "validation"
    """The split whose clean images decide the thresholds; nothing may be reported on them."""
    calibration_skip: int = 600
    """Images at the start of that split that are left out: those that chose among the students."""
    num_calibrating: int = 500
    """How many they are."""
    false_positive_rate: float = 0.05
    """The share of clean images that a threshold may reject."""

    def __post_init__(self):
        super().__post_init__()
        unknown = [name for name in self.rows if name not in MAKERS]
        if unknown:
            raise ValueError(f"rows={unknown[0]!r} is none of {', '.join(MAKERS)}.")
        for name in ("num_fitting", "num_calibrating"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.calibration_skip < 0:
            raise ValueError(f"calibration_skip={self.calibration_skip} must be 0 or more.")
        _check_apart(
            (self.split, self.skip, self.num_examples, "reported", "skip"),
            (self.calibration_split, self.calibration_skip, self.num_calibrating,
             "what decides the thresholds", "calibration_skip"),
            (self.fit_split, 0, self.num_fitting, "what detectors are fitted on", "fit_split"),
        )  # fmt: skip

    def guarded(self) -> tuple[Subject, ...]:
        """Returns the classifier behind every detector; raises ValueError as the rows do."""
        classifier = zoo.load_any(self.classifier, self.classifier_arch)
        load = lambda split: data.load(self.data, split, data_dir=self.data_dir)
        calibrating = load(self.calibration_split)
        if self.calibration_skip:
            calibrating = Later(calibrating, self.calibration_skip)
        bench = Bench(
            network=classifier.network,
            params=classifier.params,
            sha256=classifier.sha256,
            num_classes=calibrating.num_classes,
            fitting=load(self.fit_split),
            calibrating=calibrating,
            num_fitting=self.num_fitting,
            num_calibrating=self.num_calibrating,
            student=self.student,
            features_student=self.features_student,
            rain=self.rain,
            shift_fraction=self.shift_fraction,
            rate=self.false_positive_rate,
            batch_size=self.batch_size,
        )
        bare = {"defense": (), "classifier": classifier.params}
        found = []
        absent = {"quality_features": self.features_student is None}
        rows = self.rows or tuple(name for name in MAKERS if not absent.get(name))
        for name in dict.fromkeys(rows):
            detector, part, sources = bench.part(name)
            found.append(
                Subject(
                    MAKERS[name].title,
                    Guarded(Defended(Identity(), classifier.network), detector),
                    {"pipeline": bare, **part},
                    {"classifier": classifier.name, **sources},
                )
            )
        return tuple(found)


def _check_apart(*uses: tuple[str, int, int, str, str]) -> None:
    """Refuses images that have two uses: each is a split, its first image, how many, and words."""
    for place, (split, start, num, use, _) in enumerate(uses):
        for other_split, other_start, other_num, other_use, option in uses[place + 1 :]:
            apart = start + num <= other_start or other_start + other_num <= start
            if split == other_split and not apart:
                raise ValueError(
                    f"The images {start}..{start + num - 1} of {split!r} are {use}, and "
                    f"{other_start}..{other_start + other_num - 1} are {other_use}: change "
                    f"{option}."
                )


CIFAR10 = {
    "data": "cifar10",
    "classifier": "cifar10_resnet20.npz",
    "classifier_arch": "resnet20",
    "student": "cifar10_quality",
    "rain": "cifar10_edsr_rain",
    "num_fitting": 2000,
    "calibration_split": "test",
    "calibration_skip": 5000,
    "num_calibrating": 1000,
    "batch_size": 50,
}
PHOTOGRAPHS = {
    "data": "imagenette224",
    "split": "validation",
    "classifier": "mobilenetv2.npz",
    "classifier_arch": "mobilenetv2",
    "student": "photographs_quality",
    "rain": "imagenette96_edsr_rain",
    "shift_fraction": 0.05,
    "num_fitting": 200,
    "calibration_split": "validation",
    "calibration_skip": 800,
    "num_calibrating": 200,
    "batch_size": 8,
}
