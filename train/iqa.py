"""Teaches the student of the image-quality detector: `python -m train.iqa cifar10`.

A teacher that has the reference, the label and the protected network says of every distorted or
attacked view how good it is, what the network answers on the reference, how far its features have
moved, and whether it errs. The student sees the view alone. All of this is ours, in the spirit of
the abstract of "Towards Robust Classification with Image Quality Assessment", which is all of that
paper that is public. Attacks are blind to the detector. Which epoch is kept is decided by the risk
on held-out images under kinds of views that the student learns from; the kinds that it never met
are reported apart.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
import tyro

from rainjax import zoo
from rainjax.data.splits import Data, check_held_out, check_outputs
from rainjax.detectors.teacher import QualityMeasure
from rainjax.evaluation.describe import describe
from rainjax.nets import Features, Network, QualityNet
from rainjax.typing import Image, Params
from train import loop, pairs
from train.augment import random_flip, random_square
from train.batches import Batches, Held
from train.compute import Compute
from train.iqa_measures import by_kind, counts, summary
from train.measure import values_over
from train.optimizers import Optimizer
from train.options import (
    Output,
    batches_per_epoch,
    check_counts,
    program,
    readable,
    save_entry,
    start_of,
)
from train.panels import quality_panel
from train.run import Run
from train.skeleton import fit_and_save


@dataclasses.dataclass(frozen=True)
class Weights:
    """What each term of the loss counts; at 0 a term is left out."""

    quality: float = 2.0
    """Of the Huber loss of the quality."""
    distillation: float = 0.03
    """Of temperature**2 times the KL divergence of the student's classes from the teacher's."""
    risk: float = 1.0
    """Of the binary cross-entropy of whether the protected network errs."""
    change: float = 1.0
    """Of the Huber loss of the change of the protected network's features."""

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"weights.{name}={value} must be at least 0, and finite.")
        if not any(dataclasses.asdict(self).values()):
            raise ValueError("All weights are 0: leave at least one term of the loss in.")


@dataclasses.dataclass(frozen=True)
class IQA:
    """Teaches a student quality, risk and classes, of single images."""

    run: Annotated[Output, tyro.conf.arg(name="")]
    data: Annotated[Data, tyro.conf.arg(name="")]
    network: QualityNet
    optimizer: Optimizer
    classifier: str | None
    """The protected network: the name or path of a zoo entry, or of published weights (.npz)."""
    classifier_arch: str | None = None
    """The architecture of published weights, such as `resnet20`; a zoo entry says so itself."""
    mix: pairs.Mix = pairs.Mix()
    weights: Weights = Weights()
    temperature: float = 4.0
    """What the logits of teacher and student are divided by before the softmax."""
    measure: QualityMeasure = "ssim"
    """The full-reference measure that quality is made of: MS-SSIM needs 161 pixels a side."""
    huber_delta: float = 0.1
    """Where the Huber losses turn from a parabola into a line."""
    pairs_folder: pathlib.Path | None = None
    """The folder of the views and the teacher's signals, which several runs may share; by default
    one in the run's folder. What it lacks is made."""
    compute: Compute = Compute()
    init: str | None = None
    """Start from these parameters: the name or path of a zoo entry of the same network."""
    crop: int | None = None
    """Learn from random squares of so many pixels, each taken for the whole view that it is cut
    out of; validation sees whole views. None for whole views in training too."""
    num_epochs: int = 10
    """Times every view is seen."""
    batch_size: int = 64
    """Views a step."""
    seed: int = 0
    """Decides views, initial parameters, order and augmentation."""

    def __post_init__(self):
        check_counts(self, "num_epochs", "batch_size")
        if self.crop is not None and self.crop < 1:
            raise ValueError(f"crop={self.crop} must be at least 1, or None for whole views.")
        for field in ("temperature", "huber_delta"):
            if not 0 < getattr(self, field) < float("inf"):
                raise ValueError(f"{field}={getattr(self, field)} must be positive and finite.")


PRESETS = {
    "cifar10": (
        "A student for a published ResNet-20 (--classifier FILE.npz) on CIFAR-10: AUROC 0.999 on "
        "test images under blind PGD at 8/255, in 7 minutes after 12 for the views, on two busy "
        "cores.",
        IQA(
            run=Output("cifar10_quality", dtype="float16"),
            data=Data("cifar10", num_training=6000, num_validation=600),
            network=QualityNet(),
            optimizer=Optimizer(learning_rate=2e-3, weight_decay=0.01, clip_norm=5.0),
            classifier=None,
            classifier_arch="resnet20",
            mix=pairs.Mix(num_held_out=60),
            compute=Compute(average=0.999),
            num_epochs=10,
        ),
    ),
    "small": (
        "A student for builtin_resnet on the built-in set: AUROC 0.87 on validation pictures "
        "under blind PGD at 8/255, in 11 minutes after 4 for the views, on two busy cores.",
        IQA(
            run=Output("builtin_quality", dtype="float16"),
            data=Data(num_training=8000, num_validation=600),
            network=QualityNet(),
            optimizer=Optimizer(learning_rate=2e-3, weight_decay=0.01, clip_norm=5.0),
            classifier="builtin_resnet",
            mix=pairs.Mix(num_held_out=60),
            compute=Compute(average=0.999),
            num_epochs=8,
        ),
    ),
    "photographs": (
        "A student for a published MobileNetV2 (--classifier FILE.npz) on Imagenette at 224 x "
        "224, imported as imagenette224: 300 of them, for attacks and teacher take long on two "
        "cores. Validation AUROC of errors 0.79, in 46 minutes after 9 for the views, on two "
        "busy cores.",
        IQA(
            run=Output("photographs_quality", dtype="float16"),
            data=Data("imagenette224", num_training=300, num_validation=80),
            network=QualityNet(num_classes=1000, width=8, num_stages=4, stem_stride=2),
            optimizer=Optimizer(learning_rate=2e-3, weight_decay=0.01, clip_norm=5.0),
            classifier=None,
            classifier_arch="mobilenetv2",
            mix=pairs.Mix(
                scale="imagenet_c", attacked_share=0.3, num_held_out=20, part_size=250,
                attacks=("fgsm_2", "fgsm_4", "fgsm_8", "pgd_1", "pgd_2", "pgd_4", "pgd_8"),
                held_out_attacks=("deepfool",),
            ),
            measure="ms_ssim",
            crop=112,
            num_epochs=40,
            batch_size=32,
        ),
    ),
    "smoke": (
        "A narrow student on 300 pictures of the built-in set, to see that everything works.",
        IQA(
            run=Output("smoke_quality"),
            data=Data(num_training=300, num_validation=100),
            network=QualityNet(width=8),
            optimizer=Optimizer(learning_rate=2e-3, clip_norm=5.0),
            classifier="builtin_resnet",
            mix=pairs.Mix(num_held_out=10, held_out_attacks=("deepfool",)),
            num_epochs=4,
        ),
    ),
}  # fmt: skip


def loss(params, frozen, key, example, *, options: IQA, protected: Network):
    """Returns the weighted sum of the terms for one view, perhaps mirrored, and each of them.

    `frozen` are the parameters of the protected network.
    """
    image = random_flip(key, jnp.asarray(example["image"], jnp.float32) / 255)
    if options.crop is not None:
        image = random_square(jax.random.fold_in(key, 1), image, size=options.crop)
    inputs = student_inputs(options.network, protected, frozen, image)
    outputs = options.compute.lower(options.network.apply)(params, *inputs)
    terms = loss_terms(outputs, example, options=options)
    weights = dataclasses.asdict(options.weights)
    return jnp.stack([weights[name] * value for name, value in terms.items()]).sum(), terms


def loss_terms(outputs, example, *, options: IQA):
    """Returns the terms of the loss for one output of the student, by the names of `Weights`."""
    told = options.network.split(outputs)
    probs = jnp.asarray(example["probs"], jnp.float32)
    log_student = jax.nn.log_softmax(told.class_logits / options.temperature)
    log_probs = jnp.log(jnp.maximum(probs, 1e-30))  # where it is 0, so is the product
    divergence = probs * (log_probs - log_student)
    huber = functools.partial(optax.huber_loss, delta=options.huber_delta)
    return {
        "quality": huber(told.quality, example["quality"]),
        "distillation": options.temperature**2 * divergence.sum(),
        "risk": jax.nn.softplus(told.risk) - example["errs"] * told.risk,
        "change": huber(told.change, example["change"]),
    }


def student_inputs(network: QualityNet, protected: Network, frozen: Params, image: Image):
    """Returns what a student takes: the image, and the protected network's features if it does."""
    if not network.num_features:
        return (image,)
    return image, Features(protected).apply(frozen, image)[None, None]


def judge(params, key, example, *, network: QualityNet, protected: Network, frozen: Params):
    """Returns what the student says of one view as it is."""
    del key
    image = jnp.asarray(example["image"], jnp.float32) / 255
    inputs = student_inputs(network, protected, frozen, image)
    told = network.split(network.apply(params, *inputs))
    return {
        "quality": told.quality,
        "risk": told.risk,
        "change": told.change,
        "class": jnp.argmax(told.class_logits),
    }


def train(options: IQA) -> None:
    """Makes the pairs, or what is missing of them, and runs the training, or goes on with it."""
    if options.classifier is None:
        raise ValueError("There is no protected network: name one by --classifier.")
    classifier = zoo.load_any(options.classifier, options.classifier_arch)
    split = options.data.load()
    held = readable(split.validation, split.validation_indices)
    learned = readable(split.training, split.training_indices)
    images, _ = split.validation.get(held[:1])
    check_outputs(classifier, split.training, images)
    check_held_out(classifier, split)
    if options.network.num_classes != split.training.num_classes:
        raise ValueError(
            f"network.num_classes={options.network.num_classes}, and {options.data.dataset!r} has "
            f"{split.training.num_classes} classes: set network.num_classes to that."
        )
    seen = options.network.num_features
    if seen and seen != Features(classifier.network).num_features:
        raise ValueError(
            f"network.num_features={seen}, and the protected network has "
            f"{Features(classifier.network).num_features}: set it to that, or to 0."
        )
    protected = {"protected": classifier.network}
    params, start = start_of(options)
    teacher = pairs.Teacher(classifier, temperature=options.temperature, measure=options.measure)
    folder = options.pairs_folder or options.run.folder / "pairs"
    make = functools.partial(pairs.make_pairs, mix=options.mix, teacher=teacher, seed=options.seed)
    views = make(folder / "training", split.training, learned)
    validation = make(folder / "validation", split.validation, held, held_out=True)
    judged = functools.partial(
        judge, network=options.network, frozen=classifier.params, **protected
    )
    told_by = values_over(
        judged,
        {name: validation[name] for name in ("image", "index")},
        seed=options.seed,
        batch_size=250,
    )
    wanted = ("image", "index", "quality", "change", "errs", "probs")
    source = Held({name: views[name] for name in wanted})

    def save(run: Run, outcome: loop.Outcome) -> pathlib.Path:
        return save_entry(
            run, options.run, options.network, outcome, split, options=options,
            classifier_sha256=classifier.sha256, init_sha256=start,
            views=counts(views),
            attacks={
                name: describe(pairs.ATTACKS[name])
                for name in (*options.mix.attacks, *options.mix.held_out_attacks)
            },
            by_kind=by_kind(told_by(outcome.params), validation),
            architecture_source="ours, in the spirit of the abstract: the paper is not public",
        )  # fmt: skip

    fit_and_save(
        options, split, options.network, params,
        loss=functools.partial(loss, options=options, **protected),
        frozen=classifier.params if seen else (),
        batches=Batches(
            source, options.seed, options.batch_size, workers=options.compute.workers
        ),
        evaluate=lambda params: summary(told_by(params), validation, options.mix),
        select="auroc",
        steps_per_epoch=batches_per_epoch(source, options.batch_size),
        facts={
            "init_sha256": start, "classifier_sha256": classifier.sha256,
            "fingerprint": split.training.fingerprint,
        },
        panel=functools.partial(
            quality_panel,
            views=validation,
            clean=pairs.CLEAN,
            judge=lambda params, view: judged(params, None, view),
        ),
        panel_shows="views of validation images, with true and predicted quality and risk",
        save=save,
    )  # fmt: skip


if __name__ == "__main__":
    program(train, PRESETS, __doc__)
