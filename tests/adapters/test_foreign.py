"""Our attacks on classifiers of PyTorch and TensorFlow."""

import copy
import dataclasses
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import adapters
from rainjax.adapters._foreign import Held
from rainjax.attacks import EOT, PGD
from rainjax.defenses import Identity
from rainjax.evaluation import run_attack
from rainjax.evaluation.describe import describe
from rainjax.pipeline import Defended
from tests.adapters import common
from tests.adapters.common import CONV, IMAGES, LABELS, MARKS, RNG, Conv, peer, torch_conv
from tests.tiny import Mask, unchecked

pytestmark = MARKS

ROOT = pathlib.Path(__file__).parents[2]


def _tensorflow_conv(tf):
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            tf.keras.layers.Conv2D(6, 2, strides=2, activation="tanh"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(10, use_bias=False),
        ]
    )
    model.set_weights([CONV["kernel"], CONV["bias"], CONV["head"]])
    return model


@pytest.fixture(scope="module", params=["torch", "tensorflow"])
def foreign(request):
    """The classifier `Conv` in another framework, and a list of the batches it was asked for."""
    framework = peer(request.param)
    made = {"torch": torch_conv, "tensorflow": _tensorflow_conv}[request.param](framework)
    make = {"torch": adapters.from_torch_module, "tensorflow": adapters.from_tensorflow}
    return make[request.param](made, 10)


def test_foreign_logits_and_gradients_are_those_of_jax(foreign):
    images = jnp.asarray(IMAGES[:5])
    weights = jnp.asarray(RNG.normal(size=(5, 10)), jnp.float32)

    def both(network, params):
        run = jax.vmap(lambda x: network.apply(params, x))
        logits, vjp = jax.vjp(run, images)
        return logits, vjp(weights)[0], jax.vmap(vjp)(jnp.stack([weights, 2 * weights]))[0]

    for found, expected in zip(both(foreign, ()), both(Conv(), CONV), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for found, expected in zip(
        jax.jit(lambda: both(foreign, ()))(), both(Conv(), CONV), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        foreign.apply((), images[0]), Conv().apply(CONV, images[0]), atol=1e-5
    )
    assert foreign.init(jax.random.key(0)) == ()
    assert hash(foreign) == hash(dataclasses.replace(foreign))
    assert foreign == dataclasses.replace(foreign)


@pytest.mark.parametrize("eot", [EOT(), EOT(4, chunk_size=2)])
def test_our_attack_finds_the_same_image_through_a_foreign_classifier(foreign, eot):
    attack = PGD(radius=0.1, step_size=0.03, num_steps=4, eot=eot)
    keys, labels = jax.random.split(jax.random.key(1), 6), jnp.asarray(LABELS[:6])
    defense = Mask() if eot.num_samples > 1 else Identity()
    run = lambda network, params: run_attack(
        Defended(defense, network), attack, {"defense": (), "classifier": params},
        keys, jnp.asarray(IMAGES[:6]), labels,
    )  # fmt: skip
    found, expected = run(foreign, ()), run(Conv(), jax.tree.map(jnp.asarray, CONV))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - IMAGES[:6]).max() > 0.09


def test_a_batch_is_one_call_of_the_foreign_classifier(torch):
    sizes = []
    model = torch_conv(torch)
    model.register_forward_hook(lambda module, inputs, out: sizes.append(len(inputs[0])))
    network = adapters.from_torch_module(model, 10)
    loss = lambda image: network.apply((), image).sum()
    every = jax.jit(jax.vmap(jax.vmap(jax.grad(loss))))
    every(jnp.asarray(IMAGES).reshape(3, 4, 8, 8, 3)).block_until_ready()
    # The loss itself was not asked for; single images are tried before.
    assert [size for size in sizes if size > 1] == [12]


def test_a_record_names_a_foreign_classifier_by_its_content(foreign, monkeypatch):
    again = {"torch": torch_conv, "tensorflow": _tensorflow_conv}
    kind = "torch" if hasattr(foreign.model, "state_dict") else "tensorflow"
    twin = dataclasses.replace(foreign, held=Held(again[kind](peer(kind))))
    assert twin != foreign  # another object, which may change by itself
    assert describe(twin) == describe(foreign)
    assert twin.content_digest() == foreign.content_digest()
    other = {name: values.copy() for name, values in CONV.items()}
    other["bias"][-1] += 1e-6
    for module in (common.__name__, __name__):  # where both networks are made
        monkeypatch.setattr(sys.modules[module], "CONV", other)
    moved = dataclasses.replace(foreign, held=Held(again[kind](peer(kind))))
    assert moved.content_digest() != foreign.content_digest()
    assert describe(moved) != describe(foreign)


def test_every_part_of_a_torch_module_decides_its_digest(torch):
    class Scaled(torch.nn.Module):
        """Holds a number, a tensor and a function that PyTorch does not list."""

        def __init__(self, scale=2.0, shift=0.0, act=torch.relu):
            super().__init__()
            self.scale, self.shift, self.act = scale, torch.full((1,), shift), act
            self.register_buffer("mean", torch.zeros((), dtype=torch.bfloat16), persistent=False)

        def forward(self, images):
            return self.act(images.mean((2, 3)) * self.scale + self.shift - self.mean)

    def other_mean():
        module = Scaled()
        module.mean += 1
        return module

    pooled = lambda *parts: torch.nn.Sequential(torch.nn.AvgPool2d(2), *parts)
    modules = [
        Scaled(), Scaled(scale=3.0), Scaled(shift=1.0), Scaled(act=torch.tanh), other_mean(),
        pooled(torch.nn.ReLU()), pooled(torch.nn.Tanh()), pooled(torch.nn.LeakyReLU(0.1)),
        pooled(torch.nn.LeakyReLU(0.2)), torch.nn.Sequential(torch.nn.MaxPool2d(2)),
        torch.jit.trace(Scaled().eval(), torch.ones(1, 3, 4, 4)),
        torch.jit.trace(Scaled(scale=3.0).eval(), torch.ones(1, 3, 4, 4)),
        torch.jit.script(pooled(torch.nn.ReLU())), torch.jit.script(pooled(torch.nn.Tanh())),
        torch.fx.symbolic_trace(Scaled()), torch.fx.symbolic_trace(Scaled(scale=3.0)),
    ]  # fmt: skip
    digests = [adapters.from_torch_module(module.eval(), 3).content_digest() for module in modules]
    assert len(set(digests)) == len(modules)
    assert adapters.from_torch_module(Scaled().eval(), 3).content_digest() == digests[0]


def test_every_part_of_a_tensorflow_model_decides_its_digest():
    tf = peer("tensorflow")

    class Scaled(tf.Module):
        """Holds a number and a variable."""

        def __init__(self, scale=2.0, start=0.0):
            super().__init__()
            self.scale, self.shift = scale, tf.Variable(start)

        def __call__(self, images):
            return tf.reduce_mean(images, (1, 2)) * self.scale + self.shift

    def pooled(layer):
        inputs = tf.keras.Input((4, 4, 3))
        outputs = tf.keras.layers.GlobalAveragePooling2D()(layer(inputs))
        return tf.keras.Model(inputs, outputs)

    def function(scale):
        return lambda images: tf.reduce_mean(images, (1, 2)) * scale

    models = [
        Scaled(), Scaled(scale=3.0), Scaled(start=1.0), function(2.0), function(3.0),
        pooled(tf.keras.layers.ReLU()), pooled(tf.keras.layers.LeakyReLU(0.1)),
        pooled(tf.keras.layers.LeakyReLU(0.2)),
    ]  # fmt: skip
    digests = [adapters.from_tensorflow(model, 3).content_digest() for model in models]
    assert len(set(digests)) == len(models)
    assert adapters.from_tensorflow(Scaled(), 3).content_digest() == digests[0]


DIGEST = """
import torch
from rainjax.adapters import from_torch_module
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4), torch.nn.GELU())
print(from_torch_module(model.eval(), 3).content_digest())
"""


def test_the_digest_is_the_same_in_any_process(torch):
    command = [sys.executable, "-c", DIGEST]
    said = [
        subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for _ in range(2)
    ]
    assert len(said[0].strip()) == 24
    assert said[0] == said[1]


ONE_CORE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
import jax, jax.numpy as jnp, torch
from rainjax.adapters import from_torch_module
model = torch.nn.Sequential(torch.nn.AvgPool2d(64), torch.nn.Flatten()).eval()
network = from_torch_module(model, 3)
run = jax.jit(jax.vmap(lambda x: network.apply((), x)))
images = jnp.full((16, 64, 64, 3), 0.5)
for i in range(4):
    total = sum(run(images + 0.01 * i).sum() for _ in range(2))
print(float(total))
"""


def test_large_batches_do_not_hang_on_one_core(torch):
    """With jax.pure_callback it would: see `_call`."""
    command = [sys.executable, "-c", ONE_CORE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert float(done.stdout) == pytest.approx(2 * 16 * 3 * 0.53, rel=1e-4), done.stderr


def test_from_torch_module_is_told_what_is_wrong(torch):
    model = torch_conv(torch)
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not function"):
        adapters.from_torch_module(lambda x: x, 10)
    with pytest.raises(ValueError, match="num_classes=1 must be at least 2"):
        adapters.from_torch_module(model, 1)
    model[1].train()
    with pytest.raises(ValueError, match=r"^1 is in training mode.*call module.eval"):
        adapters.from_torch_module(model, 10)
    network = adapters.from_torch_module(model.eval(), 10)
    image = jnp.asarray(IMAGES[0])
    with pytest.raises(ValueError, match="takes one image `h w c`"), unchecked():
        network.apply((), jnp.asarray(IMAGES[:2]))
    with pytest.raises(ValueError, match=r"its params are \(\)"):
        network.apply({"kernel": image}, image)
    assert not hasattr(network, "build")  # it has no Flax module


def part(torch, function):
    """A module that calls a function."""

    class Function(torch.nn.Module):
        def forward(self, inputs):
            return function(inputs)

    return Function()


def test_a_torch_module_is_tried_when_it_is_wrapped(torch):
    class Output(dict):
        """As Hugging Face's models return."""

        logits = None

    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5))
    pooled = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 1))
    grid = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8))
    grid.append(torch.nn.Unflatten(1, (2, 4)))
    tupled = torch.nn.Sequential(linear, part(torch, lambda logits: (logits,)))
    named = torch.nn.Sequential(linear, part(torch, lambda logits: Output(logits=logits)))
    for model, count, sentence in [
        (tupled, 5, "returns a tuple, .* returns outputs[0]."),
        (named, 5, "returns a Output, .* returns outputs.logits."),
        (linear, 10, "shape (1, 5), not (1, 10): give num_classes=5."),
        (pooled, 10, "shape (1, 4), not (1, 10): give num_classes=4."),
        (flat, 2, "of a single output p make the two logits 0 and p."),
        (grid, 8, "shape (1, 2, 4), not (1, 8): return one row of logits for each image."),
        (copy.deepcopy(linear).half(), 5, "takes images in torch.float16 alone: .*float()"),
        (copy.deepcopy(pooled).to(torch.bfloat16), 4, "in torch.bfloat16 alone: .*float()"),
        (
            torch.nn.Sequential(linear, part(torch, lambda logits: logits.half())),
            5,
            "returns logits in float16, where small gradients vanish",
        ),
        (torch.nn.LazyLinear(5), 5, "weight has no numbers yet: call the module on one"),
    ]:
        pattern = ".*".join(map(re.escape, sentence.split(".*")))
        with pytest.raises(ValueError, match=pattern) as refused:
            adapters.from_torch_module(model.eval(), count)
        assert len(str(refused.value)) < 250


def test_a_foreign_model_is_tried_at_the_size_of_the_images(torch):
    """Which is said when the program is traced, before anything runs."""
    of_size = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten())  # 3 (h/4)(w/4) logits
    network = adapters.from_torch_module(of_size.eval(), 12)
    image = jnp.asarray(IMAGES[0])
    assert network.apply((), image).shape == (12,)
    assert jax.eval_shape(network.apply, (), image).shape == (12,)
    with pytest.raises(ValueError, match=r"shape \(1, 3\), not \(1, 12\): give num_classes=3"):
        jax.eval_shape(network.apply, (), image[:4, :4])
    conv = adapters.from_torch_module(torch_conv(torch), 10)
    with pytest.raises(ValueError, match=r"cannot take a float32 image of 8 x 8 x 1: .*channels"):
        jax.jit(conv.apply)((), image[..., :1])
    blocked = torch.nn.Sequential(torch_conv(torch), part(torch, lambda logits: logits.detach()))
    network = adapters.from_torch_module(blocked.eval(), 10)
    assert network.apply((), image).shape == (10,)
    with pytest.raises(ValueError, match="cannot be differentiated at a float32 image of 8 x 8"):
        jax.grad(lambda image: network.apply((), image).sum())(image)
    double = torch.nn.Sequential(torch_conv(torch), part(torch, lambda logits: logits.double()))
    network = adapters.from_torch_module(double.eval(), 10)
    slope, expected = (
        jax.grad(lambda image, network=network: network.apply((), image).sum())(image)
        for network in (network, conv)
    )
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_a_tensorflow_model_is_tried_when_it_is_wrapped():
    tf = peer("tensorflow")
    mean = lambda images: tf.reduce_mean(images, (1, 2))
    for model, count, sentence in [
        (_tensorflow_conv(tf), 9, r"not \(1, 9\): give num_classes=10"),
        (lambda images: (mean(images),), 3, r"returns a tuple, .* outputs\[0\]"),
        (lambda images: tf.cast(mean(images), tf.float16), 3, "returns logits in float16"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            adapters.from_tensorflow(model, count)
    rounded = adapters.from_tensorflow(lambda images: tf.stop_gradient(mean(images)), 3)
    with pytest.raises(ValueError, match="has no gradient"):
        jax.grad(lambda image: rounded.apply((), image).sum())(jnp.asarray(IMAGES[0]))
