"""Attacking and scoring a batch: the honest part of a robust accuracy.

The attacker differentiates a `surrogate`, the score is taken on the `target`, and its keys
are ones that the attack never saw, unless the threat model says that it did.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from rainjax import gradients
from rainjax._types import Images, Params
from rainjax.attacks import Attack
from rainjax.pipeline import Defended
from rainjax.runner import (
    Given,
    Keys,
    Labels,
    check_batch,
    check_known_key,
    placement,
    run_attack,
    view,
)

__all__ = ["attack_batch", "run_attack", "score"]


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
    attack asks for outcome `i`, so the attack must have `draws="enumerated"`.
    """
    secrets = score_keys if known_key else None
    check_known_key(attack, num_score_draws, known_key)

    def one(key, secret, image, label):
        return attack(key, view(surrogate, params, secret), image, label)

    attacked = jax.vmap(one)(attack_keys, secrets, images, labels)
    logits = _score_draws(target, params, score_keys, attacked, 0, num_score_draws)
    return attacked, jnp.argmax(logits, axis=-1) == labels[:, None]


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
    check_batch(target, params, score_keys, images)
    place, params = placement(mesh, params)
    score_keys, images = place(score_keys), place(images)
    logits = [_score_draw(target, params, score_keys, images, i) for i in range(num_draws)]
    return jnp.concatenate(logits, axis=1)


def _score_draws(target: Defended, params, keys, images, start, num_draws: int):
    def one(key, image):
        logits = lambda i: target.logits(params, gradients.draw(key, i), image)
        return jax.vmap(logits)(start + jnp.arange(num_draws))

    return jax.vmap(one)(keys, images)


@functools.partial(jax.jit, static_argnums=0)
def _score_draw(target: Defended, params, keys, images, start):
    return _score_draws(target, params, keys, images, start, 1)
