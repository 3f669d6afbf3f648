"""What every defense and every attack promises, to be checked from an author's own tests.

def test_my_defense_keeps_its_promises():
    rainjax.check_defense(MyDefense(0.3), image_shape=(32, 32, 3))
"""

import dataclasses
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rainjax._checks import check_kind
from rainjax._values import check_value
from rainjax.attacks import Attack
from rainjax.defenses import Defense
from rainjax.evaluation.driver import run_attack
from rainjax.pipeline import Pipeline
from rainjax.typing import Image, Images, Logits, Params, PRNGKey

_NUM_CLASSES = 4


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DefenseOutputs:
    """What a defense returned for three images, for further checks."""

    params: Params
    images: Float[np.ndarray, "n h w c"]
    purified: Float[np.ndarray, "n h w c"]
    other_keys: Float[np.ndarray, "n h w c"]
    """The images purified with other keys."""
    gradient: Float[np.ndarray, "h w c"] | None
    """That of the sum of squares of the last purified image, unless it was left out."""

    def __repr__(self) -> str:
        return f"DefenseOutputs of {len(self.images)} images of {self.images.shape[1:]}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AttackOutputs:
    """What an attack made of three images in front of a random pipeline, for further checks."""

    images: Float[np.ndarray, "n h w c"]
    attacked: Float[np.ndarray, "n h w c"]
    other_keys: Float[np.ndarray, "n h w c"]
    """The adversarial images under other keys."""

    def __repr__(self) -> str:
        return f"AttackOutputs of {len(self.images)} images of {self.images.shape[1:]}"


def check_defense(
    defense: Defense,
    *,
    image_shape: tuple[int, int, int] = (16, 16, 3),
    params: Params | None = None,
    tolerance: float = 1e-5,
    differentiable: bool = True,
) -> DefenseOutputs:
    """Checks what every defense promises, on three images, and returns what it computed.

    It is a value, equal to a copy of itself. It returns an image like the one that came in:
    finite, float32, in [0, 1], of the same shape. The same key gives the same image, plainly and
    under `jit` and `vmap`, whatever else is in the batch, up to `tolerance`, for the rounding
    of convolutions: pass 0.0 where nothing is summed. Other keys give another image exactly
    where `is_random` says so. The gradient is finite; `differentiable=False` leaves it out, for a
    defense that an attacker has to meet by BPDA. `params` are by default those that `init` makes.
    What it makes of something else than an image is no promise: `Defended` refuses that.

    Raises:
        AssertionError: a promise is broken, or `apply` fails; says which, and what to do.
        ValueError: `defense` is no value of a defense, or `image_shape` no shape of an image.
    """
    check_kind(defense, Defense, "check_defense(defense=...)")
    promise = _Promises(type(defense).__name__)
    _check_equality(defense, promise)
    images, keys, others = _images(image_shape), _keys(0), _keys(1)
    if params is None:
        params = jax.jit(defense.init)(jax.random.key(7))
    try:
        given = jax.eval_shape(defense.apply, params, keys[0], images[0])
    except jax.errors.JAXTypeError as error:
        raise AssertionError(
            f"{promise.of}.apply cannot be traced by jax.jit: compute with jax.numpy, and let no "
            "Python condition depend on the image or the key."
        ) from error
    except Exception as error:
        raise AssertionError(
            f"{promise.of}.apply failed on an image of shape {image_shape} with "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    promise(
        getattr(given, "shape", None) == images[0].shape and given.dtype == jnp.float32,
        f"returned {given} for an image of shape {images[0].shape}: return float32 of that shape",
    )
    program, batch = jax.jit(defense.apply), jax.jit(jax.vmap(defense.apply, (None, 0, 0)))
    plain = np.asarray(defense.apply(params, keys[0], images[0]))
    alone = lambda key, image: program(params, key, image)
    purified, again = (_each(alone, keys, images) for _ in range(2))
    other_keys = _each(alone, others, images)
    batched = np.asarray(batch(params, keys, images))
    for output in (plain, purified, other_keys, batched):
        promise.image(output)
    promise(
        _close(purified[0], plain, tolerance),
        "returns another image under jax.jit than without, for the same key: draw with "
        "jax.random from the key alone (np.random is drawn once, when it is compiled)",
    )
    promise(
        _close(batched, purified, tolerance),
        "returns another image under jax.vmap, among others in a batch, than alone: compute "
        "each image by itself",
    )
    promise(
        np.array_equal(again, purified),
        "returns another image for the same key at a second call: draw from the key alone",
    )
    varies = not np.array_equal(other_keys, purified)
    promise(
        varies or not defense.is_random,
        "says is_random=True, and returns the same image for other keys: draw with jax.random "
        "from the key that `apply` is given, or let is_random return False",
    )
    promise(
        defense.is_random or not varies,
        "says is_random=False, and returns other images for other keys: let is_random return True",
    )
    gradient = None
    if differentiable:
        total = lambda image: jnp.sum(defense.apply(params, keys[2], image) ** 2)
        gradient = np.asarray(jax.jit(jax.grad(total))(images[2]))
        promise(
            np.isfinite(gradient).all(),
            "has a gradient that is NaN or infinite: look for a root or a quotient at zero, and "
            "guard what goes into it by jnp.where",
        )
    return DefenseOutputs(params, np.asarray(images), purified, other_keys, gradient)


def check_attack(
    attack: Attack, *, image_shape: tuple[int, int, int] = (8, 8, 3), tolerance: float = 1e-6
) -> AttackOutputs:
    """Checks what every attack promises, on three images, and returns what it computed.

    It is a value, equal to a copy of itself. Against a linear classifier behind a random mask it
    returns images that are finite, float32, in [0, 1] and, where the attack has a `norm` and a
    `radius`, in its ball. The same key gives the same image; calling the attack, alone and in a
    batch, and `run_attack` give the same up to `tolerance`. In front of a pipeline that returns
    NaN it ends with NaN: what is broken must not look robust.

    Raises:
        AssertionError: a promise is broken; says which, and what to do.
        ValueError: `attack` is no value of an attack.
    """
    check_kind(attack, Attack, "check_attack(attack=...)")
    promise = _Promises(type(attack).__name__)
    _check_equality(attack, promise)
    check_value(attack.query)
    images, keys, others = _images(image_shape), _keys(0), _keys(1)
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
    alone, again = (_each(program, keys, images, labels) for _ in range(2))
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
        _close(batched, alone, tolerance),
        "returns another image under jax.vmap, among others in a batch, than alone: compute "
        "each image by itself",
    )
    promise(
        _close(driven, batched, tolerance),
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


@dataclasses.dataclass(frozen=True)
class _Promises:
    """Refuses what does not hold, in the name of the class it is of."""

    of: str

    def __call__(self, holds: Any, sentence: str) -> None:
        if not holds:
            raise AssertionError(f"{self.of} {sentence}.")

    def image(self, output: Float[np.ndarray, "..."]) -> None:
        low, high = output.min(), output.max()
        self(output.dtype == np.float32, f"returned {output.dtype}: return float32")
        self(np.isfinite(output).all(), "returned NaN or infinite values for images in [0, 1]")
        self(
            low >= 0 and high <= 1,
            f"returned values in [{low:.9g}, {high:.9g}]: end with jnp.clip(image, 0.0, 1.0)",
        )


def _check_equality(value: Any, promise: _Promises) -> None:
    check_value(value)
    copy = dataclasses.replace(value)
    promise(
        copy == value and hash(copy) == hash(value),
        "is not equal to a copy of itself, or has another hash: decorate it with "
        "@dataclasses.dataclass(frozen=True), and keep what it holds in its fields",
    )
    promise(type(value).__name__ in repr(value), "does not say its name in its repr")


def _check_ball(attack: Attack, images, attacked, promise: _Promises) -> None:
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


def _images(shape: tuple[int, int, int]) -> Images:
    """Returns three random images, two of them with rows of 0 and of 1.

    Raises:
        ValueError: that is no shape of an image.
    """
    given = shape if isinstance(shape, tuple | list) else ()
    if len(given) != 3 or not all(isinstance(n, numbers.Integral) and n > 0 for n in given):
        raise ValueError(
            f"image_shape={shape!r} must be the height, width and channels of an image, such as "
            "(32, 32, 3)."
        )
    images = np.random.default_rng(0).uniform(size=(3, *shape)).astype(np.float32)
    images[0, :2], images[1, :2] = 0.0, 1.0  # corners of the cube belong to the domain
    return jnp.asarray(images)


def _keys(seed: int) -> Array:
    return jax.random.split(jax.random.key(seed), 3)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "").strip()


def _each(program: Callable, *rows: Any) -> np.ndarray:
    return np.stack([program(*row) for row in zip(*rows, strict=True)])


def _close(given: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(given - wanted).max() <= tolerance)
