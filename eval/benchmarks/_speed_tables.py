"""What `python -m eval speed` prints of its record: tables, and ratios as they are quoted."""

from typing import Any

from eval.benchmarks._ncis_cost import rivals
from rainjax.report.tables import ABSENT, Cell, Table

# What the paper compares its speed with, whoever wrote it: none is left out for being fast.
_SLOW = ("total variation", "quilting")


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Returns how many times Feature Distillation is faster, by what than and at which batch."""
    times = {(e["name"], e["whose"], e["batch_size"]): e["median_ms"] for e in _at_size(record)}
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


def _at_size(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of the size that all were timed at; older records have no other."""
    size = record["options"]["size"]
    return [entry for entry in record["entries"] if entry.get("size", size) == size]


def tables(record: dict[str, Any]) -> tuple[Table, ...]:
    """Returns the table of all that was timed, and that of other sizes where there is one."""
    others = _other_sizes(record)
    return (_table(record), *([] if others is None else [others]))


def _table(record: dict[str, Any]) -> Table:
    options = record["options"]
    sizes = options["batch_sizes"]
    lines = {}
    for entry in _at_size(record):
        lines.setdefault((entry["name"], entry["whose"]), {})[entry["batch_size"]] = entry
    rows = []
    for (name, whose), line in lines.items():
        times = (line.get(size) for size in sizes)
        cells = [Cell(_ms(e["median_ms"])) if e else ABSENT for e in times]
        mib = line[max(line)]["mib_per_image"]
        memory = ABSENT if mib is None else Cell(f"{mib:.1f} MiB")
        rows.append((Cell(name), Cell(whose), *cells, memory))
    slow = options["num_slow"]
    # Records from before it joined have none.
    more = ", non-local means" if ("non-local means", "rainjax") in lines else ""
    more += ", NCIS" if any(name.startswith("NCIS") for name, _ in lines) else ""
    run = record["run"]
    errors = ", ".join(
        f"{error['mean']:.2f} ({error['max']:.0f} at most) with {words}"
        for words, error in record["jpeg_error"].items()
    )
    faster = "; ".join(f"{than}: {quoted}" for than, quoted in ratio_texts(record).items())
    settings = {
        f"{e['name']} ({e['whose']}): {e['settings']}"
        for e in _at_size(record)
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
            f"largest batch. Quilting ({options['bank_size']:,} patches){more} and other people's "
            f"total variation are timed on {slow} images of a batch at most.",
            f"Feature Distillation (rainjax) is faster than {faster}.",
            *_share_notes(record),
            *([f"Settings: {'; '.join(sorted(settings))}."] if settings else []),
            f"Our JPEG and Pillow's, quality {options['quality']}, differ by so many grey levels "
            f"in the mean: {errors}.",
        ),
    )


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def _share_notes(record: dict[str, Any]) -> list[str]:
    """Returns sentences on the share of the arithmetic limit; none for a record without NCIS."""
    limit = record.get("arithmetic")
    entries = [e for e in record["entries"] if e.get("multiply_adds")]
    if not limit or not entries:
        return []
    per_second = limit["multiply_adds_per_second"]
    told = []
    for entry in entries:
        share = entry["multiply_adds"] / (entry["median_ms"] / 1000) / per_second
        kept = entry["kept_multiply_adds"] / entry["multiply_adds"]
        told.append(
            f"{entry['name']} at {entry['size']}, batch {entry['batch_size']}: "
            f"{entry['multiply_adds'] / 1e9:,.3g} billion an image, of which masks keep "
            f"{kept:.0%}, {share:.0%} of the limit"
        )
    return [
        f"The arithmetic limit is what a product of matrices of {limit['side']} reaches on all "
        f"devices together, in turns with the others: {per_second / 1e9:,.3g} billion "
        f"multiply-adds a second. {'; '.join(told)}."
    ]


def ncis_texts(record: dict[str, Any]) -> dict[str, str]:
    """Returns what NCIS takes, and how many times its rivals' times that is, as it is quoted.

    At the size and the largest batch of the record; empty for a record without NCIS.
    """
    size, batch = record["options"]["size"], max(record["options"]["batch_sizes"])
    times = {
        e["name"]: e["median_ms"]
        for e in record["entries"]
        if e["whose"] == "rainjax" and e["batch_size"] == batch and e.get("size", size) == size
    }
    found = {}
    for name, median in times.items():
        if name.startswith("NCIS") or name == "Gaussian smoothing":
            ratios = [
                f"{median / times[rival]:.3g} × {rival}" for rival, _ in rivals() if rival in times
            ]
            found[name] = f"{_ms(median)} an image at {size} (" + ", ".join(ratios) + ")"
    return found if any(name.startswith("NCIS") for name in found) else {}


def _other_sizes(record: dict[str, Any]) -> Table | None:
    """Returns what was timed at other sizes than the benchmark's; None for a record without."""
    options = record["options"]
    lines: dict[tuple[str, int], dict[int, float]] = {}
    for entry in record["entries"]:
        size = entry.get("size", options["size"])
        if size != options["size"]:
            place = entry["name"], size
            lines.setdefault(place, {})[entry["batch_size"]] = entry["median_ms"]
    if not lines:
        return None
    sizes = options["batch_sizes"]
    return Table(
        "What smoothing costs an image of another size",
        tuple(map(Cell, ("", "size", *(f"batch {batch}" for batch in sizes)))),
        tuple(
            (
                Cell(name),
                Cell(f"{size} × {size}"),
                *(Cell(_ms(line[batch])) for batch in sizes),
            )
            for (name, size), line in lines.items()
        ),
        ("rainjax's, in turns with those of the table above, on the middles of the same images.",),
    )
