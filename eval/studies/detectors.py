"""The detectors that are compared, by name, each fitted and with a threshold for clean images."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from eval.studies.common import load_edsr
from rainjax import zoo
from rainjax.data import ImageSet
from rainjax.defenses import RAIN, FeatureDistillation
from rainjax.detectors import (
    Detector,
    Disagreement,
    DrawDisagreement,
    Energy,
    ImageQuality,
    LocalIntrinsicDimensionality,
    Mahalanobis,
    MaxSoftmax,
    NaturalStatistics,
    calibrate,
    feature_squeezing,
)
from rainjax.nets import Features, Network, QualityNet
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """What detectors are made of: the protected network, and clean images that nothing reports.

    `sha256` is that of the network's parameters. Detectors are fitted on `fitting`, and
    `calibrating` decides their thresholds.
    """

    network: Network
    params: Params
    num_classes: int
    fitting: ImageSet
    calibrating: ImageSet
    num_fitting: int
    num_calibrating: int
    sha256: str
    student: str
    features_student: str | None
    rain: str
    shift_fraction: float
    rate: float
    batch_size: int

    @property
    def small(self) -> bool:
        """Whether the pictures are CIFAR's size, for which some papers' numbers are too large."""
        return max(self.fitting.image(0).shape[:2]) < 96

    @functools.cached_property
    def fitted_on(self) -> tuple[np.ndarray, np.ndarray]:
        """Clean images in [0, 1], and their labels."""
        return _first(self.fitting, self.num_fitting)

    @functools.cached_property
    def calibrated_on(self) -> np.ndarray:
        """Other clean images in [0, 1]."""
        return _first(self.calibrating, self.num_calibrating)[0]

    def part(self, name: str) -> tuple[Detector, Params, dict[str, str]]:
        """Returns a detector, its part of `Guarded`'s parameters, and what it came from.

        Raises:
            ValueError: a network is missing, or too few images are given to fit it.
        """
        detector, params, sources = MAKERS[name].make(self)
        params = detector.fit(params, *self.fitted_on)
        calibrated = calibrate(
            detector,
            params,
            self.calibrated_on,
            false_positive_rate=self.rate,
            batch_size=self.batch_size,
        )
        return detector, calibrated, sources


Made = tuple[Detector, Params, dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Maker:
    """A detector's title, and how it and the parameters that it is not fitted come about."""

    title: str
    make: Callable[[Bench], Made]


def _of_network(kind: Callable[[Bench], Detector]) -> Callable[[Bench], Made]:
    return lambda bench: (kind(bench), {"network": bench.params}, {})


def _quality(bench: Bench) -> Made:
    return _student(bench, bench.student)


def _with_features(bench: Bench) -> Made:
    if bench.features_student is None:
        raise ValueError(
            "The row 'quality_features' needs a student that was taught with features: give "
            "--features-student."
        )
    return _student(bench, bench.features_student)


def _student(bench: Bench, name: str) -> Made:
    entry = zoo.load_any(name)
    if not isinstance(entry.network, QualityNet):
        raise ValueError(
            f"{name!r} holds a {type(entry.network).__name__}, not a QualityNet: give "
            "what `python -m train.iqa` wrote."
        )
    protected = entry.card.get("classifier_sha256")
    if protected != bench.sha256:
        raise ValueError(
            f"{name!r} was taught to protect another classifier, of sha256 "
            f"{str(protected)[:12]} and not {bench.sha256[:12]}: give --student, what "
            "`python -m train.iqa` wrote for this one."
        )
    params, sources = {"student": entry.params}, {"detector": entry.name}
    if not entry.network.num_features:
        return ImageQuality(entry.network), params, sources
    seen = Features(bench.network)
    return ImageQuality(entry.network, seen), {**params, "network": bench.params}, sources


def _rain(bench: Bench) -> Made:
    edsr, params, name = load_edsr(bench.rain)
    defense = RAIN(edsr, shift_fraction=bench.shift_fraction)
    detector = DrawDisagreement(bench.network, defense)
    return detector, {"network": bench.params, "defense": params}, {"detector": name}


def _distillation(bench: Bench) -> Made:
    detector = Disagreement(bench.network, (FeatureDistillation(),))
    return detector, {"network": bench.params, "defenses": ((),)}, {}


def _squeezing(bench: Bench) -> Made:
    detector = feature_squeezing(bench.network, "small" if bench.small else "large")
    return detector, {"network": bench.params, "defenses": ((),) * len(detector.defenses)}, {}


MAKERS: dict[str, Maker] = {
    "quality": Maker("image quality", _quality),
    "quality_features": Maker("image quality and features", _with_features),
    "max_softmax": Maker("maximum softmax", _of_network(lambda b: MaxSoftmax(b.network))),
    "energy": Maker("energy", _of_network(lambda b: Energy(b.network))),
    "squeezing": Maker("feature squeezing", _squeezing),
    "fd": Maker("Feature Distillation, before and after", _distillation),
    "rain": Maker("RAIN, between draws", _rain),
    "statistics": Maker("natural statistics", lambda b: (NaturalStatistics(), (), {})),
    "mahalanobis": Maker(
        "Mahalanobis", _of_network(lambda b: Mahalanobis(b.network, num_classes=b.num_classes))
    ),
    "lid": Maker(
        "local intrinsic dimensionality",
        _of_network(
            lambda b: LocalIntrinsicDimensionality(
                b.network, num_references=min(500, b.num_fitting)
            )
        ),
    ),
}


def _first(images: ImageSet, num: int) -> tuple[np.ndarray, np.ndarray]:
    if num > len(images):
        raise ValueError(
            f"{num} clean images of {images.name!r}, split {images.split!r}, were asked for, and "
            f"there are {len(images)}: lower num_fitting or num_calibrating, or the skip."
        )
    pictures, labels = images.get(np.arange(num))
    return pictures.astype(np.float32) / 255, labels
