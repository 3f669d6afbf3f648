"""What a record of `python -m train.benchmark` says, as a table."""

import statistics
from typing import Any

from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import Cell, Table


def shares(record: dict[str, Any]) -> dict[str, float | None]:
    """Returns images a second, with everything and bare, and shares of them and of the peak.

    `kept` is the median over the epochs of the share that each keeps of the turn of the bare step
    just before it.
    """
    options = record["options"]
    images = options["num_steps"] * options["batch_size"]
    full, bare = (statistics.median(record[f"{kind}_seconds"]) for kind in ("full", "bare"))
    tflops = record["tflop_per_step"] * options["num_steps"] / bare
    peak = record["peak_tflops"]
    pairs = zip(record["bare_seconds"], record["full_seconds"], strict=True)
    return {
        "full_images_per_second": images / full,
        "bare_images_per_second": images / bare,
        "kept": statistics.median(b / f for b, f in pairs),
        "input_wait": statistics.median(record["input_wait"]),
        "tflops": tflops,
        "of_matmul": tflops / record["matmul_tflops"],
        "of_peak": None if peak is None else tflops / peak,
    }


def _table(record: dict[str, Any]) -> Table:
    options, found, run = record["options"], shares(record), record["run"]
    peak = found["of_peak"]
    columns = (
        ("bare step", f"{found['bare_images_per_second']:,.1f} images/s"),
        ("training", f"{found['full_images_per_second']:,.1f} images/s"),
        ("kept", f"{found['kept']:.0%}"),
        ("waiting for input", f"{found['input_wait']:.1%}"),
        ("arithmetic", f"{found['tflops']:.3g} TFLOP/s"),
        ("of a matrix product", f"{found['of_matmul']:.0%}"),
        ("of the peak", "—" if peak is None else f"{peak:.0%}"),
    )
    source = "the built-in set" if options["data"] == "builtin" else options["data"]
    return Table(
        "How fast an EDSR is trained",
        tuple(Cell(name) for name, _ in columns),
        (tuple(Cell(value) for _, value in columns),),
        (
            f"EDSR with {options['num_blocks']} blocks of {options['num_features']} features "
            f"({record['num_parameters']:,} parameters) in {options['precision']}, "
            f"{options['batch_size']} patches of {options['patch']} x {options['patch']} a step, "
            f"from {source}, on {record['num_devices']} × {run['device']}; medians of "
            f"{options['num_repeats']} epochs of {options['num_steps']} steps and as many turns "
            "of the bare step between them.",
            "**bare step**: the same batch on the device every time; **training**: with input, "
            "logging and a checkpoint an epoch; **kept**: the share of the former's rate; "
            "**waiting for input**: time in which the host waits, while the devices may still be "
            "busy; **arithmetic**: operations of the step as XLA counts them before it compiles, "
            "by the time of the bare step, beside what a large matrix product reaches here in the "
            "same precision, and what the maker states for bfloat16.",
        ),
    )


RECORD = SingleFileRecord(
    "training", "python -m train.benchmark", lambda record: (_table(record),)
)
