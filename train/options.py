"""Options that every training program has, and the examples they stand for."""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from rainjax import data, zoo
from rainjax.data import ImageSet
from rainjax.devices import join_processes, use_all_cores
from rainjax.nets import Network
from train.batches import Held, Pictures
from train.loop import Outcome
from train.run import Run, flat, main


@dataclasses.dataclass(frozen=True)
class Output:
    """Where a run is written."""

    name: str
    """The run is written to the folder of this name, and its parameters get this name."""
    out: pathlib.Path = pathlib.Path("runs")
    """The folder that holds the runs."""
    fresh: bool = False
    """Start over, instead of going on from the checkpoint that the folder holds."""
    keep: int = 2
    """Checkpoints that stay, the newest ones; the best stays besides."""
    dtype: Literal["float32", "float16"] = "float32"
    """What the parameters are stored in at the end; a finished run stores them anew."""

    def __post_init__(self):
        zoo.check_name(self.name)
        if self.keep < 1:
            raise ValueError(f"keep={self.keep}: at least one checkpoint must stay.")

    def open(self, options: Any, *, program: str, **facts: Any) -> Run:
        """Returns the run of these options; `facts` decide its outcome as well."""
        return Run(
            self.folder, identity(options, **facts), program=program, fresh=self.fresh,
            keep=self.keep,
        )  # fmt: skip

    @property
    def folder(self) -> pathlib.Path:
        """The run's own folder."""
        return self.out / self.name


@dataclasses.dataclass(frozen=True)
class Data:
    """Which images are learned from; a test split is never among them."""

    dataset: str = "builtin"
    """`builtin`, or the name of a prepared TFDS data set such as `cifar10`."""
    data_dir: pathlib.Path | None = None
    """Where TFDS data sets are; by default TFDS_DATA_DIR or TFDS's own folder."""
    num_training: int | None = None
    """Learn from this many images only."""
    num_validation: int = 2000
    """Images that choose what is kept, an epoch or a step. The built-in set has a split for
    that; of any other, these are taken out of the training split, the same ones whatever the
    seed."""

    def __post_init__(self):
        if self.num_validation < 1:
            raise ValueError(
                f"num_validation={self.num_validation}: at least one image must choose."
            )
        if self.num_training is not None and self.num_training < 1:
            raise ValueError(f"num_training={self.num_training} must be at least 1.")

    def load(self) -> "Split":
        """Returns the training and the validation part.

        Raises:
          ValueError: there are fewer images than asked for.
        """
        training = data.load(self.dataset, "train", data_dir=self.data_dir)
        if self.dataset == "builtin":
            validation = data.load("builtin", "validation")
            where = "validation"
            validation_indices = np.arange(len(validation))[: self.num_validation]
            training_indices = np.arange(len(training))
        else:
            validation, where = training, "train"
            # Not the run's seed: a classifier and what is tuned through it hold out the same,
            # if they hold out as many. Not the first ones: a set may be sorted by class.
            order = np.random.default_rng(0).permutation(len(training))
            validation_indices = np.sort(order[: self.num_validation])
            training_indices = order[self.num_validation :]
        if len(validation_indices) < self.num_validation or not len(training_indices):
            raise ValueError(
                f"num_validation={self.num_validation} of the {len(validation)} images in the "
                f"split {where!r} of {self.dataset!r} leave too few: lower it."
            )
        if self.num_training is not None:
            if self.num_training > len(training_indices):
                raise ValueError(
                    f"num_training={self.num_training}, but {self.dataset!r} has "
                    f"{len(training_indices)} training images."
                )
            training_indices = training_indices[: self.num_training]
        training_indices = np.sort(training_indices)
        return Split(training, training_indices, validation, validation_indices)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Disjoint training and validation examples: positions in their image sets."""

    training: ImageSet
    training_indices: np.ndarray
    validation: ImageSet
    validation_indices: np.ndarray

    def describe(self) -> dict[str, Any]:
        """Returns what a card says about the data."""
        return {
            "name": self.training.name,
            "fingerprint": self.training.fingerprint,
            "split": self.training.split,
            "num_training": len(self.training_indices),
            "validation_split": self.validation.split,
            "num_validation": len(self.validation_indices),
        }


def training_source(split: Split, *, one_size: bool = True, min_size: int = 1) -> Held | Pictures:
    """Returns the training examples for `Batches`, of any size from `min_size` on or of one.

    Raises:
      ValueError: images are to be of one size, which goes with labels, and have none.
    """
    image_set, indices = split.training, split.training_indices
    if isinstance(image_set, data.BuiltinSet):
        # They are made by JAX, which a worker process had better leave alone.
        return Held(labelled(image_set, indices))
    if one_size and image_set.num_classes < 1:
        raise ValueError(f"The data set {image_set.name!r} has no labels.")
    source = Pictures(image_set, indices, min_size=min_size)
    return Pictures(image_set, indices, source[0]["image"].shape) if one_size else source


def validation_examples(split: Split) -> dict[str, np.ndarray]:
    """Returns the validation examples as `labelled` does, without those that are damaged."""
    return labelled(split.validation, readable(split.validation, split.validation_indices))


def labelled(image_set: ImageSet, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns these examples as one dict of arrays, held in memory as uint8.

    Raises:
      ValueError: the set has no labels, or pictures of several sizes.
    """
    if image_set.num_classes < 1:
        raise ValueError(f"The data set {image_set.name!r} has no labels.")
    images, labels = image_set.get(indices)
    return {"image": images, "label": labels, "index": indices.astype(np.int32)}


def readable(image_set: ImageSet, indices: np.ndarray) -> np.ndarray:
    """Returns `indices` without those of pictures that cannot be decoded, and warns of these.

    Raises:
      ValueError: none can.
    """
    good = []
    for index in indices.tolist():
        with contextlib.suppress(data.DamagedPicture):
            image_set.image(index)
            good.append(index)
    if not good:
        raise ValueError(f"No validation picture of {image_set.name!r} can be decoded.")
    if len(good) < len(indices):
        first = next(index for index in indices.tolist() if index not in set(good))
        warnings.warn(
            f"{len(indices) - len(good)} of {len(indices)} validation pictures of "
            f"{image_set.name!r} cannot be decoded and are left out, the first is {first}.",
            stacklevel=2,
        )
    return np.array(good, indices.dtype)


def check_outputs(classifier: Network, image_set: ImageSet, images: np.ndarray) -> None:
    """Refuses a classifier whose outputs are not the classes of these images.

    Raises:
      ValueError: saying how many there are of both.
    """
    outputs = jax.eval_shape(
        classifier.apply, classifier.shapes(), jax.ShapeDtypeStruct(images.shape[1:], jnp.float32)
    )
    if outputs.shape != (image_set.num_classes,):
        raise ValueError(
            f"The classifier has {outputs.shape[0]} outputs, {image_set.name!r} has "
            f"{image_set.num_classes} classes: choose a classifier of this data set."
        )


def check_held_out(classifier: zoo.Entry, split: Split) -> None:
    """Refuses a classifier that was trained on images that are to choose; its card tells.

    Raises:
      ValueError: saying how many to hold out.
    """
    seen = classifier.card.get("data", {})
    held_out = len(split.validation_indices)
    same = seen.get("fingerprint") == split.training.fingerprint
    before = seen.get("num_validation", held_out)
    if same and split.validation is split.training and before < held_out:
        raise ValueError(
            f"The classifier {classifier.name!r} held {before} images out of its "
            f"training, and was trained on some of the {held_out} that would choose "
            f"here: set --num-validation {before}."
        )


def batches_per_epoch(source: Any, batch_size: int) -> int:
    """Returns how many whole batches the examples make.

    Raises:
      ValueError: there is none.
    """
    if not 1 <= batch_size <= len(source):
        raise ValueError(
            f"{batch_size=} must be at least 1, and at most the {len(source)} training images."
        )
    return len(source) // batch_size


def check_counts(options: Any, *fields: str) -> None:
    """Refuses options that count something, and count less than one.

    Raises:
      ValueError: naming the first.
    """
    for field in fields:
        if getattr(options, field) < 1:
            raise ValueError(f"{field}={getattr(options, field)} must be at least 1.")


def program(
    train: Callable[[Any], None], presets: dict[str, Any], description: str | None
) -> None:
    """Runs a training program: reads its options, takes all cores, and joins other processes."""
    use_all_cores()

    def read_and_train() -> None:
        options = tyro.extras.overridable_config_cli(presets, description=description)
        if options.compute.distributed:
            join_processes()
        train(options)

    main(read_and_train)


# On how many devices and processes a run is spread, and in how many parts it takes a batch, does
# not decide what comes out of it.
_SPREAD = tuple(f"compute.{name}" for name in ("shards", "accumulate", "workers", "distributed"))


def identity(options: Any, **facts: Any) -> dict[str, Any]:
    """Returns everything that decides a run's outcome: options but for places, and `facts`."""
    plain = flat(options)
    places = ("run.", "data.data_dir", "init", "classifier", *_SPREAD)
    kept = {name: value for name, value in plain.items() if not name.startswith(places)}
    return {**kept, **facts}


def save_entry(
    run: Run,
    output: Output,
    network: Network,
    outcome: Outcome,
    split: Split,
    *,
    options: Any,
    **extra: Any,
) -> pathlib.Path:
    """Writes a run's parameters and card for the zoo, says where, and returns the path.

    The card names the program, versions and machine that began the run, and those that went on.
    """
    card = {
        "data": split.describe(),
        "seed": options.seed,
        "metrics": outcome.metrics,
        "options": identity(options),
        "seconds": round(outcome.seconds, 1),
        "dtype": output.dtype,
        **run.made_by,
        **extra,
    }
    path = output.folder / f"{output.name}.safetensors"
    if jax.process_index():
        return path
    zoo.save(output.folder, output.name, network, outcome.params, card)
    kept = outcome.metrics["validation"]
    print(
        f"Kept epoch {outcome.metrics['selected_epoch']} of {outcome.metrics['num_epochs']}: "
        f"validation {kept['metric']} {kept['value']:.4f}.\n"
        f"Wrote {path} and its card {path.with_suffix('.json').name}: "
        f"load it with rainjax.zoo.load({str(path)!r}).",
        flush=True,
    )
    return path
