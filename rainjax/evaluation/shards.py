"""Shares of a study's units: which process makes which, and what a share says of itself."""

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from rainjax._checks import check_fields
from rainjax._files import write_json
from rainjax.devices import wait_for_all
from rainjax.evaluation.plan import Entry, Plan, names, plan_digest, unit_path
from rainjax.evaluation.provenance import provenance
from rainjax.evaluation.records import SCHEMA
from rainjax.evaluation.work import Unit

_SLURM, _KUBERNETES = "SLURM_ARRAY_TASK_", "JOB_COMPLETION_INDEX"
_PATIENCE = 60  # seconds until a machine on a network file system sees what another one wrote


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
        check_fields(self)
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
    found = isinstance(text, str) and re.fullmatch(r"([0-9]+)/([0-9]+)", text.strip())
    if not found:
        raise ValueError(f"shard={text!r} must be INDEX/COUNT, such as 0/3, 1/3 and 2/3.")
    return Shard(int(found[1]), int(found[2]))


def current_shard() -> Shard:
    """Returns the share of this process among JAX's own, all there is where it is alone."""
    count = jax.process_count()
    return Shard() if count == 1 else Shard(jax.process_index(), count, distributed=True)


def shard_of_array(environment: Mapping[str, str] | None = None) -> Shard | None:
    """Returns the share that a Slurm array or a Kubernetes indexed job gives this process.

    None outside of one. An array may start at any number, with any step: 0-15, 1-16, 0-30:2.
    Kubernetes tells a task its index alone: set JOB_COMPLETIONS beside it.

    Raises:
        ValueError: the number of tasks is not known, or the array has gaps, as has one of tasks
            that are run again; what is a share of what is then for --shard to say.
    """
    environment = os.environ if environment is None else environment
    if f"{_SLURM}ID" in environment:
        return _slurm_shard(environment)
    if _KUBERNETES in environment:
        index = _number(environment, _KUBERNETES)
        return Shard(index, _number(environment, "JOB_COMPLETIONS", beside=_KUBERNETES))
    return None


def _slurm_shard(environment: Mapping[str, str]) -> Shard:
    task = _number(environment, f"{_SLURM}ID")
    count, first, last = (
        _number(environment, f"{_SLURM}{name}", beside=f"{_SLURM}ID")
        for name in ("COUNT", "MIN", "MAX")
    )
    step = _number({f"{_SLURM}STEP": "1", **environment}, f"{_SLURM}STEP")
    regular = step >= 1 and last == first + step * (count - 1) and (task - first) % step == 0
    if not regular:
        raise ValueError(
            f"Task {task} of a Slurm array of {count}, from {first} to {last} in steps of {step}: "
            "an array with gaps does not say which share a task is to make; give it --shard "
            "INDEX/COUNT, such as --shard $SLURM_ARRAY_TASK_ID/16 for some tasks of 0-15."
        )
    return Shard((task - first) // step, count)


def _number(environment: Mapping[str, str], name: str, *, beside: str | None = None) -> int:
    text = environment.get(name)
    if text is None:
        raise ValueError(
            f"{beside}={environment[beside or name]} says which task of an array this is, and "
            f"{name} is not set, which says of how many: set it, or give --shard INDEX/COUNT."
        )
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"{name}={text!r} must be a whole number: give --shard INDEX/COUNT.")
    return int(text)


@contextlib.contextmanager
def together(shard: Shard, *points: str) -> Iterator[Callable[[], None]]:
    """Hands out what waits until all of JAX's processes have come to the next of some points.

    At its end all of them have been reached, by a process that fails as well: the others would
    wait for it, or be lost with it. Nobody waits where this process is alone.
    """
    left = iter(points if shard.distributed else ())

    def reach() -> None:
        for point in left:
            wait_for_all(point)
            return

    try:
        yield reach
    except Exception as error:
        if shard.distributed:
            print(f"Process {shard.index}: {error}", file=sys.stderr, flush=True)
            for point in left:
                wait_for_all(point)
        raise
    for point in left:
        wait_for_all(point)


def wait_for_files(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Waits until files are seen that another machine wrote; returns those that never were."""
    deadline = time.monotonic() + _PATIENCE
    absent = [path for path in paths if not path.exists()]
    while absent and time.monotonic() < deadline:
        time.sleep(0.5)
        absent = [path for path in absent if not path.exists()]
    return absent


def check_units(folder: pathlib.Path, entries: Sequence[Entry]) -> None:
    """Checks that the units of some records are all there.

    Raises:
        ValueError: some are not; says how many, and names the first.
    """
    owners = {name: entry["record"]["id"] for entry in entries for name in names(entry)}
    absent = wait_for_files([unit_path(folder, name) for name in owners])
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(owners)} units are not in {absent[0].parent}, the first of "
            f"them {absent[0].name} of {owners[absent[0].stem]}: if no process failed, they do "
            "not share this folder; give all of them one on a shared file system, or make shares "
            "with --shard INDEX/COUNT and put them together with `rainjax merge`."
        )


def write_plan(folder: pathlib.Path, plan: Plan) -> pathlib.Path:
    """Writes a study's plan, for `merge` to make the records by; returns the file."""
    path = folder / "shards" / f"plan-{plan_digest(plan)}.json"
    if not path.exists():
        write_json(path, plan)
    return path


def write_manifest(
    folder: pathlib.Path, shard: Shard, plan: Plan, mine: Sequence[Unit]
) -> pathlib.Path:
    """Writes what a share is and what it made, for `merge` to check; returns the file."""
    paths = {path for unit in mine for path in (unit.attacked, unit.scored) if path}
    path = folder / "shards" / f"{shard.index}-of-{shard.count}.json"
    write_json(
        path,
        {
            "schema": SCHEMA,
            "kind": "shard",
            "index": shard.index,
            "count": shard.count,
            "plan": plan_digest(plan),
            "units": sorted(path.stem for path in paths if path.exists()),
            "run": provenance(),
        },
    )
    return path
