"""AutoAttack's ensembles (Croce and Hein, 2020), as members for `run_ensemble`."""

import dataclasses
from typing import Literal

from rainjax._arguments import Named
from rainjax._checks import check_fields
from rainjax.attacks import APGD, EOT, FAB, NoisyAPGD, Square, balls
from rainjax.evaluation.ensemble import Member


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoAttack(metaclass=Named):
    """An ensemble with the members and budgets of the AutoAttack program.

    - `"standard"`: APGD-CE, APGD-T and FAB-T towards `num_targets` classes, Square;
    - `"plus"`: APGD-CE, APGD-DLR and FAB with five restarts each, Square, APGD-T and FAB-T; FAB
      looks at `num_targets` classes together, which are all of ten, but not of a thousand;
    - `"rand"`, for random pipelines: APGD-CE and APGD-DLR, each step averaged over 20 draws,
      here as `NoisyAPGD`, because the published rule mistakes lucky draws for progress;
    - `"rand+standard"`: both of these, so that every image meets the worst of the two, which is
      how purifiers are measured (Nie et al., 2022); the members of `"standard"` take one draw.

    `eot` holds for every member, 20 independent draws by default in `"rand"` and one otherwise.
    Unlike the program's, no member reads its best loss, its step size or its success from a
    single draw: all are means over the draws of a step. Give `num_select_draws` to
    `run_ensemble`, where they decide what still stands. With `early_stop` members stop at the
    first success: faster, and exact on a pipeline without randomness; on one with it, weaker.
    The DLR losses need three classes.

    >>> from rainjax import EOT, AutoAttack
    >>> [member.name for member in AutoAttack().members]
    ['APGD-CE', 'APGD-T', 'FAB-T', 'Square']
    >>> [member.name for member in AutoAttack(version="rand", eot=EOT(20)).members]
    ['APGD-CE', 'APGD-DLR']

    Raises:
        ValueError: no version is called so, or an option is out of range.
    """

    version: Literal["standard", "plus", "rand", "rand+standard"] = "standard"
    norm: balls.Norm = "linf"
    radius: float = 8 / 255
    num_steps: int = 100
    num_queries: int = 5000
    num_targets: int = 9
    eot: EOT | None = None
    num_select_draws: int = 8
    early_stop: bool = False

    def __post_init__(self):
        check_fields(self)
        if self.num_targets < 1 or self.num_select_draws < 1:
            raise ValueError(
                f"num_targets={self.num_targets} and num_select_draws={self.num_select_draws} "
                "must be at least 1."
            )
        _ = self.members  # each checks the options it takes

    @property
    def num_draws(self) -> int:
        """How many draws of the pipeline every member averages over."""
        return self._eot.num_samples

    @property
    def _eot(self) -> EOT:
        return self.eot or EOT(20 if self.version.startswith("rand") else 1)

    @property
    def members(self) -> tuple[Member, ...]:
        """The attacks in the order they are run, cheap and strong ones first."""
        if self.version == "rand+standard":
            rand = dataclasses.replace(self, version="rand").members
            standard = dataclasses.replace(self, version="standard", eot=EOT()).members
            apart = {member.name for member in rand}
            return rand + tuple(
                dataclasses.replace(m, name=f"{m.name}, one draw") if m.name in apart else m
                for m in standard
            )
        shared = {
            "norm": self.norm,
            "radius": self.radius,
            "eot": self._eot,
            "early_stop": self.early_stop,
        }
        steps = {"num_steps": self.num_steps, **shared}
        towards = {"num_targets": self.num_targets, **steps}
        if self.version == "rand":
            return (
                Member("APGD-CE", NoisyAPGD(**steps)),
                Member("APGD-DLR", NoisyAPGD(loss="dlr", **steps)),
            )
        del towards["early_stop"]
        # One draw is for pipelines without randomness, where pairs would be equal.
        paired = self._eot.num_samples > 1
        square = Member("Square", Square(num_queries=self.num_queries, paired=paired, **shared))
        if self.version == "standard":
            return (
                Member("APGD-CE", APGD(**steps)),
                Member("APGD-T", APGD(early_stop=shared["early_stop"], **towards)),
                Member("FAB-T", FAB(**towards)),
                square,
            )
        return (
            Member("APGD-CE", APGD(num_restarts=5, **steps)),
            Member("APGD-DLR", APGD(loss="dlr", num_restarts=5, **steps)),
            Member("FAB", FAB(num_restarts=5, together=True, **towards)),
            square,
            Member("APGD-T", APGD(early_stop=shared["early_stop"], **towards)),
            Member("FAB-T", FAB(**towards)),
        )

    @property
    def num_gradients(self) -> int:
        """What the members cost per image if nothing breaks, an upper bound: see `Attack`."""
        return sum(member.attack.num_gradients for member in self.members)
