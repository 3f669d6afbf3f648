"""Attacking and scoring a batch: the honest part of a robust accuracy.

The attacker differentiates a `surrogate`, the score is taken on the `target`, and its keys
are ones that the attack never saw, unless the threat model says that it did.
"""

import contextlib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from rainjax import gradients
from rainjax._types import Draw, Images, LogitsFn, Params
from rainjax.attacks import Attack, GradientAttack
from rainjax.attacks._base import Slope
from rainjax.devices import batch_sharding, replicated
from rainjax.pipeline import Defended

Keys = Key[Array, "n"]
Labels = Int[Array | np.ndarray, "n"]
Given = Float[Array | np.ndarray, "n h w c"]


def attack_batch(
    target: Defended,
    surrogate: Defended,
    attack: Attack,
    params: Params,
    attack_keys: Keys,
    score_keys: Keys,
    images: Given,
    labels: Labels,
    *,
    num_score_draws: int = 1,
    known_key: bool = False,
) -> tuple[Images, Bool[Array, "n draws"]]:
    """Returns the adversarial images and, per scoring draw, whether `target` is still right.

    One pure function of its arguments: row `i` depends on row `i` alone. With `known_key` the
    attacker holds the scoring keys: the surrogate is given scoring draw `i` wherever the
    attack asks for outcome `i`, so the attack must have `enumerated=True`.
    """
    secrets = score_keys if known_key else None
    check_known_key(attack, num_score_draws, known_key)

    def one(key, secret, image, label):
        return attack(key, _view(surrogate, params, secret), image, label)

    attacked = jax.vmap(one)(attack_keys, secrets, images, labels)
    logits = _score_draws(target, params, score_keys, attacked, 0, num_score_draws)
    return attacked, jnp.argmax(logits, axis=-1) == labels[:, None]


def run_attack(
    surrogate: Defended,
    attack: Attack,
    params: Params,
    attack_keys: Keys,
    images: Given,
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
    gradients per image, to show progress.

    Raises:
        ValueError: images, labels and keys do not belong together or are out of range, or the
            attack enumerates other outcomes than the surrogate has.
        MemoryError: the device cannot hold a chunk; the message says what to lower.
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    _check_batch(surrogate, params, attack_keys, images, labels)
    if score_keys is None:
        _check_outcomes(surrogate, attack, images.shape[1])
    else:
        check_known_key(attack, getattr(attack, "num_eot", 1), True)
    place, params = _placement(mesh, params)
    attack_keys, images, labels = place(attack_keys), place(images), place(labels)
    secrets = None if score_keys is None else place(score_keys)
    tick = on_gradient or (lambda n: None)
    with _memory_advice(attack, images):
        init_keys, loop_keys = _split(attack_keys)
        state = _init(attack, init_keys, images, labels)
        if isinstance(attack, GradientAttack) and jax.default_backend() == "cpu":
            chunk = attack.eot_chunk or 1
            for call in range(attack.num_calls):
                draw_keys, update_keys, points = _open(attack, loop_keys, call, state)
                total = (jnp.zeros_like(labels, images.dtype), jnp.zeros_like(images))
                for start in range(0, attack.num_eot, chunk):
                    total = _add_chunk(
                        attack.slope, surrogate, chunk, attack.enumerated,
                        params, draw_keys, secrets, points, labels, start, total,
                    )  # fmt: skip
                    jax.block_until_ready(total)  # chunks in a queue would each hold memory
                    tick(chunk)
                state = _close(attack, update_keys, state, total)
        else:
            for call in range(attack.num_calls):
                state = _step(attack, surrogate, params, loop_keys, secrets, call, state)
                tick(getattr(attack, "num_eot", 1))
        return jax.block_until_ready(_result(attack, state))


def score(
    target: Defended,
    params: Params,
    score_keys: Keys,
    images: Given,
    *,
    num_draws: int,
    mesh: Mesh | None = None,
) -> Float[Array, "n draws classes"]:
    """Returns the target's logits under `num_draws` draws of each image's scoring key.

    Raises:
        ValueError: `num_draws` is below 1, or images and keys do not belong together or are out
            of range.
    """
    if num_draws < 1:
        raise ValueError(f"{num_draws=} must be at least 1.")
    images = jnp.asarray(images)
    _check_batch(target, params, score_keys, images)
    place, params = _placement(mesh, params)
    score_keys, images = place(score_keys), place(images)
    logits = [_score_draw(target, params, score_keys, images, i) for i in range(num_draws)]
    return jnp.concatenate(logits, axis=1)


def check_known_key(attack: Attack, num_score_draws: int, known_key: bool) -> None:
    """Refuses an attack that cannot use the keys it is given.

    Raises:
        ValueError: `known_key` with an attack that does not enumerate exactly the draws that
            will be scored.
    """
    if not known_key:
        return
    if not (isinstance(attack, GradientAttack) and attack.enumerated):
        raise ValueError(f"known_key needs a gradient attack with enumerated=True, not {attack}.")
    if attack.num_eot != num_score_draws:
        raise ValueError(
            f"An attacker who knows the {num_score_draws} scoring draws should use them all: "
            f"set num_eot={num_score_draws}, not {attack.num_eot}."
        )


def _check_batch(
    pipeline: Defended, params: Params, keys: Keys, images: Given, labels: Labels | None = None
) -> None:
    count = len(images)
    if len(keys) != count or (labels is not None and len(labels) != count):
        others = f"{len(keys)} keys" + ("" if labels is None else f" and {len(labels)} labels")
        raise ValueError(f"{count} images came with {others}: each image needs one of its own.")
    if images.dtype != jnp.float32:
        raise ValueError(f"Images must be float32 in [0, 1], not {images.dtype}: divide by 255.")
    values = np.asarray(images)  # XLA's own minimum passes over NaN on CPU
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # NaN compares false
        raise ValueError(f"Images must lie in [0, 1], these in [{low:.4g}, {high:.4g}].")
    if labels is None:
        return
    logits = jax.eval_shape(pipeline.classifier.apply, params["classifier"], images[0])
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[0]:
        raise ValueError(
            f"Labels lie in {low}..{high}, but the classifier has {logits.shape[0]} classes."
        )


def _check_outcomes(surrogate: Defended, attack: Attack, height: int) -> None:
    if not (isinstance(attack, GradientAttack) and attack.enumerated):
        return
    there = surrogate.defense.num_outcomes(height)
    if there != attack.num_eot:
        name = type(surrogate.defense).__name__
        raise ValueError(
            f"enumerated=True takes every outcome once, but num_eot={attack.num_eot} and "
            + (f"{name} has {there}." if there else f"{name} lists none: draw keys instead.")
        )


def _view(surrogate: Defended, params: Params, secret: Key[Array, ""] | None) -> LogitsFn:
    """What the attacker differentiates; with a `secret`, outcome `i` is scoring draw `i`."""
    if secret is None:
        return functools.partial(surrogate.logits, params)

    def logits_fn(draw: Draw, image):
        return surrogate.logits(params, jax.random.fold_in(secret, draw), image)

    return logits_fn


@jax.jit
def _split(keys: Keys):
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


@functools.partial(jax.jit, static_argnums=0)
def _init(attack: Attack, keys, images, labels):
    return jax.vmap(attack.init)(keys, images, labels)


@functools.partial(jax.jit, static_argnums=0)
def _open(attack: GradientAttack, loop_keys, call, state):
    draw_keys, update_keys = _split(jax.vmap(jax.random.fold_in, (0, None))(loop_keys, call))
    return draw_keys, update_keys, jax.vmap(attack.point)(state)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnames="total")
def _add_chunk(
    slope: Slope, surrogate: Defended, chunk: int, enumerated: bool,
    params, draw_keys, secrets, points, labels, start, total,
):  # fmt: skip
    def one(key, secret, point, label, total):
        fn = functools.partial(slope, _view(surrogate, params, secret))
        chunk_draws = gradients.draws(key, start, chunk, enumerated)
        return gradients.add_draws(fn, total, chunk_draws, point, label)

    return jax.vmap(one)(draw_keys, secrets, points, labels, total)


@functools.partial(jax.jit, static_argnums=0)
def _close(attack: GradientAttack, update_keys, state, total):
    value, gradient = jax.tree.map(lambda t: t / attack.num_eot, total)
    return jax.vmap(attack.update)(update_keys, state, value, gradient)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(attack: Attack, surrogate: Defended, params, loop_keys, secrets, call, state):
    def one(key, secret, state):
        return attack.step(jax.random.fold_in(key, call), _view(surrogate, params, secret), state)

    return jax.vmap(one)(loop_keys, secrets, state)


@functools.partial(jax.jit, static_argnums=0)
def _result(attack: Attack, state):
    return jax.vmap(attack.result)(state)


def _score_draws(target: Defended, params, keys, images, start, num_draws: int):
    def one(key, image):
        chunk = gradients.draws(key, start, num_draws)
        return jax.vmap(lambda draw: target.logits(params, draw, image))(chunk)

    return jax.vmap(one)(keys, images)


@functools.partial(jax.jit, static_argnums=0)
def _score_draw(target: Defended, params, keys, images, start):
    return _score_draws(target, params, keys, images, start, 1)


def _placement(mesh: Mesh | None, params: Params):
    if mesh is None:
        return lambda x: x, params
    return (
        lambda x: jax.device_put(x, batch_sharding(mesh)),
        jax.device_put(params, replicated(mesh)),
    )


@contextlib.contextmanager
def _memory_advice(attack: Attack, images: Given):
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        chunk = getattr(attack, "eot_chunk", None)
        raise MemoryError(
            f"{len(images)} images of {images.shape[1:3]} with eot_chunk={chunk} do not fit the "
            "device's memory: lower eot_chunk first (the result stays the same), then the "
            "batch size."
        ) from error
