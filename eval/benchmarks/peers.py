"""What an attack costs here and in other libraries, side by side: `python -m eval peers`.

The same network, the same random pipeline, the same images, steps and radius; each library in a
process of its own, the libraries in turn. A library that is not installed is left out.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from eval.benchmarks import _peers_jax as peers_jax
from eval.benchmarks._peers_worker import ATTACKS, MODULES, Case
from rainjax import data, evaluation, zoo
from rainjax._files import write_json
from rainjax.evaluation.provenance import provenance
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import wilson_interval
from rainjax.nets import ResNet
from rainjax.nets.convert import to_torch
from rainjax.pipeline import Defended
from rainjax.report.single_file import SingleFileRecord
from rainjax.report.tables import Cell, Table
from rainjax.report.text import interval, percent

_PACKAGES: dict[str, str] = {"art": "adversarial-robustness-toolbox"}


@dataclasses.dataclass(frozen=True)
class Peers:
    """Measures time and memory of PGD and EOT-PGD in rainjax and in other libraries."""

    libraries: tuple[
        Literal["rainjax", "torchattacks", "foolbox_torch", "foolbox_jax", "art"], ...
    ] = ("rainjax", "torchattacks", "foolbox_torch", "foolbox_jax", "art")
    """The libraries to measure; of the others, those that are installed."""
    classifier: str = "builtin_resnet"
    """The classifier, a ResNet: a zoo name or a path."""
    num_images: int = 64
    """Images attacked together: the first ones of the built-in test split."""
    num_steps: int = 20
    """PGD steps of both attacks."""
    num_eot: int = 10
    """Draws per step of EOT-PGD; PGD has one."""
    eot_chunk: int = 1
    """Draws that rainjax holds at once; the other libraries hold one."""
    radius: float = 8 / 255
    """Radius of the L-inf ball."""
    step_size: float = 2 / 255
    """Size of one step."""
    num_repeats: int = 3
    """Runs timed in one process, after a first one that compiles."""
    num_rounds: int = 3
    """Processes per library, the libraries in turn; medians over all their runs are compared."""
    num_score_draws: int = 8
    """Draws under which every library's images are scored, the same for all."""
    early_images: int = 256
    """Images of the attack that stops early; 0 leaves this part out."""
    early_steps: int = 40
    """Its steps."""
    early_radii: tuple[float, ...] = (0.25 / 255, 0.5 / 255, 1 / 255, 2 / 255, 8 / 255)
    """Its radii: from few to all images break."""
    out: pathlib.Path = pathlib.Path("results/peers")
    """The record is written to OUT/peers.json."""

    def __post_init__(self):
        for field in (
            "num_images", "num_steps", "num_eot", "eot_chunk", "num_repeats", "num_rounds",
            "num_score_draws", "early_steps",
        ):  # fmt: skip
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.early_images < 0:
            raise ValueError(f"early_images={self.early_images} must not be negative.")
        if self.num_eot % self.eot_chunk:
            raise ValueError(f"eot_chunk={self.eot_chunk} does not divide num_eot={self.num_eot}.")
        if not all(0 < r <= 1 for r in (self.radius, self.step_size, *self.early_radii)):
            raise ValueError(
                f"radius={self.radius}, step_size={self.step_size} and early_radii="
                f"{self.early_radii} must lie in (0, 1]; 8/255 is 0.03137."
            )
        unknown = set(self.libraries) - set(MODULES)
        if unknown or "rainjax" not in self.libraries:
            raise ValueError(
                f"libraries={self.libraries} must name rainjax, with which the others are "
                f"compared, and may name {', '.join(n for n in MODULES if n != 'rainjax')}."
            )


def run(options: Peers) -> None:
    """Runs the comparison, prints its table and writes the record.

    Raises:
        ValueError: the classifier is no ResNet, a library fails, or what it made is not in the
            ball or not from the same network.
    """
    # Several processes share an accelerator here, so none may take all of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    case, params = _case(options)
    there = [name for name in options.libraries if not _missing(name)]
    absent = {name: _missing(name) for name in options.libraries if _missing(name)}
    parts = options.num_rounds * len(there) + 1
    with tqdm(total=parts, desc="peers", unit="part") as bar:
        measured = _rounds(options, case, params, there, bar)
        early = _early_stopping(options, case, params)
        bar.update()
    record = {
        "schema": 1,
        "kind": "peers",
        "options": {**dataclasses.asdict(options), "out": None},
        "network": case.network,
        "libraries": measured,
        "not_installed": absent,
        "fastest_other_over_rainjax": _fastest_other(measured),
        "early_stopping": early,
        "run": provenance(),
    }
    print(f"\n{RECORD.text(record)}\n")
    path = options.out / "peers.json"
    write_json(path, record)
    print(f"Wrote {path}.")


def _case(options: Peers):
    classifier = zoo.load(options.classifier)
    if not isinstance(classifier.network, ResNet):
        raise ValueError(
            f"{options.classifier!r} holds a {type(classifier.network).__name__}: only a ResNet "
            "is written down for the other libraries too."
        )
    images, labels = _images(options.num_images)
    plain = json.loads(json.dumps({**dataclasses.asdict(options), "out": None}))
    network = json.loads(json.dumps(dataclasses.asdict(classifier.network)))
    weights = to_torch(classifier.network, classifier.params)
    return Case(plain, network, images, labels, weights), {
        "defense": (),
        "classifier": classifier.params,
    }


def _images(count: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = data.load("builtin", "test").get(np.arange(count))
    return images.astype(np.float32) / 255, labels.astype(np.int64)


def _missing(name: str) -> list[str]:
    return [m for m in MODULES[name][1] if importlib.util.find_spec(m) is None]


def _rounds(options: Peers, case: Case, params, names: list[str], bar: tqdm) -> dict[str, Any]:
    """Measures the libraries in turn, each in a new process: a busy machine slows them alike."""
    rounds = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        case.write(folder)
        for _ in range(options.num_rounds):
            for name in names:
                rounds[name].append(_in_a_new_process(name, folder))
                bar.update()
        measured = {}
        for name in names:
            with np.load(folder / f"{name}.npz") as made:
                checked = _check(options, name, case, params, dict(made))
            measured[name] = _summary(name, rounds[name], checked)
    for row in measured.values():
        for attack in ATTACKS:
            own = measured["rainjax"]["attacks"][attack]["median_seconds"]
            row["attacks"][attack]["over_rainjax"] = row["attacks"][attack]["median_seconds"] / own
    return measured


def _in_a_new_process(name: str, folder: pathlib.Path) -> dict[str, Any]:
    words = [sys.executable, "-m", "eval.benchmarks._peers_worker", name, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise ValueError(f"Measuring {name} failed: {said[-1]}")
    return json.loads((folder / f"{name}.json").read_text())


def _check(options: Peers, name: str, case: Case, params, made) -> dict[str, Any]:
    """Returns how a library's networks and images compare: a fast attack must also be one."""
    network = _network(case)
    expected = peers_jax.plain_logits(network, params, case.images)
    off = float(np.abs(made["plain_logits"] - expected).max())
    if not off <= 0.05:
        raise ValueError(f"{name} runs another network: its logits differ by up to {off:.3g}.")
    target = Defended(peers_jax.PickAndShift(), network)
    keys = example_keys(0, Purpose.SCORE, jnp.arange(len(case.images)))
    checked: dict[str, Any] = {"max_logit_difference": off}
    for attack in ATTACKS:
        images = made[attack]
        far = float(np.abs(images - case.images).max())
        if not far <= options.radius + 1e-5 or images.min() < 0 or images.max() > 1:
            raise ValueError(f"{name}'s {attack} leaves the ball: it goes {far:.4g} far.")
        logits = evaluation.score(target, params, keys, images, num_draws=options.num_score_draws)
        right = np.argmax(np.asarray(logits), axis=-1) == case.labels[:, None]
        checked[attack] = float(right.mean())
    return checked


def _summary(name: str, rounds: list[dict[str, Any]], checked: dict[str, Any]) -> dict[str, Any]:
    def median(attack, field):
        values = [np.atleast_1d(r["attacks"][attack][field]) for r in rounds]
        return statistics.median(np.concatenate(values).tolist())

    attacks = {}
    for attack in ATTACKS:
        of_round = [r["attacks"][attack] for r in rounds]
        above = [r["peak_mib"] - r["compiled_mib"] for r in of_round]
        attacks[attack] = {
            "median_seconds": median(attack, "seconds"),
            "cpu_seconds": median(attack, "cpu_seconds"),
            "first_seconds": median(attack, "first_seconds"),
            "peak_mib": median(attack, "peak_mib"),
            "first_peak_mib": median(attack, "first_peak_mib"),
            "idle_mib": median(attack, "idle_mib"),
            "compiled_mib": median(attack, "compiled_mib"),
            "above_compiled_mib": statistics.median(above),
            "accuracy": checked[attack],
            "rounds": of_round,
        }
    packages = [_PACKAGES.get(module, module) for module in MODULES[name][1]]
    return {
        "device": rounds[-1]["device"],
        "versions": {package: version(package) for package in packages},
        "max_logit_difference": checked["max_logit_difference"],
        "attacks": attacks,
    }


def _fastest_other(measured: dict[str, Any]) -> dict[str, float | None]:
    others = [row["attacks"] for name, row in measured.items() if name != "rainjax"]
    return {
        attack: min((row[attack]["over_rainjax"] for row in others), default=None)
        for attack in ATTACKS
    }


def _early_stopping(options: Peers, case: Case, params) -> list[dict[str, Any]]:
    if not options.early_images:
        return []
    images, labels = _images(options.early_images)
    return peers_jax.early_stopping(
        _network(case), params, images, labels, num_steps=options.early_steps,
        radii=options.early_radii, num_repeats=options.num_repeats,
    )  # fmt: skip


def _network(case: Case) -> ResNet:
    return ResNet(**peers_jax.fields(case.network))


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
        score = evaluation.Score(eot["accuracy"], low, high)
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
