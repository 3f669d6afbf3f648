"""What every training program does once it knows what it teaches: fit, keep the best, draw it."""

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from rainjax.data.splits import Split
from rainjax.nets import Network
from rainjax.typing import Params, PRNGKey
from train import loop
from train.batches import Batches, Patch
from train.measure import mean_over
from train.options import save_entry, start_of, training_source, validation_crops
from train.run import Run
from train.step import Example, LossFn, Metrics

Save = Callable[[Run, loop.Outcome], pathlib.Path]


def fit_and_save(
    options: Any,
    split: Split,
    network: Network,
    params: Params,
    *,
    loss: LossFn,
    batches: Callable[[int], Iterator[dict[str, np.ndarray]]],
    evaluate: Callable[[Params], Metrics],
    select: str,
    steps_per_epoch: int,
    facts: dict[str, Any],
    panel: Callable[[Params, Any], None] | None = None,
    panel_shows: str = "",
    frozen: Params = (),
    change: Callable[[optax.GradientTransformation], optax.GradientTransformation] | None = None,
    save: Save | None = None,
    **card: Any,
) -> None:
    """Trains from `params`, or goes on, and leaves an entry of the zoo with a card and a picture.

    `options` are a program's: they have a `run`, an `optimizer`, a `compute`, a `seed`,
    `num_epochs` and `batch_size`. `facts` decide the run's outcome beside them. `loss`, `batches`,
    `evaluate`, `select` and `panel` are those of `loop.Task`.

    Args:
        options: The program's options.
        split: What is learned from, and what chooses.
        network: What the entry holds.
        params: Where training starts.
        loss: What is minimised.
        batches: The endless sequence of batches from a step on.
        evaluate: What is measured on validation data.
        select: The name of the number that decides which epoch is kept.
        steps_per_epoch: Steps of an epoch.
        facts: What decides the outcome and is no option, such as the start's digest.
        panel: Draws what has been learned.
        panel_shows: What the picture shows, for the line that names it.
        frozen: Parameters that the loss takes and nobody learns.
        change: Makes another optimizer of that of the options.
        save: Writes the entries and returns the path of the first; by default one is written,
            with `card` on its card.
    """
    optimizer = options.optimizer.build(
        num_epochs=options.num_epochs, steps_per_epoch=steps_per_epoch
    )
    task = loop.Task(
        loss=loss,
        batches=batches,
        evaluate=evaluate,
        select=select,
        batch_size=options.batch_size,
        num_epochs=options.num_epochs,
        steps_per_epoch=steps_per_epoch,
        panel=panel,
    )
    with options.run.open(options, **facts) as run:
        outcome = loop.fit(
            task, params, change(optimizer) if change else optimizer, run,
            seed=options.seed, frozen=frozen, compute=options.compute,
        )  # fmt: skip
        if save is None:
            path = save_entry(run, options.run, network, outcome, split, options=options, **card)
        else:
            path = save(run, outcome)
        if panel is not None:
            picture = path.with_suffix(".png")
            if jax.process_index() == 0:
                panel(outcome.params, picture)
            run.say(f"Wrote {picture}: {panel_shows}.")


def fit_patches(
    options: Any,
    *,
    loss: LossFn,
    score: Callable[[Params, PRNGKey, Example], Metrics],
    panel: Callable[..., None],
    panel_shows: str,
) -> None:
    """Teaches `options.network` random patches of images without labels, as `fit_and_save`.

    `options` have a `data`, a `network`, a `patch` and an `init` besides. `score` measures the
    middle of a validation image, its "psnr" decides which epoch is kept, and `panel(params, path,
    network=..., images=...)` draws four of them.
    """
    split = options.data.load()
    params, sha256 = start_of(options)
    validation = validation_crops(split)
    fit_and_save(
        options, split, options.network, params,
        loss=loss,
        batches=Batches(
            training_source(split, one_size=False, min_size=options.patch),
            options.seed, options.batch_size, Patch(options.patch, options.seed),
            workers=options.compute.workers,
        ),
        evaluate=mean_over(score, validation, seed=options.seed, batch_size=100),
        select="psnr",
        steps_per_epoch=options.steps_per_epoch,
        facts={"init_sha256": sha256, "fingerprint": split.training.fingerprint},
        panel=functools.partial(
            panel, network=options.network, images=validation["image"][:4]
        ),
        panel_shows=panel_shows,
        init_sha256=sha256,
    )  # fmt: skip
