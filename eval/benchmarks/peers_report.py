"""What a record of `python -m eval peers` says, as tables."""

from typing import Any

from eval.benchmarks.peers_worker import ATTACKS
from rainjax.evaluation import Score
from rainjax.metrics import wilson_interval
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import Cell, Table
from rainjax.report.text import interval, percent


def _costs(record: dict[str, Any]) -> Table:
    options, rows = record["options"], []
    num = options["num_images"]
    for name, row in record["libraries"].items():
        pgd, eot = (row["attacks"][attack] for attack in ATTACKS)
        times = [
            Cell(f"{of['median_seconds']:.2f} s", f"({of['over_rainjax']:.2f} ×)")
            for of in (pgd, eot)
        ]
        first, peak, above = (
            f"{pgd['first_seconds']:.1f} s",
            f"{eot['peak_mib']:.0f} MiB",
            f"{eot['above_compiled_mib']:.0f} MiB",
        )
        low, high = wilson_interval(eot["accuracy"] * num, num)
        score = Score(eot["accuracy"], low, high)
        left = Cell(percent(score.accuracy), interval(score))
        rows.append((Cell(name), *times, Cell(first), Cell(peak), Cell(above), left))
    notes = [
        f"{options['num_images']} images of the built-in set, {options['num_steps']} steps, "
        f"L∞ radius {255 * options['radius']:.3g}/255; EOT-PGD averages {options['num_eot']} "
        f"draws a step. Medians of {options['num_rounds']} processes with "
        f"{options['num_repeats']} runs each, the libraries in turn, on "
        f"{record['libraries']['rainjax']['device']}; **×**: over rainjax's.",
        "**first run**: PGD's in a new process, with all that it compiles; **peak**: resident "
        "memory of the whole process in EOT-PGD's runs after its first; **of runs**: what they "
        "added to what the first one left; "
        f"**left**: accuracy that EOT-PGD leaves, mean over {options['num_score_draws']} draws "
        "and 95 % interval: a fast attack must also be one.",
        *(
            f"{name} was left out: {', '.join(what)} is not installed."
            for name, what in record["not_installed"].items()
        ),
    ]
    heads = ("library", "PGD", "EOT-PGD", "first run", "peak", "of runs", f"left (n = {num})")
    return Table("What the same attacks cost", tuple(map(Cell, heads)), tuple(rows), tuple(notes))


def _saved(record: dict[str, Any]) -> Table:
    options = record["options"]
    rows = tuple(
        (
            Cell(f"{255 * row['radius']:.3g}/255"),
            Cell(f"{100 * row['broken']:.0f} %"),
            Cell(f"{row['time_over_whole']:.2f}"),
            Cell(f"{row['cpu_over_whole']:.2f}"),
        )
        for row in record["early_stopping"]
    )
    note = (
        f"PGD with {options['early_steps']} steps on the bare classifier, "
        f"{options['early_images']} images: the share that ends broken, and the time with "
        "`early_stop` over the time without, sizes of the batch compiled before."
    )
    heads = ("radius", "broken", "time", "processor time")
    return Table("Stopping early", tuple(map(Cell, heads)), rows, (note,))


def _tables(record: dict[str, Any]) -> tuple[Table, ...]:
    return (_costs(record), *((_saved(record),) if record["early_stopping"] else ()))


RECORD = SingleFileRecord("peers", "python -m eval peers", _tables)
