"""Trains a classifier: `python -m train.classifier small`."""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

from rainjax import zoo
from rainjax.data.splits import Data
from rainjax.keys import Purpose, purpose_key
from rainjax.nets import IMAGENETTE_CLASSES, MobileNetV2, ResNet
from train.augment import flip_and_shift
from train.batches import Batches
from train.compute import Compute
from train.measure import mean_over
from train.optimizers import Optimizer
from train.options import (
    Output,
    batches_per_epoch,
    check_counts,
    program,
    training_source,
    validation_examples,
)
from train.skeleton import fit_and_save


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Trains a classifier with cross-entropy on flipped and slightly moved images."""

    run: Annotated[Output, tyro.conf.arg(name="")]
    data: Annotated[Data, tyro.conf.arg(name="")]
    network: tyro.conf.AvoidSubcommands[ResNet | MobileNetV2]
    optimizer: Optimizer
    compute: Compute = Compute()
    init: str | None = None
    """Start from these parameters: the name or path of a zoo entry of the same network, or the
    path of published weights (.npz)."""
    init_arch: str | None = None
    """The architecture of published weights; a zoo entry says so itself."""
    num_epochs: int = 10
    """Times every image is seen."""
    batch_size: int = 128
    """Images a step."""
    padding: int = 4
    """Images are moved by up to this many pixels."""
    label_smoothing: float = 0.0
    """Share of the label spread over all classes."""
    seed: int = 0
    """Decides initial parameters, order and augmentation."""

    def __post_init__(self):
        check_counts(self, "num_epochs", "batch_size")
        if getattr(self.network, "norm", None) == "batch":
            raise ValueError(
                "norm='batch' is for published weights: its statistics are not learned, and an "
                "image would mean something else in another batch. Train with norm='group'."
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 1).")


PRESETS = {
    "small": (
        "ResNet-8 with group norm on the built-in set: 95 % on validation pictures, in 6 minutes "
        "on two busy cores.",
        Classifier(
            run=Output("builtin_resnet"),
            data=Data(),
            network=ResNet(depth=8, norm="group"),
            optimizer=Optimizer(learning_rate=5e-3, weight_decay=0.01),
            num_epochs=8,
            batch_size=64,
        ),
    ),
    "cifar10": (
        "ResNet-20 with group norm on CIFAR-10, imported under that name, with the moving average "
        "of its parameters: 84 % on images held out of 20,000, in 27 minutes on two busy cores.",
        Classifier(
            run=Output("cifar10_resnet"),
            data=Data("cifar10"),
            network=ResNet(depth=20, norm="group"),
            optimizer=Optimizer(learning_rate=5e-3, weight_decay=0.02, clip_norm=1.0),
            compute=Compute(average=0.999),
            num_epochs=30,
            batch_size=64,
        ),
    ),
    "paper": (
        "ResNet-20 on CIFAR-10 as He et al. (2015) trained it, with group norm in the place of "
        "batch norm: 64,000 steps, minutes on a GPU and more than a day on two cores. They report "
        "91.25 % on the test set.",
        Classifier(
            run=Output("paper_resnet"),
            data=Data("cifar10", num_validation=5000),
            network=ResNet(depth=20, norm="group"),
            optimizer=Optimizer(
                method="sgd", learning_rate=0.1, schedule="steps", boundaries=(91, 137),
                factor=0.1, momentum=0.9, weight_decay=1e-4,
            ),
            num_epochs=182,
        ),
    ),
    "imagenette96": (
        "MobileNetV2 tuned from ImageNet weights (--init FILE.npz) to Imagenette at 96 x 96: 92 % "
        "on held-out images, in 3 minutes on two busy cores.",
        Classifier(
            run=Output("imagenette96_mobilenet"),
            data=Data("imagenette96", num_validation=300),
            network=MobileNetV2(class_subset=IMAGENETTE_CLASSES),
            init=tyro.MISSING,
            init_arch="mobilenetv2_imagenette",
            optimizer=Optimizer(learning_rate=1e-4, weight_decay=1e-4, clip_norm=1.0),
            num_epochs=4,
            batch_size=32,
            padding=6,
        ),
    ),
    "smoke": (
        "A narrow ResNet-8 on 4,000 pictures of the built-in set, to see that everything works: "
        "50 % where chance is 10 %, in a minute on two cores.",
        Classifier(
            run=Output("smoke_classifier"),
            data=Data(num_training=4000, num_validation=500),
            network=ResNet(depth=8, width=8, norm="group"),
            optimizer=Optimizer(learning_rate=1e-2),
            num_epochs=12,
            batch_size=32,
        ),
    ),
}  # fmt: skip


def loss(params, frozen, key, example, *, options: Classifier):
    """Returns the cross-entropy of one augmented example, and whether it is right."""
    del frozen
    image = jnp.asarray(example["image"], jnp.float32) / 255
    image = flip_and_shift(key, image, padding=options.padding)
    logits = options.compute.lower(options.network.apply)(params, image)
    log_probs = jax.nn.log_softmax(logits)
    share = options.label_smoothing
    value = -(1 - share) * log_probs[example["label"]] - share * log_probs.mean()
    return value, {"accuracy": (jnp.argmax(logits) == example["label"]).astype(jnp.float32)}


def score(params, key, example, *, options: Classifier):
    """Returns whether one example is classified correctly as it is, and its loss."""
    del key
    logits = options.network.apply(params, jnp.asarray(example["image"], jnp.float32) / 255)
    return {
        "accuracy": (jnp.argmax(logits) == example["label"]).astype(jnp.float32),
        "loss": -jax.nn.log_softmax(logits)[example["label"]],
    }


def train(options: Classifier) -> None:
    """Runs the training that `options` describe, or goes on with it."""
    split = options.data.load()
    training, validation = training_source(split), validation_examples(split)
    params, start = _start(options, split.training.num_classes)
    fit_and_save(
        options, split, options.network, params,
        loss=functools.partial(loss, options=options),
        batches=Batches(
            training, options.seed, options.batch_size, workers=options.compute.workers
        ),
        evaluate=mean_over(
            functools.partial(score, options=options), validation,
            seed=options.seed, batch_size=250,
        ),
        select="accuracy",
        steps_per_epoch=batches_per_epoch(training, options.batch_size),
        facts={"init_sha256": start, "fingerprint": split.training.fingerprint},
        class_names=list(split.training.class_names), init_sha256=start,
    )  # fmt: skip


def _start(options: Classifier, num_classes: int):
    subset = getattr(options.network, "class_subset", None)
    num_outputs = len(subset) if subset else options.network.num_classes
    if num_outputs != num_classes:
        raise ValueError(
            f"The network has {num_outputs} outputs, {options.data.dataset!r} {num_classes} "
            "classes: set network.num_classes."
        )
    if options.init:
        entry = zoo.load_any(options.init, options.init_arch)
        if entry.network != options.network:
            raise ValueError(f"{options.init!r} holds {entry.network}, not {options.network}.")
        return entry.params, entry.sha256
    return options.network.init(purpose_key(options.seed, Purpose.INIT)), None


if __name__ == "__main__":
    program(train, PRESETS, __doc__)
