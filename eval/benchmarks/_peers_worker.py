"""Measures one library in its own process: `python -m eval.benchmarks._peers_worker NAME FOLDER`.

It imports nothing but that library and what the library needs, so that a process holds what a
user's would. The folder holds the case that `peers` wrote; the answer is left beside it.
"""

# Optional packages, absent where this is checked.
# pyright: reportMissingImports=false

import dataclasses
import importlib
import json
import pathlib
import sys
import time
from typing import Any, Protocol

import numpy as np

from eval.benchmarks._memory import forget_peak, hand_back, resident_mib
from rainjax._files import write_arrays

ATTACKS = ("pgd", "eot_pgd")
# Where each library's side is written, and what has to be installed for it.
MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "rainjax": ("eval.benchmarks._peers_jax", ()),
    "foolbox_jax": ("eval.benchmarks._peers_jax", ("foolbox",)),
    "foolbox_torch": ("eval.benchmarks._peers_torch", ("torch", "foolbox")),
    "torchattacks": ("eval.benchmarks._peers_torch", ("torch", "torchattacks")),
    "art": ("eval.benchmarks._peers_torch", ("torch", "art")),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What every library is given: images, the classifier, and the attack's numbers.

    `images` are `n h w c` in [0, 1]; `weights` have the names and layout of PyTorch.
    """

    options: dict[str, Any]
    network: dict[str, Any]
    images: np.ndarray
    labels: np.ndarray
    weights: dict[str, np.ndarray]

    def write(self, folder: pathlib.Path) -> None:
        """Writes the case into a folder."""
        arrays = {"images": self.images, "labels": self.labels}
        weights = {f"weights/{name}": array for name, array in self.weights.items()}
        write_arrays(folder / "case.npz", arrays | weights)
        plain = {"options": self.options, "network": self.network}
        (folder / "case.json").write_text(json.dumps(plain))

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Case":
        """Returns the case that a folder holds."""
        plain = json.loads((folder / "case.json").read_text())
        with np.load(folder / "case.npz") as arrays:
            weights = {
                name.removeprefix("weights/"): arrays[name]
                for name in arrays.files
                if name.startswith("weights/")
            }
            return cls(**plain, images=arrays["images"], labels=arrays["labels"], weights=weights)


class Library(Protocol):
    """What is measured of a library."""

    device: str

    def attack(self, name: str, seed: int) -> np.ndarray:
        """Returns the images `n h w c` that one of `ATTACKS` makes, on the host."""
        ...

    def plain_logits(self) -> np.ndarray:
        """Returns the logits with every draw replaced by its mean: to compare the networks."""
        ...

    def device_memory(self) -> tuple[float, float] | None:
        """Returns what an accelerator holds and its peak, in MiB; None on CPU."""
        ...


def measure(library: Library, num_repeats: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns times and memory of every attack as plain JSON, and the images they made.

    A first run compiles; its time and its peak are kept apart. Memory is `idle` before it,
    `compiled` after it, and at its `peak` during the others. What malloc keeps after a first run
    for later is handed back before either is read: a compiler's scraps are nobody's need.
    `cpu_seconds` are those of all cores together, which a busy machine lengthens less.
    """
    numbers, images = {}, {"plain_logits": library.plain_logits()}
    for name in ATTACKS:
        idle, _ = _memory(library)
        start = time.perf_counter()
        library.attack(name, 0)
        first = time.perf_counter() - start
        first_peak = _memory(library)[1]
        hand_back()
        compiled, _ = _memory(library)
        apart, seconds, cpu_seconds = forget_peak(), [], []
        for seed in range(1, num_repeats + 1):
            start, cpu_start = time.perf_counter(), time.process_time()
            images[name] = library.attack(name, seed)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
        numbers[name] = {
            "first_seconds": first,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "idle_mib": idle,
            "compiled_mib": compiled,
            "first_peak_mib": first_peak,
            "peak_mib": _memory(library)[1],
            "peak_apart_from_first": apart,
        }
    return {"device": library.device, "attacks": numbers}, images


def _memory(library: Library) -> tuple[float, float]:
    """Returns what is held now and the peak: of the device where it counts, else the process."""
    return library.device_memory() or resident_mib()


def foolbox_pgd(options: dict[str, Any]) -> dict[str, Any]:
    """Returns Foolbox's attacks by the names in `ATTACKS`, whatever framework they run on.

    It has no EOT: its documented hook for gradients averages those of several draws.
    """
    import eagerpy
    import foolbox

    num_eot = options["num_eot"]

    class Averaged(foolbox.attacks.LinfPGD):
        def value_and_grad(self, loss_fn, x):
            value, gradient = eagerpy.value_and_grad(loss_fn, x)
            for _ in range(num_eot - 1):
                more, another = eagerpy.value_and_grad(loss_fn, x)
                value, gradient = value + more, gradient + another
            return value / num_eot, gradient / num_eot

    given = {"steps": options["num_steps"], "abs_stepsize": options["step_size"]}
    return {"pgd": foolbox.attacks.LinfPGD(**given), "eot_pgd": Averaged(**given)}


def main() -> None:
    """Measures the library that the command line names."""
    name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    case = Case.read(folder)
    library = importlib.import_module(MODULES[name][0]).make(name, case)
    numbers, images = measure(library, case.options["num_repeats"])
    write_arrays(folder / f"{name}.npz", images)
    (folder / f"{name}.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main()
