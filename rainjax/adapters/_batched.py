"""A defended pipeline as other frameworks call one: by the batch, and with no key to give."""

import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rainjax.keys import Purpose, purpose_key
from rainjax.pipeline import Pipeline
from rainjax.typing import Params

# What an attack's own arithmetic may add to a border of [0, 1].
_ROUNDING = 1e-5


class Batched:
    """Logits of whole batches `n h w c`, every call with draws of its own for every image.

    The one place where a key is kept: row `r` of call `c` has a key that is a function of
    `(seed, c, r)`. With `fresh=False` every call has the draws of the next one, over and over.

    A batch of which a larger one of up to twice its size was compiled before is padded to it,
    because attacks that drop the images they are done with would compile at every size.
    """

    def __init__(self, defended: Pipeline, params: Params, *, seed: int, fresh: bool):
        if defended.rejection == "safe":
            raise ValueError(
                f"{type(defended).__name__}(rejected='safe') asks an attacker for a wrong "
                "answer that passes, and other people's attacks know no rejections: they would "
                "stop at one. Give it rejected='error', where a rejection is a class of its own, "
                "or attack it with rainjax's."
            )
        self.defended = defended
        self.device = _device(params)
        self.params = jax.device_put(params, self.device)
        self.fresh = fresh
        self.reseed(seed)
        self._sizes: dict[tuple[int, ...], set[int]] = {}

    def reseed(self, seed: int) -> None:
        """Starts again at the first draws of `seed`.

        Raises:
            ValueError: `seed` is not in 0..2**32-1.
        """
        self._root, self._draws = purpose_key(seed, Purpose.ATTACK), (seed, 0)

    def __deepcopy__(self, memo: Any) -> "Batched":
        """Returns one that draws on from here by itself, of the same pipeline and parameters."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _sizes={k: set(v) for k, v in self._sizes.items()})
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Returns what pickle keeps: neither the device nor the key, which another process lacks.

        Raises:
            pickle.PicklingError: the pipeline cannot be pickled; says why, and what to do.
        """
        try:
            pipeline = pickle.dumps(self.defended)
        except Exception as error:  # each part has an error of its own
            raise pickle.PicklingError(
                f"This pipeline cannot be pickled ({error}): make it, and this model of it, where "
                "it is needed."
            ) from error
        params = jax.tree.map(np.asarray, self.params)
        return {"pipeline": pipeline, "params": params, "draws": self._draws, "fresh": self.fresh}

    def __setstate__(self, state: dict[str, Any]) -> None:
        seed, num_calls = state["draws"]
        pipeline, params = (
            pickle.loads(state["pipeline"]),
            jax.tree.map(jnp.asarray, state["params"]),
        )
        self.__init__(pipeline, params, seed=seed, fresh=state["fresh"])
        self._draws = seed, num_calls

    def num_classes(self, shape: tuple[int, ...]) -> int:
        """Returns the number of classes that images of `h w c` are told apart into.

        Raises:
            ValueError: the pipeline cannot take such images; says why.
        """
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        try:
            return jax.eval_shape(self.defended.logits, self.params, self._root, image).shape[0]
        except (TypeError, ValueError) as error:
            h, w, c = shape
            raise ValueError(
                f"The pipeline takes no images of height {h}, width {w} and {c} channels: {error}"
            ) from error

    def logits(self, images: Array) -> Array:
        """Returns logits `n classes`, differentiable by `jax.grad`.

        Raises:
            ValueError: the images are not a batch of float32 in [0, 1] that the pipeline can
                take, or are traced by `jit` or `vmap`, which would freeze the draw.
            FloatingPointError: the logits of an image are NaN.
        """
        padded = self._padded(images)
        logits = _logits(self.defended, self.params, self._next_key(), padded)[: len(images)]
        _check_values(images, logits)
        return logits

    def logits_and_pullback(self, images: Array) -> tuple[Array, Callable[[Array], Array]]:
        """Returns logits, and what turns a cotangent of theirs into one of the images.

        The pull-back is that of the very draw which made the logits.

        Raises:
            ValueError: as `logits`.
            FloatingPointError: as `logits`; the pull-back raises it for gradients.
        """
        padded = self._padded(images)
        logits, vjp = _logits_and_vjp(self.defended, self.params, self._next_key(), padded)
        logits = logits[: len(images)]
        _check_values(images, logits)

        def pullback(cotangents: Array) -> Array:
            gradients = _pull(vjp, _pad(cotangents, len(padded)))[: len(images)]
            _check_no_nan(gradients, "gradient")
            return gradients

        return logits, pullback

    def _next_key(self) -> Array:
        seed, num_calls = self._draws
        self._draws = seed, num_calls + self.fresh
        return jax.random.fold_in(self._root, num_calls)

    def _padded(self, images: Array) -> Array:
        if images.ndim != 4 or images.dtype != jnp.float32:
            raise ValueError(
                f"The pipeline takes a batch `n h w c` of float32 in [0, 1], got {images.dtype} "
                f"of shape {images.shape}."
            )
        shape, count = images.shape[1:], len(images)
        if shape not in self._sizes:
            self.num_classes(shape)
        sizes = self._sizes.setdefault(shape, set())
        size = min((s for s in sizes if count <= s <= 2 * count), default=count)
        sizes.add(size)
        return _pad(images, size)


def _device(params: Params) -> Any:
    """Returns the device to work on: one of those that the parameters are on."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array):
            return min(leaf.devices(), key=lambda device: device.id)
    return jax.local_devices()[0]


def _pad(rows: Array, size: int) -> Array:
    if len(rows) == size:
        return rows
    return jnp.pad(rows, [(0, size - len(rows))] + [(0, 0)] * (rows.ndim - 1))


@functools.partial(jax.jit, static_argnums=0)
def _logits(defended: Pipeline, params, key, images):
    row_key = functools.partial(jax.random.fold_in, key)
    one = lambda row, image: defended.logits(params, row_key(row), image)
    return jax.vmap(one)(jnp.arange(len(images)), images)


@functools.partial(jax.jit, static_argnums=0)
def _logits_and_vjp(defended: Pipeline, params, key, images):
    return jax.vjp(lambda images: _logits(defended, params, key, images), images)


@jax.jit
def _pull(vjp, cotangents):
    (gradients,) = vjp(cotangents)
    return gradients


def _check_values(images: Array, logits: Array) -> None:
    try:
        inside = bool(_all_inside(images))
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            "This model draws anew at every call, and jit or vmap would freeze the draw: call it "
            "outside of them, where it is compiled and takes batches as it is."
        ) from error
    if not inside:
        values = np.asarray(jax.lax.stop_gradient(images))
        raise ValueError(
            f"Images must lie in [0, 1], these in [{values.min():.7g}, {values.max():.7g}]: clip "
            "what the attack tries."
        )
    _check_no_nan(logits, "logits")


@jax.jit
def _all_inside(images):
    images = jax.lax.stop_gradient(images)
    return jnp.all((images >= -_ROUNDING) & (images <= 1 + _ROUNDING))  # NaN compares false


def _check_no_nan(rows: Array, what: str) -> None:
    """Refuses NaN, which other frameworks' `sign` and `argmax` would make look robust."""
    if bool(_any_nan(rows)):
        broken = np.isnan(np.asarray(jax.lax.stop_gradient(rows)).reshape(len(rows), -1)).any(1)
        raise FloatingPointError(
            f"NaN in the pipeline's {what} for {broken.sum()} of {len(rows)} images, the first "
            f"being number {np.argmax(broken)}."
        )


@jax.jit
def _any_nan(rows):
    return jnp.isnan(jax.lax.stop_gradient(rows)).any()
