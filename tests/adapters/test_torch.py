"""PyTorch's attacks on our pipelines."""

import copy
import dataclasses
import functools
import pathlib
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rainjax import adapters, nets
from rainjax.defenses import Defense, Identity
from rainjax.evaluation import score
from rainjax.nets import ResNet, to_torch
from rainjax.pipeline import Defended
from tests.adapters.common import (
    CONV,
    IMAGES,
    LABELS,
    MARKS,
    RNG,
    SIZE,
    Conv,
    keys_of,
    linear,
    masked,
    nchw,
    nhwc,
    peer,
)
from tests.tiny import Linear, Mask

pytestmark = MARKS

ROOT = pathlib.Path(__file__).parents[2]


def test_torch_sees_the_logits_and_gradients_of_jax(torch, network):
    for pipeline, params in network:
        module = adapters.as_torch_module(pipeline, params, seed=5)
        images = nchw(torch, IMAGES).requires_grad_()
        logits = module(images)
        weights = RNG.normal(size=logits.shape).astype(np.float32)
        (gradients,) = torch.autograd.grad(logits, images, torch.from_numpy(weights))
        assert gradients.is_contiguous()  # attacks call .view on it

        keys = keys_of(5, 0, 12)
        run = functools.partial(jax.vmap(pipeline.logits, (None, 0, 0)), params, keys)
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


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))]
)
def test_a_copy_of_a_torch_module_draws_on_from_where_it_is(torch, copied):
    module = adapters.as_torch_module(*masked(), seed=3)
    images = torch.full((2, 3, 8, 8), 0.5)
    module(images)
    twin = copied(module.eval())
    assert not twin.training
    second = module(images)
    np.testing.assert_array_equal(twin(images), second)
    np.testing.assert_array_equal(twin(images), module(images))
    twin.reseed(4)
    twin.fresh = False
    assert module.fresh
    whole = copied(torch.nn.Sequential(torch.nn.AvgPool2d(1), module))
    np.testing.assert_array_equal(whole(images), module(images))


def test_tensors_become_parameters(torch):
    network = ResNet(depth=8, width=2)
    arrays = to_torch(network, network.init(jax.random.key(0)))
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    tensors["conv1.weight"] = torch.nn.Parameter(tensors["conv1.weight"])
    tensors["linear.weight"] = tensors["linear.weight"].bfloat16()
    found = nets.from_torch(network, {"model": tensors, "epoch": 3})
    arrays["linear.weight"] = tensors["linear.weight"].float().numpy()
    expected = nets.from_torch(network, arrays)
    assert all(map(np.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))


def test_a_torch_module_that_cannot_be_pickled_says_why(torch):
    function = nets.from_function(lambda params, image: image.ravel()[:3])
    params = {"defense": (), "classifier": ()}
    module = adapters.as_torch_module(Defended(Identity(), function.network), params)
    with pytest.raises(pickle.PicklingError, match=r"cannot be pickled \(.*lambda.*\): make it"):
        pickle.dumps(module)
    images = torch.full((2, 3, 8, 8), 0.5)
    np.testing.assert_array_equal(copy.deepcopy(module)(images), module(images))


def test_torchattacks_fools_the_undefended_network(torch, network):
    torchattacks = peer("torchattacks")
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


def test_the_loop_of_the_page_runs(torch, network, capsys):
    """As it stands, with a small pipeline under the names that the page gives."""
    page = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    *_, example = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (pipeline, params), _ = network
    names = {
        "pipeline": pipeline, "params": params, "images": jnp.asarray(IMAGES), "np": np,
        "labels": jnp.asarray(LABELS), "score_keys": keys_of(1, 0, 12), "score": score,
    }  # fmt: skip
    exec(example, names)
    assert float(capsys.readouterr().out.removeprefix("attacked ")) < 0.2
    assert 1e-3 < np.abs(names["attacked"] - IMAGES).max() <= 8 / 255 + 1e-6


def test_the_classifier_of_the_page_is_one(torch, capsys):
    page = (ROOT / "docs" / "your-own-classifier.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import torch.*?)```", page, re.DOTALL)
    image = jnp.full((32, 32, 3), 0.5)
    exec(example, {"jax": jax, "Defended": Defended, "Identity": Identity, "image": image})
    assert 0 <= int(capsys.readouterr().out) <= 9


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
