"""The attacks whose residuals are analysed: on a classifier, and carried over from another one."""

import dataclasses

from rainjax.attacks import APGD, PGD, Attack, CarliniWagner, DeepFool, Square, fgsm
from rainjax.defenses import Identity
from rainjax.evaluation import CLEAN, Knowledge, Subject, ThreatModel, Transfer
from rainjax.pipeline import Defended
from rainjax.zoo import Entry


@dataclasses.dataclass(frozen=True)
class Strengths:
    """How far and how long the attacks go."""

    linf_radius: float
    l2_radius: float
    num_steps: int
    cw_steps: int
    num_queries: int


def subject(entry: Entry) -> Subject:
    """Returns a classifier without a defense."""
    return Subject(
        entry.name,
        Defended(Identity(), entry.network),
        {"defense": (), "classifier": entry.params},
        {"classifier": entry.name},
    )


def threats(strengths: Strengths, other: Entry | None) -> list[ThreatModel]:
    """Returns the attacks by name, no attack first; one from `other`, where there is one."""
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
    found = [
        CLEAN,
        *(ThreatModel(name, attack) for name, attack in white.items()),
        ThreatModel("Square", square, knowledge=Knowledge.SCORES),
    ]
    if other is not None:
        transfer = Transfer(subject(other))
        found.append(
            ThreatModel(
                "PGD, transferred", PGD(**linf), transfer, Knowledge.TRANSFER,
                description="found on another classifier",
            )
        )  # fmt: skip
    return found
