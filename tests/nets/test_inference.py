"""A Flax module infers: what trains, draws or writes when it is called is refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rainjax import nets
from rainjax.nets import FlaxNetwork
from tests.tiny import unchecked

IMAGES = np.random.default_rng(0).uniform(size=(3, 6, 6, 3)).astype(np.float32)


class CallTime(nnx.Module):
    """Trains or not by an argument of the call, which goes before what `eval()` sets."""

    def __init__(self, rngs, kind="norm", inner="plain"):
        layer = {
            "norm": lambda: nnx.BatchNorm(3, rngs=rngs),
            "dropout": lambda: nnx.Dropout(0.5, rngs=rngs),
            "attention": lambda: nnx.MultiHeadAttention(1, 3, dropout_rate=0.1, rngs=rngs),
        }[kind]
        self.kind, self.inner, self.part = kind, inner, layer()

    def __call__(self, images, train=True):
        call = {"plain": lambda fn: fn, "jit": nnx.jit, "remat": nnx.remat}[self.inner]
        return call(lambda part, x: self._with(part, x, train))(self.part, images).sum((1, 2))

    def _with(self, part, x, train):
        if self.kind == "norm":
            return part(x, use_running_average=not train)
        if self.kind == "dropout":
            return part(x, deterministic=not train)
        return part(x, deterministic=not train, decode=False)


class Trains(CallTime):
    """As its base, called to train."""


class Infers(CallTime):
    """As its base, called to infer."""

    def __call__(self, images, train=False):
        return super().__call__(images, train)


@dataclasses.dataclass(frozen=True)
class Built(FlaxNetwork):
    """One of the two, as an architecture."""

    module: type
    kind: str
    inner: str

    def build(self, rngs):
        module = self.module(rngs, self.kind, self.inner)
        module.eval()
        return module


def as_network(how, module, kind, inner):
    """Returns a module behind `from_flax`, or as an architecture, with its parameters."""
    network = Built(module, kind, inner)
    if how == "built":
        return network, network.init(jax.random.key(0))
    model = nets.from_flax(network.build(nnx.Rngs(0)))
    return model.network, model.params


@pytest.mark.parametrize("how", ["from_flax", "built"])
@pytest.mark.parametrize("inner", ["plain", "jit", "remat"])
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("norm", r"^part.mean of \w+ moves .*as in training.* train be False by default"),
        ("dropout", r"^part.rngs.count of \w+ is drawn from .*as dropout.* train be False"),
        ("attention", r"^part.rngs.count of \w+ is drawn from .*as dropout.* train be False"),
    ],
)
def test_what_trains_when_it_is_called_is_refused(how, inner, kind, sentence):
    image = jnp.asarray(IMAGES[0])
    network, params = as_network(how, Trains, kind, inner)
    for apply in (network.apply, jax.jit(network.apply), jax.grad(network.apply)):
        with pytest.raises(ValueError, match=sentence):
            apply(params, image)
    network, params = as_network(how, Infers, kind, inner)
    plain = Built(Infers, kind, inner).build(nnx.Rngs(0))
    if how == "from_flax":
        expected = plain(image[None])[0]
        np.testing.assert_allclose(jax.jit(network.apply)(params, image), expected, rtol=1e-5)
    # Nothing is drawn in inference, so random state is no parameter: no optimizer can take it.
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    jax.grad(lambda params: jax.jit(network.apply)(params, image).sum())(params)


def test_batch_norm_of_an_architecture_may_move_in_training():
    network = Built(Infers, "norm", "plain")
    params = network.init(jax.random.key(0))
    train = lambda image: network.apply_in_training(params, image, axis_name="batch")
    # An argument of the call that says what to do is not overruled: the statistics stay.
    _, moved = jax.vmap(train, axis_name="batch")(jnp.asarray(IMAGES))
    np.testing.assert_array_equal(moved["part"]["mean"][0], params["part"]["mean"])
    network = Built(Infers, "dropout", "plain")
    with pytest.raises(ValueError, match="has no batch norm"):
        network.apply_in_training({}, jnp.asarray(IMAGES[0]), axis_name="batch")


class Other(nnx.Module):
    """Counts its calls, or draws, or does neither."""

    def __init__(self, rngs, what):
        self.rngs, self.what, self.calls = rngs.fork(), what, nnx.Variable(jnp.zeros(()))
        self.offset = np.ones(3, np.float32)

    def __call__(self, images):
        if self.what == "counts":
            self.calls[...] += 1
        if self.what == "draws":
            images = images + jax.random.normal(self.rngs.noise(), images.shape)
        return (images + self.offset[None, None, None]).sum((1, 2))


class Needs(nnx.Module):
    """Cannot be called with images alone."""

    def __call__(self, images, train):
        return images


class Silent(nnx.Module):
    """Cannot be called at all."""


def test_what_a_call_writes_to_is_refused():
    image = jnp.asarray(IMAGES[0])
    for what, sentence in (
        ("counts", r"^calls of Other changes when it is called.*write to no variable"),
        ("draws", r"^rngs\..* of Other is drawn from when it is called"),
    ):
        model = nets.from_flax(Other(nnx.Rngs(0, noise=1), what))
        with pytest.raises(ValueError, match=sentence):
            model.network.apply(model.params, image)
    # Random state that nothing draws from harms nobody, and is no parameter.
    model = nets.from_flax(Other(nnx.Rngs(0, noise=1), "nothing"))
    assert set(model.params) == {"calls", "offset"}
    expected = (IMAGES[0] + 1).sum((0, 1))
    np.testing.assert_allclose(model.network.apply(model.params, image), expected, rtol=1e-5)


def test_what_cannot_be_called_with_images_alone_is_refused():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            return nn.Dense(3)(images.reshape(len(images), -1))

    for make, sentence in (
        (
            lambda: nets.from_flax(Needs()),
            r"^Needs.__call__ must take a call module\(images\).*'t",
        ),
        (lambda: nets.from_flax(Silent()), r"^Silent has no __call__"),
        (
            lambda: nets.from_linen(Linear(), {"params": {}}),
            r"^Linear.__call__ must take a call module\(images\).*'train'",
        ),
        (lambda: nets.from_function(lambda image: image), r"must take a call fn\(params, image\)"),
        (
            lambda: nets.from_function(lambda p, x, train: x, batched=True),
            r"must take a call fn\(params, images\).*'train'",
        ),
        (lambda: nets.from_function(lambda p, x: x, {"w": "hello"}), "must be a tree of arrays"),
    ):
        with unchecked(), pytest.raises(ValueError, match=sentence):
            make()
