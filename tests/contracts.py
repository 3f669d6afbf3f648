"""Every public defense and detector: what the contract tests run over.

A defense that can be made without arguments joins by itself, wherever in `rainjax/defenses/` it
is, and so does a detector that takes a network or nothing; one that needs more, or that other
options make more of, has a line below. `random` says
whether its key matters, `convolves` whether it may differ between `jit`, `vmap` and the plain call
by the rounding of a convolution.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Sequence

import jax

import rainjax.defenses
import rainjax.detectors
from rainjax.attacks import InputDiversity, ScaleInvariance, TranslationInvariance
from rainjax.defenses import (
    JPEG,
    NCIS,
    RAIN,
    SHIELD,
    BilateralFilter,
    BitDepth,
    Chain,
    Defense,
    FeatureDistillation,
    GaussianNoise,
    Identity,
    MeanFieldRAIN,
    MedianFilter,
    NonLocalMeans,
    PixelDeflection,
    Quilting,
    RandomCrop,
    RandomResizePad,
    RandomSubset,
    SuperResolution,
    TotalVariation,
)
from rainjax.detectors import (
    Detector,
    Disagreement,
    DrawDisagreement,
    ImageQuality,
    LocalIntrinsicDimensionality,
)
from rainjax.gradients import BPDA
from rainjax.nets import Features, QualityNet
from tests.tiny import BLIND_SPOT_TINY, EDSR_TINY, RESNET_TINY, blind_spot_params, edsr_params


@dataclasses.dataclass(frozen=True)
class DefenseCase:
    """`params` makes the defense's parameters; by default `init` does."""

    name: str
    defense: Defense
    random: bool
    convolves: bool
    params: object = None


@dataclasses.dataclass(frozen=True)
class DetectorCase:
    """`params` makes what images are scored with; by default `init` and `fit` do.

    `tolerance` is that of `check_detector`.
    """

    name: str
    detector: Detector
    random: bool
    params: object = None
    tolerance: float = 1e-4


def public_defenses() -> set[type[Defense]]:
    """Returns every defense that the public modules of `rainjax.defenses` define."""
    return _public(rainjax.defenses, Defense)


def public_detectors() -> set[type[Detector]]:
    """Returns every detector that the public modules of `rainjax.detectors` define."""
    return _public(rainjax.detectors, Detector)


def _public(package, base: type) -> set[type]:
    found = set()
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if (
                inspect.isclass(value)
                and issubclass(value, base)
                and value.__module__ == module.name
                and not inspect.isabstract(value)
                and not value.__name__.startswith("_")
            ):
                found.add(value)
    return found


def plain_cases(listed: Sequence[DefenseCase]) -> list[DefenseCase]:
    """Returns a case of every public defense that no listed one is of, made without arguments.

    Raises:
        TypeError: it needs some; says which, and where.
    """
    new = public_defenses() - {type(case.defense) for case in listed}
    return [_plain_case(kind) for kind in sorted(new, key=lambda kind: kind.__name__)]


def _plain_case(kind: type[Defense]) -> DefenseCase:
    try:
        defense = kind()
    except TypeError as error:
        raise TypeError(
            f"{kind.__name__} cannot be made without arguments ({error}): give it defaults, or a "
            "line in the list of tests/contracts.py."
        ) from error
    return DefenseCase(kind.__name__, defense, random=defense.is_random, convolves=True)


def plain_detectors(listed: Sequence[DetectorCase]) -> list[DetectorCase]:
    """Returns a case of every public detector that no listed one is of, with a small network.

    Raises:
        TypeError: it needs more; says which, and where.
    """
    new = public_detectors() - {type(case.detector) for case in listed}
    return [_plain_detector(kind) for kind in sorted(new, key=lambda kind: kind.__name__)]


def _plain_detector(kind: type[Detector]) -> DetectorCase:
    names = {field.name for field in dataclasses.fields(kind)}
    try:
        detector = kind(**({"network": RESNET_TINY} if "network" in names else {}))
    except TypeError as error:
        raise TypeError(
            f"{kind.__name__} cannot be made of a network alone ({error}): give it defaults, or a "
            "line in the list of tests/contracts.py."
        ) from error
    return DetectorCase(kind.__name__, detector, random=detector.is_random)


_RAIN = RAIN(EDSR_TINY, shift_fraction=0.25)
_AVERAGE = RAIN(EDSR_TINY, shift_fraction=0.25, downsample="average")
_BICUBIC = RAIN(EDSR_TINY, shift_fraction=0.0, downsample="bicubic")

_patches = lambda: jax.random.uniform(jax.random.key(5), (64, 5, 5, 3))

_LISTED = [
    DefenseCase("identity", Identity(), random=False, convolves=False),
    DefenseCase("rain", _RAIN, True, True, edsr_params),
    DefenseCase("rain_average", _AVERAGE, True, True, edsr_params),
    DefenseCase("rain_bicubic", _BICUBIC, False, True, edsr_params),
    DefenseCase("mean_field_rain", MeanFieldRAIN(_RAIN), True, True, edsr_params),
    DefenseCase("chain", Chain((Identity(), _RAIN)), True, True, lambda: ((), edsr_params())),
    DefenseCase("bpda", BPDA(_RAIN, Identity()), True, True),
    DefenseCase(
        "feature_distillation",
        FeatureDistillation(rounding="straight_through"),
        random=False,
        convolves=True,
    ),
    DefenseCase(
        "feature_distillation_ycbcr",
        FeatureDistillation(colours="ycbcr", subsampling="4:2:0", rounding="sine"),
        random=False,
        convolves=True,
    ),
    DefenseCase("jpeg", JPEG(60, rounding="straight_through"), random=False, convolves=True),
    DefenseCase("bit_depth", BitDepth(3, rounding="straight_through"), False, False),
    DefenseCase("median_filter", MedianFilter(3), False, False),
    DefenseCase("total_variation", TotalVariation(0.1, 7), False, True),
    DefenseCase("quilting", Quilting(gradient="straight_through"), True, False, _patches),
    DefenseCase("shield", SHIELD(rounding="straight_through"), random=True, convolves=True),
    DefenseCase("bilateral_filter", BilateralFilter(3, 0.3), random=False, convolves=True),
    DefenseCase("non_local_means", NonLocalMeans(3, 2, h=0.2, sigma=0.01), False, True),
    DefenseCase("gaussian_noise", GaussianNoise(), random=True, convolves=False),
    DefenseCase("random_crop", RandomCrop(0.7), random=True, convolves=True),
    DefenseCase("random_resize_pad", RandomResizePad(0.7), random=True, convolves=False),
    DefenseCase(
        "random_subset",
        RandomSubset((GaussianNoise(), MedianFilter(3), _RAIN)),
        random=True,
        convolves=True,
        params=lambda: ((), (), edsr_params()),
    ),
    DefenseCase("pixel_deflection", PixelDeflection(20, window=3), random=True, convolves=True),
    DefenseCase("ncis", NCIS(BLIND_SPOT_TINY, 2), False, True, blind_spot_params),
    DefenseCase("super_resolution", SuperResolution(EDSR_TINY), False, True, edsr_params),
    # What an attacker puts in front of a surrogate keeps a defense's promises.
    DefenseCase("input_diversity", InputDiversity(probability=0.9), True, True),
    DefenseCase("scale_invariance", ScaleInvariance(), True, False),
    DefenseCase("translation_invariance", TranslationInvariance(3), False, False),
]
DEFENSES = [*_LISTED, *plain_cases(_LISTED)]

_SQUEEZING = Disagreement(RESNET_TINY, (BitDepth(5), MedianFilter(2)))

_STUDENT = QualityNet(width=4, num_stages=2, hidden=8)

_LISTED_DETECTORS = [
    DetectorCase("quality", ImageQuality(_STUDENT), random=False),
    DetectorCase(
        "quality_and_features",
        ImageQuality(dataclasses.replace(_STUDENT, num_features=32), Features(RESNET_TINY)),
        random=False,
    ),
    DetectorCase("squeezing", _SQUEEZING, random=False),
    DetectorCase("random_disagreement", Disagreement(RESNET_TINY, (GaussianNoise(),)), True),
    DetectorCase(
        "draws_of_rain",
        DrawDisagreement(RESNET_TINY, _RAIN, num_draws=2),
        random=True,
        params=lambda: {"network": RESNET_TINY.init(jax.random.key(1)), "defense": edsr_params()},
    ),
    DetectorCase(
        "local_dimensionality",
        LocalIntrinsicDimensionality(RESNET_TINY, num_neighbours=4, num_references=10),
        random=False,
    ),
]
DETECTORS = [*_LISTED_DETECTORS, *plain_detectors(_LISTED_DETECTORS)]
