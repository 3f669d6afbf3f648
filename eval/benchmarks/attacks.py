"""What an attack costs beyond the gradients it is made of: `python -m eval benchmark`.

Six questions, answered as ratios measured side by side in one run: how much longer EOT-PGD takes
than its gradients alone; how much more memory 64 draws take than 4 at the same chunk; how much is
compiled when the same study runs again with another seed; how much longer the choice among
reachable outputs takes than 100 steps of APGD on the same pipeline; how much longer a whole
strength ladder than its last rung; and how much more memory the gradient takes through eight
iterations of NCIS than through one.
"""

import dataclasses
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from eval.benchmarks._memory import gradient_mib, resident_mib
from eval.benchmarks._strong_attacks import StrongAttacks, seconds_of
from rainjax import data, evaluation, zoo
from rainjax._files import write_json
from rainjax.attacks import EOT, PGD
from rainjax.defenses import NCIS, RAIN
from rainjax.devices import batch_sharding, data_mesh, replicated
from rainjax.evaluation.provenance import provenance
from rainjax.keys import Purpose, example_keys
from rainjax.nets import BLIND_SPOT, BLIND_SPOT_SMALL, EDSR
from rainjax.pipeline import Defended
from rainjax.typing import Params

_COMPILED = "/jax/core/compile/backend_compile_duration"
_NCIS_NETWORKS = {"BLIND_SPOT_SMALL": BLIND_SPOT_SMALL, "BLIND_SPOT": BLIND_SPOT}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measures EOT-PGD, the attacks that look hardest, and NCIS's memory, as ratios."""

    classifier: str = "builtin_resnet"
    """The classifier: a zoo name or a path."""
    edsr: str = "builtin_edsr_rain"
    """RAIN's network: a zoo name or a path."""
    batch_size: int = 64
    """Images attacked together."""
    num_steps: int = 5
    """PGD steps of the timed attack."""
    num_eot: int = 8
    """Draws per step of the timed attack."""
    eot_chunk: int = 1
    """Draws held at once: 1 is fastest on CPU."""
    num_repeats: int = 5
    """Times each side is measured, in turn (memory in a process each); medians are compared."""
    memory_eot: tuple[int, int] = (4, 64)
    """Numbers of draws whose peak memory is compared."""
    num_strong: int = 100
    """Images for reachable outputs beside APGD, and for the ladder."""
    ncis_size: int = 224
    """Height and width of the image through which NCIS's gradient is taken."""
    ncis_iterations: tuple[int, int] = (1, 8)
    """Numbers of its iterations whose temporary memory is compared."""
    out: pathlib.Path = pathlib.Path("results/benchmark")
    """The record is written to OUT/benchmark.json."""
    peak_of: int | None = None
    """Only measure how far one step with this many draws raises the peak memory, in MiB."""

    def __post_init__(self):
        for field in ("batch_size", "num_steps", "num_eot", "eot_chunk", "num_repeats",
                      "num_strong"):  # fmt: skip
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.num_eot % self.eot_chunk:
            raise ValueError(f"eot_chunk={self.eot_chunk} does not divide num_eot={self.num_eot}.")
        if min(*self.memory_eot, self.peak_of or 1) < 1:
            raise ValueError(
                f"memory_eot={self.memory_eot} and peak_of={self.peak_of} count draws: at least 1."
            )
        if min(self.ncis_size, *self.ncis_iterations) < 1:
            raise ValueError(
                f"ncis_size={self.ncis_size} counts pixels, and ncis_iterations="
                f"{self.ncis_iterations} iterations: at least 1."
            )


def run(options: Benchmark) -> None:
    """Runs the benchmark, prints its ratios and writes the record."""
    bench = _Bench(options)
    if options.peak_of is not None:
        before = _memory_mib()[0]
        bench.attack(bench.pgd(1, options.peak_of), seed=0)
        print(f"peak_mib={_memory_mib()[1] - before:.1f}")
        return
    strong = StrongAttacks(options.classifier, options.num_strong, options.num_repeats)
    parts = 2 * options.num_repeats + 1 + strong.num_parts() + len(_NCIS_NETWORKS)
    with tqdm(total=parts, desc="benchmark", unit="part") as bar:
        times = _times(bench, bar)
        compilations = _compilations(bench)
        bar.update()
        reachable = strong.reachable_over_apgd(bar)
        ladder = strong.ladder_over_last_rung(bar)
        peaks = _peaks(options, bar)
        iterations = _iterations(options, bar)
    record = {
        "schema": 1,
        "kind": "benchmark",
        "options": {**dataclasses.asdict(options), "out": None, "peak_of": None},
        "eot_over_gradients": times,
        "peak_memory": peaks,
        "compilations_with_another_seed": compilations,
        "reachable_over_apgd": reachable,
        "ladder_over_last_rung": ladder,
        "gradient_through_ncis": iterations,
        "run": provenance(),
    }
    few, many = options.memory_eot
    print(
        f"\nEOT-PGD, {options.num_steps} steps x {options.num_eot} draws, batch "
        f"{options.batch_size}, {jax.local_device_count()} {jax.default_backend()} device(s), "
        f"median of {options.num_repeats}:\n"
        f"  time over that of its gradients alone   {times['ratio']:.2f}   (at most 1.25)   "
        f"{times['attack_seconds']:.2f} s against {times['gradients_seconds']:.2f} s\n"
        f"  peak memory, {many} draws over {few}          {peaks['ratio']:.2f}   (at most 1.30)   "
        f"{peaks['median_mib'][1]:.0f} MiB against {peaks['median_mib'][0]:.0f} MiB\n"
        f"  compilations with another seed          {compilations}      (none)"
    )
    for row in reachable:
        print(
            f"  reachable outputs over APGD-100         {row['ratio']:.2f}   (at most 1.00)   "
            f"{row['seconds'][1]:.1f} s against {row['seconds'][0]:.1f} s, {row['num_images']} "
            f"images, {row['defense']}"
        )
    print(
        f"  a whole ladder over its last rung       {ladder['ratio']:.2f}   (at most 2.00)   "
        f"{ladder['seconds'][1]:.1f} s against {ladder['seconds'][0]:.1f} s, "
        f"{len(ladder['num_gradients'])} rungs"
    )
    once, often = options.ncis_iterations
    print(
        f"Gradient through NCIS at {options.ncis_size} pixels, temporary memory of {often} "
        f"iterations over {once}:"
    )
    for row in iterations:
        print(
            f"  {row['network']:<38}  {row['ratio']:.2f}   (at most 1.50)   "
            f"{row['mib'][1]:.0f} MiB against {row['mib'][0]:.0f} MiB"
        )
    path = options.out / "benchmark.json"
    write_json(path, record)
    print(f"Wrote {path}.")


class _Bench:
    """A defended pipeline on real parameters and pictures of the built-in set."""

    def __init__(self, options: Benchmark):
        self._options = options
        classifier, edsr = zoo.load(options.classifier), zoo.load(options.edsr)
        if not isinstance(edsr.network, EDSR):
            raise ValueError(f"{options.edsr!r} holds no EDSR.")
        self._target = Defended(RAIN(edsr.network, 0.0625), classifier.network)
        self._params: Params = {"defense": edsr.params, "classifier": classifier.params}
        self._mesh: Mesh = data_mesh(batch_size=options.batch_size)
        images, labels = data.load("builtin", "test").get(np.arange(options.batch_size))
        self._images, self._labels = jnp.asarray(images, jnp.float32) / 255, jnp.asarray(labels)

    def pgd(self, num_steps: int, num_eot: int) -> PGD:
        """Returns an EOT-PGD with the benchmark's chunk."""
        return PGD(num_steps=num_steps, eot=EOT(num_eot, chunk_size=self._options.eot_chunk))

    def attack(self, attack: PGD, seed: int) -> None:
        """Attacks and scores the batch from one seed, and waits for the result."""
        indices = jnp.arange(self._options.batch_size)
        attacked = evaluation.run_attack(
            self._target,
            attack,
            self._params,
            example_keys(seed, Purpose.ATTACK, indices),
            self._images,
            self._labels,
            mesh=self._mesh,
        )
        keys = example_keys(seed, Purpose.SCORE, indices)
        score = evaluation.score
        logits = score(self._target, self._params, keys, attacked, num_draws=1, mesh=self._mesh)
        jax.block_until_ready((attacked, logits))

    def gradient(self) -> Callable[[], object]:
        """Returns a function that runs one forward and backward pass of the batch."""
        target, sharding = self._target, batch_sharding(self._mesh)

        @jax.jit
        def one_pass(params, keys, images, labels):
            def loss(image, key, label):
                return -jax.nn.log_softmax(target.logits(params, key, image))[label]

            return jax.vmap(jax.value_and_grad(loss))(images, keys, labels)

        keys = example_keys(0, Purpose.ATTACK, jnp.arange(self._options.batch_size))
        params = jax.device_put(self._params, replicated(self._mesh))
        batch = jax.device_put((keys, self._images, self._labels), sharding)
        return lambda: one_pass(params, *batch)


def _times(bench: _Bench, bar: tqdm) -> dict[str, Any]:
    options = bench._options
    attack, gradient = bench.pgd(options.num_steps, options.num_eot), bench.gradient()
    count = options.num_steps * options.num_eot
    bench.attack(attack, seed=0)
    jax.block_until_ready(gradient())
    attacks, gradients = [], []
    for seed in range(options.num_repeats):  # in turn, so that a busy machine slows both
        passes = lambda: jax.block_until_ready([gradient() for _ in range(count)])
        gradients.append(seconds_of(passes))
        attacks.append(seconds_of(lambda seed=seed: bench.attack(attack, seed)))
        bar.update()
    ratios = [a / g for a, g in zip(attacks, gradients, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "attack_seconds": statistics.median(attacks),
        "gradients_seconds": statistics.median(gradients),
    }


def _compilations(bench: _Bench) -> int:
    attack = bench.pgd(2, 2)
    bench.attack(attack, seed=0)
    with _count_compilations() as compiled:
        bench.attack(attack, seed=1)
    return len(compiled)


def _peaks(options: Benchmark, bar: tqdm) -> dict[str, Any]:
    """Measures the numbers of draws in turn, each in a new process: a peak never comes down.

    One process is no measure: the same draws were seen to peak anywhere from 186 to 254 MiB.
    """
    peaks = [[], []]
    for _ in range(options.num_repeats):
        for of_these, num_eot in zip(peaks, options.memory_eot, strict=True):
            of_these.append(_peak_in_a_new_process(options, num_eot))
        bar.update()
    medians = [statistics.median(of_these) for of_these in peaks]
    return {
        "num_eot": list(options.memory_eot),
        "ratio": medians[1] / medians[0],
        "median_mib": medians,
        "peaks_mib": peaks,
    }


def _iterations(options: Benchmark, bar: tqdm) -> list[dict[str, Any]]:
    rows = []
    for name, network in _NCIS_NETWORKS.items():
        mib = [gradient_mib(NCIS(network, n), options.ncis_size) for n in options.ncis_iterations]
        rows.append(
            {
                "network": name,
                "size": options.ncis_size,
                "num_iterations": list(options.ncis_iterations),
                "mib": mib,
                "ratio": mib[1] / mib[0],
            }
        )
        bar.update()
    return rows


def _peak_in_a_new_process(options: Benchmark, num_eot: int) -> float:
    words = [
        f"--classifier={options.classifier}",
        f"--edsr={options.edsr}",
        f"--batch-size={options.batch_size}",
        f"--eot-chunk={options.eot_chunk}",
        f"--peak-of={num_eot}",
        f"--out={options.out}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "eval", "benchmark", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"Measuring {num_eot} draws failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout.rpartition("peak_mib=")[2])


@contextmanager
def _count_compilations() -> Iterator[list[str]]:
    compiled: list[str] = []
    listening = True

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        if listening and event == _COMPILED:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield compiled
    finally:
        listening = False


def _memory_mib() -> tuple[float, float]:
    """Returns what is held now and the peak: of the device where it counts, else the process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["bytes_in_use"] / 2**20, stats["peak_bytes_in_use"] / 2**20
    return resident_mib()
