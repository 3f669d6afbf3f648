"""Measuring a study: what is missing is made, in any number of processes, and recorded."""

import pathlib
import sys
import warnings

from jax.sharding import Mesh

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
from rainjax.evaluation.progress import progress_bar
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
from rainjax.evaluation.study import Study, cells, check_classes
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
    if progress:
        _tell(study, folder, len(planned), len(missing), gradients, shard)
    if given:
        write_plan(folder, plan)
    with together(shard, "units", "records") as reach:
        with progress_bar(gradients, len(missing), unit="grad", shown=progress) as bar:
            for cell, units, entry in missing:
                bar.begin_part(f"{cell.subject.name}, {cell.threat.name}")
                for unit in units:
                    if unit.owner in mine:
                        work.make(unit, bar.add)
                        bar.after_batch()
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


def _tell(study: Study, folder, planned: int, missing: int, gradients: int, shard: Shard) -> None:
    """Says on stderr what will be made, at what price, and where it goes."""
    left = f"{missing} of them to be measured" if missing else "all of them measured"
    text = f"{study.name}: {len(study.subjects)} subjects, {planned} numbers, {left}"
    if missing:
        text += f"; {_count(gradients)} image gradients, {gradients / study.count:,.0f} an image"
        text += "" if shard.is_whole else f", in share {shard}"
    print(f"{text}. Writing to {folder}.", file=sys.stderr)


def _count(count: int) -> str:
    return f"{count:,}" if count < 10**6 else f"{count / 10**6:.1f} million"
