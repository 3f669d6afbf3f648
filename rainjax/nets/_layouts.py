"""How weights of each architecture are published: names, the order of axes, what says nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from rainjax.nets._network import Network
from rainjax.nets.blind_spot import BlindSpot
from rainjax.nets.carn_m import CARNM
from rainjax.nets.edsr import EDSR
from rainjax.nets.imagenet_resnet import ImageNetResNet
from rainjax.nets.imdn import IMDN
from rainjax.nets.mobilenet import MobileNetV2
from rainjax.nets.resnet import ResNet
from rainjax.nets.resnet4b import ResNet4b
from rainjax.nets.squeezenet import SqueezeNet
from rainjax.nets.tiny_darknet import TinyDarknet


def _torch_axes(ndim: int) -> tuple[int, ...]:
    """Returns the order of axes outside: OIHW for our HWIO, (out, in) for (in, out)."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


@dataclasses.dataclass(frozen=True)
class Form:
    """How weights of one class of networks are published."""

    name: Callable[..., str]
    """The name of an array, from the network and the path of its parameter."""
    constants: Callable[[Any], dict[str, np.ndarray]] = lambda network: {}
    """Arrays that may be there and follow from the network's fields."""
    ignored: Callable[[Any], str] = lambda network: r".*num_batches_tracked"
    """A pattern of the names of arrays that say nothing."""
    axes: Callable[[int], tuple[int, ...]] = _torch_axes
    """The order of axes outside, for so many of them."""


def form_of(network: Network) -> Form:
    """Returns how weights of the network's class are published.

    Raises:
        ValueError: none are known; says of which classes they are.
    """
    for cls, form in _FORMS.items():
        if isinstance(network, cls):
            return form
    raise ValueError(
        f"Weights can be converted for {', '.join(cls.__name__ for cls in _FORMS)}, got a "
        f"{type(network).__name__}."
    )


def _edsr_name(network: EDSR, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    if part == "blocks":
        return f"body.{rest[0]}.body.{ {'conv1': 0, 'conv2': 2}[rest[1]] }.{leaf}"
    if part == "upsample":
        return f"tail.0.{2 * int(rest[0])}.{leaf}"  # convolutions and shuffles take turns
    return {"head": "head.0", "body_end": f"body.{network.num_blocks}", "tail": "tail.1"}[
        part
    ] + f".{leaf}"


def _carn_m_name(network: CARNM, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    if part == "blocks":
        block = f"b{int(rest[0]) + 1}"
        if rest[1] == "merges":
            return f"{block}.c{int(rest[2]) + 1}.body.0.{leaf}"
        return f"{block}.b1.body.{ {'conv1': 0, 'conv2': 2, 'conv3': 4}[rest[2]] }.{leaf}"
    if part == "merges":
        return f"c{int(rest[0]) + 1}.body.0.{leaf}"
    if part == "upsample":  # a convolution, a ReLU and a shuffle take turns
        return f"upsample.up{network.scale}.body.{3 * int(rest[0])}.{leaf}"
    return {"head": "entry", "tail": "exit"}[part] + f".{leaf}"


def _imdn_name(network: IMDN, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    if part == "blocks":
        inner = {"attention": "cca.conv_du", "convs": "c", "merge": "c5"}[rest[1]]
        if rest[1] == "attention":
            inner += f".{ {'down': 0, 'up': 2}[rest[2]] }"
        elif rest[1] == "convs":
            inner += str(int(rest[2]) + 1)
        return f"IMDB{int(rest[0]) + 1}.{inner}.{leaf}"
    outer = {"head": "fea_conv", "merge": "c.0", "body_end": "LR_conv", "upsample": "upsampler.0"}
    return f"{outer[part]}.{leaf}"


def _blind_spot_name(network: BlindSpot, part: str, *rest: str) -> str:
    leaf, residual = _LEAVES[rest[-1]], "residual_module"
    if part in ("residuals", "mean_residual"):
        inner = {"conv1": "conv1_1by1", "conv2": "conv2_1by1"}.get(rest[-2], rest[-2])
        residual += f".{inner}.{leaf}"
    if part in ("mean_residual", "mean_activation", "tail"):
        outer = {"mean_activation": f"activation.{leaf}", "tail": f"output_layer.{leaf}"}
        return outer.get(part, residual)
    number = int(rest[0]) + (part == "merges")  # the first layer merges nothing
    layer = ("new1", "new2")[number] if number < 2 else f"new_{number - 2}"
    inner = {
        "convs": f"new{min(number, 2) + 1}.conv1.{leaf}",
        "activations": f"activation_new1.{leaf}",
        "merges": f"activation_new2.{leaf}",
        "residuals": residual,
    }
    return f"{layer}.{inner[part]}"


def _resnet_name(network: ResNet, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    norm = {"batch": "bn", "group": "gn"}[network.norm]
    if part == "blocks":
        group, index = divmod(int(rest[0]), (network.depth - 2) // 6)
        return f"layer{group + 1}.{index}.{rest[1].replace('norm', norm)}.{leaf}"
    return f"{part.replace('norm', norm)}.{leaf}"


def _resnet4b_name(network: ResNet4b, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    if part == "blocks":
        group, index = divmod(int(rest[0]), 2)
        layer = {"shortcut": "shortcut.0"}.get(rest[1], rest[1])
        return f"layer{group + 1}.{index}.{layer}.{leaf}"
    return f"{part}.{leaf}"


def _imagenet_resnet_name(network: ImageNetResNet, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    if part == "groups":
        group, index, *layers, _ = rest
        layer = layers[-1].replace("norm", "bn")  # what is in "residual" lies beside the shortcut
        layer = {"shortcut": "downsample.0", "shortcut_bn": "downsample.1"}.get(layer, layer)
        return f"layer{int(group) + 1}.{index}.{layer}.{leaf}"
    return {"conv1": "conv1", "norm1": "bn1", "linear": "fc"}[part] + f".{leaf}"


def _mobilenet_name(network: MobileNetV2, part: str, *rest: str) -> str:
    leaf = {"kernel": "weights", "bias": "biases"}[rest[-1]]
    if part == "blocks":
        index = f"_{rest[0]}" if rest[0] != "0" else ""
        return f"expanded_conv{index}/{rest[1]}/{leaf}"
    return {"stem": "Conv", "last": "Conv_1", "logits": "Logits/Conv2d_1c_1x1"}[part] + f"/{leaf}"


def _squeezenet_name(network: SqueezeNet, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    if part == "groups":
        layer = {"squeeze": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"}
        number = _number(network.groups, *rest[:2]) + 2  # the stem is the first
        return f"fire{number}/{layer[rest[2]]}.{leaf}"
    return {"stem": "conv1", "logits": "conv10"}[part] + f".{leaf}"


def _tiny_darknet_name(network: TinyDarknet, part: str, *rest: str) -> str:
    if part == "groups":
        number = _number(network.groups, *rest[:2]) + 1
        layer = {"conv": "conv2d", "norm": "batch_normalization"}[rest[2]]
        leaf = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}
        return f"{layer}_{number}/{leaf.get(rest[-1], rest[-1])}"
    return f"conv2d_{sum(map(len, network.groups)) + 1}/{rest[-1]}"


def _number(groups: tuple, group: str, index: str) -> int:
    """Returns how many parts there are before that one, in all groups together."""
    return sum(map(len, groups[: int(group)])) + int(index)


def _same_axes(ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim))


def _mean_shift(mean: np.ndarray, layer: str) -> dict[str, np.ndarray]:
    """Returns the two fixed 1x1 convolutions with which PyTorch code shifts the mean."""
    identity = np.eye(mean.size, dtype=np.float32)[:, :, None, None]
    return {
        f"sub_mean{layer}.weight": identity,
        f"sub_mean{layer}.bias": -mean,
        f"add_mean{layer}.weight": identity,
        f"add_mean{layer}.bias": mean,
    }


# PyTorch's names of what Flax calls so.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

_FORMS: dict[type[Network], Form] = {
    EDSR: Form(
        _edsr_name, lambda n: _mean_shift(n.value_range * np.asarray(n.mean, np.float32), "")
    ),
    CARNM: Form(
        _carn_m_name,
        lambda n: _mean_shift(np.asarray(n.mean, np.float32), ".shifter"),
        lambda n: rf"upsample\.up(?!{n.scale}\.).*",
    ),
    IMDN: Form(_imdn_name),
    BlindSpot: Form(_blind_spot_name),
    ResNet: Form(_resnet_name),
    ResNet4b: Form(_resnet4b_name),
    MobileNetV2: Form(_mobilenet_name, axes=_same_axes),
    ImageNetResNet: Form(_imagenet_resnet_name),
    SqueezeNet: Form(_squeezenet_name),
    TinyDarknet: Form(_tiny_darknet_name, axes=_same_axes),
}
