"""What attacks change in images, and how: `python -m eval residuals`.

NCIS (Cha et al., 2024, arXiv 2106.11644, abstract) rests on an analysis by which adversarial
residuals, adversarial minus original, have almost zero mean and a symmetric distribution. The
abstract gives neither numbers nor attacks: which are taken here is our reading.
"""

import dataclasses
import pathlib
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from eval.benchmarks._residual_attacks import Strengths, subject, threats
from eval.benchmarks._residual_figure import figure
from eval.benchmarks._residual_statistics import statistics
from eval.benchmarks._residual_tables import problem, tables
from rainjax import data, residuals, zoo
from rainjax._files import read_array, write_bytes, write_json
from rainjax.evaluation import CLEAN, Knowledge, Study, evaluate
from rainjax.evaluation.describe import describe, describe_attack
from rainjax.evaluation.provenance import code_digest, provenance
from rainjax.evaluation.study import Cell, cells
from rainjax.evaluation.work import Work
from rainjax.keys import Purpose, example_keys, purpose_key
from rainjax.metrics import radial_frequencies
from rainjax.report.single_file import SingleFileRecord
from rainjax.zoo import Entry

CONTROL = "random signs"


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Analyses adversarial minus original images: mean, symmetry, moments and spectrum.

    FGSM, PGD, APGD, PGD in L2, Carlini-Wagner, DeepFool, Square, and PGD found on another
    classifier (--transfer). Analysed are the images that the classifier gets right, and wrong
    once they are attacked. The unit of every test is the image. Writes OUT/residuals.json and
    OUT/residuals.png; killed, it goes on where it was, and loses a batch at most.
    """

    data: str = "builtin"
    """`builtin`, or the name of a prepared TFDS data set (`rainjax data list`)."""
    split: str = "test"
    """The split whose first images are attacked."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    classifier: str = "builtin_resnet"
    """The classifier: a zoo name, a path, or a file of published weights."""
    classifier_arch: str | None = None
    """The network of published weights (resnet20, mobilenetv2 ...)."""
    transfer: str | None = None
    """Another classifier of the same images, on which the attack that transfers is found; by
    default there is no such attack, for one classifier alone is shipped with the built-in set."""
    transfer_arch: str | None = None
    """The network of its published weights."""
    num_examples: int = 200
    """Images attacked."""
    linf_radius: float = 8 / 255
    """Radius in L-inf of FGSM, PGD, APGD and Square."""
    l2_radius: float = 0.5
    """Radius in L2 of PGD; larger images need a larger one."""
    num_steps: int = 40
    """Steps of PGD and APGD."""
    cw_steps: int = 30
    """Steps of each of Carlini-Wagner's 6 rounds."""
    num_queries: int = 500
    """Queries of Square, which stops at its first success."""
    num_flips: int = 9999
    """Random signs of whole images that symmetry is tested by."""
    batch_size: int = 100
    """Images attacked together. Draws do not depend on it."""
    seed: int = 0
    """The root of every random number."""
    out: pathlib.Path = pathlib.Path("results/residuals")
    """The record is written to OUT/residuals.json, what was attacked to OUT/attacks."""

    def __post_init__(self):
        for field in ("num_examples", "num_steps", "num_queries", "num_flips", "batch_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")
        if self.transfer is None and self.transfer_arch is not None:
            raise ValueError(
                f"transfer_arch={self.transfer_arch!r} is of a file of weights: name it by "
                "transfer."
            )

    def networks(self) -> tuple[Entry, Entry | None]:
        """Loads the classifier, and the other one where there is one; raises as the zoo does."""
        target = zoo.load_any(self.classifier, self.classifier_arch)
        if self.transfer is None:
            return target, None
        return target, zoo.load_any(self.transfer, self.transfer_arch)

    def study(self, target: Entry, other: Entry | None) -> Study:
        """Returns the attacks on the first images; raises ValueError where parts do not fit."""
        strengths = [field.name for field in dataclasses.fields(Strengths)]
        return Study(
            "attacks",
            data.load(self.data, self.split, data_dir=self.data_dir),
            [subject(target)],
            threats(Strengths(**{name: getattr(self, name) for name in strengths}), other),
            num_examples=self.num_examples,
            num_score_draws=1,
            batch_size=self.batch_size,
            seed=self.seed,
        )


def run(options: Residuals) -> pathlib.Path:
    """Attacks what is missing, analyses it, and writes the record and its figure.

    Returns the record's path.

    Raises:
        ValueError: the data set or a network is missing, or they do not fit each other.
    """
    target, other = options.networks()
    study = options.study(target, other)
    evaluate(study, options.out)
    work = Work(study, options.out / study.name)
    planned = {cell.threat.name: cell for cell in cells(study)}
    originals, labels = work.read(np.arange(study.count))
    right = _predicted(work, planned[CLEAN.name]) == labels
    if not right.any():
        raise ValueError(
            f"{options.classifier!r} gets none of the first {study.count} images of "
            f"{options.data!r} right, so no attack can make it err: choose a classifier of this "
            "data set."
        )
    key = purpose_key(options.seed, Purpose.DATA)
    attacks = [planned[threat.name] for threat in study.threats[1:] if threat.name in planned]
    entries = []
    with tqdm(total=len(attacks) + 1, desc="residuals", unit="attack") as bar:
        for cell in (*attacks, None):
            bar.set_postfix_str(cell.threat.name if cell else CONTROL)
            kept, images = right, _random_signs(options, originals)
            if cell is not None:
                kept = right & (_predicted(work, cell) != labels)
                images = _attacked(work, cell)
            radius = options.linf_radius if cell is None else _linf_radius(cell)
            found = statistics(
                key, originals[kept], images[kept], radius=radius, num_flips=options.num_flips
            )
            entries.append({**_described(cell), "linf_radius": radius, **found})
            bar.update()
    low = residuals.low_frequency_share(originals[right])
    height, width = originals.shape[1:3]
    record = {
        "schema": 1,
        "kind": "residuals",
        "options": _plain(options),
        "control": CONTROL,
        "networks": [_network(entry) for entry in (target, other) if entry is not None],
        "images": {
            "fingerprint": study.images.fingerprint,
            "num_right": int(right.sum()),
            "frequency": radial_frequencies(height, width).tolist(),
            "spectrum": residuals.mean_spectrum(originals[right]).tolist(),
            "low_frequencies": float(np.nanmean(low)),
        },
        "entries": entries,
        "run": {"judge": f"scipy {version('scipy')}", "code": code_digest(), **provenance()},
    }
    print(f"\n{RECORD.text(record)}\n")
    path = options.out / "residuals.json"
    write_json(path, record)
    write_bytes(path.with_suffix(".png"), figure(record).png)
    print(f"Wrote {path}\nWrote {path.with_suffix('.png')}")
    return path


def _predicted(work: Work, cell: Cell) -> Int[np.ndarray, "n"]:
    """Returns what the classifier says of a cell's images, as the study scored them."""
    logits = [read_array(unit.scored, "logits")[:, 0] for unit in work.units(cell)]
    return np.concatenate(logits).argmax(-1)


def _attacked(work: Work, cell: Cell) -> Float[np.ndarray, "n h w c"]:
    paths = [unit.attacked for unit in work.units(cell)]
    return np.concatenate([read_array(path, "attacked") for path in paths if path is not None])


def _random_signs(options: Residuals, originals: np.ndarray) -> Float[np.ndarray, "n h w c"]:
    """Returns the images with a random sign times the radius at every value, in [0, 1]."""
    keys = example_keys(options.seed, Purpose.ATTACK, np.arange(len(originals)))
    signs = jax.vmap(lambda key: jax.random.rademacher(key, originals.shape[1:], jnp.float32))(
        keys
    )
    return np.clip(originals + np.float32(options.linf_radius) * np.asarray(signs), 0, 1)


def _linf_radius(cell: Cell) -> float | None:
    return cell.radius if cell.norm == "linf" else None


def _described(cell: Cell | None) -> dict[str, Any]:
    if cell is None:
        return {"name": CONTROL, "attack": None, "found_on": None}
    transferred = cell.threat.knowledge is Knowledge.TRANSFER
    found_on = "transfer" if transferred else "classifier"
    return {
        "name": cell.threat.name,
        "attack": describe_attack(cell.attack),
        "found_on": found_on,
    }


def _network(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "network": describe(entry.network), "sha256": entry.sha256}


def _plain(options: Residuals) -> dict[str, Any]:
    """Returns the options as a record holds them: without this machine's folders."""
    names = {
        name: None if given is None else pathlib.Path(given).name
        for name, given in (("classifier", options.classifier), ("transfer", options.transfer))
    }
    left_out = {"out": None, "data_dir": None, "batch_size": None}
    return {**dataclasses.asdict(options), **names, **left_out}


RECORD = SingleFileRecord("residuals", "python -m eval residuals", tables, problem)
