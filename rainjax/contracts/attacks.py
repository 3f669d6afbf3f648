"""What every attack promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rainjax._checks import check_kind
from rainjax._values import check_value
from rainjax.attacks import Attack
from rainjax.contracts._common import (
    Promises,
    check_equality,
    close,
    each,
    three_images,
    three_keys,
)
from rainjax.evaluation.driver import run_attack
from rainjax.pipeline import Pipeline
from rainjax.typing import Image, Logits, Params, PRNGKey

_NUM_CLASSES = 4


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttackOutputs:
    """What an attack made of three images in front of a random pipeline, for further checks."""

    images: Float[np.ndarray, "n h w c"]
    attacked: Float[np.ndarray, "n h w c"]
    other_keys: Float[np.ndarray, "n h w c"]
    """The adversarial images under other keys."""

    def __repr__(self) -> str:
        return f"AttackOutputs of {len(self.images)} images of {self.images.shape[1:]}"


def check_attack(
    attack: Attack, *, image_shape: tuple[int, int, int] = (8, 8, 3), tolerance: float = 1e-6
) -> AttackOutputs:
    """Checks what every attack promises, on three images, and returns what it computed.

    It is a value, equal to a copy of itself. Against a linear classifier behind a random mask it
    returns images that are finite, float32, in [0, 1] and, where the attack has a `norm` and a
    `radius`, in its ball. The same key gives the same image; calling the attack, alone and in a
    batch, and `run_attack` give the same up to `tolerance`. In front of a pipeline that returns
    NaN it ends with NaN: what is broken must not look robust.

    >>> from rainjax import PGD, check_attack
    >>> check_attack(PGD(num_steps=3)).attacked.shape
    (3, 8, 8, 3)

    Raises:
        AssertionError: a promise is broken; says which, and what to do.
        ValueError: `attack` is no value of an attack.
    """
    check_kind(attack, Attack, "check_attack(attack=...)")
    promise = Promises(type(attack).__name__)
    check_equality(attack, promise)
    check_value(attack.query)
    images, keys, others = three_images(image_shape), three_keys(0), three_keys(1)
    labels = jnp.array([0, 1, 3])
    target = _MaskedLinear(images[0].size, rejects=attack.sees_rejection)
    params = target.init(jax.random.key(3))

    # One program for a pipeline that works, times one, and for a broken one, times NaN.
    @jax.jit
    def scaled(key, image, label, factor):
        logits_fn = lambda draw, image: factor * target.logits(params, draw, image)
        return attack(key, logits_fn, image, label)

    program = lambda *row: scaled(*row, 1.0)
    batch = jax.jit(jax.vmap(lambda *row: scaled(*row, 1.0)))
    alone, again = (each(program, keys, images, labels) for _ in range(2))
    batched = np.asarray(batch(keys, images, labels))
    other_keys = np.asarray(batch(others, images, labels))
    driven = np.asarray(run_attack(target, attack, params, keys, images, labels))
    for output in (alone, batched, driven, other_keys):
        promise(
            output.shape == images.shape,
            f"returned {output.shape} for images of shape {images.shape}: keep the shape",
        )
        promise.image(output)
        _check_ball(attack, np.asarray(images), output, promise)
    promise(
        np.array_equal(again, alone),
        "returns another image for the same key at a second call: draw from the key alone",
    )
    promise(
        close(batched, alone, tolerance),
        "returns another image under jax.vmap, among others in a batch, than alone: compute "
        "each image by itself",
    )
    promise(
        close(driven, batched, tolerance),
        "returns another image by run_attack than by a call: let `init`, `ask`, `update` and "
        "`result` hold everything that it does, in the state alone",
    )
    promise(
        np.isnan(scaled(keys[2], images[2], labels[2], jnp.nan)).any(),
        "returns an image without NaN in front of a pipeline that returns NaN: leave `advance` "
        "and `finish` as they are, or pass the NaN on",
    )
    return AttackOutputs(np.asarray(images), batched, other_keys)


@dataclasses.dataclass(frozen=True)
class _MaskedLinear(Pipeline):
    """A linear classifier that sees each value with probability one half, and may reject."""

    size: int
    rejects: bool = False

    def init(self, key: PRNGKey) -> Params:
        kernel_key = jax.random.split(key)[1]
        columns = _NUM_CLASSES + self.rejects
        return {"kernel": jax.random.normal(kernel_key, (self.size, columns))}

    @property
    def rejection(self) -> str | None:
        return "safe" if self.rejects else None

    def logits(self, params: Params, key: PRNGKey, image: Image) -> Logits:
        seen = image * jax.random.bernoulli(key, 0.5, image.shape)
        logits = seen.reshape(self.size) @ params["kernel"]
        if not self.rejects:
            return logits
        return logits.at[-1].add(jnp.max(logits[:-1]))


def _check_ball(attack: Attack, images, attacked, promise: Promises) -> None:
    norm, radius = getattr(attack, "norm", None), getattr(attack, "radius", None)
    if norm is None or radius is None:
        return
    delta = (attacked.astype(np.float64) - images).reshape(len(images), -1)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    reach = np.linalg.norm(delta, ord=order, axis=1).max()
    promise(
        reach <= radius + 1e-6,
        f"moved an image by {reach:.6g} in {norm}, farther than its radius of {radius:.6g}: end "
        "with rainjax.attacks.balls.into_box",
    )
