"""What a study leaves beside its records to be looked at: spectra, images behind each defense."""

import abc
import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rainjax import transforms
from rainjax._checks import check_fields
from rainjax._files import read_array, read_arrays, write_arrays, write_json
from rainjax.defenses._base import Iterative
from rainjax.evaluation.detection import rejection_margins
from rainjax.evaluation.study import Cell
from rainjax.evaluation.subject import Subject
from rainjax.evaluation.work import Work
from rainjax.keys import Purpose, example_keys
from rainjax.metrics import radial_frequencies, radial_spectrum
from rainjax.pipeline import Defended, Pipeline


@dataclasses.dataclass(frozen=True)
class Extra(abc.ABC):
    """A file beside the records, made when a study is measured.

    Raises:
        ValueError: a field is not of the kind it says, or counts less than one image.
    """

    def __post_init__(self):
        check_fields(self)
        num = getattr(self, "num_images", 1)
        if num < 1:
            raise ValueError(f"num_images={num} must be at least 1.")

    @abc.abstractmethod
    def write(self, work: Work, planned: Sequence[Cell], *, anew: bool) -> None:
        """Writes the file, where it is not there or, with `anew`, over the one that is."""


@dataclasses.dataclass(frozen=True)
class Spectrum(Extra):
    """The mean radial power spectrum of the images, down-sampled, and behind some subjects."""

    subjects: tuple[str, ...]
    num_images: int = 64

    def write(self, work: Work, planned: Sequence[Cell], *, anew: bool) -> None:
        study, path = work.study, work.folder / "spectrum.json"
        if path.exists() and not anew:
            return
        count = min(self.num_images, study.count)
        rows = np.arange(count)
        images = study.images.get(rows)[0].astype(np.float32) / 255
        keys = example_keys(study.seed, Purpose.SCORE, jnp.asarray(rows))
        height, width = images.shape[1:3]

        def down_up(key, image):
            small = transforms.random_pixel_downsample(key, image)
            return transforms.resize_bicubic(small, height, width)

        curves = {"original": images, "down-sampled, bicubic up": jax.vmap(down_up)(keys, images)}
        for subject in study.subjects:
            if subject.name in self.subjects:
                curves[subject.name] = purify(subject, keys, images)
        mean = {
            name: np.asarray(jax.vmap(radial_spectrum)(jnp.asarray(x)).mean(0), float).tolist()
            for name, x in curves.items()
        }
        content = {
            "kind": "spectrum",
            "study": study.name,
            "num_examples": count,
            "frequency": radial_frequencies(height, width).tolist(),
            "curves": mean,
        }
        write_json(path, content)


@dataclasses.dataclass(frozen=True)
class Gallery(Extra):
    """The first image behind every subject; those of earlier runs stay."""

    def write(self, work: Work, planned: Sequence[Cell], *, anew: bool) -> None:
        study, path = work.study, work.folder / "gallery.npz"
        kept: dict[str, np.ndarray] = {}
        if path.exists():
            there = read_arrays(path)
            kept = dict(zip(there["titles"].tolist(), there["images"], strict=True))
        if not anew and {subject.name for subject in study.subjects} <= kept.keys():
            return
        first = study.images.get(np.arange(1))[0].astype(np.float32) / 255
        keys = example_keys(study.seed, Purpose.SCORE, np.arange(1))
        for subject in study.subjects:
            purified = purify(subject, keys, jnp.asarray(first))
            if purified is not None:
                image = np.asarray(purified)[0]
                kept[subject.name] = np.round(255 * image).astype(np.uint8)
        names = [subject.name for subject in study.subjects if subject.name in kept]
        names = list(dict.fromkeys([*names, *kept]))
        pictures = np.stack([kept[name] for name in names])
        write_arrays(path, {"images": pictures, "titles": np.array(names)})


@dataclasses.dataclass(frozen=True)
class Panels(Extra):
    """A few images of every attack with a tag: as they were, as attack and defense left them."""

    num_images: int = 6
    tag: str = "table"

    def write(self, work: Work, planned: Sequence[Cell], *, anew: bool) -> None:
        for cell in planned:
            path = work.folder / "panels" / f"{cell.id}.npz"
            shown = cell.attack is not None and self.tag in cell.threat.tags
            if shown and (anew or not path.exists()):
                panel = self._panel(work, cell)
                if panel is not None:
                    write_arrays(path, panel)

    def _panel(self, work: Work, cell: Cell) -> dict[str, np.ndarray] | None:
        unit = work.units(cell)[0]
        assert unit.attacked is not None
        rows = unit.rows[: self.num_images]
        keys = example_keys(work.study.seed, Purpose.SCORE, jnp.asarray(rows))
        draws = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys)
        attacked = read_array(unit.attacked, "attacked")[: len(rows)]
        purified = purify(cell.subject, draws, jnp.asarray(attacked))
        if purified is None:
            return None
        original, labels = work.read(rows)
        before, after = (
            work.logits(cell, rows, images)[:, 0].argmax(-1) for images in (original, attacked)
        )
        return {
            # Small enough for a repository, and exact to the eye.
            "original": np.round(original * 255).astype(np.uint8),
            "change": (attacked - original).astype(np.float16),
            "purified": np.asarray(purified, np.float16),
            "labels": labels,
            "predicted_original": before,
            "predicted_attacked": after,
            "class_names": np.array(work.study.images.class_names),
        }


@dataclasses.dataclass(frozen=True)
class Iterates(Extra):
    """A few images of every attack with a tag, and each step of an `Iterative` defense on them.

    With what the classifier alone says to the original, to the attacked image and to each step.
    """

    num_images: int = 4
    tag: str = "table"

    def write(self, work: Work, planned: Sequence[Cell], *, anew: bool) -> None:
        for cell in planned:
            path = work.folder / "iterates" / f"{cell.id}.npz"
            shown = cell.attack is not None and self.tag in cell.threat.tags
            defense = getattr(cell.subject.pipeline, "defense", None)
            if shown and isinstance(defense, Iterative) and (anew or not path.exists()):
                write_arrays(path, self._steps(work, cell))

    def _steps(self, work: Work, cell: Cell) -> dict[str, np.ndarray]:
        unit = work.units(cell)[0]
        assert unit.attacked is not None
        rows = unit.rows[: self.num_images]
        attacked = read_array(unit.attacked, "attacked")[: len(rows)]
        original, labels = work.read(rows)
        pipeline, params = cell.subject.pipeline, cell.subject.params
        assert isinstance(pipeline, Defended)
        steps = _iterates(pipeline, params, jnp.asarray(attacked))
        shown = jnp.concatenate([jnp.asarray(original)[:, None], steps], axis=1)
        return {
            "images": np.asarray(shown, np.float16),  # exact to the eye
            "predicted": np.asarray(_classify(pipeline, params, shown)),
            "labels": labels,
            "class_names": np.array(work.study.images.class_names),
        }


@dataclasses.dataclass(frozen=True)
class MostSuspicious(Extra):
    """The most and the least suspicious images of every threat model with a tag, clean ones too.

    For a study that measures `Detection`, from the logits that it kept. The score is the one that
    it ranks by, and the class the one that the classifier names under the first draw, whether or
    not it is rejected.
    """

    num_images: int = 6
    tag: str = "table"

    def write(self, work: Work, planned: Sequence[Cell], *, anew: bool) -> None:
        """Writes the files.

        Raises:
            ValueError: the study measures something that knows no rejections.
        """
        measure = work.study.measure
        if not measure.takes_rejections:
            raise ValueError(
                f"MostSuspicious() shows scores of a detector, which {type(measure).__name__} "
                "does not keep: give the study measure=Detection()."
            )
        for cell in planned:
            path = work.folder / "suspicious" / f"{cell.id}.npz"
            shown = cell.proof is None and self.tag in cell.threat.tags
            if shown and (anew or not path.exists()):
                write_arrays(path, self._chosen(work, cell))

    def _chosen(self, work: Work, cell: Cell) -> dict[str, np.ndarray]:
        units = work.units(cell)
        rows = np.concatenate([unit.rows for unit in units])
        logits = np.concatenate([read_array(unit.scored, "logits") for unit in units])
        scores = rejection_margins(logits).mean(1)
        order = np.argsort(-scores, kind="stable")
        num = min(self.num_images, len(order))
        chosen = np.concatenate([order[:num], order[::-1][:num]])
        found = {}
        for unit in units:
            wanted = sorted(set(rows[chosen].tolist()) & set(unit.rows.tolist()))
            if wanted and unit.attacked is not None:
                attacked = read_array(unit.attacked, "attacked")
                found |= {row: attacked[row - unit.rows[0]] for row in wanted}
            elif wanted:
                found |= dict(zip(wanted, work.read(np.array(wanted))[0], strict=True))
        images = np.stack([found[row] for row in rows[chosen].tolist()])
        return {
            # The most suspicious first, then the least; 8 bits are exact to the eye.
            "images": np.round(images * 255).astype(np.uint8),
            "scores": scores[chosen],
            "predicted": logits[chosen, 0, :-1].argmax(-1),
            "labels": work.study.images.get(rows[chosen])[1],
            "positions": rows[chosen],
            "class_names": np.array(work.study.images.class_names),
        }


def purify(subject: Subject, keys, images):
    """Returns a batch behind a subject's defense, each image with its own key."""
    return _purify(subject.pipeline, subject.params, keys, images)


@functools.partial(jax.jit, static_argnums=0)
def _purify(pipeline: Pipeline, params, keys, images):
    return jax.vmap(lambda key, image: pipeline.purify(params, key, image))(keys, images)


@functools.partial(jax.jit, static_argnums=0)
def _iterates(pipeline: Defended, params, images):
    defense = pipeline.defense
    assert isinstance(defense, Iterative)
    return jax.vmap(lambda image: defense.iterates(params["defense"], image))(images)


@functools.partial(jax.jit, static_argnums=0)
def _classify(pipeline: Defended, params, images):
    logits = lambda image: pipeline.classifier.apply(params["classifier"], image)
    return jax.vmap(jax.vmap(logits))(images).argmax(-1)
