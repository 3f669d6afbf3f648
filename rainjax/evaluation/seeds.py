"""A study over several seeds: how much of an accuracy is owed to the draws that were made."""

import dataclasses
import pathlib
import statistics
from collections.abc import Iterable
from typing import Any

from jax.sharding import Mesh

from rainjax._checks import as_plain, check_kind
from rainjax.evaluation.records import Record
from rainjax.evaluation.run import evaluate
from rainjax.evaluation.study import Study, cells
from rainjax.evaluation.validation import ROBUSTNESS


@dataclasses.dataclass(frozen=True)
class SeedSpread:
    """The accuracies of one subject under one threat model, a seed each."""

    subject: str
    threat: str
    accuracies: dict[int, float]
    """By seed: the mean over images and scoring draws."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.accuracies.values())

    @property
    def std(self) -> float:
        """The standard deviation over seeds, with one less than their number as divisor."""
        return statistics.stdev(self.accuracies.values())

    @property
    def min(self) -> float:
        """The lowest accuracy: what an attacker has who takes the best of his seeds."""
        return min(self.accuracies.values())

    @property
    def max(self) -> float:
        """The highest accuracy."""
        return max(self.accuracies.values())

    def __str__(self) -> str:
        return (
            f"{self.subject}, {self.threat}: {self.mean:.1%}, standard deviation {self.std:.1%}, "
            f"from {self.min:.1%} to {self.max:.1%} over {len(self.accuracies)} seeds"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class OverSeeds:
    """What `over_seeds` measured: the records of every seed, and the spread of every number."""

    records: dict[int, list[Record]]
    """By seed: what `evaluate` returned."""
    spreads: dict[str, SeedSpread]
    """By the records' `id`, which is the same for every seed."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.spreads.values()))


def over_seeds(
    study: Study,
    seeds: Iterable[int],
    out: pathlib.Path | str = "results",
    *,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> OverSeeds:
    """Measures a study with one seed after the other, and returns how its accuracies spread.

    A seed is the root of every draw, the attacker's and the score's; the images stay the same. So
    the standard deviation is that of the draws, and the records' intervals are about the choice
    of images: neither covers the other. Seed `s` is measured by `evaluate` into
    `out`/seed-`s`/`study.name`, which is resumed there if it is stopped, and can be reported like
    any other study. `study.seed` itself has no say.

    Args:
        study: What is measured; its measure is `Robustness`, or one that extends it.
        seeds: Two at least.
        out: The folder that holds those of the seeds.
        mesh: The devices a batch is spread over, as for `evaluate`.
        progress: Whether to say on stderr how far it is.

    Raises:
        ValueError: `seeds` are not different whole numbers, or fewer than two, the measure knows
            no accuracy, or `evaluate` refuses the study.
    """
    check_kind(study, Study, "over_seeds(study=...)")
    if study.measure.kind != ROBUSTNESS:
        name = type(study.measure).__name__
        raise ValueError(
            f"over_seeds compares accuracies, which the measure {name} does not give: call "
            "evaluate with dataclasses.replace(study, seed=...) for each seed, and compare those."
        )
    studies = {seed: dataclasses.replace(study, seed=seed) for seed in _seeds(seeds)}
    records = {
        seed: evaluate(one, pathlib.Path(out) / f"seed-{seed}", mesh=mesh, progress=progress)
        for seed, one in studies.items()
    }
    found = {seed: {record.id: record for record in some} for seed, some in records.items()}
    spreads = {
        cell.id: SeedSpread(
            cell.subject.name,
            cell.threat.name,
            {seed: some[cell.id].score().accuracy for seed, some in found.items()},
        )
        for cell in cells(study)
        if cell.proof is None  # nothing in it is drawn
    }
    return OverSeeds(records, spreads)


def _seeds(given: Any) -> list[int]:
    try:
        seeds = [as_plain("seeds", seed, int) for seed in given]
    except TypeError:
        raise ValueError(f"seeds={given!r} must be a list of them, such as range(5).") from None
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"{seeds=} must be two different ones at least, to be compared.")
    return seeds
