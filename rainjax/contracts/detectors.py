"""What every detector promises."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from rainjax._checks import check_kind
from rainjax.contracts._common import (
    Promises,
    check_equality,
    each,
    first_line,
    three_images,
    three_keys,
)
from rainjax.detectors import Detector
from rainjax.typing import Params


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DetectorOutputs:
    """What a detector said of three images, for further checks."""

    params: Params
    images: Float[np.ndarray, "n h w c"]
    scores: Float[np.ndarray, "n"]
    other_keys: Float[np.ndarray, "n"]
    """The scores under other keys."""
    gradient: Float[np.ndarray, "h w c"] | None
    """That of the last image's score, unless it was left out."""

    def __repr__(self) -> str:
        return f"DetectorOutputs of {len(self.images)} images of {self.images.shape[1:]}"


def check_detector(
    detector: Detector,
    *,
    image_shape: tuple[int, int, int] = (16, 16, 3),
    params: Params | None = None,
    tolerance: float = 1e-4,
    differentiable: bool = True,
    num_clean: int = 16,
) -> DetectorOutputs:
    """Checks what every detector promises, on three images, and returns what it computed.

    It is a value, equal to a copy of itself. `fit` returns a tree of the shapes that `init` makes,
    of `num_clean` random images with the labels 0 and 1 in turn: give more where it wants more. A
    score is one finite number, float32. The same key gives the same score, plainly and under `jit`
    and `vmap`, whatever else is in the batch, up to `tolerance`, a share of the score where that
    is above 1. Other keys give another score exactly where `is_random` says so. The gradient is
    finite, since an attacker follows it; `differentiable=False` leaves it out. `params` are what
    the images are scored with, by default what `fit` makes of `init`'s.

    >>> import rainjax
    >>> from rainjax.detectors import Energy
    >>> detector = Energy(rainjax.nets.ResNet(depth=8, norm="group"))
    >>> rainjax.check_detector(detector, image_shape=(8, 8, 3))
    DetectorOutputs of 3 images of (8, 8, 3)

    Args:
        detector: The detector.
        image_shape: `(h, w, c)` of the images it is asked about.
        params: What it scores with; by default what `fit` makes of `init`'s.
        tolerance: How far apart scores may be that should be one, as a share where it is above 1.
        differentiable: Whether its gradient is checked.
        num_clean: How many images it is fit to.

    Raises:
        AssertionError: a promise is broken, or `fit` or `score` fails; says which, and what to do.
        ValueError: `detector` is no value of a detector, or `image_shape` no shape of an image.
    """
    check_kind(detector, Detector, "check_detector(detector=...)")
    promise = Promises(type(detector).__name__)
    check_equality(detector, promise)
    images, keys, others = three_images(image_shape), three_keys(0), three_keys(1)
    shape = (num_clean, *images.shape[1:])
    clean = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
    fitted = _fitted(detector, params, clean, promise)
    params = fitted if params is None else params
    given = promise.traced(detector.score, params, keys[0], images[0])
    promise(
        getattr(given, "shape", None) == () and given.dtype == jnp.float32,
        f"returned {given} for one image: return one number, float32 of shape ()",
    )
    program = jax.jit(detector.score)
    batch = jax.jit(jax.vmap(detector.score, (None, 0, 0)))
    plain = np.asarray(detector.score(params, keys[0], images[0]))
    alone = lambda key, image: program(params, key, image)
    scores, again = (each(alone, keys, images) for _ in range(2))
    other_keys = each(alone, others, images)
    batched = np.asarray(batch(params, keys, images))
    for output in (plain, scores, other_keys, batched):
        promise(
            np.isfinite(output).all(),
            "gives an image in [0, 1] a score that is NaN or infinite: stay in the logarithm of a "
            "probability, and guard a quotient by jnp.where",
        )
    promise(
        _close(scores[:1], plain[None], tolerance),
        "gives another score under jax.jit than without, for the same key: draw with jax.random "
        "from the key alone (np.random is drawn once, when it is compiled)",
    )
    promise(
        _close(batched, scores, tolerance),
        "gives another score under jax.vmap, among others in a batch, than alone: score each "
        "image by itself",
    )
    promise(
        np.array_equal(again, scores),
        "gives another score for the same key at a second call: draw from the key alone",
    )
    varies = not np.array_equal(other_keys, scores)
    promise(
        varies or not detector.is_random,
        "says is_random=True, and gives the same score for other keys: draw with jax.random from "
        "the key that `score` is given, or let is_random return False",
    )
    promise(
        detector.is_random or not varies,
        "says is_random=False, and gives other scores for other keys: let is_random return True",
    )
    gradient = None
    if differentiable:
        of_image = lambda image: detector.score(params, keys[2], image)
        gradient = np.asarray(jax.jit(jax.grad(of_image))(images[2]))
        promise(
            np.isfinite(gradient).all(),
            "has a gradient that is NaN or infinite: look for a root, a logarithm or a quotient "
            "at zero, and guard what goes into it by jnp.where",
        )
    return DetectorOutputs(params, np.asarray(images), scores, other_keys, gradient)


def _fitted(
    detector: Detector,
    params: Params | None,
    clean: Float[np.ndarray, "n h w c"],
    promise: Promises,
) -> Params:
    """Returns what `fit` makes of clean images, once its shapes are known to be `init`'s."""
    try:
        fresh = jax.eval_shape(detector.init, jax.random.key(7))
    except ValueError:  # its network came with its parameters, and makes no fresh ones
        if params is None:
            raise
        fresh = None
    if params is None:
        params = jax.jit(detector.init)(jax.random.key(7))
    try:
        fitted = detector.fit(params, clean, np.arange(len(clean)) % 2)
    except Exception as error:
        raise AssertionError(
            f"{promise.of}.fit failed on {len(clean)} images of shape {clean.shape[1:]} with "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if fresh is not None:
        wanted, given = (_kinds(tree) for tree in (fresh, fitted))
        differs = [name for name in wanted | given if wanted.get(name) != given.get(name)]
        where = differs[0] if differs else ""
        promise(
            not differs,
            f"returned {given.get(where, 'nothing')} from `fit` at params{where}, where `init` "
            f"makes {wanted.get(where, 'nothing')}: let both return one tree of the same shapes",
        )
    return fitted


def _kinds(tree: Any) -> dict[str, str]:
    """Returns the type and shape of every leaf by where it is, and the empty places of a tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path): f"{jnp.result_type(leaf)} of shape {jnp.shape(leaf)}"
        for path, leaf in leaves
    }


def _close(given: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    return bool((np.abs(given - wanted) <= tolerance * np.maximum(1, np.abs(wanted))).all())
