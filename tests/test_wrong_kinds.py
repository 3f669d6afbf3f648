"""What is put where a value of another kind belongs is named, with what to do about it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from rainjax import nets, zoo
from rainjax.attacks import APGD, FAB, PGD, Square
from rainjax.defenses import RAIN, Chain, Identity, RandomSubset, SuperResolution
from rainjax.evaluation import keep_worst, run_attack, score, universal
from rainjax.evaluation.autoattack import AutoAttack
from rainjax.evaluation.smoothing import Smoothed
from rainjax.gradients import BPDA
from rainjax.nets import CARNM, ResNet
from rainjax.pipeline import Defended
from tests.tiny import RESNET_TINY, Linear, unchecked

ENTRY = zoo.load("builtin_resnet")
MODEL = nets.from_function(lambda kernel, image: image[0] @ kernel, jnp.ones((3, 10)))
NNX = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
LINEN = linen.Dense(2)
TARGET = Defended(Identity(), RESNET_TINY)


class TorchStandIn(type("Module", (), {"__module__": "torch.nn.modules.module"})):
    """What a PyTorch module is known by; the real one is in tests/adapters."""

    def __call__(self, images):
        return images


def function(params, image):
    return image


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: Defended(Identity(), NNX),
            "Defended(classifier=...) takes a Network, not an NNX module (Linear): take .network "
            "and .params of rainjax.nets.from_flax(module).",
        ),
        (
            lambda: Defended(Identity(), LINEN),
            "Defended(classifier=...) takes a Network, not a Linen module (Dense): take .network "
            "and .params of rainjax.nets.from_linen(module, variables).",
        ),
        (
            lambda: Defended(Identity(), TorchStandIn()),
            "Defended(classifier=...) takes a Network, not a PyTorch module (TorchStandIn): wrap "
            "it by rainjax.adapters.from_torch_module(module, num_classes).",
        ),
        (
            lambda: Defended(Identity(), ENTRY),
            "Defended(classifier=...) takes a Network, not a zoo entry (Entry): take "
            "entry.network, and entry.params among the parameters.",
        ),
        (
            lambda: Defended(Identity(), MODEL),
            "Defended(classifier=...) takes a Network, not a network with its parameters "
            "(Model): take model.network, and model.params among the parameters.",
        ),
        (
            lambda: Defended(MODEL, RESNET_TINY),
            "Defended(defense=...) takes a Defense, not a network with its parameters "
            "(Model): put model.network into a defense, as in RAIN(model.network).",
        ),
        (
            lambda: RAIN(MODEL),
            "RAIN(network=...) takes a Network, not a network with its parameters "
            "(Model): take model.network, and model.params among the parameters.",
        ),
        (
            lambda: Defended(Identity(), function),
            "Defended(classifier=...) takes a Network, not the function function: take .network "
            "and .params of rainjax.nets.from_function(fn, params).",
        ),
        (
            lambda: Defended(Identity(), ResNet),
            "Defended(classifier=...) takes a Network, not the class ResNet: make a value of it, "
            "ResNet(...).",
        ),
        (
            lambda: Defended(RAIN, RESNET_TINY),
            "Defended(defense=...) takes a Defense, not the class RAIN: make a value of it, "
            "RAIN(...).",
        ),
        (
            lambda: Defended(RESNET_TINY, Identity()),
            "Defended takes the defense first, and ResNet is a network: write "
            "Defended(defense=Identity(...), classifier=ResNet(...)).",
        ),
        (
            lambda: Defended(None, RESNET_TINY),
            "Defended(defense=...) takes a Defense, not None: no defense is rainjax.Identity().",
        ),
        (
            lambda: Defended(function, RESNET_TINY),
            "Defended(defense=...) takes a Defense, not the function function: call it in the "
            "`apply` of a subclass of rainjax.Defense.",
        ),
        (
            lambda: Defended(ENTRY, RESNET_TINY),
            "Defended(defense=...) takes a Defense, not a zoo entry (Entry): put entry.network "
            "into a defense, as in RAIN(entry.network).",
        ),
        (
            lambda: Defended(TARGET, RESNET_TINY),
            "Defended(defense=...) takes a Defense, not a Pipeline (Defended): take its .defense.",
        ),
        (
            lambda: RAIN(ENTRY),
            "RAIN(network=...) takes a Network, not a zoo entry (Entry): take entry.network, and "
            "entry.params among the parameters.",
        ),
        (
            lambda: RAIN(NNX),
            "RAIN(network=...) takes a Network, not an NNX module (Linear): take .network and "
            ".params of rainjax.nets.from_flax(module).",
        ),
        (
            lambda: RAIN(RESNET_TINY),
            "RAIN wants a network that doubles an image, and ResNet has no scale.",
        ),
        (
            lambda: SuperResolution(CARNM),
            "SuperResolution(network=...) takes a Network, not the class CARNM: make a value of "
            "it, CARNM(...).",
        ),
        (
            lambda: BPDA(RAIN(), Identity),
            "BPDA(backward=...) takes a Defense, not the class Identity: make a value of it, "
            "Identity(...).",
        ),
        (
            lambda: Chain((Identity(), RESNET_TINY)),
            "Chain(stages=...) takes a Defense, not a Network (ResNet): put it into a defense, as "
            "in RAIN(network); no defense is rainjax.Identity().",
        ),
        (
            lambda: RandomSubset((RAIN,)),
            "RandomSubset(stages=...) takes a Defense, not the class RAIN: make a value of it, "
            "RAIN(...).",
        ),
        (
            lambda: Smoothed(RESNET_TINY, 0.25),
            "Smoothed(target=...) takes a Pipeline, not a Network (ResNet): put it behind a "
            "defense: Defended(Identity(), network).",
        ),
    ],
)
def test_a_part_of_another_kind_is_told_what_to_do(make, sentence):
    with unchecked(), pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make()


@pytest.mark.parametrize(
    ("pipeline", "attack", "sentence"),
    [
        (TARGET, PGD, "run_attack(attack=...) takes an Attack, not the class PGD: make a value o"),
        (TARGET, AutoAttack(), "not an ensemble (AutoAttack): give its members to rainjax.run_en"),
        (TARGET, function, "not the function function: subclass rainjax.Attack."),
        (PGD(), TARGET, "not a Pipeline (Defended): the pipeline comes first"),
        (Defended, PGD(), "takes a Pipeline, not the class Defended: make a value of it"),
        (RESNET_TINY, PGD(), "not a Network (ResNet): put it behind a defense"),
        (RAIN(), PGD(), "not a Defense (RAIN): put it before a classifier"),
        (ENTRY, PGD(), "not a zoo entry (Entry): put it behind a defense"),
        (MODEL, PGD(), "parameters (Model): put it behind a defense: Defended(Identity(), mod"),
        (NNX, PGD(), "not an NNX module (Linear): put it behind a defense"),
        (None, PGD(), "An evaluation takes a Pipeline, not None."),
    ],
)
def test_what_cannot_be_attacked_is_told_what_to_do(pipeline, attack, sentence):
    images, keys = np.zeros((1, 8, 8, 3), np.float32), jax.random.split(jax.random.key(0), 1)
    with unchecked():
        with pytest.raises(ValueError, match=re.escape(sentence)) as raised:
            run_attack(pipeline, attack, {}, keys, images, np.zeros(1, np.int32))
        assert "\n" not in str(raised.value)
        if pipeline is TARGET:
            of_any = sentence.removeprefix("run_attack")
            labels = np.zeros(1, np.int32)
            with pytest.raises(ValueError, match=rf"^keep_worst.*{re.escape(of_any)}"):
                keep_worst(pipeline, attack, {}, keys, images, images, labels, num_draws=1)
        if attack == PGD() and pipeline is not TARGET:
            with pytest.raises(ValueError, match=re.escape(sentence)):
                score(pipeline, {}, keys, images, num_draws=1)


def test_any_network_that_doubles_fits_rain():
    images = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    for make in (RAIN, SuperResolution):
        defense = make(CARNM(num_features=4, num_groups=2))
        params = defense.init(jax.random.key(0))
        purified = jax.eval_shape(defense.apply, params, jax.random.key(1), images)
        assert purified.shape == images.shape


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"radius": 8}, r"radius=8 must lie in \[0, 1\], as images do: 8/255 is 0.03137"),
        ({"step_size": 2}, r"step_size=2 must lie in \[0, 1\], as images do: 2/255 is 0.007843"),
        ({"radius": 1.5}, r"radius=1.5 must lie in \[0, 1\]"),
    ],
)
def test_grey_levels_are_no_radius(options, sentence):
    with unchecked():
        with pytest.raises(ValueError, match=sentence):
            PGD(**options)
        for attack in (APGD, Square, FAB):
            with pytest.raises(ValueError, match=r"radius=8 must lie in \[0, 1\]"):
                attack(radius=8)
        # In the other norms that depends on how large an image is.
        assert [PGD(norm=norm, **options).norm for norm in ("l2", "l1")] == ["l2", "l1"]
        assert PGD(radius=1.0, step_size=1).radius == 1


def test_a_universal_perturbation_takes_no_grey_levels():
    target = Defended(Identity(), Linear(192, 4))
    images = np.zeros((2, 8, 8, 3), np.float32)
    for options in ({"radius": 8.0}, {"step_size": 2.0}):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\], as images do"):
            universal.universal_perturbation(
                target, {}, 0, np.arange(2), images, np.arange(2), **options
            )
