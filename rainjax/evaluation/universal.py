"""One perturbation for many images (Moosavi-Dezfooli et al., 2017)."""

import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from rainjax._checks import as_plain, check_kind
from rainjax.attacks import EOT, balls, losses
from rainjax.attacks.queries import LabelAndTarget, LossAndGradient
from rainjax.evaluation.batches import ImageBatch, Labels, check_batch, refuse_traced
from rainjax.evaluation.compatibility import check_outcomes
from rainjax.evaluation.driver import ask
from rainjax.evaluation.probes import check_purified
from rainjax.evaluation.rejections import folds
from rainjax.keys import Purpose, example_keys, purpose_key
from rainjax.pipeline import Pipeline
from rainjax.typing import Image, Params


def universal_perturbation(
    surrogate: Pipeline,
    params: Params,
    seed: int,
    indices: Int[Array | np.ndarray, "n"],
    images: ImageBatch,
    labels: Labels,
    *,
    norm: balls.Norm = "linf",
    radius: float = 8 / 255,
    step_size: float = 1 / 255,
    num_epochs: int = 10,
    batch_size: int = 64,
    loss: str = "cross_entropy",
    cap: float = 4.6,
    eot: EOT | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> Image:
    """Returns a perturbation in the ball that raises the loss of all images together.

    Stochastic ascent on the mean over batches of the loss, cut off at `cap` for each image so
    that those already lost do not drown the others (Shafahi et al., 2020, algorithm 2; log 100
    for 100 classes by default). Add it with `jnp.clip(images + delta, 0, 1)`; learn it on
    other images than it is scored on. It warns where no image ever had a gradient. Every draw is
    a function of `seed`, of the image's position in the data set and of the epoch; of `eot`,
    growing and common draws have no meaning here.

    Args:
        surrogate: The pipeline that is differentiated.
        params: Its parameters.
        seed: The root of every draw.
        indices: Positions in the data set, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        norm: That of the ball.
        radius: Its radius, in units of the [0, 1] range.
        step_size: Length of a step, in the same units.
        num_epochs: How often every image is seen.
        batch_size: Images that a step averages over.
        loss: The loss by name.
        cap: What the loss of one image counts at most.
        eot: The draws averaged for each image.
        on_batch: Called with the number of images of every batch.

    Raises:
        ValueError: the options or the images do not fit, or a loss or gradient is NaN.
    """
    refuse_traced("universal_perturbation", params, indices, images, labels)
    balls.check(norm, radius)
    balls.check_size("step_size", step_size, norm, positive=True)
    losses.by_name(loss)
    if loss in losses.OF_REJECTION:
        raise ValueError(f"{loss=} is of a detector's score, not of classes: take 'margin'.")
    if as_plain("num_epochs", num_epochs, int) < 1 or as_plain("batch_size", batch_size, int) < 1:
        raise ValueError(f"{num_epochs=} and {batch_size=} must be at least 1.")
    if not as_plain("cap", cap) >= 0:  # NaN compares false
        raise ValueError(f"{cap=} must not be negative.")
    eot = EOT() if eot is None else eot
    check_kind(eot, EOT, "universal_perturbation(eot=...)")
    if eot.first is not None or eot.common:
        raise ValueError(
            f"first={eot.first} and common={eot.common} are about the calls of one attack; here "
            "every batch has draws of its own."
        )
    all_keys = example_keys(seed, Purpose.ATTACK, indices)
    images = np.asarray(check_batch(surrogate, params, all_keys, images, labels))
    labels = np.asarray(labels)
    num_classes = surrogate.num_classes(params, images[0])
    losses.check_classes(loss, losses.least_classes(loss), num_classes)
    check_purified(surrogate, params, images)
    check_outcomes(surrogate, eot, images.shape[1])
    size = min(batch_size, len(images))
    order_key = purpose_key(seed, Purpose.ORDER)
    delta, followed = jnp.zeros(images.shape[1:], jnp.float32), False
    for epoch in range(num_epochs):
        order = np.asarray(
            jax.random.permutation(jax.random.fold_in(order_key, epoch), len(images))
        )
        for start in range(0, len(images) - size + 1, size):
            rows = order[start : start + size]
            keys = jax.vmap(jax.random.fold_in, (0, None))(all_keys[rows], epoch)
            label = jnp.asarray(labels[rows])
            points = jnp.clip(images[rows] + delta[None], 0.0, 1.0)
            answer = ask(
                surrogate, LossAndGradient(loss), eot, params, keys, points,
                LabelAndTarget(label, label), count=eot.num_samples, labels=label,
                fold=folds(surrogate),
            )  # fmt: skip
            if bool(jnp.isnan(answer.value).any() | jnp.isnan(answer.gradient).any()):
                check_purified(surrogate, params, points, keys)
                raise ValueError(
                    f"The surrogate's loss or gradient is NaN in batch {start // size} of epoch "
                    f"{epoch}: mend the pipeline, or attack a surrogate that has a gradient there."
                )
            followed |= bool(jnp.any(answer.gradient != 0))
            counts = (answer.value < cap)[:, None, None, None]
            slope = jnp.sum(jnp.where(counts, answer.gradient, 0.0), axis=0)
            moved = delta + step_size * balls.steepest(slope, norm)
            delta = balls.project(moved, norm, radius)
            if on_batch:
                on_batch(epoch)
    if not followed:
        warnings.warn(
            "The gradient was exactly zero for every image, so there was nothing to learn the "
            "perturbation from: attack a surrogate that has a gradient (BPDA, a smooth twin).",
            stacklevel=2,
        )
    return delta
