"""Small classifiers that are asked for scores, and what attacks asked them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.uniform(0.3, 0.7, size=(4, 5, 3)), jnp.float32)
WEIGHTS = RNG.normal(size=IMAGE.shape)
HIDDEN = RNG.normal(size=(IMAGE.size, 6)) / 2
OUT = RNG.normal(size=(6, 3))
KEY = jax.random.key(4)


def linear(key, image):
    """Two logits whose margin is linear, and far below zero."""
    return jnp.stack([jnp.full((), 100.0), jnp.sum(WEIGHTS.astype(np.float32) * image)])


def curved(key, image):
    """Three logits of a layer of hyperbolic tangents, of which the last is the highest."""
    hidden = jnp.tanh((image - 0.5).ravel() @ HIDDEN.astype(np.float32))
    return hidden @ OUT.astype(np.float32) + jnp.array([0.0, 0.0, 9.0])


def curved_logits(image):
    """What `curved` returns, by NumPy in double precision."""
    return np.tanh((np.asarray(image, float) - 0.5).ravel() @ HIDDEN) @ OUT + [0.0, 0.0, 9.0]


def curved_margin(image, label=2):
    """The margin of `curved`, by NumPy in double precision."""
    logits = curved_logits(image)
    return np.delete(logits, label).max() - logits[label]


@functools.partial(jax.jit, static_argnums=(0, 1))
def history(attack, logits_fn, key=KEY, image=IMAGE, label=0, noise=0.0):
    """Returns the attacked image, the state before every call, and what was asked.

    `noise` is the deviation of what each draw adds to the logits.
    """
    init_key, loop_key = jax.random.split(key)

    def drawn(key, image):
        logits = logits_fn(key, image)
        return logits + noise * jax.random.normal(key, logits.shape)

    def call(run, t):
        asked = attack.ask(run.state)[0]
        return attack.step(loop_key, t, drawn, run), (run, asked)

    run = attack.start(init_key, image, jnp.asarray(label))
    run, (runs, asked) = jax.lax.scan(call, run, jnp.arange(attack.num_calls))
    return attack.finish(run), runs, asked
