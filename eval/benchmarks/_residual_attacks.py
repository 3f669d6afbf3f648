"""The attacks whose residuals are analysed: on a classifier, and carried over from another one."""

import dataclasses
from typing import Literal

from rainjax.attacks import APGD, PGD, Attack, CarliniWagner, DeepFool, Square, fgsm
from rainjax.defenses import Identity
from rainjax.evaluation import CLEAN, Knowledge, Subject, Surrogate, ThreatModel
from rainjax.pipeline import Defended, Pipeline
from rainjax.typing import Logits, Params, PRNGKey
from rainjax.zoo import Entry


@dataclasses.dataclass(frozen=True)
class EitherClassifier(Pipeline):
    """Two classifiers of the same images, without a defense; `which` of them answers.

    Its parameters are `{"target": ..., "other": ...}`, so that an attack found on one of them is
    scored on the other.
    """

    target: Defended
    other: Defended
    which: Literal["target", "other"] = "target"

    def init(self, key: PRNGKey) -> Params:
        return {"target": self.target.init(key), "other": self.other.init(key)}

    def logits(self, params: Params, key: PRNGKey, image) -> Logits:
        return self._answers.logits(params[self.which], key, image)

    def checked_logits(self, params: Params, draw, image) -> Logits:
        return self._answers.checked_logits(params[self.which], draw, image)

    def used(self, params: Params) -> Params:
        return {self.which: params[self.which]}

    @property
    def is_random(self) -> bool:
        return False

    @property
    def defended(self) -> bool:
        return False

    @property
    def _answers(self) -> Defended:
        return getattr(self, self.which)


@dataclasses.dataclass(frozen=True)
class OtherClassifier(Surrogate):
    """The other of two classifiers: an attack on it has to transfer."""

    def of(self, pipeline: Pipeline) -> Pipeline | None:
        if not isinstance(pipeline, EitherClassifier):
            return None
        return dataclasses.replace(pipeline, which="other")


@dataclasses.dataclass(frozen=True)
class Strengths:
    """How far and how long the attacks go."""

    linf_radius: float
    l2_radius: float
    num_steps: int
    cw_steps: int
    num_queries: int


def subject(target: Entry, other: Entry | None) -> Subject:
    """Returns the classifier that is attacked, with another one beside it where there is one."""
    sources = {"target": target.name}
    alone, params = _alone(target)
    if other is None:
        return Subject("classifier", alone, params, {"classifier": target.name})
    second, others = _alone(other)
    both = {"target": params, "other": others}
    return Subject(
        "classifier", EitherClassifier(alone, second), both, {**sources, "other": other.name}
    )


def threats(strengths: Strengths) -> list[ThreatModel]:
    """Returns the attacks by name, no attack first; that which transfers may not apply."""
    radius, far, steps = strengths.linf_radius, strengths.l2_radius, strengths.num_steps
    linf = {"radius": radius, "step_size": radius / 4, "num_steps": steps}
    l2 = {"norm": "l2", "radius": far, "step_size": far / 5, "num_steps": steps}
    white: dict[str, Attack] = {
        "FGSM": fgsm(radius),
        "PGD": PGD(**linf),
        "APGD": APGD(radius=radius, num_steps=steps),
        "PGD L2": PGD(**l2),
        # From a larger constant than the paper's, which spends its first rounds on no success.
        "Carlini-Wagner L2": CarliniWagner(
            initial_const=1e-2, num_search_steps=6, num_steps=strengths.cw_steps
        ),
        "DeepFool L2": DeepFool(),
    }
    # As its authors' program does, the search stops at its first success.
    square = Square(
        radius=radius, num_queries=strengths.num_queries, paired=False, early_stop=True
    )
    return [
        CLEAN,
        *(ThreatModel(name, attack) for name, attack in white.items()),
        ThreatModel("Square", square, knowledge=Knowledge.SCORES),
        ThreatModel(
            "PGD, transferred", PGD(**linf), OtherClassifier(), Knowledge.LABELS,
            description="found on another classifier",
        ),
    ]  # fmt: skip


def _alone(entry: Entry) -> tuple[Defended, Params]:
    pipeline = Defended(Identity(), entry.network)
    return pipeline, {"defense": (), "classifier": entry.params}
