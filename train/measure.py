"""Validation: what a network does on examples that it does not learn from."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from rainjax.devices import (
    batch_sharding,
    data_mesh,
    full_batches,
    replicated,
    wait_for_all,
)
from rainjax.keys import Purpose, purpose_key
from rainjax.typing import Params, PRNGKey
from train.step import Example, Metrics


def mean_over(
    fn: Callable[[Params, PRNGKey, Example], Metrics],
    examples: dict[str, np.ndarray],
    *,
    seed: int,
    batch_size: int,
) -> Callable[[Params], Metrics]:
    """Returns `params -> metrics`: the mean over all `examples` of `fn` of one example.

    See `values_over`, which it averages.
    """
    values_of = values_over(fn, examples, seed=seed, batch_size=batch_size)
    return lambda params: {name: float(v.mean()) for name, v in values_of(params).items()}


def values_over(
    fn: Callable[[Params, PRNGKey, Example], Metrics],
    examples: dict[str, np.ndarray],
    *,
    seed: int,
    batch_size: int,
) -> Callable[[Params], dict[str, np.ndarray]]:
    """Returns `params -> values`: those of `fn`, by name, for all `examples` in their order.

    Each process measures a share of them. The keys depend on the seed and on each example's
    `index` alone: every epoch is measured with the same draws.
    """
    num_examples = len(examples["index"])
    batch_size = min(batch_size, num_examples)
    mesh = data_mesh(batch_size=batch_size)
    rank, count = jax.process_index(), jax.process_count()
    # The same number in every process, the last ones perhaps twice.
    mine = np.minimum(np.arange(rank, num_examples + rank, count), num_examples - 1)
    root = purpose_key(seed, Purpose.SCORE)

    @jax.jit
    def one_batch(params, root, batch):
        keys = jax.vmap(lambda index: jax.random.fold_in(root, index))(batch["index"])
        return jax.vmap(lambda k, x: fn(params, k, x))(keys, batch)

    def evaluate(params):
        params = jax.device_put(params, replicated(mesh))
        parts = []
        for rows, filled in full_batches(mine, batch_size):  # there is one shape to compile
            batch = {name: values[filled] for name, values in examples.items()}
            part = one_batch(params, root, jax.device_put(batch, batch_sharding(mesh)))
            parts.append({name: np.asarray(m)[: len(rows)] for name, m in part.items()})
        values = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        if count > 1:  # process p has the values of examples p, p + count, ...
            wait_for_all("validation")  # as long as it takes, which a collective does not wait
            values = multihost_utils.process_allgather(values)
            values = {name: v.T.reshape(-1)[:num_examples] for name, v in values.items()}
        return values

    return evaluate
