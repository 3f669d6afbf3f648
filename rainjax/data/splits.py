"""Which images are learned from and which choose, and whether a classifier fits them."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rainjax import data, zoo
from rainjax.data import ImageSet


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


def labelled(image_set: ImageSet, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Returns these examples as one dict of arrays, held in memory as uint8.

    Raises:
      ValueError: the set has no labels, or pictures of several sizes.
    """
    if image_set.num_classes < 1:
        raise ValueError(f"The data set {image_set.name!r} has no labels.")
    images, labels = image_set.get(indices)
    return {"image": images, "label": labels, "index": indices.astype(np.int32)}


def check_outputs(classifier: zoo.Entry, image_set: ImageSet, images: np.ndarray) -> None:
    """Refuses a classifier whose outputs are not the classes of these images.

    Raises:
      ValueError: saying how many there are of both.
    """
    image = jax.ShapeDtypeStruct(images.shape[1:], jnp.float32)
    outputs = jax.eval_shape(classifier.network.apply, classifier.params, image)
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
