"""The adversary's view of a defense: expectations over its draws, and chosen backward passes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rainjax._checks import check_image, check_option, is_whole
from rainjax.defenses._base import (
    Defense,
    Enumerable,
    Stratified,
    apply_draw,
    num_outcomes,
    stratifies,
)
from rainjax.typing import Draw, Image, Params, PRNGKey, Stratum

Draws = Literal["independent", "enumerated", "stratified"]


def expectation(
    fn: Callable,
    num_samples: int,
    *,
    chunk_size: int | None = None,
    draws: Draws = "independent",
) -> Callable:
    """Returns `mean_fn(key, *args)`, the mean of `fn(draw, *args)` over `num_samples` draws.

    Differentiate, then average: `expectation(jax.grad(loss), k)` keeps one chunk of
    `chunk_size` draws alive, where `jax.grad(expectation(loss, k))` may keep them all
    (expectation over transformation, Athalye et al., 2018). Draw `i` is a function of the key
    and of `i` alone, so neither the chunk size nor a larger `num_samples` changes it; see `draw`
    for the kinds there are.

    Raises:
        ValueError: `num_samples` is below 1, `chunk_size` does not divide it, or no draws are
            called so.
    """
    chunk_size = check_chunk(num_samples, chunk_size)
    check_option("draws", draws, Draws)

    def mean_fn(key: PRNGKey, *args):
        zeros = zeros_of(fn, draw(key, 0, draws), *args)

        def add_chunk(total, start):
            return add_draws(fn, total, key, start, chunk_size, draws, *args), None

        starts = jnp.arange(0, num_samples, chunk_size)
        on_cpu = jax.default_backend() == "cpu"  # convolutions crawl inside its loops
        total, _ = jax.lax.scan(add_chunk, zeros, starts, unroll=on_cpu)
        return jax.tree.map(lambda t: t / num_samples, total)

    return mean_fn


def check_chunk(num_samples: int, chunk_size: int | None) -> int:
    """Returns the chunk size to use: all of `num_samples` for None.

    Raises:
        ValueError: `num_samples` is below 1, or `chunk_size` does not divide it.
    """
    chunk_size = num_samples if chunk_size is None else chunk_size
    if not is_whole(num_samples) or not is_whole(chunk_size):
        raise ValueError(f"{num_samples=} and {chunk_size=} must be whole numbers.")
    if num_samples < 1:
        raise ValueError(f"{num_samples=} must be at least 1.")
    if chunk_size < 1 or num_samples % chunk_size:
        raise ValueError(f"{chunk_size=} does not divide {num_samples=} into whole chunks.")
    return chunk_size


def draw(key: PRNGKey, number: int | Int[Array, ""], draws: Draws = "independent") -> Draw:
    """Returns draw `number`: a key grown from `key`, the plain number, or its stratum."""
    if draws == "enumerated":
        return jnp.asarray(number)
    if draws == "stratified":
        return Stratum(key, jnp.asarray(number))
    return jax.random.fold_in(key, number)


def zeros_of(fn: Callable, *args):
    """Returns zeros in the place of what `fn(*args)` would return, without running it."""
    found = []

    def leaves(*args):
        values, structure = jax.tree.flatten(fn(*args))
        found.append(structure)
        return values

    shapes = jax.eval_shape(leaves, *args)
    return jax.tree.unflatten(found[0], [jnp.zeros(s.shape, s.dtype) for s in shapes])


def add_draws(fn: Callable, total, key: PRNGKey, start, count: int, draws: Draws, *args):
    """Returns `total` plus the sum of `fn(draw, *args)` over draws `start..start+count-1`."""
    one = lambda number: fn(draw(key, number, draws), *args)
    values = jax.vmap(one)(start + jnp.arange(count))
    return jax.tree.map(lambda t, v: t + v.sum(0), total, values)


@dataclasses.dataclass(frozen=True)
class BPDA(Enumerable, Stratified):
    """Runs `forward`, differentiates `backward`, on one draw (Athalye et al., 2018).

    Parameters are those of `forward`; `backward` must accept them (`Identity` accepts any).
    """

    forward: Defense
    backward: Defense

    def init(self, key: PRNGKey) -> Params:
        """Returns fresh parameters of `forward`."""
        return self.forward.init(key)

    def num_outcomes(self, height: int) -> int | None:
        """Returns the number of `forward`'s outcomes."""
        return num_outcomes(self.forward, height)

    @property
    def is_random(self) -> bool:
        """Whether one of the passes is."""
        return self.forward.is_random or self.backward.is_random

    @property
    def stratifies(self) -> bool:
        """Whether both passes spread stratified draws evenly."""
        return stratifies(self.forward) and stratifies(self.backward)

    def apply(self, params: Params, key: PRNGKey, image: Image) -> Image:
        """Returns `forward`'s image, with `backward`'s gradient."""
        return self._apply(params, key, image)

    def apply_stratum(self, params: Params, stratum: Stratum, image: Image) -> Image:
        """Returns `forward`'s image under one of a set of draws, with `backward`'s gradient."""
        return self._apply(params, stratum, image)

    def apply_outcome(self, params: Params, number: Int[Array, ""], image: Image) -> Image:
        """Returns `forward`'s image under outcome `number`, with `backward`'s gradient."""
        return self._apply(params, number, image)

    def _apply(self, params: Params, draw: Draw, image: Image) -> Image:
        check_image(image, type(self).__name__)
        return _bpda(self.forward, self.backward, params, draw, image)


def with_own_gradient(defense: Defense) -> Defense:
    """Returns the defense with the gradient that it names itself, that of its `smooth()`."""
    soft = defense.smooth()
    return defense if soft == defense else BPDA(defense, soft)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _bpda(forward: Defense, backward: Defense, params, draw, image):
    return apply_draw(forward, params, draw, image)


def _bpda_fwd(forward: Defense, backward: Defense, params, draw, image):
    del backward
    return apply_draw(forward, params, draw, image), (params, draw, image)


def _bpda_bwd(forward: Defense, backward: Defense, saved, cotangent):
    del forward
    params, draw, image = saved  # the backward pass replays this draw on purpose
    _, vjp = jax.vjp(lambda p, x: apply_draw(backward, p, draw, x), params, image)
    params_bar, image_bar = vjp(cotangent)
    return params_bar, None, image_bar


_bpda.defvjp(_bpda_fwd, _bpda_bwd)


def straight_through(
    fn: Callable[[Array], Array], surrogate: Callable[[Array], Array] = lambda x: x
) -> Callable[[Float[Array, "..."]], Float[Array, "..."]]:
    """Returns a function with the values of `fn`, to the bit, and the gradient of `surrogate`.

    By default the gradient is the identity's (Bengio et al., 2013). `fn` and `surrogate` must
    return the same shape.
    """

    def through(x):
        soft = surrogate(x)
        return jax.lax.stop_gradient(fn(x)) + (soft - jax.lax.stop_gradient(soft))

    return through
