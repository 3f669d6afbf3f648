"""Attacking and scoring a batch: the honest part of a robust accuracy.

The attacker differentiates a `surrogate`, the score is taken on the `target`, and its keys
are ones that the attack never saw, unless the threat model says that it did.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from rainjax import gradients
from rainjax._arrays import as_array, is_staged, is_traced
from rainjax._checks import check_kind, check_num_classes, is_whole
from rainjax.attacks import Attack, balls
from rainjax.evaluation.batches import (
    ImageBatch,
    Keys,
    Labels,
    check_batch,
    check_score_keys,
    in_range,
    refuse_traced,
)
from rainjax.evaluation.compatibility import check_known_key, check_losses, check_outcomes
from rainjax.evaluation.driver import attacker_logits_fn, check_attacked, placement, run_attack
from rainjax.evaluation.probes import check_purified
from rainjax.evaluation.rejections import check_rejection, folded, folds, succeeded
from rainjax.evaluation.watch import warn_of_softmax, warn_of_zero_gradients
from rainjax.pipeline import Pipeline
from rainjax.typing import Images, Params

__all__ = ["attack_batch", "keep_worst", "round_to_8bit", "run_attack", "score"]


def attack_batch(
    target: Pipeline,
    surrogate: Pipeline,
    attack: Attack,
    params: Params,
    attack_keys: Keys,
    score_keys: Keys,
    images: ImageBatch,
    labels: Labels,
    *,
    num_score_draws: int = 1,
    known_key: bool = False,
) -> tuple[Images, Bool[Array, "n draws"]]:
    """Returns the adversarial images and, per scoring draw, whether `target` is still right.

    One pure function of its arguments: row `i` depends on row `i` alone. With `known_key` the
    attacker holds the scoring keys: the surrogate is given scoring draw `i` wherever the
    attack asks for outcome `i`, so the attack must have `draws="enumerated"`.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import PGD, Defended, Identity, Purpose, attack_batch, example_keys, nets
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> model = nets.from_function(logits, jax.random.normal(jax.random.key(0), (48, 3)))
    >>> pipeline = Defended(Identity(), model.network)
    >>> params = {"defense": (), "classifier": model.params}
    >>> images, labels = jnp.full((2, 4, 4, 3), 0.5), jnp.arange(2)
    >>> purposes = Purpose.ATTACK, Purpose.SCORE
    >>> keys = [example_keys(0, purpose, np.arange(2)) for purpose in purposes]
    >>> attacked, right = attack_batch(
    ...     pipeline, pipeline, PGD(num_steps=5), params, *keys, images, labels
    ... )
    >>> attacked.shape, right.shape
    ((2, 4, 4, 3), (2, 1))

    Args:
        target: The pipeline that is scored.
        surrogate: What the attack differentiates.
        attack: The attack.
        params: The parameters of both.
        attack_keys: A key for each image, of shape `n`.
        score_keys: Keys that the attack does not see, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, of shape `n`.
        num_score_draws: Draws under which each image is scored.
        known_key: Whether the attacker holds the scoring keys after all.

    Raises:
        ValueError: as `run_attack`; under `jax.jit`, where there are no values to look at, only
            what the shapes and the attack itself tell.
    """
    check_kind(attack, Attack, "attack_batch(attack=...)")
    check_kind(target, Pipeline, "attack_batch(target=...)")
    _check_num_draws("num_score_draws", num_score_draws)
    images = check_batch(surrogate, params, attack_keys, images, labels)
    check_score_keys(score_keys, len(images))
    labels, known_keys = jnp.asarray(labels), score_keys if known_key else None
    check_known_key(attack, num_score_draws, known_key)
    check_losses(attack, surrogate.num_classes(params, images[0]))
    check_rejection(surrogate, attack)
    if not known_key:
        check_outcomes(surrogate, attack.eot, images.shape[1])
    given = params, attack_keys, score_keys, images, labels
    traced = is_traced(*given) or is_staged()
    if not traced:
        check_purified(surrogate, params, images)
        check_purified(target, params, images)

    fold = folds(surrogate, attack)

    def one(key, score_key, image, label):
        run = attack.run(
            key, attacker_logits_fn(surrogate, params, score_key, label, fold), image, label
        )
        return attack.finish(run), run.watch

    attacked, watch = jax.vmap(one)(attack_keys, known_keys, images, labels)
    if not traced:
        warn_of_zero_gradients(attack, watch)
        check_attacked(attacked, surrogate, params, attack_keys, images)
    logits = _score_draws(target, params, score_keys, attacked, 0, num_score_draws)
    # A rejection is no success of who moved nothing, nor of who wants a class of his choice.
    moved = jnp.any(attacked != images, axis=(1, 2, 3)) & (not getattr(attack, "targeted", False))
    logits = folded(logits, labels, target.rejection, moved)
    if not traced:
        warn_of_softmax(logits)
    broken = jnp.isnan(logits).any(-1)  # NaN is first in argmax: class 0 would look right
    return attacked, (jnp.argmax(logits, axis=-1) == labels[:, None]) & ~broken


def score(
    target: Pipeline,
    params: Params,
    score_keys: Keys,
    images: ImageBatch,
    *,
    num_draws: int,
    labels: Labels | None = None,
    attacked: Bool[np.ndarray, "n #draws"] | Bool[np.ndarray, "n"] | bool = True,
    rejection: str | None = None,
    mesh: Mesh | None = None,
) -> Float[Array, "n draws classes"]:
    """Returns the target's logits under `num_draws` draws of each image's scoring key.

    Where the target may reject, they have one entry more, the last, or with `labels` the logit of
    the rejection folded into those of the classes, as `Guarded` says what it is worth (or
    `rejection` in its place): of an image that nobody `attacked` it is never right.

    It warns where all of them look like probabilities: attacks climb logits.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import Defended, Purpose, example_keys, nets, score
    >>> from rainjax.defenses import GaussianNoise
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> model = nets.from_function(logits, jax.random.normal(jax.random.key(0), (48, 3)))
    >>> pipeline = Defended(GaussianNoise(), model.network)
    >>> params = {"defense": (), "classifier": model.params}
    >>> keys = example_keys(0, Purpose.SCORE, np.arange(2))
    >>> score(pipeline, params, keys, jnp.full((2, 4, 4, 3), 0.5), num_draws=5).shape
    (2, 5, 3)

    Args:
        target: The pipeline.
        params: Its parameters.
        score_keys: A key for each image, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        num_draws: Draws for each image.
        labels: The right classes, of shape `n`, where rejections are to be folded in.
        attacked: Whether somebody moved an image, under which draw.
        rejection: What a rejection is worth to an attacker; the target's own word for None.
        mesh: The devices that the batch is spread over.

    Raises:
        ValueError: `num_draws` is below 1, images and keys do not belong together or are out
            of range, the defense leaves [0, 1] or returns NaN for one of them, or a logit is NaN,
            which no score should take for an answer.
    """
    _check_num_draws("num_draws", num_draws)
    refuse_traced("score", params, score_keys, images)
    images = jnp.asarray(as_array("images", images))
    images = check_batch(target, params, score_keys, images)
    check_purified(target, params, images)
    place, params = placement(mesh, params)
    score_keys, images = place(score_keys), place(images)
    logits = [_score_draw(target, params, score_keys, images, i) for i in range(num_draws)]
    logits = jnp.concatenate(logits, axis=1)
    check_num_classes(logits.shape[-1], type(target).__name__)
    broken = np.isnan(np.asarray(logits)).any(axis=(1, 2))
    if broken.any():
        for draw in range(num_draws):  # one of them, if the defense is to blame
            draws = jax.vmap(jax.random.fold_in, (0, None))(score_keys, draw)
            check_purified(target, params, images, draws)
        raise ValueError(
            f"The target's logits are NaN for {broken.sum()} of {len(images)} images, the first "
            f"of them number {broken.argmax()} of the batch: mend the pipeline."
        )
    warn_of_softmax(logits)
    if labels is None or target.rejection is None:
        return logits
    return folded(logits, labels, rejection or target.rejection, attacked)


def keep_worst(
    surrogate: Pipeline,
    attack: Attack,
    params: Params,
    keys: Keys,
    images: ImageBatch,
    attacked: ImageBatch,
    labels: Labels,
    *,
    num_draws: int,
    mesh: Mesh | None = None,
) -> Images:
    """Returns adversarial images, and an original in the place of each that is worth less.

    That is one that was a success under every one of `num_draws` draws as it was, and is not any
    more as the attack left it: an attack that looks at the neighbourhood alone can lead out of a
    mistake. Where images may be rejected, one that is before anybody moved it is a success too.
    So what is returned is never worse, for the attacker, than doing nothing, and no success is
    undone. A success is what `attack` aims at: another class than the label or, where it is
    targeted, the label itself, as `run_attack` takes it; or what its `goal` says. The attacker
    asks the `surrogate`, with `keys` that neither the attack nor the score uses. One draw is
    enough where nothing is random; elsewhere it takes many, or lucky ones undo successful attacks.
    `run_ensemble` needs no such step: it keeps the original among its candidates.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import PGD, Defended, Identity, Purpose, example_keys, keep_worst, nets
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> model = nets.from_function(logits, jax.random.normal(jax.random.key(0), (48, 3)))
    >>> pipeline = Defended(Identity(), model.network)
    >>> params = {"defense": (), "classifier": model.params}
    >>> images, labels = jnp.full((2, 4, 4, 3), 0.5), jnp.arange(2)
    >>> keys = example_keys(0, Purpose.SELECT, np.arange(2))
    >>> useless = images  # what an attack found; here nothing
    >>> kept = keep_worst(
    ...     pipeline, PGD(), params, keys, images, useless, labels, num_draws=1
    ... )
    >>> kept.shape
    (2, 4, 4, 3)

    Args:
        surrogate: The pipeline that the attacker asks.
        attack: What made the attacked images: it says what a success is.
        params: The surrogate's parameters.
        keys: A key for each image, of shape `n`, that neither the attack nor the score uses.
        images: The originals, `n h w c`, float32 in [0, 1].
        attacked: What the attack made of them.
        labels: The right classes, or the targets of a targeted attack, of shape `n`.
        num_draws: Draws under which each image is asked about.
        mesh: The devices that the batch is spread over.

    Raises:
        ValueError: as `score`, or `attack` is none.
    """
    check_kind(attack, Attack, "keep_worst(attack=...)")
    refuse_traced("keep_worst", params, keys, images, attacked, labels)
    labels, both = np.asarray(labels), (images, attacked)
    images, attacked = (
        check_batch(surrogate, params, keys, jnp.asarray(as_array("images", each)), labels)
        for each in both
    )
    _check_same_shape(attacked, images)

    def succeeds(images, moved: bool) -> np.ndarray:
        logits = score(surrogate, params, keys, images, num_draws=num_draws, mesh=mesh)
        found = succeeded(logits, labels, surrogate.rejection, attack, attacked=moved)
        return np.asarray(found.all(1))

    undone = succeeds(images, False) & ~succeeds(attacked, True)
    return jnp.where(undone[:, None, None, None], images, attacked)


def round_to_8bit(
    attacked: ImageBatch, images: ImageBatch, norm: balls.Norm, radius: float
) -> Images:
    """Returns adversarial images as a file can hold them: every value a multiple of 1/255.

    Each value goes to the nearest level that keeps the perturbation in its ball around the
    original; in L2 and L1 to the nearest one towards the original, which adds nothing to the
    norm (all up to float32 rounding). An attack that lives on differences finer than a grey
    level does not survive this.

    Raises:
        ValueError: the originals are not multiples of 1/255 themselves, the shapes differ, or
            an array is not floating, finite and in [0, 1].
    """
    balls.check(norm, radius)
    refuse_traced("round_to_8bit", attacked, images)
    attacked = _floating(attacked, "The adversarial images")
    images = _floating(images, "The originals")
    _check_same_shape(attacked, images)
    levels = np.round(images * 255.0)
    if np.abs(levels - images * 255.0).max() > 1e-3:
        raise ValueError(
            "The originals are no 8-bit images (values between the multiples of 1/255), so the "
            "ball around them cannot be kept by rounding: round them first."
        )
    steps = attacked.astype(np.float64) * 255 - levels
    if norm == "linf":
        most = np.floor(radius * 255 + 1e-4)
        steps = np.clip(np.round(steps), -most, most)
    else:
        steps = np.trunc(steps + 1e-4 * np.sign(steps))
    return jnp.asarray(np.clip(levels + steps, 0, 255) / 255, jnp.float32)


def _check_num_draws(name: str, num: int) -> None:
    if not is_whole(num) or num < 1:
        raise ValueError(f"{name}={num} must be a whole number, and at least 1.")


def _check_same_shape(attacked: ImageBatch, images: ImageBatch) -> None:
    if attacked.shape != images.shape:
        raise ValueError(f"{attacked.shape} adversarial images for originals of {images.shape}.")


def _floating(images: ImageBatch, what: str) -> np.ndarray:
    values = np.asarray(as_array("images", images))
    if not values.size or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"{what} must be floats in [0, 1], not {values.dtype} of shape {values.shape}: divide "
            "integers by 255."
        )
    return in_range(values, what)


def _score_draws(target: Pipeline, params, keys, images, start, num_draws: int):
    def one(key, image):
        logits = lambda i: target.checked_logits(params, gradients.draw(key, i), image)
        return jax.vmap(logits)(start + jnp.arange(num_draws))

    return jax.vmap(one)(keys, images)


@functools.partial(jax.jit, static_argnums=0)
def _score_draw(target: Pipeline, params, keys, images, start):
    return _score_draws(target, params, keys, images, start, 1)
