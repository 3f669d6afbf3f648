"""Measures one library in a process of its own: `python -m eval.peers_worker LIBRARY FOLDER`.

It imports nothing but that library and what the library needs, so that a process holds what a
user's would. The folder holds the case that `eval.peers` wrote; the answer is left beside it.
"""

import ctypes
import dataclasses
import gc
import importlib
import json
import pathlib
import sys
import time
from typing import Any, Protocol

import numpy as np

from eval.files import write_arrays

ATTACKS = ("pgd", "eot_pgd")
# Where each library's side is written, and what has to be installed for it.
MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "rainjax": ("eval.peers_jax", ()),
    "foolbox_jax": ("eval.peers_jax", ("foolbox",)),
    "foolbox_torch": ("eval.peers_torch", ("torch", "foolbox")),
    "torchattacks": ("eval.peers_torch", ("torch", "torchattacks")),
    "art": ("eval.peers_torch", ("torch", "art")),
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
        _hand_back()
        compiled, _ = _memory(library)
        apart, seconds, cpu_seconds = _forget_peak(), [], []
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
    of_device = library.device_memory()
    if of_device is not None:
        return of_device
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        raise ValueError("Peak memory is measured on Linux or on an accelerator only.")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, peak = (float(lines[name].split()[0]) / 2**10 for name in ("VmRSS", "VmHWM"))
    return now, peak


def _hand_back() -> None:
    """Has the C library return unused memory to the system, where it is one that can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _forget_peak() -> bool:
    """Has Linux start its peak anew; returns whether it did."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not every container allows it
        return False
    return True


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
