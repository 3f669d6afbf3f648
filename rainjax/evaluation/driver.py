"""Driving an attack over a batch of images from the host.

There it can show progress, spread the batch over devices, keep convolutions out of loops on
CPU, and drop the images that are already broken.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from rainjax import gradients
from rainjax._arrays import as_array
from rainjax._checks import check_kind
from rainjax._values import check_value
from rainjax.attacks import EOT, Attack
from rainjax.attacks._base import Run
from rainjax.attacks._watch import Watch
from rainjax.attacks.eot import Query
from rainjax.devices import batch_sharding, replicated
from rainjax.evaluation.batches import (
    ImageBatch,
    Keys,
    Labels,
    check_batch,
    check_score_keys,
    refuse_traced,
)
from rainjax.evaluation.compatibility import check_known_key, check_losses, check_outcomes
from rainjax.evaluation.probes import check_purified
from rainjax.evaluation.rejections import check_rejection, folds
from rainjax.evaluation.watch import warn_of_softmax, warn_of_zero_gradients
from rainjax.gradients import Draws
from rainjax.pipeline import Pipeline, fold_rejection
from rainjax.typing import Images, Label, LogitsFn, Params


def run_attack(
    surrogate: Pipeline,
    attack: Attack,
    params: Params,
    attack_keys: Keys,
    images: ImageBatch,
    labels: Labels,
    *,
    score_keys: Keys | None = None,
    mesh: Mesh | None = None,
    on_gradient: Callable[[int], object] | None = None,
) -> Images:
    """Returns the images that `attack_batch` would, driving the attack's steps from the host.

    On CPU each chunk of draws is one jitted call (one draw by default), because XLA runs a
    convolution inside a loop several times slower there; elsewhere each step is. With `mesh`
    the batch is spread over its devices, whose number must divide it. `score_keys` are given
    to an attacker who knows them, and only then. `on_gradient(n)` is called after every `n`
    gradients per image, to show progress. Where an attack stops early, the images it has done
    with leave the batch, which shrinks by quarters and halves, so that few sizes are compiled:
    up to a quarter of the images may be done before that saves anything.

    It warns of images for which the gradient was exactly zero at every call, and none a success:
    that they stand says nothing. So it does of a classifier whose logits look like probabilities.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from rainjax import PGD, Defended, Identity, Purpose, example_keys, nets, run_attack, score
    >>> def logits(weights, image):
    ...     return image.reshape(-1) @ weights
    >>> model = nets.from_function(logits, jax.random.normal(jax.random.key(0), (48, 3)))
    >>> pipeline = Defended(Identity(), model.network)
    >>> params = {"defense": (), "classifier": model.params}
    >>> images, labels = jnp.full((4, 4, 4, 3), 0.5), jnp.zeros(4, int)
    >>> keys = example_keys(0, Purpose.ATTACK, np.arange(4))
    >>> attacked = run_attack(pipeline, PGD(radius=8 / 255), params, keys, images, labels)
    >>> bool(jnp.abs(attacked - images).max() <= 8 / 255 + 1e-6)
    True

    Args:
        surrogate: What the attack differentiates, or asks.
        attack: The attack.
        params: The surrogate's parameters.
        attack_keys: A key for each image, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, or the targets of a targeted attack, of shape `n`.
        score_keys: Keys of the draws that will be scored, for an attacker who knows them.
        mesh: The devices that the batch is spread over.
        on_gradient: Called with every number of gradients made, an image.

    Raises:
        ValueError: images, labels and keys do not belong together or are out of range, the
            attack enumerates other outcomes than the surrogate has, its defense returns no image
            in [0, 1], or its loss or gradient is NaN for an image: such a pipeline is broken, not
            robust. Or `jax.jit`, `jax.vmap` or `jax.grad` is tracing it.
        MemoryError: the device cannot hold a chunk; the message says what to lower.
    """
    attacked, watch = watched_attack(
        surrogate, attack, params, attack_keys, images, labels,
        score_keys=score_keys, mesh=mesh, on_gradient=on_gradient,
    )  # fmt: skip
    warn_of_zero_gradients(attack, watch)
    warn_of_softmax(watch)
    return attacked


def watched_attack(
    surrogate: Pipeline,
    attack: Attack,
    params: Params,
    attack_keys: Keys,
    images: ImageBatch,
    labels: Labels,
    *,
    score_keys: Keys | None = None,
    mesh: Mesh | None = None,
    on_gradient: Callable[[int], object] | None = None,
) -> tuple[Images, Watch]:
    """Returns what `run_attack` does, and beside it what the attack saw, without a warning.

    Args:
        surrogate: What the attack differentiates, or asks.
        attack: The attack.
        params: The surrogate's parameters.
        attack_keys: A key for each image, of shape `n`.
        images: `n h w c`, float32 in [0, 1].
        labels: The right classes, or the targets of a targeted attack, of shape `n`.
        score_keys: Keys of the draws that will be scored, for an attacker who knows them.
        mesh: The devices that the batch is spread over.
        on_gradient: Called with every number of gradients made, an image.

    Raises:
        ValueError: as `run_attack`.
        MemoryError: as `run_attack`.
    """
    check_kind(attack, Attack, "run_attack(attack=...)")
    check_value(attack.query)
    refuse_traced("run_attack", params, attack_keys, images, labels, score_keys)
    images = jnp.asarray(as_array("images", images))
    images = check_batch(surrogate, params, attack_keys, images, labels)
    labels = jnp.asarray(labels)
    check_losses(attack, surrogate.num_classes(params, images[0]))
    check_rejection(surrogate, attack)
    check_purified(surrogate, params, images)
    if score_keys is None:
        check_outcomes(surrogate, attack.eot, images.shape[1])
    else:
        check_known_key(attack, attack.eot.num_samples, True)
        check_score_keys(score_keys, len(images))
    if mesh is not None and len(images) % mesh.size:
        raise ValueError(
            f"{len(images)} images cannot be spread over the mesh's {mesh.size} devices: take "
            f"data_mesh(batch_size={len(images)}), or pad the batch."
        )
    place, params = placement(mesh, params)
    attack_keys, images, labels = place(attack_keys), place(images), place(labels)
    known_keys = None if score_keys is None else place(score_keys)
    passes = attack.passes_per_draw * attack.eot.num_parts
    tick = lambda n: on_gradient(n * passes) if on_gradient else None
    with memory_advice(
        f"{len(images)} images of {images.shape[1:3]} with chunk_size={attack.eot.chunk_size}",
        "lower the EOT's chunk_size first (the result stays the same), then the batch size",
    ):
        init_keys, loop_keys = _split(attack_keys)
        run = place(_start(attack, init_keys, images, labels))
        batch = _Batch(loop_keys, known_keys, labels, run)
        attacked, watch = _drive(surrogate, attack, params, batch, mesh, tick)
    check_attacked(attacked, surrogate, params, attack_keys, images)
    return attacked, watch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Batch:
    """The rows of a batch: what a call needs of each, and how far its attack is."""

    loop_keys: Keys
    known_keys: Keys | None
    labels: Labels
    run: Run


def _drive(
    surrogate: Pipeline, attack: Attack, params, batch: _Batch, mesh, tick
) -> tuple[Images, Watch]:
    """Runs an attack call by call, without the images that have nothing left to do."""
    rows, ended = np.arange(len(batch.loop_keys)), None
    sizes = shrunk_sizes(len(rows), mesh)
    for call in range(attack.num_calls):
        batch = _call(surrogate, attack, params, batch, call, tick)
        if not attack.stops_early or call == attack.num_calls - 1:
            continue
        done = np.asarray(batch.run.done)
        standing = int((~done).sum())
        fewer = next(size for size in sizes if size >= standing)
        if fewer == len(done):
            continue
        ended = _put(ended, rows, _finish(attack, batch.run))
        if not fewer:
            total = functools.partial(attack.eot.total, attack.num_calls)
            tick(total() - total(call + 1))
            return jax.tree.map(jnp.asarray, ended)
        keep = np.argsort(done, kind="stable")[:fewer]  # what still stands comes first
        rows, batch = rows[keep], _take(batch, keep, mesh)
    last = jax.block_until_ready(_finish(attack, batch.run))
    return last if ended is None else jax.tree.map(jnp.asarray, _put(ended, rows, last))


def _call(surrogate: Pipeline, attack: Attack, params, batch: _Batch, call: int, tick) -> _Batch:
    """Runs one call: on CPU draw by draw from the host, elsewhere as one program."""
    count = attack.eot.count(call, attack.num_calls)
    if jax.default_backend() != "cpu":
        run = _step(attack, surrogate, params, batch, call)
        tick(count)
        return dataclasses.replace(batch, run=run)
    draw_keys, update_keys, points, query_args = _open(attack, batch, call)
    answer = ask(
        surrogate, attack.query, attack.eot, params, draw_keys, points, query_args,
        count=count, known_keys=batch.known_keys, labels=batch.labels,
        fold=folds(surrogate, attack), tick=tick,
    )  # fmt: skip
    return dataclasses.replace(batch, run=_close(attack, update_keys, batch.run, answer))


def ask(
    surrogate: Pipeline, query: Query, eot: EOT, params: Params, draw_keys: Keys, points: Images,
    query_args: Any, *, count: int, labels: Labels, fold: bool | None,
    known_keys: Keys | None = None, tick: Callable[[int], object] = lambda n: None,
) -> Any:  # fmt: skip
    """Returns the mean answer over `count` draws at each point, asked chunk by chunk.

    A rejection is folded into the logits as `fold` says: see `folds`.

    Args:
        surrogate: What is asked.
        query: The question.
        eot: How answers are averaged over draws.
        params: The surrogate's parameters.
        draw_keys: The root of the draws of each point, of shape `n`.
        points: What is asked about, `n h w c` in [0, 1].
        query_args: What the attack says beside each point, leaves `n ...`.
        count: The number of draws.
        labels: The right classes, or the targets of a targeted attack, of shape `n`.
        fold: How a rejection is folded into the logits.
        known_keys: The draws that will be scored, for an attacker who knows them, of shape `n`.
        tick: Called with the number of draws of every chunk.
    """
    query, outer = eot.query(query), eot.outer
    num = count if outer is eot else 1
    chunk = math.gcd(num, outer.chunk_size or 1)
    rows = draw_keys, known_keys, labels, points, query_args
    total = _zeros(query, surrogate, fold, outer.draws, params, *rows)
    if points.committed:
        # Placed as the sums will be: otherwise the second chunk would compile everything again.
        total = jax.device_put(total, draw_keys.sharding)
    for start in range(0, num, chunk):
        total = _add_chunk(query, surrogate, fold, chunk, outer.draws, params, *rows, start, total)
        jax.block_until_ready(total)  # chunks in a queue would each hold memory
        tick(count // (num // chunk))
    return _over(total, num)


def shrunk_sizes(size: int, mesh: Mesh | None) -> list[int]:
    """Returns the sizes that a batch may shrink to: few, because each is compiled.

    It is halved again and again, with three quarters on the way, in whole rows per device.
    """
    devices = 1 if mesh is None else mesh.size
    shares = [share / 2**halving for halving in range(size.bit_length()) for share in (1, 3 / 4)]
    return [0, *sorted({math.ceil(size * share / devices) * devices for share in shares})]


def _take(batch: _Batch, keep: np.ndarray, mesh: Mesh | None) -> _Batch:
    place, _ = placement(mesh, ())
    return jax.tree.map(lambda leaf: place(leaf[keep]), batch)


def _put(whole: Any, rows: np.ndarray, part: Any) -> Any:
    """Returns the arrays of a whole batch with those of some rows in their places."""
    if whole is None:
        return jax.tree.map(np.array, part)  # the first rows to end are seen with all others
    for array, some in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        array[rows] = some
    return whole


def check_attacked(
    attacked: Images, surrogate: Pipeline, params: Params, keys: Keys, images: ImageBatch
) -> None:
    """Refuses what an attack made of a pipeline that is broken, not robust.

    Raises:
        ValueError: an image is NaN; says which, and whether the defense is to blame.
    """
    broken = np.isnan(np.asarray(attacked)).any(axis=(1, 2, 3))
    if broken.any():
        check_purified(surrogate, params, images, keys)
        raise ValueError(
            f"The surrogate's loss or gradient is NaN for {broken.sum()} of {len(attacked)} "
            f"images, the first of them number {broken.argmax()} of the batch: mend the pipeline, "
            "or attack a surrogate that has a gradient there."
        )


def attacker_logits_fn(
    surrogate: Pipeline,
    params: Params,
    score_key: Key[Array, ""] | None,
    label: Label,
    fold: bool | None,
) -> LogitsFn:
    """Returns what the attacker sees; with a `score_key`, outcome `i` is scoring draw `i`.

    `fold` tells whether a rejection counts as the label, or as all other classes: `folds`.
    """

    def logits_fn(draw, image):
        if score_key is None:
            logits = surrogate.logits_of_draw(params, draw, image)
        else:
            logits = surrogate.logits(params, jax.random.fold_in(score_key, draw), image)
        return logits if fold is None else fold_rejection(logits, label, is_label=fold)

    return logits_fn


def placement(mesh: Mesh | None, params: Params):
    """Returns a function that spreads a batch over the mesh, and the parameters placed on it."""
    if mesh is None:
        return lambda x: x, params
    return (
        lambda x: jax.device_put(x, batch_sharding(mesh)),
        jax.device_put(params, replicated(mesh)),
    )


@jax.jit
def _split(keys: Keys):
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


@functools.partial(jax.jit, static_argnums=0)
def _start(attack: Attack, keys, images, labels):
    return jax.vmap(attack.start)(keys, images, labels)


@functools.partial(jax.jit, static_argnums=0)
def _open(attack: Attack, batch: _Batch, call):
    draw_keys, update_keys = jax.vmap(attack.keys, (0, None))(batch.loop_keys, call)
    return draw_keys, update_keys, *jax.vmap(attack.ask)(batch.run.state)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _zeros(
    query, surrogate: Pipeline, fold: bool | None, draws: Draws,
    params, keys, known_keys, labels, points, query_args,
):  # fmt: skip
    def one(key, score_key, label, point, query_args):
        draw = gradients.draw(key, 0, draws)
        return query(
            attacker_logits_fn(surrogate, params, score_key, label, fold), draw, point, query_args
        )

    return gradients.zeros_of(jax.vmap(one), keys, known_keys, labels, points, query_args)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnames="total")
def _add_chunk(
    query, surrogate: Pipeline, fold: bool | None, chunk: int, draws: Draws,
    params, draw_keys, known_keys, labels, points, query_args, start, total,
):  # fmt: skip
    def one(key, score_key, label, point, query_args, total):
        fn = functools.partial(
            query, attacker_logits_fn(surrogate, params, score_key, label, fold)
        )
        return gradients.add_draws(fn, total, key, start, chunk, draws, point, query_args)

    return jax.vmap(one)(draw_keys, known_keys, labels, points, query_args, total)


# Without that the whole state is copied, and what an attack knows of an image may be megabytes.
@functools.partial(jax.jit, static_argnums=0, donate_argnames="run")
def _close(attack: Attack, update_keys, run, answer):
    return jax.vmap(attack.advance)(update_keys, run, answer)


@jax.jit
def _over(total, count):
    return jax.tree.map(lambda t: t / count, total)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(attack: Attack, surrogate: Pipeline, params, batch: _Batch, call):
    fold = folds(surrogate, attack)

    def one(key, score_key, label, run):
        return attack.step(
            key, call, attacker_logits_fn(surrogate, params, score_key, label, fold), run
        )

    return jax.vmap(one)(batch.loop_keys, batch.known_keys, batch.labels, batch.run)


@functools.partial(jax.jit, static_argnums=0)
def _finish(attack: Attack, run):
    return jax.vmap(attack.finish)(run), run.watch


@contextlib.contextmanager
def memory_advice(what: str, mend: str):
    """Says of a full device what did not fit, and how to mend it.

    Raises:
        MemoryError: the device is full; every other error passes.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        raise MemoryError(f"{what} do not fit the device's memory: {mend}.") from error
