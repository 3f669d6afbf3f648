"""The work of a study in units: independent pieces, each kept on disk under what decides it."""

import dataclasses
import functools
import hashlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from rainjax._files import read_array, write_arrays
from rainjax.attacks import Attack
from rainjax.devices import data_mesh, full_batches, padded
from rainjax.evaluation import driver, scoring
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.climbing import climb
from rainjax.evaluation.describe import (
    content_digest,
    describe,
    describe_attack,
    describe_program,
    digest,
    without_chunks,
)
from rainjax.evaluation.distorted import Distorted
from rainjax.evaluation.ensemble import Member, fitting_members, run_ensemble
from rainjax.evaluation.ladder import Ladder
from rainjax.evaluation.provenance import code_digest
from rainjax.evaluation.rung_files import RungFiles
from rainjax.evaluation.spent import queries_to_success
from rainjax.evaluation.study import Cell, Study
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.watch import zero_gradients
from rainjax.keys import Purpose, example_keys

Arrays = dict[str, np.ndarray]
Rows = Int[np.ndarray, "n"]
MEMBER = ("num_attacked", "num_broken", "num_best", "num_gradients", "num_zero_gradient")
# All other arrays that are kept have one entry an image.
NOT_OF_IMAGES = ("seconds", "members", "rungs", "ladder")


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One batch of one cell, or all images of a ladder's: what to attack, to score and to keep.

    `attacked` is the file of the adversarial images, None for clean ones, and `scored` that of
    what was measured of them. Cells whose attackers see the same share the former.
    """

    cell: Cell
    rows: Rows
    attacked: pathlib.Path | None
    scored: pathlib.Path

    @property
    def owner(self) -> str:
        """What decides which process makes it: units that share images belong together."""
        return (self.attacked or self.scored).stem


class Work:
    """Names a study's units after all that decides them, makes them, and reads them.

    The images of a unit are attacked and scored with keys that are functions of the seed and of
    each image's position, so units depend neither on each other nor on where they are made.
    """

    def __init__(self, study: Study, folder: pathlib.Path, *, mesh: Mesh | None = None):
        self.study, self.folder = study, folder
        self._mesh = mesh
        self._images: dict[tuple[int, int], str] = {}
        self._described: dict[int, tuple[Any, Any]] = {}

    def units(self, cell: Cell) -> list[Unit]:
        """Returns the units of a cell, in the order of its images."""
        num = cell.num_examples
        # Whether a ladder goes on is decided from all of its images together.
        whole = isinstance(cell.attack, Ladder)
        size = num if whole else self.study.batch_size
        starts = range(0, num, size)
        return [self._unit(cell, np.arange(s, min(s + size, num))) for s in starts]

    def missing_gradients(self, units: list[Unit]) -> int:
        """Returns how many image gradients the units still need, to size a progress bar."""
        needed = {u.attacked: u for u in units if u.attacked and not u.attacked.exists()}
        return sum(u.cell.num_gradients * len(u.rows) for u in needed.values())

    def make(self, unit: Unit, on_gradient: Callable[[int], object]) -> None:
        """Attacks and scores a unit's images, and keeps both; what is there is not made again.

        Raises:
            ValueError: the attack or a network fails on some images; says which.
        """
        if unit.scored.exists():
            return
        images, labels = self.read(unit.rows)
        try:
            attacked = images
            if unit.attacked is not None:
                attacked = self._attacked(unit, images, labels, on_gradient)
            began = time.perf_counter()
            kept = self._kept(unit, images, attacked, labels)
        except ValueError as error:
            where = f"{unit.cell.id}, images {unit.rows[0]}..{unit.rows[-1]}"
            raise ValueError(f"{where}: {error}") from error
        write_arrays(unit.scored, {**kept, "seconds": np.array(time.perf_counter() - began)})

    def read(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Returns images as float32 in [0, 1], and their labels."""
        images, labels = self.study.images.get(rows)
        return images.astype(np.float32) / 255, labels

    def logits(self, cell: Cell, rows: Rows, images: np.ndarray) -> np.ndarray:
        """Returns the subject's logits of images at these positions, under the scoring draws.

        That of a rejection is folded into those of the classes, unless the measure takes it as it
        is. Where the attacker's image is no success for him, the original may have been one: so a
        rejection is never right of an image that nobody moved, or whose original is not answered
        right under the same draw (the robust error of Tramer, 2022).

        Raises:
            ValueError: one is not finite.
        """
        raw = self.study.measure.takes_rejections
        originals, labels = self.read(rows)
        fine = np.zeros((len(rows), 1), bool)
        if not raw and cell.attacked and cell.rejection == "safe":
            moved = (images != originals).any((1, 2, 3))
            clean = self._scores(cell, rows, originals, labels, fine)
            fine = moved[:, None] & (clean.argmax(-1) == labels[:, None])
        return self._scores(cell, rows, images, None if raw else labels, fine)

    def _scores(self, cell: Cell, rows: Rows, images, labels, attacked) -> np.ndarray:
        """Returns logits under the scoring draws, folded where there are labels.

        Raises:
            ValueError: one is not finite.
        """
        subject = cell.subject
        found = [
            scoring.score(
                subject.pipeline,
                subject.params,
                self._keys(Purpose.SCORE, full),
                jnp.asarray(images[full - rows[0]]),
                num_draws=self.num_draws(subject),
                labels=None if labels is None else labels[full - rows[0]],
                attacked=attacked[full - rows[0]],
                rejection=cell.rejection,
                mesh=self._mesh_for(cell),
            )
            for _, full in full_batches(rows, self._size(cell))
        ]
        logits = np.concatenate([np.asarray(part) for part in found])[: len(rows)]
        if not np.isfinite(logits).all():
            raise ValueError(
                f"The logits of {subject.name!r} are not finite: look at the parameters of its "
                "networks."
            )
        return logits

    def members(self, cell: Cell) -> tuple[Member, ...] | None:
        """Returns an ensemble's members, with losses that so few classes allow; else None."""
        if not isinstance(cell.attack, AutoAttack):
            return None
        return self._fitting(cell.attack)[0]

    def changed_members(self, cell: Cell) -> str | None:
        """Says which members' losses gave way to the margin, and why; None where none did."""
        return self._fitting(cell.attack)[1] if isinstance(cell.attack, AutoAttack) else None

    def num_draws(self, subject: Subject) -> int:
        """Returns under how many draws a subject is scored: one where nothing is random."""
        return self.study.num_score_draws if subject.pipeline.is_random else 1

    def images_digest(self, rows: Rows) -> str:
        """Digests the images of a batch, and their labels."""
        span = int(rows[0]), len(rows)
        if span not in self._images:
            images, labels = self.study.images.get(rows)
            content = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
            self._images[span] = content
        return self._images[span]

    def record_digest(self, cell: Cell, units: list[Unit]) -> str:
        """Digests everything that a cell's record is a function of, or says."""
        threat = dataclasses.replace(
            cell.threat, attack=None, knowledge=cell.threat.knowledge.NONE
        )
        return digest(
            {
                "threat": describe(threat),
                "knowledge": cell.threat.knowledge.name,
                "attack": describe_attack(cell.proof or cell.attack),
                "subject": [cell.subject.name, self._describe(cell.subject.pipeline)],
                "measure": self._describe(cell.proof or self.study.measure),
                "units": [unit.scored.stem for unit in units],
            }
        )

    def _kept(self, unit: Unit, images, attacked, labels) -> Arrays:
        """Returns what is kept of a unit beside its adversarial images: of a proof, all."""
        cell, measure = unit.cell, self.study.measure
        if cell.proof is not None:
            pipeline, params = cell.subject.pipeline, cell.subject.params
            size = self._size(cell)
            return cell.proof.prove(pipeline, params, images, labels, batch_size=size)
        scorer = functools.partial(self.logits, cell, unit.rows)
        kept = measure.unit(scorer, images, attacked, cell.attack)
        _check_kept(kept, len(unit.rows), type(measure).__name__)
        return kept

    def _fitting(self, attack: AutoAttack) -> tuple[tuple[Member, ...], str | None]:
        return fitting_members(attack.members, self.study.images.num_classes)

    def _size(self, cell: Cell) -> int:
        """Returns the size that a cell's batches are padded to: one size to compile."""
        return min(self.study.batch_size, cell.num_examples)

    def _mesh_for(self, cell: Cell) -> Mesh:
        return self._mesh or data_mesh(batch_size=self._size(cell))

    def _keys(self, purpose: Purpose, rows: Rows):
        return example_keys(self.study.seed, purpose, jnp.asarray(rows))

    def _unit(self, cell: Cell, rows: Rows) -> Unit:
        attacked = self._attack_digest(cell, rows) if cell.attack is not None else None
        scored = digest(
            {
                "attacked": attacked or self._common(rows),
                "target": self._describe(cell.subject.pipeline),
                "params": self._content(cell.subject, cell.subject.pipeline),
                "draws": self.num_draws(cell.subject),
                "measure": self._describe(cell.proof or self.study.measure),
            }
        )
        path = lambda name: self.folder / "work" / f"{name}.npz"
        return Unit(cell, rows, path(f"a-{attacked}") if attacked else None, path(f"s-{scored}"))

    def _attack_digest(self, cell: Cell, rows: Rows) -> str:
        """Digests all that decides the adversarial images of a batch, and nothing else."""
        assert cell.surrogate is not None
        return digest(
            {
                "surrogate": self._describe(cell.surrogate),
                "params": self._attackers(cell),
                "attack": without_chunks(self._describe(cell.attack)),
                "known_draws": self.study.num_score_draws if cell.known_key else 0,
                "select_draws": _select_draws(cell),
                **self._judge(cell),
                **self._common(rows),
            }
        )

    def _judge(self, cell: Cell) -> dict[str, Any]:
        """Returns what a ladder asks which images still stand: the pipeline that is scored."""
        if not isinstance(cell.attack, Ladder):
            return {}
        target = cell.subject.pipeline
        return {"target": self._describe(target), "judge": self._content(cell.subject, target)}

    def _common(self, rows: Rows) -> dict[str, Any]:
        return {
            "seed": self.study.seed,
            "code": code_digest(),
            "backend": jax.default_backend(),
            "images": [int(rows[0]), len(rows), self.images_digest(rows)],
        }

    def _describe(self, value: Any) -> Any:
        """Describes a value once: the same for every batch, whatever it does to its globals."""
        if id(value) not in self._described:
            self._described[id(value)] = value, describe_program(value)
        return self._described[id(value)][1]

    @functools.cached_property
    def _contents(self) -> dict[Any, str]:
        return {}

    def _content(self, subject: Subject, pipeline: Any) -> str:
        """Returns the digest of the parameters that decide what `pipeline` answers."""
        place = subject.name, pipeline
        if place not in self._contents:
            self._contents[place] = content_digest(pipeline.used(subject.params))
        return self._contents[place]

    def _attackers(self, cell: Cell) -> str:
        """Returns the digest of the parameters that decide what an attack differentiates."""
        if cell.attack_params is cell.subject.params:
            return self._content(cell.subject, cell.surrogate)
        place = id(cell.attack_params), cell.surrogate
        if place not in self._contents:
            assert cell.surrogate is not None
            self._contents[place] = content_digest(cell.surrogate.used(cell.attack_params))
        return self._contents[place]

    def _attacked(self, unit: Unit, images, labels, on_gradient) -> np.ndarray:
        assert unit.attacked is not None
        if unit.attacked.exists():
            return read_array(unit.attacked, "attacked")
        began = time.perf_counter()
        by = {AutoAttack: self._by_ensemble, Ladder: self._by_ladder}
        attack = by.get(type(unit.cell.attack), self._by_attack)
        kept = attack(unit, images, labels, on_gradient)
        seconds = {"seconds": np.array(time.perf_counter() - began)}
        write_arrays(unit.attacked, {**seconds, **kept})
        RungFiles(unit.attacked).remove()
        return kept["attacked"]

    def _by_attack(self, unit: Unit, images, labels, on_gradient) -> Arrays:
        cell, rows = unit.cell, unit.rows
        assert cell.surrogate is not None
        assert isinstance(cell.attack, Attack)
        full = padded(rows, self._size(cell))
        batch, label = jnp.asarray(images[full - rows[0]]), jnp.asarray(labels[full - rows[0]])
        params, mesh = cell.attack_params, self._mesh_for(cell)
        attacked, watch = driver.watched_attack(
            cell.surrogate,
            cell.attack,
            params,
            self._keys(Purpose.ATTACK, full),
            batch,
            label,
            score_keys=self._keys(Purpose.SCORE, full) if cell.known_key else None,
            mesh=mesh,
            on_gradient=lambda n: on_gradient(n * len(rows)),
        )
        # Who knows the scoring keys needs no other draws to choose by, and nobody does not choose.
        if cell.attacked and not cell.known_key:
            original = batch
            if isinstance(cell.attack, Distorted):  # the attacker began with the poor image
                alone = dataclasses.replace(cell.attack, then=None)
                keys = self._keys(Purpose.ATTACK, full)
                original = scoring.run_attack(
                    cell.surrogate, alone, params, keys, batch, label, mesh=mesh
                )
            attacked = scoring.keep_worst(
                cell.surrogate,
                cell.attack,
                params,
                self._keys(Purpose.SELECT, full),
                original,
                attacked,
                np.asarray(label),
                num_draws=_select_draws(cell),
                mesh=mesh,
            )
        return {
            "attacked": np.asarray(attacked)[: len(rows)],
            **_zero(zero_gradients(watch), rows),
            **_first(queries_to_success(cell.attack, watch), rows),
        }

    def _by_ensemble(self, unit: Unit, images, labels, on_gradient) -> Arrays:
        cell = unit.cell
        assert cell.surrogate is not None
        assert isinstance(cell.attack, AutoAttack)
        result = run_ensemble(
            cell.surrogate,
            self.members(cell) or (),
            cell.attack_params,
            self.study.seed,
            unit.rows,
            images,
            labels,
            batch_size=self._size(cell),
            num_select_draws=_select_draws(cell),
            mesh=self._mesh_for(cell),
            on_gradient=on_gradient,
        )
        counts = [[getattr(member, name) for name in MEMBER] for member in result.members]
        return {
            "attacked": np.asarray(result.images),
            "members": np.array(counts, int),
            **_zero(result.zero_gradient, unit.rows),
        }

    def _by_ladder(self, unit: Unit, images, labels, on_gradient) -> Arrays:
        cell = unit.cell
        assert cell.surrogate is not None
        assert unit.attacked is not None
        assert isinstance(cell.attack, Ladder)
        assert cell.attack.kinds is not None
        files = RungFiles(unit.attacked)
        climbed = climb(
            cell.subject.pipeline,
            cell.surrogate,
            cell.attack,
            cell.subject.params,
            self.study.seed,
            unit.rows,
            images,
            labels,
            batch_size=self._size(cell),
            mesh=self._mesh_for(cell),
            on_gradient=on_gradient,
            memo=files,
        )
        return {
            **climbed.arrays(cell.attack.kinds),
            **_zero(climbed.zero_gradient, unit.rows),
            "seconds": np.array(files.seconds),
        }


def _zero(found: np.ndarray | None, rows: Rows) -> Arrays:
    """Returns what is kept of zero gradients: nothing where no gradient was asked for."""
    return {} if found is None else {"zero_gradient": found[: len(rows)]}


def _first(found: np.ndarray | None, rows: Rows) -> Arrays:
    """Returns what is kept of queries to success: nothing where a gradient was asked for."""
    return {} if found is None else {"queries_to_success": found[: len(rows)]}


def _check_kept(kept: Any, num: int, measure: str) -> None:
    """Refuses what a measure's `unit` cannot return, before it is kept.

    Raises:
        ValueError: it is no dict of arrays, one entry an image, or a name is taken.
    """
    if not isinstance(kept, dict):
        raise ValueError(
            f"{measure}.unit returned a {type(kept).__name__}: return a dict of arrays."
        )
    for name, array in kept.items():
        if name in NOT_OF_IMAGES:
            raise ValueError(f"{measure}.unit returned an array {name!r}: that name is taken.")
        if np.ndim(array) < 1 or len(array) != num:
            raise ValueError(
                f"{measure}.unit returned {name!r} of shape {np.shape(array)} for {num} images: "
                "return one entry an image."
            )


def _select_draws(cell: Cell) -> int:
    """Returns under how many draws of his own an attacker chooses what to hand out."""
    if isinstance(cell.attack, AutoAttack | Ladder):
        return cell.attack.num_select_draws
    assert cell.surrogate is not None
    return 8 if cell.surrogate.is_random else 1
