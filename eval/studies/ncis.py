"""What NCIS is worth, against attackers who do not know of it and attackers who do."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

from eval.studies.common import StudyOptions, load_ncis
from eval.studies.comparison import TAGS, Comparison, blind, by_gradients
from rainjax import Defended, Identity, zoo
from rainjax.attacks import APGD, PGD, InputDiversity, Square, TranslationInvariance
from rainjax.defenses import Chain, GaussianSmoothing
from rainjax.ensemble import Combine
from rainjax.evaluation import CLEAN, Knowledge, Study, Subject, ThreatModel, Transfer, joined
from rainjax.evaluation.extras import Gallery, Iterates
from rainjax.report import BlindAgainstAdaptive, FieldCurve, ResultsTable

_ITERATES = "iterates"
_BARE = "no defense"


@dataclasses.dataclass(frozen=True)
class NCISStudy(Comparison):
    """Measures NCIS beside smoothing alone and other transformations, in front of one classifier.

    Attackers who are blind to the purifier are those of the NCIS paper's setting, and are labelled
    so: white box (PGD, APGD, Carlini and Wagner's), and black box (Square, which asks the
    classifier alone, and what fools classifiers of the attacker's own, with --transfer). Those
    who know of it take its own gradient through all iterations, or the identity's.
    """

    sanity_rows: ClassVar[tuple[str, ...]] = ("smoothing", "ncis")
    smoothing_rows: ClassVar[tuple[str, ...]] = ("undefended", "ncis")

    rows: tuple[str, ...] = (
        "smoothing",
        "ncis",
        "median",
        "bilateral",
        "non_local_means",
        "total_variation",
        "fd",
        "rain",
    )
    """The transformations by name, those of `python -m eval transformations`; empty for all. The
    bare classifier, undefended, is measured in any case."""
    num_queries: int = 500
    """What Square asks the classifier, an image."""
    transfer: tuple[str, ...] = ()
    """The classifiers of an attacker who asks nothing, attacked together where there are several:
    zoo names, paths, or files of published weights, of other networks than `classifier`; empty for
    no such attacker."""
    transfer_arch: tuple[str, ...] = ()
    """The networks of their published weights, one each; empty if all are of the zoo."""
    transfer_combine: Combine = "logits"
    """What several are attacked by the mean of."""

    def __post_init__(self):
        super().__post_init__()
        if self.num_queries < 1:
            raise ValueError(f"num_queries={self.num_queries} must be at least 1.")
        if self.transfer_arch and len(self.transfer_arch) != len(self.transfer):
            raise ValueError(
                f"transfer_arch={self.transfer_arch} must name the network of each of transfer="
                f"{self.transfer}, or none."
            )

    def study(self) -> Study:
        """Loads what the rows and the attackers need and returns the study.

        Raises:
            ValueError: a network is missing, or one of `transfer` is no other classifier of these
                images.
        """
        return dataclasses.replace(super().study(), extras=(Gallery(), Iterates(tag=_ITERATES)))

    def threats(self) -> Iterator[ThreatModel]:
        """Yields those of every comparison; the steps of two at the largest radius are kept."""
        for threat in super().threats():
            radius = getattr(threat.attack, "radius", None)
            if threat.name in ("PGD", "own gradient") and radius == max(self.radii):
                threat = dataclasses.replace(threat, tags=(*threat.tags, _ITERATES))
            yield threat

    def _blind(self, radius: float) -> Iterator[ThreatModel]:
        """Yields the attackers within a radius who do not know of the transformation."""
        yield blind("PGD", PGD(radius=radius, step_size=radius / 4, num_steps=self.num_steps))
        yield blind("APGD", APGD(radius=radius, num_steps=self.num_steps, loss="margin"))
        yield blind(
            "Square",
            Square(radius=radius, num_queries=self.num_queries, paired=False),
            "black box, by the logits of the classifier alone",
        )
        if self.transfer:
            yield self._transferred(radius)

    def _blind_and_nearest(self) -> Iterator[ThreatModel]:
        """Yields the one among them who looks for the nearest success."""
        yield self._carlini_wagner()

    def _transferred(self, radius: float) -> ThreatModel:
        """Returns the attacker with classifiers of his own: MI, DI and TI together."""
        source = self._source()
        attack = PGD(
            radius=radius,
            step_size=radius / 10,
            num_steps=self.num_steps,
            random_start=False,
            momentum=1.0,
        )
        return ThreatModel(
            "transfer",
            attack,
            Transfer(source),
            Knowledge.TRANSFER,
            description="blind to the transformation: black box without a question, momentum, "
            f"diverse inputs and a blurred gradient on {', '.join(source.sources.values())}",
            tags=TAGS,
        )

    def _source(self) -> Subject:
        """Returns the attacker's own classifiers behind what makes a perturbation transfer."""
        networks = self.transfer_arch or [None] * len(self.transfer)
        each = [self._own(*named) for named in zip(self.transfer, networks, strict=True)]
        if len(each) == 1:
            return each[0]
        return joined("the attacker's own", each, combine=self.transfer_combine)

    def _own(self, name: str, arch: str | None) -> Subject:
        """Returns one of the attacker's classifiers."""
        images, own = self.images(), zoo.load_any(name, arch)
        if own.sha256 == zoo.load_any(self.classifier, self.classifier_arch).sha256:
            raise ValueError(f"transfer={name!r} is the classifier itself: name another, or none.")
        # The blur is as wide as its paper's, by the width of the images.
        first = images.image(0)
        size = 2 * round(max(first.shape[:2]) / 40) + 1
        # TI before DI, so that what is blurred is the gradient at the image, as in its paper.
        pipeline = Defended(Chain((TranslationInvariance(size), InputDiversity())), own.network)
        params = {"defense": ((), ()), "classifier": own.params}
        num = pipeline.num_classes(params, first)
        if num != images.num_classes:
            raise ValueError(
                f"transfer={name!r} tells {num} classes apart, but {images.name!r} has "
                f"{images.num_classes}: choose a classifier of this data set."
            )
        return Subject(own.name, pipeline, params, {"classifier": own.name})


@dataclasses.dataclass(frozen=True)
class NCISIterations(StudyOptions):
    """Measures how often NCIS, or smoothing alone, should be repeated.

    Clean accuracy, and that under blind and under adaptive attackers, against the number of
    iterations: a line for each network, and one for each Gaussian that they were trained with,
    alone. Smoothing is not monotonic, and whoever chooses the number by the images that he reports
    reports too much: so this is of images that the other studies do not report.
    """

    networks: tuple[str, ...] = ()
    """NCIS's networks, each a line: zoo names or paths. Images are smoothed before each as its
    card says, so networks may differ in sigma and kernel size."""
    num_iterations: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """How often smoothing and network take turns; 0 is the classifier without a defense."""
    radius: float = 8 / 255
    """Radius of the L-inf ball."""
    num_steps: int = 10
    """Steps of every attack."""
    num_examples: int = 200
    """Images for clean accuracy and for blind attacks."""
    num_adaptive_examples: int = 50
    """Images for the attackers who know of the defense; never more than `num_examples`."""

    def __post_init__(self):
        super().__post_init__()
        if self.num_adaptive_examples < 1:
            raise ValueError(
                f"num_adaptive_examples={self.num_adaptive_examples} must be at least 1."
            )
        if not 0 < self.radius <= 1:
            raise ValueError(f"radius={self.radius} must lie in (0, 1]; 8/255 is 0.03137.")
        if not self.num_iterations or min(self.num_iterations) < 1:
            raise ValueError(
                f"num_iterations={self.num_iterations} must be whole numbers from 1 on: 0, the "
                "classifier without a defense, is measured in any case."
            )
        for name in ("networks", "num_iterations"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values} holds one twice: leave it out.")

    def study(self) -> Study:
        """Loads the networks and the images; raises ValueError where they do not fit."""
        displays = (
            FieldCurve("num_iterations", "table", none_at=0.0),
            BlindAgainstAdaptive((self.radius,)),
            ResultsTable("table"),
        )
        return dataclasses.replace(super().study(), displays=displays)

    def subjects(self) -> tuple[Subject, ...]:
        """Returns the classifier alone, and behind every defense with every number.

        Raises:
            ValueError: there is no network, one is no blind-spot network of NCIS, or two have one
                name.
        """
        if not self.networks:
            raise ValueError(
                "networks=() must name one at least: give --networks, what "
                "`python -m train.blind_spot` wrote on images like these."
            )
        classifier = zoo.load_any(self.classifier, self.classifier_arch)
        sources = {"classifier": classifier.name}

        def behind(name, defense, params=(), source=None):
            return Subject(
                name,
                Defended(defense, classifier.network),
                {"defense": params, "classifier": classifier.params},
                sources | ({"defense": source} if source else {}),
            )

        found = {_BARE: behind(_BARE, Identity())}
        for network in self.networks:
            for num in self.num_iterations:
                ncis, params, source = load_ncis(network, num)
                alone = GaussianSmoothing(num, ncis.sigma, ncis.kernel_size, ncis.border)
                kernel = f"{ncis.kernel_size} × {ncis.kernel_size}"
                kernel += f", {ncis.border}" if ncis.border != "reflect" else ""
                name = f"smoothing, sigma {ncis.sigma:g}, {kernel}, T = {num}"
                found.setdefault(name, behind(name, alone))
                name = f"NCIS, {source}, T = {num}"
                if name in found:
                    raise ValueError(
                        f"networks={self.networks} holds two that are called {source!r}: train "
                        "one under another --name."
                    )
                found[name] = behind(name, ncis, params, source)
        return tuple(found.values())

    def threats(self) -> Iterator[ThreatModel]:
        """Yields clean images, white boxes that are blind, and those that know the defense."""
        yield dataclasses.replace(CLEAN, tags=TAGS)
        radius, steps = self.radius, self.num_steps
        yield blind("PGD", PGD(radius=radius, step_size=radius / 4, num_steps=steps))
        yield blind("APGD", APGD(radius=radius, num_steps=steps, loss="margin"))
        for threat in by_gradients(radius, steps, num_random=None):
            yield dataclasses.replace(threat, num_examples=self.num_adaptive_examples)


_QUICK = NCISStudy(
    name="ncis",
    blind_spot="builtin_blind_spot",
    radii=(2 / 255, 8 / 255),
    num_steps=10,
    num_queries=200,
    num_eot=4,
    num_examples=100,
    num_eot_examples=50,
    cw_steps=30,
)

_CIFAR10 = NCISStudy(
    name="cifar10_ncis",
    blind_spot="cifar10_blind_spot",
    ncis_iterations=1,  # chosen with sigma and kernel by `cifar10_ncis_iterations`
    data="cifar10",
    classifier="cifar10_resnet20.npz",
    classifier_arch="resnet20",
    transfer=("cifar10_resnet56.npz",),
    transfer_arch=("resnet56",),
    rain="cifar10_edsr_rain",
    radii=(2 / 255, 4 / 255, 8 / 255),
    batch_size=50,
)

STUDIES = {
    "ncis": (
        _QUICK,
        "NCIS beside other transformations, on the built-in set with the shipped networks: 6 "
        "minutes on two cores.",
    ),
    "cifar10_ncis": (
        _CIFAR10,
        "NCIS in front of a published ResNet-20, and attacks that transfer from a ResNet-56: "
        "import the data first, give --classifier FILE.npz and --transfer FILE.npz; the other "
        "way round with --classifier-arch resnet56, --transfer-arch resnet20 and another --name. "
        "With 100 images, 32 where it is random, 25 minutes on one busy core of two.",
    ),
    "cifar10_ncis_robust": (
        dataclasses.replace(
            _CIFAR10,
            name="cifar10_ncis_robust",
            classifier="cifar10_resnet4b_adv2.npz",
            classifier_arch="resnet4b",
            transfer=("cifar10_resnet20.npz",),
            transfer_arch=("resnet20",),
            num_examples=100,
            num_eot_examples=50,
            cw_steps=30,
        ),
        "Does NCIS help or harm a network that was trained against attacks? In front of a "
        "published one (alpha-beta-CROWN's cifar10_resnet, 2/255): as `cifar10_ncis`, with "
        "--transfer FILE.npz of ResNet-20's. Half an hour on one busy core of two.",
    ),
    "photographs_ncis": (
        NCISStudy(
            name="photographs_ncis",
            blind_spot="natural_blind_spot",
            data="nips2017",
            classifier="mobilenetv2.npz",
            classifier_arch="mobilenetv2",
            transfer=("squeezenet.npz",),
            transfer_arch=("squeezenet",),
            rain="imagenette96_edsr_rain",
            shift_fraction=0.05,
            ncis_iterations=3,  # chosen by `photographs_ncis_iterations`
            radii=(2 / 255, 8 / 255),
            num_steps=10,
            num_queries=200,
            num_eot=4,
            num_examples=24,
            num_eot_examples=12,
            cw_steps=30,
            batch_size=8,
        ),
        "NCIS on photographs at 224 pixels: import the pictures of the NIPS 2017 competition (or "
        "give --data and --split of Imagenette or ImageNet at this size), give --classifier "
        "FILE.npz of MobileNetV2's and --transfer FILE.npz of SqueezeNet's, or others with "
        "--classifier-arch, --transfer-arch and another --name. With 16 images, 8 where it is "
        "random, three quarters of an hour on one busy core of two.",
    ),
    "ncis_iterations": (
        NCISIterations(
            name="ncis_iterations",
            split="validation",
            networks=("builtin_blind_spot",),
        ),
        "Accuracy against NCIS's number of iterations, on the built-in set's validation split, so "
        "that the number can be fixed there. How long it takes is not measured yet.",
    ),
    "cifar10_ncis_iterations": (
        NCISIterations(
            name="cifar10_ncis_iterations",
            data="cifar10",
            skip=5000,
            networks=("cifar10_blind_spot",),
            radius=4 / 255,
            classifier="cifar10_resnet20.npz",
            classifier_arch="resnet20",
            num_iterations=(1, 2, 3, 5),
            num_adaptive_examples=20,
            batch_size=50,
        ),
        "The same of CIFAR-10, on test images from the 5,000th on, of which the other studies "
        "report none: import the data first, give --classifier FILE.npz, and other --networks for "
        "a line each. A quarter of an hour on one busy core of two for four networks.",
    ),
    "photographs_ncis_iterations": (
        NCISIterations(
            name="photographs_ncis_iterations",
            data="imagenette224",
            split="train",
            networks=("natural_blind_spot",),
            classifier="mobilenetv2.npz",
            classifier_arch="mobilenetv2",
            num_iterations=(1, 2, 3),
            radius=4 / 255,
            num_examples=48,
            num_adaptive_examples=4,
            batch_size=8,
        ),
        "The same of photographs at 224 pixels, on Imagenette's training pictures, of which the "
        "other studies report none: import the data first, give --classifier FILE.npz of "
        "MobileNetV2's. 18 minutes on one busy core of two.",
    ),
}
