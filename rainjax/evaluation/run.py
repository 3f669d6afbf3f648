"""Measuring a study: what is missing is made, in any number of processes, and recorded."""

import contextlib
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator

from jax.sharding import Mesh
from tqdm import tqdm

from rainjax._checks import check_kind
from rainjax._files import as_path
from rainjax.evaluation.plan import (
    check_others,
    claim,
    identity,
    is_recorded,
    make_plan,
    record_path,
    write_order,
    write_record,
)
from rainjax.evaluation.provenance import provenance
from rainjax.evaluation.records import Record, load_records
from rainjax.evaluation.shards import (
    Shard,
    check_units,
    current_shard,
    together,
    wait_for_files,
    write_manifest,
    write_plan,
)
from rainjax.evaluation.study import Cell, Study, cells, check_classes
from rainjax.evaluation.work import Work


def evaluate(
    study: Study,
    out: pathlib.Path | str = "results",
    *,
    shard: Shard | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
) -> list[Record]:
    """Measures a study, or what is missing of it, and returns its records.

    Everything is kept in `out`/`study.name`: the records, and in `work/` the adversarial images
    and logits of every batch, so that a run that is killed at any moment loses one batch, and
    another number made of the same attacks costs none. What other code, other images or other
    parameters made is made again.

    It warns, before anything is made, where there are too few classes for the loss of a member of
    AutoAttack, which then climbs the margin.

    Under `jax.distributed` every process takes its share and process 0 writes the records, in a
    folder that all of them see. With a `shard` of several only its share is made, and no record:
    `rainjax.evaluation.merge` puts shares together. Where `mesh` is None a batch is spread over
    the devices of this process.

    >>> import tempfile, jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import PGD, Defended, Identity, data, nets
    >>> from rainjax.evaluation import CLEAN, Study, Subject, ThreatModel, evaluate
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> model = nets.from_function(logits, jax.random.normal(jax.random.key(0), (48, 2)))
    >>> params = {"defense": (), "classifier": model.params}
    >>> pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)
    >>> study = Study(
    ...     "mine",
    ...     data.from_arrays(pictures, [0, 1] * 3, name="noise"),
    ...     [Subject("bare", Defended(Identity(), model.network), params)],
    ...     [CLEAN, ThreatModel("PGD", PGD(radius=8 / 255, num_steps=5))],
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     records = evaluate(study, folder, progress=False)
    >>> [record.id for record in records]
    ['bare--clean--n6', 'bare--pgd--linf-8--k1--n6']

    Args:
        study: What is measured.
        out: The folder that holds the study's own.
        shard: The share of this process; by default what JAX's own processes come to.
        mesh: The devices a batch is spread over; its size must divide every batch.
        progress: Whether to say on stderr what there is to do, and how far it is.

    Raises:
        ValueError: the study's parts do not fit each other, its folder holds another study, an
            attack fails on some images, or JAX's processes do not share the folder; says which.
    """
    check_kind(study, Study, "evaluate(study=...)")
    for name, given, kind in (("shard", shard, Shard), ("mesh", mesh, Mesh)):
        if given is not None:
            check_kind(given, kind, f"evaluate({name}=...)")
    folder = as_path("out", out) / study.name
    planned = cells(study)
    check_classes(study)
    claim(folder, identity(study))
    work = Work(study, folder, mesh=mesh)
    for changed in dict.fromkeys(filter(None, map(work.changed_members, planned))):
        warnings.warn(f"AutoAttack: {changed}.", stacklevel=2)
    shard, given = shard or current_shard(), shard is not None and not shard.distributed
    everything = [(cell, work.units(cell)) for cell in planned]
    plan = make_plan(work, everything)
    check_others(folder, plan)
    missing = [
        (cell, units, entry)
        for (cell, units), entry in zip(everything, plan["cells"], strict=True)
        if not is_recorded(folder, entry)
    ]
    mine = shard.share([unit for _, units in everything for unit in units])
    gradients = work.missing_gradients([u for _, us, _ in missing for u in us if u.owner in mine])
    say = _Teller(progress)
    say.plan(study, folder, len(planned), len(missing), gradients, shard)
    if given:
        write_plan(folder, plan)
    with together(shard, "units", "records") as reach:
        with say.bar(gradients) as tick:
            for cell, units, entry in missing:
                say.at(cell)
                for unit in units:
                    if unit.owner in mine:
                        work.make(unit, tick)
                        say.after_batch()
                if shard.is_whole:
                    write_record(folder, plan, entry, study.measure, provenance())
        if given:
            write_manifest(folder, shard, plan, mine)
            if not shard.is_whole:
                return []
        reach()
        if shard.distributed:
            check_units(folder, [entry for _, _, entry in missing])
        if shard.index == 0:
            for _, _, entry in missing if shard.distributed else ():
                run = {**provenance(), "num_processes": shard.count}
                write_record(folder, plan, entry, study.measure, run)
            write_order(folder, plan)
            for extra in study.extras:
                extra.write(work, planned, anew=bool(missing))
    if shard.distributed:
        wait_for_files([record_path(folder, entry) for entry in plan["cells"]])
    return load_records(folder, displays=study.displays)


class _Teller:
    """Says on stderr what there is to do, where it goes, and how far it is."""

    def __init__(self, progress: bool):
        self._progress = progress
        self._first: tuple[float, int] | None = None
        self._told = False

    def plan(
        self, study: Study, folder, planned: int, missing: int, gradients: int, shard: Shard
    ) -> None:
        """Says what will be made, at what price.

        Args:
            study: The study.
            folder: Where it writes.
            planned: The numbers that it consists of.
            missing: How many of them are to be measured.
            gradients: Image gradients that this takes.
            shard: The share of this process.
        """
        if not self._progress:
            return
        left = f"{missing} of them to be measured" if missing else "all of them measured"
        text = f"{study.name}: {len(study.subjects)} subjects, {planned} numbers, {left}"
        if missing:
            text += (
                f"; {_count(gradients)} image gradients, {gradients / study.count:,.0f} an image"
            )
            text += "" if shard.is_whole else f", in share {shard}"
        print(f"{text}. Writing to {folder}.", file=sys.stderr)

    @contextlib.contextmanager
    def bar(self, total: int) -> Iterator[Callable[[int], object]]:
        """Shows a bar, and hands out what counts gradients on it."""
        with tqdm(
            total=total, unit="grad", unit_scale=True, smoothing=0.02, mininterval=1,
            disable=not self._progress or not total,
        ) as self._bar:  # fmt: skip
            yield self._tick

    def at(self, cell: Cell) -> None:
        """Says which number is being made."""
        self._bar.set_description(f"{cell.subject.name}, {cell.threat.name}")

    def after_batch(self) -> None:
        """Says, after a hundredth of all gradients, how long the rest will take.

        That is mostly after the first batch; where it had an attack of one step, scoring took
        longer than attacking, and says nothing of the others.
        """
        if self._told or self._first is None or self._bar.disable:
            return
        if self._bar.n < self._bar.total / 100:
            return
        began, done = self._first
        rate = (self._bar.n - done) / max(time.perf_counter() - began, 1e-9)
        if rate:
            self._told = True
            left = (self._bar.total - self._bar.n) / rate
            text = f"At the first batches' rate, {_duration(left)} to go, without compilation."
            self._bar.write(text, file=sys.stderr)

    def _tick(self, count: int) -> None:
        self._bar.update(count)
        if self._first is None:  # the first gradient waits for its compilation
            self._first = time.perf_counter(), count


def _count(count: int) -> str:
    return f"{count:,}" if count < 10**6 else f"{count / 10**6:.1f} million"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
