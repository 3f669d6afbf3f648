"""Tunes EDSR through a classifier behind RAIN: `python -m train.finetune_rain small`.

The loss is the classifier's cross-entropy on the whole random pipeline, and EDSR's parameters
alone follow it (Du et al., 2020); the classifier is frozen, but for `--bn-mode adapt`. Which
epoch is kept is decided by the accuracy under RAIN on images held out of training, never on a
test split.
"""

import dataclasses
import functools
import shutil
from collections.abc import Hashable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax
import tyro

from rainjax import zoo
from rainjax.data.splits import Data, check_held_out, check_outputs
from rainjax.defenses.rain import RAIN
from rainjax.evaluation.describe import content_digest, describe, digest
from rainjax.evaluation.loading import value_in_file
from rainjax.nets import EDSR, Model
from rainjax.pipeline import Defended
from train import loop
from train.augment import flip_and_shift
from train.batches import Batches
from train.compute import PLAIN, Compute
from train.measure import mean_over
from train.optimizers import Optimizer
from train.options import (
    Output,
    batches_per_epoch,
    check_counts,
    program,
    save_entry,
    training_source,
    validation_examples,
)
from train.panels import purified_panel
from train.run import Run
from train.skeleton import fit_and_save
from train.step import EXAMPLES, FOLLOWS


@dataclasses.dataclass(frozen=True)
class FinetuneRAIN:
    """Tunes the EDSR of RAIN through a classifier whose weights stay as they are."""

    run: Annotated[Output, tyro.conf.arg(name="")]
    data: Annotated[Data, tyro.conf.arg(name="")]
    optimizer: Optimizer
    classifier: str | None
    """The classifier: the name or path of a zoo entry, or of published weights (.npz)."""
    init: str
    """The EDSR to start from: the name or path of a zoo entry."""
    classifier_arch: str | None = None
    """The architecture of published weights, such as `resnet20`; a zoo entry says so itself."""
    classifier_code: str | None = None
    """A classifier of your own in the place of `classifier`: `mine.py`, a Python file with a
    function `classifier()` that returns a model of `nets.from_flax` and its likes, or what
    `zoo.load(path, network=MyNet(...))` returns; `mine.py:NAME` for another function."""
    compute: Compute = Compute()
    bn_mode: Literal["frozen", "adapt"] = "frozen"
    """What becomes of the classifier's batch norm. `frozen`: nothing, as the paper says. `adapt`:
    what the authors' code does: in training it normalises by each batch, and its running
    statistics follow; validation uses these, and the classifier that has them is saved too."""
    shift_fraction: float = 0.05
    """Largest shift as a share of the low-resolution height (paper: 0.05), rounded down."""
    num_epochs: int = 10
    """Times every image is seen."""
    steps_per_epoch: int | None = None
    """Cuts epochs short; by default an epoch is every training image once."""
    batch_size: int = 128
    """Images a step."""
    padding: int = 4
    """Images are moved by up to this many pixels, besides being flipped."""
    seed: int = 0
    """Decides order, augmentation and the draws of RAIN."""

    def __post_init__(self):
        check_counts(self, "num_epochs", "batch_size")
        if self.bn_mode == "adapt" and self.compute.precision != "float32":
            raise ValueError(
                f"bn_mode='adapt' keeps statistics that compute.precision="
                f"{self.compute.precision!r} would round away: train in float32."
            )
        if self.bn_mode == "adapt" and self.compute.accumulate > 1:
            raise ValueError(
                f"bn_mode='adapt' normalises by the whole batch, which compute.accumulate="
                f"{self.compute.accumulate} would take in parts: set it to 1."
            )


PRESETS = {
    "paper": (
        "The authors' settings for STL-10, imported under the name `stl10`; needs --classifier "
        "and --init. It takes them about an hour; not run here.",
        FinetuneRAIN(
            run=Output("paper_edsr_rain"),
            data=Data("stl10", num_validation=500),
            optimizer=Optimizer(
                method="sgd", learning_rate=1e-4, schedule="steps", boundaries=(150, 175, 225),
                factor=0.2, momentum=0.9, weight_decay=5e-4,
            ),
            classifier=None,
            init=tyro.MISSING,
            num_epochs=250,
            padding=12,
        ),
    ),
    "small": (
        "The small EDSR through builtin_resnet on the built-in set: from 43 % to 69 % behind "
        "RAIN, in 12 minutes on two busy cores.",
        FinetuneRAIN(
            run=Output("builtin_edsr_rain"),
            data=Data(),
            optimizer=Optimizer(learning_rate=1e-3, clip_norm=1.0),
            classifier="builtin_resnet",
            init="builtin_edsr",
            shift_fraction=0.0625,
            num_epochs=6,
            batch_size=64,
            padding=2,
        ),
    ),
    "cifar10": (
        "EDSR of 8 blocks through a published ResNet-20 (--classifier FILE.npz) on CIFAR-10: from "
        "52 % to 73 % behind RAIN on images held out of the tuning, in 20 minutes on two busy "
        "cores.",
        FinetuneRAIN(
            run=Output("cifar10_edsr_rain"),
            data=Data("cifar10"),
            # At 1e-3 every output ends up clipped within five epochs, and nothing moves again.
            optimizer=Optimizer(learning_rate=4e-4, clip_norm=1.0),
            classifier=None,
            classifier_arch="resnet20",
            init="cifar10_edsr",
            shift_fraction=0.0625,
            num_epochs=25,
            batch_size=32,
        ),
    ),
    "imagenette96": (
        "The small EDSR through the MobileNetV2 of `train.classifier imagenette96`, at 96 x 96: "
        "from 62 % to 82 % behind RAIN on images that neither had seen, in 9 minutes on two busy "
        "cores.",
        FinetuneRAIN(
            run=Output("imagenette96_edsr_rain"),
            data=Data("imagenette96", num_validation=300),
            optimizer=Optimizer(learning_rate=3e-4, clip_norm=1.0),
            classifier="runs/imagenette96_mobilenet",
            init="imagenette96_edsr",
            num_epochs=8,
            batch_size=32,
            padding=6,
        ),
    ),
    "smoke": (
        "One minute of `small` on 1,000 pictures, to see that everything works: from 43 % to "
        "58 %.",
        FinetuneRAIN(
            run=Output("smoke_edsr_rain"),
            data=Data(num_training=1000, num_validation=300),
            optimizer=Optimizer(learning_rate=1e-3, clip_norm=1.0),
            classifier="builtin_resnet",
            init="builtin_edsr",
            shift_fraction=0.0625,
            num_epochs=2,
            batch_size=50,
            padding=2,
        ),
    ),
}  # fmt: skip


def loss(
    params,
    frozen,
    key,
    example,
    *,
    pipeline: Defended,
    padding: int,
    compute: Compute = PLAIN,
):
    """Returns the classifier's cross-entropy on one augmented example behind RAIN."""
    rain_key, image = _augmented(key, example, padding)
    logits = compute.lower(pipeline.logits)(
        {"defense": params, "classifier": frozen}, rain_key, image
    )
    return _cross_entropy(logits, example["label"])


def adapting_loss(params, frozen, key, example, *, pipeline: Defended, padding: int):
    """Returns the same with the classifier in training mode; `params` are the whole pipeline's.

    The classifier's do not follow the gradient, but what batch norm makes of them.
    """
    del frozen
    rain_key, image = _augmented(key, example, padding)
    purified = pipeline.defense.apply(params["defense"], rain_key, image)
    logits, moved = pipeline.classifier.apply_in_training(
        jax.lax.stop_gradient(params["classifier"]), purified, axis_name=EXAMPLES
    )
    value, metrics = _cross_entropy(logits, example["label"])
    return value, {**metrics, FOLLOWS: {"classifier": jax.lax.stop_gradient(moved)}}


def adapting(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer of the whole pipeline for `adapting_loss`."""
    parts: dict[Hashable, optax.GradientTransformation] = {
        "defense": optimizer,
        "classifier": optax.set_to_zero(),
    }
    return optax.multi_transform(parts, {name: name for name in parts})


def _augmented(key, example, padding: int):
    augment_key, rain_key = jax.random.split(key)
    image = jnp.asarray(example["image"], jnp.float32) / 255
    return rain_key, flip_and_shift(augment_key, image, padding=padding)


def _cross_entropy(logits, label):
    value = -jax.nn.log_softmax(logits)[label]
    return value, {"accuracy": (jnp.argmax(logits) == label).astype(jnp.float32)}


def score(params, key, example, *, pipeline: Defended):
    """Returns whether one example is classified correctly under one draw, and its loss."""
    image = jnp.asarray(example["image"], jnp.float32) / 255
    value, metrics = _cross_entropy(pipeline.logits(params, key, image), example["label"])
    return {**metrics, "loss": value}


def _classifier(options: FinetuneRAIN) -> tuple[zoo.Entry, dict[str, str]]:
    """Returns the classifier and, where its code is somebody's own, a digest of that.

    Raises:
        ValueError: no classifier is named.
    """
    if options.classifier_code is None:
        if options.classifier is None:
            raise ValueError(
                "There is no classifier: name one by --classifier, or code of your own by "
                "--classifier-code FILE.py:NAME."
            )
        return zoo.load_any(options.classifier, options.classifier_arch), {}
    found = value_in_file(options.classifier_code, "classifier", Model, zoo.Entry)
    code = {"classifier_network": digest(describe(found.network))}
    if isinstance(found, Model):
        params, name = found.params, options.classifier_code
        found = zoo.Entry(name, found.network, params, {}, content_digest(params))
    return found, code


def train(options: FinetuneRAIN) -> None:
    """Runs the training that `options` describe, or goes on with it."""
    classifier, code = _classifier(options)
    start = zoo.load(options.init)
    edsr, frozen = start.network, classifier.params
    if not isinstance(edsr, EDSR):
        raise ValueError(f"init={options.init!r} holds a {type(edsr).__name__}, not an EDSR.")
    if options.bn_mode == "adapt" and not classifier.network.has_batch_norm:
        raise ValueError(
            f"bn_mode='adapt' needs a classifier with batch norm, and {classifier.name!r} "
            f"holds {classifier.network}: set bn_mode to frozen."
        )
    pipeline = Defended(RAIN(edsr, shift_fraction=options.shift_fraction), classifier.network)

    split = options.data.load()
    training, validation = training_source(split), validation_examples(split)
    check_outputs(classifier, split.training, validation["image"])
    check_held_out(classifier, split)
    facts = {
        "init_sha256": start.sha256,
        "classifier_sha256": classifier.sha256,
        "fingerprint": split.training.fingerprint,
        **code,
    }
    measure = mean_over(
        functools.partial(score, pipeline=pipeline),
        validation,
        seed=options.seed,
        batch_size=250,
    )
    steps_per_epoch = batches_per_epoch(training, options.batch_size)
    if options.steps_per_epoch is not None:
        steps_per_epoch = min(options.steps_per_epoch, steps_per_epoch)
    before = {"defense": start.params, "classifier": frozen}
    if options.bn_mode == "adapt":
        learned, whole = before, lambda learned: learned
        frozen, change = (), adapting
        loss_fn = functools.partial(adapting_loss, pipeline=pipeline, padding=options.padding)
    else:
        learned, whole = start.params, lambda learned: {**before, "defense": learned}
        change = None
        loss_fn = functools.partial(
            loss, pipeline=pipeline, padding=options.padding, compute=options.compute
        )

    def draw(learned, path):
        purified_panel(
            path, pipeline, before, whole(learned), validation["image"][:4], seed=options.seed
        )

    adapted = dataclasses.replace(
        options.run, name=f"{options.run.name}_classifier", out=options.run.folder
    )

    def save(run: Run, outcome: loop.Outcome):
        tuned = whole(outcome.params)
        keep = functools.partial(
            save_entry, run, split=split, options=options,
            shift_fraction=options.shift_fraction, classifier_sha256=classifier.sha256,
        )  # fmt: skip
        path = keep(
            options.run, edsr, dataclasses.replace(outcome, params=tuned["defense"]),
            init_sha256=start.sha256,
        )  # fmt: skip
        if options.bn_mode == "adapt":
            keep(
                adapted, classifier.network,
                dataclasses.replace(outcome, params=tuned["classifier"]),
                init_sha256=classifier.sha256, metrics_of="the whole pipeline",
                weights_from={
                    "name": classifier.name, "sha256": classifier.sha256,
                    "data": classifier.card.get("data"),
                },
                **{n: classifier.card[n] for n in ("licence",) if n in classifier.card},
            )  # fmt: skip
        elif jax.process_index() == 0:
            shutil.rmtree(adapted.folder, ignore_errors=True)  # of a run that was here before
        return path

    fit_and_save(
        options, split, edsr, learned,
        loss=loss_fn,
        batches=Batches(
            training, options.seed, options.batch_size, workers=options.compute.workers
        ),
        evaluate=lambda learned: measure(whole(learned)),
        select="accuracy",
        steps_per_epoch=steps_per_epoch,
        facts=facts,
        panel=draw, panel_shows="original, and one draw of RAIN before and after tuning",
        frozen=frozen, change=change, save=save,
    )  # fmt: skip


if __name__ == "__main__":
    program(train, PRESETS, __doc__)
