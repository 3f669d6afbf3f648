"""Shares of a study's units: which process makes which, and what a share says of itself."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from rainjax._files import write_json
from rainjax.evaluation.describe import digest
from rainjax.evaluation.provenance import provenance

# What Slurm arrays and Kubernetes' indexed jobs tell their tasks: index, first index, count.
_ARRAYS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
    ("JOB_COMPLETION_INDEX", None, "JOB_COMPLETIONS"),
)


@dataclasses.dataclass(frozen=True)
class Shard:
    """The share `index` of `count`; `distributed` where the others are JAX's own processes.

    Raises:
        ValueError: there is no such share.
    """

    index: int = 0
    count: int = 1
    distributed: bool = False

    def __post_init__(self):
        if self.count < 1 or not 0 <= self.index < self.count:
            raise ValueError(
                f"index={self.index} of count={self.count} is no share: index runs from 0 to "
                "count - 1."
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def is_whole(self) -> bool:
        """Whether there is but one share."""
        return self.count == 1

    def share(self, units: Sequence[Any]) -> "Share":
        """Returns the units of this share: every `count`-th owner, in the order of the plan."""
        owners = list(dict.fromkeys(unit.owner for unit in units))
        mine = set(owners[self.index :: self.count])
        return Share([unit for unit in units if unit.owner in mine], mine)


class Share(list):
    """The units of a share; `owner in share` tells whether an owner's units are among them."""

    def __init__(self, units: Sequence[Any], owners: set[str]):
        super().__init__(units)
        self._owners = owners

    def __contains__(self, owner: object) -> bool:
        return owner in self._owners


def parse_shard(text: str) -> Shard:
    """Returns the share that `i/n` names: 0/3, 1/3 and 2/3 are three of them.

    Raises:
        ValueError: the text is not of this form, or there is no such share.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not found:
        raise ValueError(f"shard={text!r} must be INDEX/COUNT, such as 0/3, 1/3 and 2/3.")
    return Shard(int(found[1]), int(found[2]))


def current_shard() -> Shard:
    """Returns the share of this process among JAX's own, all there is where it is alone."""
    count = jax.process_count()
    return Shard() if count == 1 else Shard(jax.process_index(), count, distributed=True)


def shard_of_array(environment: Mapping[str, str] | None = None) -> Shard | None:
    """Returns the share that a Slurm array or a Kubernetes indexed job gives this process.

    None outside of one. Kubernetes tells a task its index alone: set JOB_COMPLETIONS beside it.

    Raises:
        ValueError: an index came without the number of tasks.
    """
    environment = os.environ if environment is None else environment
    for index, first, count in _ARRAYS:
        if index not in environment:
            continue
        if count not in environment:
            raise ValueError(
                f"{index}={environment[index]} says which task of an array this is, and {count} "
                "is not set: set it to the number of tasks, or give --shard INDEX/COUNT."
            )
        start = int(environment.get(first, "0")) if first else 0
        return Shard(int(environment[index]) - start, int(environment[count]))
    return None


def wait_for_all(what: str) -> None:
    """Waits until all of JAX's processes have come here."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(f"rainjax {what}")


def plan_digest(everything: Sequence[tuple[Any, Sequence[Any]]]) -> str:
    """Digests a study's plan: which records there will be, and of which units."""
    return digest([[cell.id, [unit.scored.stem for unit in units]] for cell, units in everything])


def write_manifest(folder: pathlib.Path, shard: Shard, everything: Sequence[Any]) -> pathlib.Path:
    """Writes what a share is and what it made, for `merge` to check; returns the file."""
    units = [unit for _, units in everything for unit in units]
    mine = shard.share(units)
    names = [path.stem for unit in mine for path in (unit.attacked, unit.scored) if path]
    path = folder / "shards" / f"{shard.index}-of-{shard.count}.json"
    write_json(
        path,
        {
            "schema": 2,
            "kind": "shard",
            "index": shard.index,
            "count": shard.count,
            "plan": plan_digest(everything),
            "units": sorted(set(names)),
            "run": provenance(),
        },
    )
    return path
