"""How fast training is: `python -m train.benchmark`.

Two questions, answered in one run, epochs of training and turns of the bare step alternating: what
share of the bare step's images per second is left once input, logging and checkpoints are on, and
what share of the machine's arithmetic the bare step uses.
"""

import dataclasses
import functools
import json
import pathlib
import statistics
import tempfile
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from tqdm import tqdm

from rainjax._files import check_writable, write_json
from rainjax.data.splits import Data
from rainjax.devices import use_all_cores
from rainjax.evaluation.provenance import provenance
from rainjax.keys import Purpose, purpose_key
from rainjax.nets import EDSR, num_params
from rainjax.report import update_readme
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import Cell, Table
from train import loop, super_resolution
from train.batches import Batches, Patch
from train.compute import Compute, place_batch
from train.options import training_source
from train.run import Run, main
from train.step import init_state, make_step

# Dense bfloat16 operations a second that NVIDIA and Google state, by what JAX calls the device.
PEAK_TFLOPS = {
    "NVIDIA A100": 312.0,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H200": 989.4,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
}


@dataclasses.dataclass(frozen=True)
class Training:
    """Measures training of an EDSR: images a second, beside the bare step's, and operations."""

    data: str = "builtin"
    """The data set that patches are cut from: `builtin` or a prepared one."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    num_blocks: int = 16
    """Residual blocks of the EDSR; the baseline has 16."""
    num_features: int = 64
    """Features of the EDSR; the baseline has 64."""
    patch: int = 32
    """Height and width of the patches it produces; EDSR's authors took 192."""
    batch_size: int = 16
    """Patches a step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in."""
    workers: int = 0
    """Processes that read and decode images; 0 uses threads."""
    num_steps: int = 60
    """Steps of an epoch and of a turn of the bare step."""
    num_repeats: int = 5
    """Epochs, and turns of the bare step between them; medians are compared."""
    peak_tflops: float | None = None
    """What the device can do at most, in 10^12 operations a second; known for some."""
    out: pathlib.Path = pathlib.Path("results/training")
    """The record is written to OUT/training.json."""
    show: pathlib.Path | None = None
    """Measure nothing: print the table of this record."""
    readme: pathlib.Path | None = None
    """Also replace this file's table between its results:training markers."""

    def __post_init__(self):
        if self.patch < 4 or self.patch % 2:
            raise ValueError(f"patch={self.patch} must be even and at least 4.")
        for field in ("batch_size", "num_steps", "num_repeats"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"peak_tflops={self.peak_tflops} must be positive.")


def run(options: Training) -> pathlib.Path:
    """Runs the benchmark, writes the record and returns its path.

    Raises:
        ValueError: the data set is missing, its pictures are smaller than the patch, or nothing
            can be written to the folder.
    """
    check_writable(options.out)
    measured = _Measured(options)
    with tempfile.TemporaryDirectory() as folder:
        measured.run(pathlib.Path(folder))
    device = jax.devices()[0]
    known = [tflops for name, tflops in PEAK_TFLOPS.items() if name in device.device_kind]
    record = {
        "schema": 1,
        "kind": "training",
        "options": _plain(options),
        "num_parameters": num_params(measured.network.shapes()),
        "num_devices": measured.mesh.size,
        "full_seconds": measured.full,
        "bare_seconds": measured.bare,
        "input_wait": measured.waits,
        "tflop_per_step": measured.flops / 1e12,
        "matmul_tflops": _matmul_tflops(options.precision, measured.mesh.size),
        "peak_tflops": options.peak_tflops or (known[0] * measured.mesh.size if known else None),
        "run": provenance(),
    }
    print(f"\n{RECORD.text(record)}\n")
    path = options.out / "training.json"
    write_json(path, record)
    print(f"Wrote {path}.")
    _fill(options.readme, path)
    return path


def _plain(options: Training) -> dict[str, Any]:
    """Returns what decides a measurement: options but for places."""
    places = ("out", "data_dir", "show", "readme")
    return {k: v for k, v in dataclasses.asdict(options).items() if k not in places}


def _fill(readme: pathlib.Path | None, path: pathlib.Path) -> None:
    """Writes a record's table into a page, if there is one to write."""
    if readme is not None:
        table = RECORD.tell(path, "markdown")
        update_readme(readme, {"training": table})
        print(f"Wrote the table training into {readme}.")


def _program() -> None:
    options = tyro.cli(Training, prog="python -m train.benchmark", description=__doc__)
    if options.show is None:
        run(options)
    else:
        print(RECORD.tell(options.show))
        _fill(options.readme, options.show)


class _Measured:
    """One training run, whose validation is a turn of the bare step."""

    def __init__(self, options: Training):
        self.options = options
        self.network = EDSR(num_blocks=options.num_blocks, num_features=options.num_features)
        self.compute = Compute(precision=options.precision, workers=options.workers)
        self.mesh = self.compute.mesh(options.batch_size)
        # Of the built-in set a part will do: its pictures have to be made first.
        number = 1000 if options.data == "builtin" else None
        split = Data(options.data, options.data_dir, number, num_validation=1).load()
        self._batches = Batches(
            training_source(split, one_size=False, min_size=options.patch), 0, options.batch_size,
            Patch(options.patch, 0), workers=options.workers,
        )  # fmt: skip
        self._loss = functools.partial(
            super_resolution.loss, network=self.network, degradation="bicubic",
            compute=self.compute,
        )  # fmt: skip
        self._optimizer = super_resolution.PRESETS["paper"][1].optimizer.build(
            num_epochs=options.num_repeats + 1, steps_per_epoch=options.num_steps
        )
        self._params = self.network.init(purpose_key(0, Purpose.INIT))
        self._key = purpose_key(0, Purpose.TRAIN)
        self._step = make_step(self._loss, self._optimizer, self.mesh)
        self._state = init_state(self._params, self._optimizer, self.mesh)
        first = {k: v for k, v in next(self._batches(0)).items() if k != "corrupt"}
        self._batch = place_batch(first, self.mesh)
        # Counted before compilation: a GPU's own convolutions are a black box afterwards.
        lowered = self._step.func.lower(*self._step.args, self._state, self._key, self._batch)
        self.flops = float(lowered.cost_analysis()["flops"])
        self.full: list[float] = []
        self.bare: list[float] = []
        self.waits: list[float] = []
        self._began: float | None = None

    def run(self, folder: pathlib.Path) -> None:
        self._turn()  # compiles
        task = loop.Task(
            loss=self._loss,
            batches=self._batches,
            evaluate=self._evaluate,
            select="psnr",
            batch_size=self.options.batch_size,
            num_epochs=self.options.num_repeats + 1,
            steps_per_epoch=self.options.num_steps,
        )
        with Run(folder, {}) as self._run:
            loop.fit(task, self._params, self._optimizer, self._run, seed=0, compute=self.compute)
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        # The first epoch compiles; each other one has the turn before it for company.
        self.full, self.bare = self.full[1:], self.bare[1:-1]
        self.waits = [json.loads(line)["input_wait"] for line in lines[2:]]

    def _evaluate(self, params) -> dict[str, float]:
        jax.block_until_ready(params)
        if self._began is not None:
            self._run.wait()  # the turn shall not pay for the checkpoint before the epoch
            self.full.append(time.perf_counter() - self._began)
        self.bare.append(self._turn())
        self._began = time.perf_counter()  # what is logged and saved now counts as training
        return {"psnr": float(len(self.bare))}  # every epoch is the best so far

    def _turn(self) -> float:
        start = time.perf_counter()
        metrics = None
        for _ in range(self.options.num_steps):
            self._state, metrics = self._step(self._state, self._key, self._batch)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - start


def _matmul_tflops(precision: str, num_devices: int, size: int = 2048, repeats: int = 5) -> float:
    """Returns what a product of two large square matrices reaches on each device at once."""
    devices = jax.devices()[:num_devices]
    if devices[0].platform != "cpu":
        size *= 4
    dtype = jnp.dtype(precision)
    pairs = [jax.device_put(jnp.ones((2, size, size), dtype), device) for device in devices]
    product = jax.jit(lambda pair: pair[0] @ pair[1])
    seconds = []
    for _ in tqdm(range(repeats + 1), desc="matrix product", unit="turn", leave=False):
        start = time.perf_counter()
        jax.block_until_ready([product(pair) for pair in pairs])
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 * num_devices / statistics.median(seconds[1:]) / 1e12


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


if __name__ == "__main__":
    use_all_cores()
    main(_program, interrupted="Nothing was written: the same command begins anew.")
