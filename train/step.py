"""One step of training as a pure jitted function, on any number of devices."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from rainjax.devices import replicated
from rainjax.typing import Params, PRNGKey
from train.compute import placement

Example = Mapping[str, Any]
Metrics = dict[str, Any]
# A loss may take means over the examples that it is computed with, under this name of an axis.
EXAMPLES = "examples"
# Among the metrics of a loss: parts of the parameters that follow the data, not the gradient. The
# step puts them in the places of those they have the names of; all examples must agree on them.
FOLLOWS = "follows"
# (params, frozen, key, example) -> (loss, metrics), for one example.
LossFn = Callable[[Params, Params, PRNGKey, Example], tuple[Float[Array, ""], Metrics]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes; `average` is `()` where no average is kept."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState
    average: Params = ()

    @property
    def learned(self) -> Params:
        """The parameters to validate and to keep."""
        return self.average if jax.tree.leaves(self.average) else self.params


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    average: float | None = None,
) -> TrainState:
    """Returns the state before the first step, on the devices where the steps want it."""
    copy = lambda tree: jax.tree.map(lambda p: jnp.array(p, copy=True), tree)  # steps consume it
    state = TrainState(
        jnp.zeros((), jnp.int32),
        copy(params),
        optimizer.init(params),
        copy(params) if average is not None else (),
    )
    return jax.device_put(state, placement(state, mesh))


def make_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    frozen: Params = (),
    *,
    accumulate: int = 1,
    average: float | None = None,
) -> functools.partial[tuple[TrainState, Metrics]]:
    """Returns the jitted `(state, key, batch) -> (state, metrics)`; it consumes `state`.

    `frozen` is an argument of the loss and no output of the step: nothing can change it.
    `accumulate` takes the batch in so many parts. `average` is the decay of the moving average
    of the parameters; at first it is less, (1 + step) / (10 + step), so that the average soon
    forgets where training began.
    """

    def gradient_of(params, frozen, key, batch, step):
        # The key tree: purpose (`key`) -> example index -> step.
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i), step))(
            batch["index"]
        )

        def mean_loss(params):
            def one(key, example):
                value, metrics = loss(params, frozen, key, example)
                follows = metrics.get(FOLLOWS, {})
                told = {name: v for name, v in metrics.items() if name != FOLLOWS}
                return value, told, follows

            losses, metrics, follows = jax.vmap(one, axis_name=EXAMPLES, out_axes=(0, 0, None))(
                keys, batch
            )
            means = {"loss": losses.mean(), **jax.tree.map(jnp.mean, metrics)}
            return losses.mean(), {**means, FOLLOWS: follows}

        gradient, metrics = jax.grad(mean_loss, has_aux=True)(params)
        return gradient, metrics

    def step(frozen, state, key, batch):
        part = lambda batch: gradient_of(state.params, frozen, key, batch, state.step)
        gradient, metrics = _mean_over_parts(part, batch, accumulate)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params = _with(params, metrics.pop(FOLLOWS))
        averaged = state.average
        if average is not None:
            decay = jnp.minimum(average, (1 + state.step) / (10 + state.step))
            averaged = optax.incremental_update(params, averaged, 1 - decay)
        metrics = {**metrics, "gradient_norm": optax.tree.norm(gradient)}
        return TrainState(state.step + 1, params, opt_state, averaged), metrics

    everywhere = replicated(mesh)
    frozen = jax.device_put(frozen, jax.tree.map(lambda _: everywhere, frozen))

    def place(frozen, state, key, batch):
        # Where a state lies follows from the shapes in it, which are known when this is traced.
        state, metrics = step(frozen, state, key, batch)
        return jax.lax.with_sharding_constraint(state, placement(state, mesh)), metrics

    return functools.partial(jax.jit(place, donate_argnums=1), frozen)


def _with(params: Any, follows: dict[str, Any]) -> Any:
    """Returns the parameters with some parts, by name, replaced; there may be none."""
    return {**params, **follows} if follows else params


def _mean_over_parts(fn, batch, num_parts):
    """Returns the mean of `fn` over `num_parts` equal parts of a batch, one after the other."""
    if num_parts == 1:
        return fn(batch)
    # Every `num_parts`-th example: each device then finds its share of a part on itself.
    split = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0), batch
    )
    first = jax.tree.map(lambda x: x[0], split)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(fn, first))

    def add(total, part):
        return jax.tree.map(jnp.add, total, fn(part)), None

    on_cpu = jax.default_backend() == "cpu"  # convolutions crawl inside its loops
    total, _ = jax.lax.scan(add, zeros, split, unroll=num_parts if on_cpu else 1)
    return jax.tree.map(lambda t: t / num_parts, total)
