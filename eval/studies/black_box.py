"""What black boxes need: accuracy against queries, beside white boxes that know more."""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

from eval.studies.comparison import TAGS, Comparison, blind, by_gradients
from rainjax.attacks import (
    EOT,
    NES,
    PGD,
    Attack,
    HopSkipJump,
    RayS,
    SequentialTest,
    SimBA,
    Square,
)
from rainjax.evaluation import CLEAN, Itself, Knowledge, Study, ThreatModel, When
from rainjax.report import BlindAgainstAdaptive, QueryCurve, ResultsTable

Box = Literal["square", "nes", "simba", "rays", "hop_skip_jump"]
_QUERIES = "queries"


@dataclasses.dataclass(frozen=True)
class BlackBoxStudy(Comparison):
    """Measures how many queries black boxes need, and whether any beats the white boxes.

    By scores: Square, NES, and SimBA along cosines. By labels: RayS and HopSkipJump in L-inf. A
    query is one image through the pipeline under one draw, and every attack has as many of them.
    On a random pipeline scores are averaged over draws that both sides of a comparison share, and
    labels are tested until they decide; nothing stops at the first success, which may be luck. On
    others each attack by scores stops there. White boxes stand beside them: PGD that is blind to
    the defense, the identity's gradient for the defense's (BPDA), its own, and EOT. Where a black
    box beats the best of them on the same images, the report says that it was masked.
    """

    sanity_rows: ClassVar[tuple[str, ...]] = ("fd", "noise")
    smoothing_rows: ClassVar[tuple[str, ...]] = ("undefended", "noise")

    rows: tuple[str, ...] = ("rain", "ncis", "fd", "noise")
    """The transformations by name, those of `python -m eval transformations`; empty for all. The
    bare classifier, undefended, is measured in any case."""
    boxes: tuple[Box, ...] = ("square", "nes", "simba", "rays", "hop_skip_jump")
    """The black boxes."""
    radii: tuple[float, ...] = (2 / 255,)
    """Radii of the L-inf ball, in units of the [0, 1] range: 8/255 is 0.03137."""
    num_queries: int = 10_000
    """Forward passes of the pipeline that a black box may ask for, an image."""
    num_query_draws: int = 4
    """Draws that one answer to an attack by scores is averaged over where a pipeline is random."""
    num_examples: int = 50
    """Images for the white boxes that follow one draw, and for clean accuracy."""
    num_eot_examples: int = 50
    """Images for EOT and for white boxes on what is random; never more than `num_examples`."""
    num_query_examples: int = 50
    """Images for black boxes on what is not random; never more than `num_examples`."""
    num_random_query_examples: int = 20
    """Images for black boxes on what is random, where none stops early."""
    batch_size: int = 50
    """Images attacked together. Draws do not depend on it."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_query_draws", "num_query_examples", "num_random_query_examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        least = 6 * self.num_query_draws
        if self.num_queries < least:
            raise ValueError(
                f"num_queries={self.num_queries} must be at least {least}: an attack on what is "
                f"random needs some answers, each of {self.num_query_draws} draws."
            )
        if not self.boxes or len(set(self.boxes)) < len(self.boxes):
            raise ValueError(
                f"boxes={self.boxes} must name each black box once, and one at least."
            )

    def study(self) -> Study:
        """Loads what the rows need and returns the study.

        Raises:
            ValueError: a network is missing, or does not fit.
        """
        displays = (
            QueryCurve(_QUERIES),
            BlindAgainstAdaptive(self.radii),
            ResultsTable("table"),
        )
        return dataclasses.replace(super().study(), displays=displays, extras=())

    def threats(self) -> Iterator[ThreatModel]:
        """Yields clean images, white boxes, and black boxes."""
        yield dataclasses.replace(CLEAN, tags=TAGS)
        for radius in self.radii:
            yield from self._blind(radius)
        for radius in self.radii:
            yield from self._adaptive(radius)
        for radius in self.radii:
            yield from self._black(radius)

    def _blind(self, radius: float) -> Iterator[ThreatModel]:
        """Yields the attacker who does not know of the transformation."""
        yield blind("PGD", PGD(radius=radius, step_size=radius / 4, num_steps=self.num_steps))

    def _blind_and_nearest(self) -> Iterator[ThreatModel]:
        """Yields nobody: what looks for the nearest success here asks for labels."""
        yield from ()

    def _adaptive(self, radius: float) -> Iterator[ThreatModel]:
        """Yields the white boxes that know the transformation."""
        yield from by_gradients(radius, self.num_steps, num_random=self.num_eot_examples)
        yield self._over_draws(radius)

    def _black(self, radius: float) -> Iterator[ThreatModel]:
        """Yields the black boxes, each as it asks what is random, and what is not."""
        makers = {
            "square": ("Square", self._square, Knowledge.SCORES),
            "nes": ("NES", self._nes, Knowledge.SCORES),
            "simba": ("SimBA-DCT", self._simba, Knowledge.SCORES),
            "rays": ("RayS", self._rays, Knowledge.LABELS),
            "hop_skip_jump": ("HopSkipJump", self._hop_skip_jump, Knowledge.LABELS),
        }
        for box in self.boxes:
            name, make, knowledge = makers[box]
            sees = "the logits" if knowledge is Knowledge.SCORES else "the labels"
            for random in (False, True):
                how = "stops at the first success" if knowledge is Knowledge.SCORES else ""
                if random:
                    how = (
                        f"{self.num_query_draws} draws an answer, shared by what is compared"
                        if knowledge is Knowledge.SCORES
                        else "asked again until the votes decide"
                    )
                yield ThreatModel(
                    name,
                    make(radius, random),
                    When(Itself(), random=random),
                    knowledge,
                    num_examples=(
                        self.num_random_query_examples if random else self.num_query_examples
                    ),
                    description=f"black box, by {sees} of the whole pipeline"
                    + (f": {how}" if how else ""),
                    tags=(*TAGS, _QUERIES),
                )

    def _query_eot(self, random: bool) -> EOT:
        return self.eot(self.num_query_draws) if random else EOT()

    def _square(self, radius: float, random: bool) -> Attack:
        # Its `num_queries` are calls, each of two passes for every draw where they are pairs.
        passes = 2 * self.num_query_draws if random else 1
        return Square(
            radius=radius,
            num_queries=self.num_queries // passes,
            paired=random,
            eot=self._query_eot(random),
            early_stop=not random,
        )

    def _nes(self, radius: float, random: bool) -> Attack:
        # The authors' step of 0.01 is for a radius of 0.05; a smaller ball needs smaller ones. Of
        # fewer pairs than their 25 more steps can be paid for.
        return NES(
            radius=radius,
            step_size=radius / 5,
            min_step_size=radius / 50,
            num_pairs=10,
            num_queries=self.num_queries,
            eot=self._query_eot(random),
            early_stop=not random,
            ask_iterate=True,
        )

    def _simba(self, radius: float, random: bool) -> Attack:
        return SimBA(
            radius=radius,
            basis="dct",
            num_queries=self.num_queries,
            paired=random,
            eot=self._query_eot(random),
            early_stop=not random,
        )

    def _rays(self, radius: float, random: bool) -> Attack:
        test = SequentialTest() if random else None
        return RayS(radius=radius, num_queries=self.num_queries, test=test)

    def _hop_skip_jump(self, radius: float, random: bool) -> Attack:
        test = SequentialTest() if random else None
        return HopSkipJump(norm="linf", radius=radius, num_queries=self.num_queries, test=test)


_QUICK = BlackBoxStudy(
    name="black_box",
    blind_spot="builtin_blind_spot",
    num_steps=10,
    num_eot=4,
    num_queries=200,
    num_examples=16,
    num_eot_examples=16,
    num_query_examples=16,
    num_random_query_examples=16,
    batch_size=16,
)

STUDIES = {
    "black_box": (
        _QUICK,
        "Accuracy against queries: Square, NES, SimBA, RayS and HopSkipJump beside white boxes, "
        "on the built-in set.",
    ),
    "cifar10_black_box": (
        BlackBoxStudy(
            name="cifar10_black_box",
            data="cifar10",
            classifier="cifar10_resnet20.npz",
            classifier_arch="resnet20",
            rain="cifar10_edsr_rain",
            blind_spot="cifar10_blind_spot",
            ncis_iterations=1,  # chosen by `cifar10_ncis_iterations`
        ),
        "The same in front of a published ResNet-20, to 10,000 queries: import the data first, "
        "give --classifier FILE.npz. By the time of a query some four hours on two quiet cores.",
    ),
    "photographs_black_box": (
        BlackBoxStudy(
            name="photographs_black_box",
            data="nips2017",
            classifier="mobilenetv2.npz",
            classifier_arch="mobilenetv2",
            rain="imagenette96_edsr_rain",
            shift_fraction=0.05,
            blind_spot="natural_blind_spot",
            ncis_iterations=3,  # chosen by `photographs_ncis_iterations`
            num_steps=10,
            num_eot=4,
            num_queries=500,
            num_examples=8,
            num_eot_examples=8,
            num_query_examples=8,
            num_random_query_examples=5,
            batch_size=8,
        ),
        "The same of photographs at 224 pixels: import the pictures of the NIPS 2017 competition "
        "first, give --classifier FILE.npz of MobileNetV2's. By the time of a query some three "
        "hours on two quiet cores, most of them NCIS's.",
    ),
}
