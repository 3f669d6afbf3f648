"""What detectors' scores cost beside the classifier that they protect: `python -m eval scores`."""

import dataclasses
import pathlib
import statistics
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from eval.benchmarks._turns import turn
from eval.pages import OfAStudy, options_of, with_rows
from rainjax import Guarded
from rainjax._files import write_json
from rainjax.evaluation.provenance import provenance
from rainjax.keys import Purpose, example_keys
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import Cell, Table


@dataclasses.dataclass(frozen=True)
class Scores(OfAStudy):
    """Times the score of every detector of a study, and the classifier's own forward pass.

    All in turns within one run, on one batch; medians are compared. Writes OUT/STUDY/scores.json.

    Beside the options below it takes those of the study, such as --classifier and --data-dir:
    `python -m eval STUDY --help` lists them.
    """

    study: Annotated[str, tyro.conf.Positional] = "detection"
    """The study whose detectors are timed: detection, cifar10_detection, photographs_detection."""
    batch_size: int = 32
    """Images at a time."""
    num_repeats: int = 7
    """Rounds, in each of which everything takes a turn."""
    min_seconds: float = 0.2
    """How long a turn lasts at least: of what is faster, the mean over many calls is taken."""

    def __post_init__(self):
        super().__post_init__()
        for name in ("batch_size", "num_repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if not 0 <= self.min_seconds < float("inf"):
            raise ValueError(f"min_seconds={self.min_seconds} must be finite and not negative.")


def run(command: Scores) -> pathlib.Path:
    """Times the scores, prints their table, and returns the record's path.

    Raises:
        ValueError: no study is called so, or it has no detectors.
    """
    options = options_of(command.study, command.study_options)
    study, chosen = with_rows(options, command.rows or ())
    subjects = [s for s in study.subjects if chosen is None or s.name in chosen]
    guarded = [subject for subject in subjects if isinstance(subject.pipeline, Guarded)]
    if not guarded:
        raise ValueError(f"study={command.study!r} has no detectors: name one that guards.")
    pictures, _ = study.images.get(np.arange(command.batch_size))
    images = jnp.asarray(pictures, jnp.float32) / 255
    keys = example_keys(study.seed, Purpose.SCORE, np.arange(command.batch_size))
    calls = {"the classifier": _classifier(guarded[0], keys, images)}
    calls |= {subject.name: _score(subject, keys, images) for subject in guarded}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
    for _ in range(command.num_repeats):
        for name, call in calls.items():
            seconds[name].append(turn(call, command.min_seconds))
    record = {
        "schema": 1,
        "kind": "scores",
        "study": study.name,
        "batch_size": command.batch_size,
        "image_shape": list(images.shape[1:]),
        "entries": [
            {"name": name, "seconds": found, "median": statistics.median(found)}
            for name, found in seconds.items()
        ],
        "run": provenance(),
    }
    print(f"\n{RECORD.text(record)}\n")
    path = command.out / study.name / "scores.json"
    write_json(path, record)
    print(f"Wrote {path}.")
    return path


def table(record: dict[str, Any]) -> Table:
    """Returns every detector's time an image, beside that of the classifier."""
    first, *others = record["entries"]
    size = record["batch_size"]
    height, width, _ = record["image_shape"]
    rows = []
    for entry in (first, *others):
        ratio = entry["median"] / first["median"]
        spread = [s / first["median"] for s in entry["seconds"]]
        beside = "" if entry is first else f"{ratio:.2f}"
        rows.append(
            (
                Cell(entry["name"]),
                Cell(f"{1000 * entry['median'] / size:.3g} ms"),
                Cell(beside, f"{min(spread):.2f} to {max(spread):.2f}" if beside else ""),
            )
        )
    return Table(
        f"What a score costs, {height} × {width}",
        (Cell(""), Cell("an image"), Cell("of the classifier's time")),
        tuple(rows),
        notes=(
            f"Batches of {size}, {len(first['seconds'])} rounds in which everything takes a turn, "
            f"medians; beside them the fastest and the slowest round. "
            f"{record['run']['num_devices']} x {record['run']['device']}.",
        ),
    )


def _classifier(subject: Any, keys: Any, images: Any) -> Callable[[], Any]:
    pipeline, params = subject.pipeline.pipeline, subject.params["pipeline"]
    program = jax.jit(jax.vmap(pipeline.logits, (None, 0, 0)))
    return lambda: jax.block_until_ready(program(params, keys, images))


def _score(subject: Any, keys: Any, images: Any) -> Callable[[], Any]:
    detector, params = subject.pipeline.detector, subject.params["detector"]
    program = jax.jit(jax.vmap(detector.score, (None, 0, 0)))
    return lambda: jax.block_until_ready(program(params, keys, images))


RECORD = SingleFileRecord(
    "scores",
    "python -m eval scores",
    lambda record: (table(record),),
    lambda record: "" if len(record["entries"]) > 1 else "it has no detectors",
)
