"""What accuracy detectors leave an attacker who knows them, up to the end of a ladder."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from eval.studies._guards import CIFAR10, Guards
from rainjax import Defended, Guarded
from rainjax.attacks import SelectivePGD
from rainjax.defenses import FeatureDistillation, GaussianSmoothing
from rainjax.evaluation import Subject, ThreatModel, adaptive, ladders

# What may clean the images that a detector lets pass.
_PURIFIERS = {
    "fd": ("Feature Distillation", FeatureDistillation()),
    "smoothing": ("smoothing", GaussianSmoothing()),
}
Purifier = Literal["fd", "smoothing"]


@dataclasses.dataclass(frozen=True)
class GuardedStudy(Guards):
    """Measures the accuracy that detectors leave an adaptive attacker, up to the ladder's end.

    A rejected image counts as the defender's success if somebody attacked it, and as an error
    otherwise: the classifier alone stands beside. So do the first detector with a purifier after
    it, which reject or purify, and the purifier without it.
    """

    rows: tuple[str, ...] = ("quality", "max_softmax")
    purifiers: tuple[Purifier, ...] = ("fd",)
    """Also measured before the classifier, alone and behind the first of the rows."""
    radius: float = 2 / 255
    """Radius of the L-inf ball."""
    num_queries: int = 500
    """What Square asks, an image."""
    ladder_budget: int = 2000
    """The most gradients that one ladder takes per image."""
    num_examples: int = 50
    """Images for every attack."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.radius <= 1:
            raise ValueError(f"radius={self.radius} must lie in (0, 1]; 8/255 is 0.03137.")
        unknown = [name for name in self.purifiers if name not in _PURIFIERS]
        if unknown:
            raise ValueError(f"purifiers={unknown[0]!r} is none of {', '.join(_PURIFIERS)}.")
        for name in ("num_queries", "ladder_budget"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def subjects(self) -> tuple[Subject, ...]:
        """Returns the classifier alone, behind every detector, and with purifiers."""
        guarded = self.guarded()
        pipeline, params = guarded[0].pipeline, guarded[0].params["pipeline"]
        assert isinstance(pipeline, Guarded)
        bare = pipeline.pipeline
        assert isinstance(bare, Defended)
        sources = {"classifier": guarded[0].sources["classifier"]}
        purified = []
        for name in dict.fromkeys(self.purifiers):
            title, defense = _PURIFIERS[name]
            behind = Defended(defense, bare.classifier)
            purified += [
                Subject(f"no detector, {title}", behind, params, sources),
                dataclasses.replace(
                    guarded[0],
                    name=f"{guarded[0].name}, then {title}",
                    pipeline=dataclasses.replace(pipeline, pipeline=behind),
                ),
            ]
        return (Subject("no detector", bare, params, sources), *guarded, *purified)

    def threats(self) -> Iterator[ThreatModel]:
        """Yields the whole battery, and a ladder for every surrogate."""
        yield from adaptive(self.radius, num_steps=self.num_steps, num_queries=self.num_queries)
        yield ThreatModel(
            "orthogonal gradients",
            SelectivePGD(radius=self.radius, step_size=self.radius / 8, num_steps=self.num_steps),
            description="white box: the gradients of classifier and detector taken apart",
        )
        yield from ladders(
            self.radius,
            num_steps=self.num_steps,
            num_queries=self.num_queries,
            max_gradients=self.ladder_budget,
        )


STUDIES = {
    "guarded": (
        GuardedStudy(name="guarded"),
        "The accuracy that the image-quality detector and the maximum softmax leave, with "
        "strength ladders, on the built-in set.",
    ),
    "cifar10_guarded": (
        GuardedStudy(name="cifar10_guarded", **CIFAR10),
        "The same of a published ResNet-20: import the data first, give --classifier FILE.npz.",
    ),
}
