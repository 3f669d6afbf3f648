"""What a record of `python -m eval speed` says, as a table."""

import pathlib
from typing import Any

from eval.records import read_json
from eval.tables import ABSENT, Cell, Table, as_markdown, as_plain

# What the paper compares its speed with; our own ratios are named by both sides.
_SLOW = (
    ("total variation", "ART"),
    ("total variation", "scikit-image, Bregman"),
    ("quilting", "rainjax"),
)


def text(record: dict[str, Any], style: str = "plain") -> str:
    """Returns time and memory per image and the ratios: "plain" or "markdown"."""
    return {"plain": as_plain, "markdown": as_markdown}[style](_table(record))


def load(path: pathlib.Path | str) -> dict[str, Any]:
    """Returns a record that `run` wrote.

    Raises:
        ValueError: it is damaged, or another kind of record.
    """
    record = read_json(pathlib.Path(path))
    problem = "" if record.get("kind") == "speed" and record.get("schema") == 1 else "another kind"
    if not problem:
        try:
            text(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
    if problem:
        raise ValueError(
            f"{path} is no usable record of `python -m eval speed` ({problem}): make it again."
        )
    return record


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Returns how many times Feature Distillation is faster, by what than and at which batch."""
    times = {(e["name"], e["whose"], e["batch_size"]): e["median_ms"] for e in record["entries"]}
    found = {}
    for size in record["options"]["batch_sizes"]:
        own = times["Feature Distillation", "rainjax", size]
        for name, whose in _SLOW:
            if (name, whose, size) in times:
                found[f"{name} ({whose}), batch {size}"] = times[name, whose, size] / own
    return found


def _table(record: dict[str, Any]) -> Table:
    options = record["options"]
    sizes = options["batch_sizes"]
    lines = {}
    for entry in record["entries"]:
        lines.setdefault((entry["name"], entry["whose"]), {})[entry["batch_size"]] = entry
    rows = []
    for (name, whose), line in lines.items():
        times = (line.get(size) for size in sizes)
        cells = [Cell(_ms(e["median_ms"])) if e else ABSENT for e in times]
        mib = line[max(line)]["mib_per_image"]
        memory = ABSENT if mib is None else Cell(f"{mib:.1f} MiB")
        rows.append((Cell(name), Cell(whose), *cells, memory))
    slow = options["num_slow"]
    error, run = record["jpeg_error"], record["run"]
    faster = "; ".join(f"{name}: {ratio:,.0f} ×" for name, ratio in ratios(record).items())
    source = "built-in pictures, tiled" if options["data"] == "builtin" else options["data"]
    return Table(
        f"What a transformation costs an image of {options['size']} × {options['size']}",
        tuple(map(Cell, ("", "whose", *(f"batch {size}" for size in sizes), "memory"))),
        tuple(rows),
        (
            f"Medians of {options['num_repeats']} rounds in which all take turns, on {source}; "
            f"rainjax on {run['num_devices']} × {run['device']}, compiled before; **memory**: "
            "what the compiled program holds beyond its arguments, an image of the largest "
            f"batch. Quilting ({options['bank_size']:,} patches) and other people's total "
            f"variation are timed on {slow} images of a batch at most.",
            f"Feature Distillation is faster than {faster}.",
            f"Our JPEG and Pillow's, quality {options['quality']}, differ by {error['mean']:.2f} "
            f"grey levels in the mean, {error['max']:.0f} at most.",
        ),
    )


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"
