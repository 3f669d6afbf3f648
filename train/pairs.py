"""Pairs of a reference and a distorted or attacked view of it, with what a teacher says of them.

They are made once, part by part, and kept in files: a part that is there is not made again, and
every part is a pure function of the seed, the mix, the network and the references.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from rainjax import zoo
from rainjax._files import read_arrays, write_arrays
from rainjax.attacks import PGD, Attack, CarliniWagner, DeepFool, Square, fgsm
from rainjax.data import ImageSet
from rainjax.defenses import Identity
from rainjax.detectors.teacher import QualityMeasure, batch_signals
from rainjax.devices import full_batches, wait_for_all
from rainjax.evaluation import run_attack
from rainjax.evaluation.describe import describe, digest
from rainjax.evaluation.shards import wait_for_files
from rainjax.keys import Purpose, example_keys
from rainjax.pipeline import Defended
from rainjax.transforms import DISTORTIONS, SEVERITIES, distort
from rainjax.transforms.distortions import DistortionName, Scale

CLEAN = "clean"


def _pgd(grey_levels: float, num_steps: int = 7) -> PGD:
    radius = grey_levels / 255
    return PGD(radius=radius, step_size=2.5 * radius / num_steps, num_steps=num_steps)


# The attacks that a mix names, all of them blind to any detector.
ATTACKS: MappingProxyType[str, Attack] = MappingProxyType(
    {
        "fgsm_2": fgsm(2 / 255),
        "fgsm_4": fgsm(4 / 255),
        "fgsm_8": fgsm(8 / 255),
        "pgd_1": _pgd(1),
        "pgd_2": _pgd(2),
        "pgd_4": _pgd(4),
        "pgd_8": _pgd(8),
        "pgd_l2_quarter": PGD(norm="l2", radius=0.25, step_size=0.1, num_steps=7),
        "pgd_l2_half": PGD(norm="l2", radius=0.5, step_size=0.2, num_steps=7),
        "pgd_l2_1": PGD(norm="l2", radius=1.0, step_size=0.4, num_steps=7),
        "cw_l2": CarliniWagner(
            initial_const=0.1, num_search_steps=3, num_steps=40, step_size=0.01
        ),
        "deepfool": DeepFool(),
        "square_8": Square(radius=8 / 255, num_queries=300),
    }
)


@dataclasses.dataclass(frozen=True)
class Mix:
    """Which views of a reference are made."""

    distortions: tuple[DistortionName, ...] = (
        "gaussian_noise", "shot_noise", "gaussian_blur", "defocus_blur", "jpeg_compression",
        "contrast", "brightness", "saturate", "over_exposure", "under_exposure",
    )  # fmt: skip
    """Distortions that the student learns from, each at all five severities."""
    attacks: tuple[str, ...] = (
        "fgsm_2", "fgsm_4", "fgsm_8", "pgd_1", "pgd_2", "pgd_4", "pgd_8",
        "pgd_l2_quarter", "pgd_l2_half", "pgd_l2_1",
    )  # fmt: skip
    """Attacks that it learns from, of `train.pairs.ATTACKS`."""
    held_out_distortions: tuple[DistortionName, ...] = (
        "impulse_noise", "motion_blur", "pixelate", "colour_shift",
    )  # fmt: skip
    """Distortions that it never learns from; validation reports them apart."""
    held_out_attacks: tuple[str, ...] = ("cw_l2", "deepfool", "square_8")
    """Attacks that it never learns from; validation reports them apart."""
    attacked_share: float = 0.6
    """The share of references that are attacked, besides being distorted."""
    num_held_out: int = 100
    """Validation references that each attack held out is run on: they take long."""
    scale: Scale = "cifar10_c"
    """The distortions' constants: `cifar10_c` for 32 pixels, `imagenet_c` for 224."""
    part_size: int = 1000
    """References whose views make one file; a run that is stopped loses one part at most."""

    def __post_init__(self):
        for name in (*self.attacks, *self.held_out_attacks):
            if name not in ATTACKS:
                raise ValueError(f"No attack is called {name!r}; there are {', '.join(ATTACKS)}.")
        for name in (*self.distortions, *self.held_out_distortions):
            if name not in DISTORTIONS:
                raise ValueError(
                    f"No distortion is called {name!r}; there are {', '.join(DISTORTIONS)}."
                )
        for kind in ("distortions", "attacks"):
            learned, held_out = getattr(self, kind), getattr(self, f"held_out_{kind}")
            if not learned:
                raise ValueError(f"{kind} is empty: name at least one to learn from.")
            both = [name for name in learned if name in held_out]
            if both:
                raise ValueError(f"{both[0]!r} is in {kind} and in held_out_{kind}: name it once.")
        if not 0 < self.attacked_share <= 1:
            raise ValueError(f"attacked_share={self.attacked_share} must lie in (0, 1].")
        for field in ("num_held_out", "part_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}={getattr(self, field)} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The protected network, and how the signals are made of it."""

    classifier: zoo.Entry
    temperature: float = 4.0
    measure: QualityMeasure = "ssim"

    def signals(self, references, images, labels, *, batch_size: int) -> dict[str, np.ndarray]:
        """Returns `detectors.teacher.teacher_signals` of uint8 images, as arrays."""
        found = []
        as_floats = lambda x: jnp.asarray(x, jnp.float32) / 255
        for rows, filled in full_batches(np.arange(len(images)), min(batch_size, len(images))):
            batch = batch_signals(
                self.classifier.network, self.classifier.params,
                as_floats(references[filled]), as_floats(images[filled]),
                jnp.asarray(labels[filled]), temperature=self.temperature, measure=self.measure,
            )  # fmt: skip
            found.append({name: np.asarray(v)[: len(rows)] for name, v in batch._asdict().items()})
        joined = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        return {
            **{name: joined[name].astype(np.float32) for name in ("quality", "change", "errs")},
            "probs": joined["probs"].astype(np.float16),
        }


def make_pairs(
    folder: pathlib.Path,
    image_set: ImageSet,
    indices: np.ndarray,
    mix: Mix,
    teacher: Teacher,
    *,
    seed: int,
    held_out: bool = False,
    batch_size: int = 128,
) -> dict[str, np.ndarray]:
    """Returns all views with their signals, from the files in `folder` or made and put there.

    The arrays are `image` (uint8), `kind` (a distortion's or attack's name, or "clean"),
    `severity` (0 where there is none), `label`, `source` (the reference's index), `index` (the
    view's own number), and `quality`, `change`, `errs` and `probs` of the teacher. Views are
    rounded to 8 bits as every file is, so that nothing can be told by what lies between grey
    levels. With `held_out`, views of the kinds that are held out follow those of the others.

    Each process makes every so-manyth part, and reads all of them from a folder that it shares.
    """
    starts = range(0, len(indices), mix.part_size)
    used = (*mix.attacks, *(mix.held_out_attacks if held_out else ()))
    facts = {
        "mix": dataclasses.asdict(mix), "attacks": {n: describe(ATTACKS[n]) for n in used},
        "seed": seed, "held_out": held_out, "fingerprint": image_set.fingerprint,
        "classifier": teacher.classifier.sha256,
    }  # fmt: skip
    said = {
        "temperature": teacher.temperature, "measure": teacher.measure,
    }  # fmt: skip
    parts = []
    for number, start in enumerate(starts):
        rows = indices[start : start + mix.part_size]
        name = digest({**facts, "rows": rows.tolist()})[:12]
        views = folder / f"views-{number:04d}-{name}.npz"
        signals = folder / f"signals-{number:04d}-{digest({**said, 'views': name})[:12]}.npz"
        parts.append((number, rows, views, signals))
    mine = parts[jax.process_index() :: jax.process_count()]
    missing = [part for part in mine if not (part[2].exists() and part[3].exists())]
    todo = sum(len(rows) for _, rows, _, _ in missing)
    if missing:
        with tqdm(total=todo, desc="Teacher signals", unit="image", disable=None) as bar:
            for number, rows, views, signals in missing:
                references, labels = image_set.get(rows)
                if not views.exists():
                    which = np.arange(number * mix.part_size, number * mix.part_size + len(rows))
                    made = _views(
                        references, labels, rows, which, mix, teacher, seed, held_out, batch_size
                    )
                    write_arrays(views, made)
                arrays = read_arrays(views)
                found = teacher.signals(
                    references[arrays["row"]], _images(arrays, references),
                    labels[arrays["row"]], batch_size=batch_size,
                )  # fmt: skip
                write_arrays(signals, found)
                bar.update(len(rows))
    wait_for_all("all teacher signals")
    wait_for_files([path for _, _, *both in parts for path in both])
    return _joined(parts, image_set)


def _joined(parts, image_set: ImageSet) -> dict[str, np.ndarray]:
    joined = []
    for _, rows, views, signals in parts:
        references, labels = image_set.get(rows)
        arrays, found = read_arrays(views), read_arrays(signals)
        row = arrays["row"]
        joined.append(
            {
                "image": _images(arrays, references),
                "kind": arrays["kind"],
                "severity": arrays["severity"],
                "label": labels[row],
                "source": rows[row].astype(np.int32),
                **found,
            }
        )
    every = {name: np.concatenate([part[name] for part in joined]) for name in joined[0]}
    return {**every, "index": np.arange(len(every["label"]), dtype=np.int32)}


def _images(arrays: dict[str, np.ndarray], references: np.ndarray) -> np.ndarray:
    """Returns all views of a part: its file leaves out the clean ones, which come first."""
    clean = int((arrays["kind"] == CLEAN).sum())
    return np.concatenate([references[arrays["row"][:clean]], arrays["changed"]])


def _views(
    references, labels, indices, numbers, mix: Mix, teacher, seed, held_out, batch_size
) -> dict[str, np.ndarray]:
    plan = [(CLEAN, np.arange(len(indices)), np.zeros(len(indices), np.int8))]
    plan += _plan(indices, mix, seed, numbers if held_out else None)
    changed = []
    for kind, rows, severities in plan[1:]:
        if not len(rows):
            continue
        make = _distorted if kind in DISTORTIONS else _attacked
        images = [
            make(
                kind, references[filled], labels[filled], indices[filled],
                _pick(severities, rows, filled), mix, teacher, seed,
            )[: len(batch)]
            for batch, filled in full_batches(rows, _even(len(rows), batch_size))
        ]  # fmt: skip
        changed.append(np.concatenate(images))
    return {
        "changed": np.concatenate(changed),
        "kind": np.concatenate([np.full(len(rows), kind) for kind, rows, _ in plan]),
        "row": np.concatenate([rows for _, rows, _ in plan]),
        "severity": np.concatenate([severities for _, _, severities in plan]),
    }


def _plan(
    indices: np.ndarray, mix: Mix, seed: int, numbers: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields each kind of view with the rows of its references, and the severities."""
    rng = np.random.default_rng((seed, *indices[:1].tolist()))

    def shared(names, num):
        order = rng.permutation(len(indices))[:num]
        for name, rows in zip(names, np.array_split(order, len(names)), strict=True):
            severities = rng.choice(SEVERITIES, len(rows)).astype(np.int8)
            yield name, np.sort(rows), severities if name in DISTORTIONS else 0 * severities

    yield from shared(mix.distortions, len(indices))
    yield from shared(mix.attacks, max(1, round(mix.attacked_share * len(indices))))
    if numbers is not None:
        if mix.held_out_distortions:
            yield from shared(mix.held_out_distortions, len(indices))
        few = np.flatnonzero(numbers < mix.num_held_out)
        for name in mix.held_out_attacks:
            yield name, few, np.zeros(len(few), np.int8)


def _even(count: int, batch_size: int) -> int:
    """Returns the size of the fewest even batches that are no larger than `batch_size`."""
    return -(-count // -(-count // batch_size))


def _pick(severities: np.ndarray, rows: np.ndarray, filled: np.ndarray) -> np.ndarray:
    return severities[np.searchsorted(rows, filled)]


def _distorted(kind, images, labels, indices, severities, mix: Mix, teacher, seed):
    del labels, teacher
    keys = example_keys(seed, Purpose.DATA, indices)
    images = jnp.asarray(images, jnp.float32) / 255
    return _to_bytes(_distort(keys, images, jnp.asarray(severities, jnp.int32), kind, mix.scale))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _distort(keys, images, severities, name, scale):
    one = lambda key, image, severity: distort(
        key, image, name=name, severity=severity, scale=scale
    )
    return jax.vmap(one)(keys, images, severities)


def _attacked(kind, images, labels, indices, severities, mix, teacher: Teacher, seed):
    del severities, mix
    pipeline = Defended(Identity(), teacher.classifier.network)
    params = {"defense": (), "classifier": teacher.classifier.params}
    return _to_bytes(
        run_attack(
            pipeline, ATTACKS[kind], params, example_keys(seed, Purpose.ATTACK, indices),
            jnp.asarray(images, jnp.float32) / 255, jnp.asarray(labels),
        )
    )  # fmt: skip


def _to_bytes(images: Any) -> np.ndarray:
    return np.rint(255 * np.clip(np.asarray(images), 0, 1)).astype(np.uint8)
