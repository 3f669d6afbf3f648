"""Other frameworks' attacks on our pipelines, and their classifiers in ours, against JAX's own."""

import dataclasses
import importlib
import pathlib
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import adapters
from rainjax.adapters._batched import Batched
from rainjax.attacks import EOT, PGD
from rainjax.defenses import RAIN, Defense, Identity
from rainjax.evaluation import run_attack, score
from rainjax.keys import Purpose, purpose_key
from rainjax.nets._network import Network
from rainjax.pipeline import Defended
from tests.tiny import (
    EDSR_TINY,
    RESNET_TINY,
    Linear,
    Mask,
    edsr_params,
    resnet_params,
    unchecked,
)

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    # What other people's code warns of is theirs to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

ROOT = pathlib.Path(__file__).parents[1]
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.1, 0.9, size=(12, 8, 8, 3)).astype(np.float32)
LABELS = np.arange(12) % 10
SIZE = IMAGES[0].size


def _peer(name, module=None):
    """Returns another framework, or skips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says on import
        try:
            return importlib.import_module(module or name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    how = 'pip install -e ".[tensorflow]"' if name == "tensorflow" else "make test-peers"
    pytest.skip(f"needs {name}: {how}")


@pytest.fixture(scope="module")
def torch():
    return _peer("torch")


@pytest.fixture(scope="module")
def network():
    """An undefended ResNet that knows its twelve images, and RAIN before the same one."""
    params = resnet_params(IMAGES, LABELS)
    plain = Defended(Identity(), RESNET_TINY), {"defense": (), "classifier": params}
    rain = Defended(RAIN(EDSR_TINY, shift_fraction=0.25), RESNET_TINY)
    return plain, (rain, {"defense": edsr_params(), "classifier": params})


def masked(num_draws=1):
    """A pipeline whose logits are the pixels that its draw keeps, and its parameters."""
    return Defended(Mask(), Linear(SIZE, SIZE)), {
        "defense": (),
        "classifier": {"kernel": jnp.eye(SIZE)},
    }


def linear(num_classes=4):
    pipeline = Defended(Identity(), Linear(SIZE, num_classes))
    kernel = RNG.normal(size=(SIZE, num_classes)).astype(np.float32)
    return pipeline, {"defense": (), "classifier": {"kernel": jnp.asarray(kernel)}}


def nchw(torch, images):
    return torch.from_numpy(np.array(np.moveaxis(images, -1, 1), order="C"))


def nhwc(tensor):
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def keys_of(seed, call, count):
    """The keys that the adapters promise: functions of seed, call and row."""
    key = jax.random.fold_in(purpose_key(seed, Purpose.ATTACK), call)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


@dataclasses.dataclass(frozen=True)
class Conv(Network):
    """A convolution, tanh and a linear layer: small enough to write in every framework."""

    def build(self, rngs):
        raise AssertionError

    def apply(self, params, *inputs):
        (image,) = inputs
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            image[None], params["kernel"], (2, 2), "VALID", dimension_numbers=numbers
        )
        return jnp.tanh(x[0] + params["bias"].reshape(1, 1, -1)).ravel() @ params["head"]


CONV = {
    "kernel": RNG.normal(0, 0.4, size=(2, 2, 3, 6)).astype(np.float32),
    "bias": RNG.normal(0, 0.1, size=6).astype(np.float32),
    "head": RNG.normal(0, 0.3, size=(4 * 4 * 6, 10)).astype(np.float32),
}


# Batches, whatever the framework.


def test_padding_and_neighbours_change_nothing(network):
    _, (pipeline, params) = network
    batched = Batched(pipeline, params, seed=3, fresh=False)
    images = jnp.asarray(IMAGES)
    every, pullback = batched.logits_and_pullback(images)
    gradients = pullback(jnp.ones_like(every))
    assert batched._sizes == {(8, 8, 3): {12}}
    fewer, pullback = batched.logits_and_pullback(images[:7])
    np.testing.assert_allclose(fewer, every[:7], atol=1e-4)
    np.testing.assert_allclose(pullback(jnp.ones_like(fewer)), gradients[:7], atol=1e-4)
    assert batched._sizes == {(8, 8, 3): {12}}  # seven were padded to twelve,
    np.testing.assert_allclose(batched.logits(images[:1]), every[:1], atol=1e-4)
    assert batched._sizes == {(8, 8, 3): {1, 12}}  # but not one
    expected = jax.vmap(pipeline.logits, (None, 0, 0))(params, keys_of(3, 0, 12), images)
    np.testing.assert_allclose(every, expected, atol=1e-4)


def test_bad_seeds_are_refused():
    with unchecked(), pytest.raises(ValueError, match="seed=-1 must lie in"):
        Batched(*linear(), seed=-1, fresh=True)


@pytest.mark.parametrize(
    ("framework", "extra", "make"),
    [
        ("torch", "torch", lambda: adapters.as_torch_module(*linear())),
        ("torch", "torch", lambda: adapters.from_torch(None, 10)),
        ("tensorflow", "tensorflow", lambda: adapters.from_tensorflow(None, 10)),
        ("foolbox", "foolbox", lambda: adapters.as_foolbox_model(*linear())),
        (
            "art",
            "art",
            lambda: adapters.as_art_classifier(*linear(), num_classes=4, image_shape=(8, 8, 3)),
        ),
    ],
)
def test_a_missing_framework_is_named(monkeypatch, framework, extra, make):
    loaded = [name for name in sys.modules if name.split(".")[0] == framework]
    for name in {framework, *loaded}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'not installed: pip install "rainjax\[{extra}\]"'):
        make()


# PyTorch attacks our pipelines.


def test_torch_sees_the_logits_and_gradients_of_jax(torch, network):
    for pipeline, params in network:
        module = adapters.as_torch_module(pipeline, params, seed=5)
        images = nchw(torch, IMAGES).requires_grad_()
        logits = module(images)
        weights = RNG.normal(size=logits.shape).astype(np.float32)
        (gradients,) = torch.autograd.grad(logits, images, torch.from_numpy(weights))
        assert gradients.is_contiguous()  # attacks call .view on it

        keys = keys_of(5, 0, 12)
        run = lambda images: jax.vmap(pipeline.logits, (None, 0, 0))(params, keys, images)  # noqa: B023
        expected, vjp = jax.vjp(jax.jit(run), jnp.asarray(IMAGES))
        np.testing.assert_allclose(logits.detach(), expected, atol=1e-5)
        np.testing.assert_allclose(nhwc(gradients), vjp(jnp.asarray(weights))[0], atol=1e-5)


def test_torch_gradients_are_differences(torch):
    """Along a random direction, with the draw frozen, on a pipeline without kinks."""
    params = {"defense": (), "classifier": jax.tree.map(jnp.asarray, CONV)}
    module = adapters.as_torch_module(Defended(Mask(), Conv()), params, fresh=False)
    images = nchw(torch, IMAGES).requires_grad_()
    weights, direction = (
        torch.from_numpy(RNG.normal(size=shape).astype(np.float32))
        for shape in ((12, 10), images.shape)
    )
    value = lambda t: (weights * module(images + t * direction)).sum()
    (gradient,) = torch.autograd.grad(value(0.0), images)
    difference = (value(0.01) - value(-0.01)).item() / 0.02
    assert abs(difference) > 1
    assert difference == pytest.approx((gradient * direction).sum().item(), rel=0.02)


def test_torch_draws_anew_and_differentiates_the_same_draw(torch):
    module = adapters.as_torch_module(*masked())
    images = torch.full((4, 3, 8, 8), 0.5, requires_grad=True)
    seen, slopes = [], []
    first, second = module(images), module(images)  # both drawn before either is differentiated
    for logits in (first, second):
        seen.append(2 * logits.detach().numpy().reshape(4, 8, 8, 3))
        slopes.append(nhwc(torch.autograd.grad(logits.sum(), images)[0]))
    np.testing.assert_array_equal(slopes[0], seen[0])
    np.testing.assert_array_equal(slopes[1], seen[1])
    masks = np.stack(seen).reshape(8, -1)  # 2 calls of 4 images
    assert len(np.unique(masks, axis=0)) == 8
    assert 0.4 < masks.mean() < 0.6

    with torch.no_grad():  # so does a call that asks for no gradient
        module.reseed(0)
        np.testing.assert_array_equal(module(images), first.detach())
        np.testing.assert_array_equal(module(images), second.detach())
        module.reseed(1)
        assert (module(images) != first).any()
        module.fresh = False
        np.testing.assert_array_equal(module(images), module(images))
    alone = adapters.as_torch_module(*masked())(images[:1])
    np.testing.assert_array_equal(alone.detach(), first.detach()[:1])


@dataclasses.dataclass(frozen=True)
class Square(Defense):
    """What it saves for its gradient is its input."""

    def apply(self, params, key, image):
        return image**2


def test_torch_may_change_its_images_in_place(torch):
    pipeline = Defended(Square(), Linear(64, 2))
    params = {"defense": (), "classifier": {"kernel": jnp.ones((64, 2))}}
    module = adapters.as_torch_module(pipeline, params)
    images = torch.full((1, 1, 8, 8), 0.25, requires_grad=True)
    logits = module(images)
    with torch.no_grad():
        images.add_(0.5)
        logits += 1.0
    (gradients,) = torch.autograd.grad(logits[:, 0].sum(), images)
    np.testing.assert_allclose(gradients, 0.5)
    transposed = torch.rand(2, 8, 8, 3).permute(0, 3, 1, 2)  # another order in memory
    tripled = adapters.as_torch_module(*linear())
    np.testing.assert_array_equal(tripled(transposed), tripled(transposed.contiguous()))


def test_torch_module_moves_and_copies(torch):
    module = adapters.as_torch_module(*masked())
    assert [p.numel() for p in module.parameters()] == [0]  # says where it is, trains nothing
    assert module.to("cpu").eval() is module
    assert "Mask" in repr(module)
    model = torch.nn.Sequential(torch.nn.AvgPool2d(1), module)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, SIZE)


def test_torchattacks_fools_the_undefended_network(torch, network):
    torchattacks = _peer("torchattacks")
    (pipeline, params), _ = network
    module = adapters.as_torch_module(pipeline, params)
    images, labels = nchw(torch, IMAGES), torch.from_numpy(LABELS)
    assert (module(images).argmax(1) == labels).all()
    attack = torchattacks.PGD(module, eps=0.06, alpha=0.015, steps=10)
    attacked = attack(images, labels)
    assert (attacked - images).abs().max() <= 0.06 + 1e-6
    keys = keys_of(9, 0, 12)
    right = np.argmax(score(pipeline, params, keys, nhwc(attacked), num_draws=1)[:, 0], 1)
    assert (right == LABELS).mean() < 0.1
    # Attacks in L2 flatten the gradient, which only contiguous memory allows.
    torchattacks.PGDL2(module, eps=0.5, steps=1)(images, labels)


def test_readme_example_runs(torch, network, capsys):
    """The second one, with a small pipeline under the names that the first one leaves."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, example = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (pipeline, params), _ = network
    names = {
        "defended": pipeline, "params": params, "images": jnp.asarray(IMAGES), "np": np,
        "labels": jnp.asarray(LABELS), "score_keys": keys_of(1, 0, 12),
        "predict": jax.vmap(pipeline.predict, in_axes=(None, 0, 0)),
    }  # fmt: skip
    exec(example, names)
    assert float(capsys.readouterr().out.removeprefix("attacked ")) < 0.2
    assert 1e-3 < np.abs(names["attacked"] - IMAGES).max() <= 8 / 255 + 1e-6


def test_torch_is_told_what_is_wrong(torch, network):
    (pipeline, params), _ = network
    module = adapters.as_torch_module(pipeline, params)
    images = torch.rand(2, 3, 8, 8)
    for wrong, sentence in [
        (images[0], r"batch `n c h w` of float32 .* got torch.float32 of shape \(3, 8, 8\)"),
        (images.double(), "got torch.float64"),
        ((255 * images).to(torch.uint8), "got torch.uint8"),
        (images.permute(0, 2, 3, 1), "no images of height 8, width 3 and 8 channels"),
        (255 * images, r"must lie in \[0, 1\], these in \[.*clip"),
        (images - 0.01 - images.min(), r"must lie in \[0, 1\], these in \[-0.01"),
        (images * float("nan"), r"these in \[nan, nan\]"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            module(wrong)
    images.requires_grad_()
    loss = (module(images) ** 2).sum()
    (slope,) = torch.autograd.grad(loss, images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@dataclasses.dataclass(frozen=True)
class Root(Defense):
    """Has an infinite slope at zero, which times zero is NaN; below zero it is NaN itself."""

    floor: float = 0.0

    def apply(self, params, key, image):
        return jnp.sqrt(jnp.where(image < self.floor, -1.0, image * 0 + self.floor))


def test_torch_does_not_take_nan_for_flat(torch):
    params = {"defense": (), "classifier": {"kernel": jnp.ones((SIZE, 2))}}
    images = torch.full((3, 3, 8, 8), 0.5)
    images[1, 0, 0, 0] = 0.25
    broken = adapters.as_torch_module(Defended(Root(0.3), Linear(SIZE, 2)), params)
    with pytest.raises(FloatingPointError, match=r"logits for 1 of 3 images, the first .* 1\."):
        broken(images)
    steep = adapters.as_torch_module(Defended(Root(), Linear(SIZE, 2)), params)
    logits = steep(images.requires_grad_())
    with pytest.raises(FloatingPointError, match="NaN in the pipeline's gradient for 3 of 3"):
        logits.sum().backward()


# Our attacks on classifiers of PyTorch and TensorFlow.


def _torch_conv(torch):
    conv, head = torch.nn.Conv2d(3, 6, 2, stride=2), torch.nn.Linear(96, 10, bias=False)
    model = torch.nn.Sequential(conv, torch.nn.Tanh(), torch.nn.Flatten(), head)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(CONV["kernel"].transpose(3, 2, 0, 1)))
        conv.bias.copy_(torch.tensor(CONV["bias"]))
        rows = CONV["head"].reshape(4, 4, 6, 10).transpose(2, 0, 1, 3)  # flattened c h w there
        head.weight.copy_(torch.tensor(rows.reshape(96, 10).T))
    return model.eval()


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
    peer = _peer(request.param)
    made = {"torch": _torch_conv, "tensorflow": _tensorflow_conv}[request.param](peer)
    make = {"torch": adapters.from_torch, "tensorflow": adapters.from_tensorflow}[request.param]
    return make(made, 10)


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
    model = _torch_conv(torch)
    model.register_forward_hook(lambda module, inputs, out: sizes.append(len(inputs[0])))
    network = adapters.from_torch(model, 10)
    loss = lambda image: network.apply((), image).sum()
    every = jax.jit(jax.vmap(jax.vmap(jax.grad(loss))))
    every(jnp.asarray(IMAGES).reshape(3, 4, 8, 8, 3)).block_until_ready()
    assert sizes == [12]  # the loss itself was not asked for


ONE_CORE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
import jax, jax.numpy as jnp, torch
from rainjax.adapters import from_torch
model = torch.nn.Sequential(torch.nn.AvgPool2d(64), torch.nn.Flatten()).eval()
network = from_torch(model, 3)
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


def test_from_torch_is_told_what_is_wrong(torch):
    model = _torch_conv(torch)
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not function"):
        adapters.from_torch(lambda x: x, 10)
    with pytest.raises(ValueError, match="num_classes=1 must be at least 2"):
        adapters.from_torch(model, 1)
    model[1].train()
    with pytest.raises(ValueError, match=r"^1 is in training mode.*call module.eval"):
        adapters.from_torch(model, 10)
    network = adapters.from_torch(model.eval(), 9)
    image = jnp.asarray(IMAGES[0])
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"shape \(1, 10\), not \(1, 9\)"):
        network.apply((), image).block_until_ready()
    with pytest.raises(ValueError, match="takes one image `h w c`"), unchecked():
        network.apply((), jnp.asarray(IMAGES[:2]))
    with pytest.raises(ValueError, match=r"its params are \(\)"):
        network.apply({"kernel": image}, image)
    with pytest.raises(TypeError, match="has no Flax module"):
        network.build(None)


# Foolbox and ART.


@pytest.fixture
def foolbox():
    foolbox = _peer("foolbox")
    with jax.numpy_rank_promotion("allow"):  # Foolbox's own arithmetic
        yield foolbox


def test_foolbox_fools_the_undefended_network(foolbox, network):
    (pipeline, params), _ = network
    model = adapters.as_foolbox_model(pipeline, params)
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    assert foolbox.accuracy(model, images, labels) == 1.0
    attack = foolbox.attacks.LinfPGD(abs_stepsize=0.015, steps=10)
    _, attacked, success = attack(model, images, labels, epsilons=0.06)
    assert np.abs(attacked - images).max() <= 0.06 + 1e-6
    logits = score(pipeline, params, keys_of(9, 0, 12), np.asarray(attacked), num_draws=1)
    wrong = np.argmax(logits[:, 0], 1) != LABELS
    np.testing.assert_array_equal(wrong, success)
    assert wrong.mean() > 0.9


def test_foolbox_draws_anew_and_differentiates_its_draw(foolbox):
    model = adapters.as_foolbox_model(*masked())
    images = jnp.full((3, 8, 8, 3), 0.5)
    masks = []
    for _ in range(2):
        slope, logits = jax.grad(lambda x: (model(x).sum(), model(x))[::1], has_aux=True)(images)
        masks.append(np.asarray(slope).reshape(3, -1))
        masks.append(2 * np.asarray(logits))
    assert len(np.unique(np.concatenate(masks), axis=0)) == 12  # no two calls, no two images
    assert set(np.unique(masks)) == {0, 1}
    frozen = adapters.as_foolbox_model(*masked(), fresh=False)
    np.testing.assert_array_equal(frozen(images), frozen(images))
    slope = jax.grad(lambda x: frozen(x).sum())(images)
    np.testing.assert_array_equal(np.asarray(slope).reshape(3, -1), 2 * frozen(images))


def test_foolbox_is_told_what_is_wrong(foolbox):
    model = adapters.as_foolbox_model(*linear())
    images = jnp.asarray(IMAGES[:2])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], these in"):
        model(images * 255)
    with pytest.raises(ValueError, match=r"batch `n h w c` of float32 .* shape \(8, 8, 3\)"):
        model(images[0])
    with pytest.raises(ValueError, match="jit or vmap would freeze the draw"):
        jax.jit(model)(images)


@pytest.fixture(scope="module")
def art():
    return _peer("art", "art.attacks.evasion")


def test_art_fools_the_undefended_network(art, network):
    (pipeline, params), _ = network
    model = adapters.as_art_classifier(pipeline, params, num_classes=10, image_shape=(8, 8, 3))
    attack = art.ProjectedGradientDescent(
        model, eps=0.06, eps_step=0.015, max_iter=10, batch_size=12, verbose=False
    )
    attacked = attack.generate(IMAGES, LABELS)
    assert np.abs(attacked - IMAGES).max() <= 0.06 + 1e-6
    assert (np.argmax(model.predict(IMAGES, batch_size=12), 1) == LABELS).all()
    assert (np.argmax(model.predict(attacked), 1) == LABELS).mean() < 0.1


def test_art_gradients_are_those_of_jax(art):
    pipeline, params = linear()
    model = adapters.as_art_classifier(pipeline, params, num_classes=4, image_shape=(8, 8, 3))
    kernel, images, labels = np.asarray(params["classifier"]["kernel"]), IMAGES[:3], np.arange(3)
    logits = lambda x: x.reshape(len(x), -1) @ kernel
    np.testing.assert_allclose(model.predict(images), logits(images), atol=1e-4)

    losses = lambda x: -jax.nn.log_softmax(logits(x))[jnp.arange(3), labels]
    slope = jax.grad(lambda x: losses(x).sum())(jnp.asarray(images))
    one_hot = np.eye(4)[labels]
    np.testing.assert_allclose(model.compute_loss(images, labels), losses(images), atol=1e-4)
    np.testing.assert_allclose(model.loss_gradient(images, labels), slope, atol=1e-5)
    np.testing.assert_allclose(model.loss_gradient(images, one_hot), slope, atol=1e-5)
    np.testing.assert_allclose(model.loss_gradient(images, 2 * one_hot), 2 * slope, atol=1e-5)

    classes = np.broadcast_to(kernel.T.reshape(1, 4, 8, 8, 3), (3, 4, 8, 8, 3))
    np.testing.assert_allclose(model.class_gradient(images), classes, atol=1e-5)
    np.testing.assert_allclose(model.class_gradient(images, 2), classes[:, 2:3], atol=1e-5)
    found = model.class_gradient(images, np.array([3, 0, 1]))
    np.testing.assert_allclose(found[:, 0], classes[0, [3, 0, 1]], atol=1e-5)


def test_art_draws_anew(art):
    shape = {"num_classes": SIZE, "image_shape": (8, 8, 3)}
    model = adapters.as_art_classifier(*masked(), **shape)
    images = np.full((3, 8, 8, 3), 0.5, np.float32)
    masks = np.concatenate([2 * model.predict(images), 2 * model.predict(images)])
    assert len(np.unique(masks, axis=0)) == 6
    frozen = adapters.as_art_classifier(*masked(), **shape, fresh=False)
    slope = frozen.class_gradient(images, 0)[:, 0, 0, 0, 0]
    np.testing.assert_array_equal(slope, 2 * frozen.predict(images)[:, 0])


def test_art_is_told_what_is_wrong(art):
    shape = {"num_classes": 4, "image_shape": (8, 8, 3)}
    model = adapters.as_art_classifier(*linear(), **shape)
    with pytest.raises(ValueError, match=r"floats in \[0, 1\] of shape \(n, 8, 8, 3\), got"):
        model.predict(np.moveaxis(IMAGES, -1, 1))
    with pytest.raises(ValueError, match="got uint8"):
        model.predict((IMAGES * 255).astype(np.uint8))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        model.loss_gradient(2 * IMAGES, LABELS % 4)
    with pytest.raises(NotImplementedError, match="not trained through ART"):
        model.fit(IMAGES, LABELS)
    with pytest.raises(ValueError, match="num_classes=10, but the pipeline has 4 classes"):
        adapters.as_art_classifier(*linear(), **{**shape, "num_classes": 10})
    with pytest.raises(ValueError, match="takes no images of height 9"):
        adapters.as_art_classifier(*linear(), **{**shape, "image_shape": (9, 8, 3)})
