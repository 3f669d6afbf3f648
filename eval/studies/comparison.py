"""What pages share that put rows of transformations in front of one classifier."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

import tyro

from eval.studies.common import StudyOptions
from eval.studies.defenses import MAKERS, Shelf
from rainjax import Defended, zoo
from rainjax.attacks import APGD, EOT, Attack, CarliniWagner, NoisyAPGD, ReachableOutputs
from rainjax.defenses import NCIS, GaussianSmoothing
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

TAGS = ("comparison", "table")


@dataclasses.dataclass(frozen=True)
class Comparison(StudyOptions):
    """Transformations in front of one classifier, and who attacks them: a page adds who is blind.

    Each meets attacks that do not know of it and attacks that do: with the identity for its
    gradient, with a gradient of its own, averaged over draws, and by a choice among the outputs
    that a rounding can be led to. Beside them stands what is proved, where the transformation
    bounds what it rounds.
    """

    short_names: ClassVar[dict[str, str]] = {name: maker.title for name, maker in MAKERS.items()}

    rows: tuple[str, ...] = ()
    """The transformations by name, empty for all: fd, fd_designed (with --table), jpeg, shield,
    bit_depth, median, bilateral, non_local_means, smoothing, low_pass, total_variation, wavelet,
    super_resolution, quilting, noise, resize_pad, crop, pixel_deflection, subset, rain, ncis (with
    --blind-spot). The bare classifier, undefended, is measured in any case."""
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
    table: str | None = None
    """Also measure Feature Distillation with this table: a file or a folder that
    `python -m eval design` wrote."""
    enhancer: str = "builtin_edsr"
    """The EDSR of the super-resolution defense: a zoo name or a path."""
    rain: Annotated[str, tyro.conf.arg(aliases=["--finetuned"])] = "builtin_edsr_rain"
    """RAIN's EDSR: a zoo name or a path."""
    shift_fraction: float = 0.0625
    """RAIN's largest circular shift as a share of the low-resolution height, rounded down."""
    smoothing: GaussianSmoothing = GaussianSmoothing()
    """Gaussian smoothing without a network."""
    blind_spot: str | None = None
    """Also measure NCIS with this network: a zoo name or a path. Images are smoothed before it as
    its card says."""
    ncis_iterations: int = NCIS.num_iterations
    """How often smoothing and network take turns."""
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
        counts = "cw_steps", "reach_steps", "bank_size", "num_ladder_examples", "ncis_iterations"
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        unknown = [name for name in self.rows if name not in MAKERS]
        if unknown:
            raise ValueError(f"rows={unknown[0]!r} is none of {', '.join(MAKERS)}.")

    def study(self) -> Study:
        """Loads what the rows need and returns the study.

        Raises:
            ValueError: `fd_designed` is asked for without a table, or a network is missing.
        """
        return dataclasses.replace(super().study(), extras=(Gallery(),))

    def subjects(self) -> tuple[Subject, ...]:
        """Returns the rows, the bare classifier first."""
        absent = {"fd_designed": not self.table, "ncis": not self.blind_spot}
        names = self.rows or tuple(name for name in MAKERS if not absent.get(name))
        classifier = zoo.load_any(self.classifier, self.classifier_arch)
        shelf = Shelf(
            small=max(self.images().image(0).shape[:2]) < 96,
            enhancer=self.enhancer,
            rain=self.rain,
            shift_fraction=self.shift_fraction,
            smoothing=self.smoothing,
            blind_spot=self.blind_spot,
            ncis_iterations=self.ncis_iterations,
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
        yield dataclasses.replace(CLEAN, tags=TAGS)
        for radius in self.radii:
            yield from self._blind(radius)
        yield from self._blind_and_nearest()
        for radius in self.radii:
            yield from self._adaptive(radius)
            yield proved(radius, tags=TAGS)
        for radius in self.ladder_radii:
            yield from ladders(
                radius,
                num_steps=self.num_steps,
                eot=self.eot(min(self.num_eot, 4)),
                max_gradients=self.ladder_budget,
                num_examples=self.num_ladder_examples,
                tags=("comparison", "ladder"),
            )

    @abc.abstractmethod
    def _blind(self, radius: float) -> Iterator[ThreatModel]:
        """Yields the attackers within a radius who do not know of the transformation."""

    @abc.abstractmethod
    def _blind_and_nearest(self) -> Iterator[ThreatModel]:
        """Yields those among them who look for the nearest success."""

    def _carlini_wagner(self) -> ThreatModel:
        """Returns the blind attacker who stops where the classifier is wrong by a margin of 5."""
        far = CarliniWagner(confidence=5.0, num_search_steps=3, num_steps=self.cw_steps)
        return blind("CW L2", far)

    @property
    def _more_tags(self) -> tuple[str, ...]:
        """Other displays that the attackers who know of the transformation are for."""
        return ()

    def _adaptive(self, radius: float) -> Iterator[ThreatModel]:
        tags = (*TAGS, *self._more_tags)
        num = self.num_eot_examples
        yield from by_gradients(radius, self.num_steps, num_random=num, tags=tags)
        for random, eot in ((False, EOT()), (True, self.eot(self.num_eot))):
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
        yield self._over_draws(radius, tags)

    def _over_draws(self, radius: float, tags: tuple[str, ...] = TAGS) -> ThreatModel:
        """Returns the white box who averages over the draws of what is random."""
        return ThreatModel(
            "EOT",
            NoisyAPGD(
                radius=radius,
                num_steps=self.num_steps,
                loss="margin",
                eot=self.eot(self.num_eot),
            ),
            When(OwnGradient(), random=True),
            num_examples=self.num_eot_examples,
            description="white box: its own gradient, or its soft twin's, averaged over "
            f"{self.num_eot} draws a step",
            tags=tags,
        )


def blind(
    name: str,
    attack: Attack,
    words: str = "found on the classifier alone",
    *,
    tags: tuple[str, ...] = TAGS,
) -> ThreatModel:
    """Returns an attacker who does not know of the transformation."""
    return ThreatModel(
        name,
        attack,
        ClassifierAlone(),
        Knowledge.CLASSIFIER,
        description=f"blind to the transformation: {words}",
        tags=tags,
    )


def by_gradients(
    radius: float, num_steps: int, *, num_random: int | None, tags: tuple[str, ...] = TAGS
) -> Iterator[ThreatModel]:
    """Yields who knows the transformation, and takes the identity's gradient for it or its own.

    On what is random, `num_random` images are attacked.
    """
    # The published rule keeps the highest loss it met, which on a random pipeline is a lucky one.
    rules = ((APGD, False), (NoisyAPGD, True))
    ways = (
        ("BPDA, identity", IdentityGradient(), "the identity's gradient"),
        ("own gradient", OwnGradient(), "its own gradient, or its soft twin's"),
    )
    for name, surrogate, words in ways:
        for rule, random in rules:
            yield ThreatModel(
                name,
                rule(radius=radius, num_steps=num_steps, loss="margin"),
                When(surrogate, random=random),
                num_examples=num_random if random else None,
                description=f"white box: the true transformation, {words}",
                tags=tags,
            )
