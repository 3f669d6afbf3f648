"""What a record of `python -m eval speed` says, as a table."""

from typing import Any

from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import ABSENT, Cell, Table

# What the paper compares its speed with, whoever wrote it: none is left out for being fast.
_SLOW = ("total variation", "quilting")


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Returns how many times Feature Distillation is faster, by what than and at which batch."""
    times = {(e["name"], e["whose"], e["batch_size"]): e["median_ms"] for e in record["entries"]}
    found = {}
    for (name, whose, size), median in times.items():
        if name in _SLOW:
            own = times["Feature Distillation", "rainjax", size]
            found[f"{name} ({whose}), batch {size}"] = median / own
    return found


def ratio_texts(record: dict[str, Any]) -> dict[str, str]:
    """Returns the ratios as they are quoted, a batch size after the other, by what than."""
    found: dict[str, list[str]] = {}
    for name, ratio in ratios(record).items():
        than, size = name.rsplit(", ", 1)
        quoted = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
        found.setdefault(than, []).append(f"{quoted} × ({size})")
    return {than: ", ".join(quoted) for than, quoted in found.items()}


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
    run = record["run"]
    errors = ", ".join(
        f"{error['mean']:.2f} ({error['max']:.0f} at most) with {words}"
        for words, error in record["jpeg_error"].items()
    )
    faster = "; ".join(f"{than}: {quoted}" for than, quoted in ratio_texts(record).items())
    settings = {
        f"{e['name']} ({e['whose']}): {e['settings']}"
        for e in record["entries"]
        if e.get("settings")
    }
    source = "built-in pictures, tiled" if options["data"] == "builtin" else options["data"]
    return Table(
        f"What a transformation costs an image of {options['size']} × {options['size']}",
        tuple(map(Cell, ("", "whose", *(f"batch {size}" for size in sizes), "memory"))),
        tuple(rows),
        (
            f"Medians of {options['num_repeats']} rounds in which all take turns, on {source}, a "
            f"turn the mean over the calls of {options['min_seconds']:g} s at least, after one "
            "that is not counted; "
            f"rainjax on {run['num_devices']} × {run['device']}, compiled before and given "
            "float32 images that lie on the device, a batch spread over all of them; other "
            "people's code is given uint8 ones, one after the other unless it says otherwise. "
            "Pillow writes and reads a file, whose "
            "entropy coding rainjax leaves out.",
            "**memory**: what the compiled program holds beyond its arguments, an image of the "
            f"largest batch. Quilting ({options['bank_size']:,} patches) and other people's total "
            f"variation are timed on {slow} images of a batch at most.",
            f"Feature Distillation (rainjax) is faster than {faster}.",
            *([f"Settings: {'; '.join(sorted(settings))}."] if settings else []),
            f"Our JPEG and Pillow's, quality {options['quality']}, differ by so many grey levels "
            f"in the mean: {errors}.",
        ),
    )


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


RECORD = SingleFileRecord(
    "speed",
    "python -m eval speed",
    lambda record: (_table(record),),
    lambda record: "" if record["entries"] else "it has no entries",
)
