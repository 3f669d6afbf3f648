"""Published weights: from arrays under their original names to parameters, and back."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np

from rainjax.nets import _mobilenet_torch
from rainjax.nets._named import as_float32, flatten, unflatten
from rainjax.nets._network import Network
from rainjax.nets._state_dict import state_dict, without_prefix
from rainjax.nets.blind_spot import BlindSpot
from rainjax.nets.carn_m import CARNM
from rainjax.nets.edsr import EDSR
from rainjax.nets.imagenet_resnet import ImageNetResNet
from rainjax.nets.imdn import IMDN
from rainjax.nets.mobilenet import MobileNetV2
from rainjax.nets.resnet import ResNet
from rainjax.nets.resnet4b import ResNet4b
from rainjax.typing import Params

Shapes = dict[str, tuple[int, ...]]  # of arrays by name


def from_torch(network: Network, arrays: Mapping[str, Any]) -> Params:
    """Returns `arrays`, a state dict, as parameters of `network`.

    It may hold tensors, be the only one inside a checkpoint, and have a prefix such as "module."
    before every name.

    EDSR: the names of the authors' PyTorch code (`head.0.weight`, `body.0.body.2.bias`, ...),
    whose fixed `sub_mean` and `add_mean` may be there and are then compared with `network.mean`.
    CARNM: likewise (`entry.weight`, `b1.c2.body.0.bias`, ...); the upsampling of other scales,
    which the published file holds too, is ignored. IMDN: `fea_conv.weight`, `IMDB1.c1.bias`, ....
    BlindSpot: FBI-Net's (`new1.new1.conv1.weight`, `new_0.activation_new2.weight`, ...), whose
    `new1.activation_new1.weight` is as long here as there are features.
    ResNet: `conv1.weight`, `layer1.0.bn1.running_mean`, ..., `linear.weight`;
    `num_batches_tracked` is ignored. ResNet4b: `conv1.weight`, `layer1.0.shortcut.0.bias`, ...,
    `linear2.weight`. ImageNetResNet: torchvision's and timm's names (`layer1.0.conv1.weight`,
    `layer1.0.downsample.0.weight`, ..., `fc.weight`). MobileNetV2: TensorFlow's names and kernels
    as they are, batch norm folded in (`expanded_conv_1/depthwise/weights`, ...); with
    `padding="torch"` torchvision's (`features.0.0.weight`, ...) or timm's (`conv_stem.weight`,
    ...), whose batch norm is folded here.
    Raises ValueError that names the first array that is missing, unexpected or mis-shaped, and
    the number of classes where nothing but that is another.
    """
    source = f"This set of arrays for {type(network).__name__}"
    layout, arrays = _read(network, arrays)
    if isinstance(network, MobileNetV2):
        _check_padding(network, arrays, source)
    arrays = _without_constants(network, arrays)
    other: Any = None if _has_shapes(arrays, layout) else fitting(network, arrays)
    if other is not None:
        raise ValueError(
            f"{source} is of {other.num_classes} classes, and the network of another number: give "
            f"it num_classes={other.num_classes}."
        )
    if _is_folded(network):
        named = _mobilenet_torch.fold(network, arrays, source=source)
        return unflatten(named, network.shapes(), source=source)
    form, names = _form(network), _names(network)
    arrays = as_float32(arrays, layout, source=source)
    back = {name: np.argsort(form.axes(len(shape))) for name, shape in layout.items()}
    named = {key: arrays[name].transpose(back[name]) for name, key in names.items()}
    return unflatten(named, network.shapes(), source=source)


def to_torch(network: Network, params: Params) -> dict[str, np.ndarray]:
    """Returns `params` under the names and in the layout that `from_torch` reads.

    For an EDSR, an IMDN or a ResNet with batch norm that is a state dict of the authors' PyTorch
    code, which `load_state_dict({k: torch.from_numpy(v) ...})` takes; for a CARNM, which has one
    scale here, `strict=False` as well; for an ImageNetResNet, and a MobileNetV2 with
    `padding="torch"`, one of torchvision's.
    """
    form = _form(network)
    named = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}
    unflatten(
        named, network.shapes(), source=f"This tree of parameters for {type(network).__name__}"
    )
    if _is_folded(network):
        return _mobilenet_torch.unfold(network, named)
    arrays = form.constants(network)
    for name, key in _names(network).items():
        axes = form.axes(named[key].ndim)
        arrays[name] = np.ascontiguousarray(named[key].transpose(axes))
    return arrays


def fitting(network: Network, arrays: Mapping[str, Any]) -> Network | None:
    """Returns `network`, with as many classes as `arrays` are for, or None if they do not fit.

    A `class_subset` names classes by their numbers, so a network that has one keeps its classes.
    """
    layout, arrays = _read(network, arrays)
    for name in _form(network).constants(network):
        arrays.pop(name, None)
    if _has_shapes(arrays, layout):
        return network
    if arrays.keys() != layout.keys():
        return None
    other = _with_classes_of(network, arrays)
    return other if _has_shapes(arrays, _layout(other, arrays)) else None


def _torch_axes(ndim: int) -> tuple[int, ...]:
    """Returns the order of axes outside: OIHW for our HWIO, (out, in) for (in, out)."""
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


@dataclasses.dataclass(frozen=True)
class _Form:
    """How weights of one class of networks are published."""

    name: Callable[..., str]
    """The name of an array, from the network and the path of its parameter."""
    constants: Callable[[Any], dict[str, np.ndarray]] = lambda network: {}
    """Arrays that may be there and follow from the network's fields."""
    ignored: Callable[[Any], str] = lambda network: r".*num_batches_tracked"
    """A pattern of the names of arrays that say nothing."""
    axes: Callable[[int], tuple[int, ...]] = _torch_axes
    """The order of axes outside, for so many of them."""


def _form(network: Network) -> _Form:
    for cls, form in _FORMS.items():
        if isinstance(network, cls):
            return form
    raise ValueError(
        f"Weights can be converted for {', '.join(cls.__name__ for cls in _FORMS)}, got a "
        f"{type(network).__name__}."
    )


def _names(network: Network) -> dict[str, str]:
    """Returns the key of every parameter by the name of its array outside."""
    name = _form(network).name
    return {name(network, *key.split("/")): key for key in flatten(network.shapes())}


def _is_folded(network: Network) -> TypeGuard[MobileNetV2]:
    """Returns whether its batch norm lies outside in arrays of its own."""
    return isinstance(network, MobileNetV2) and network.padding == "torch"


def _read(network: Network, given: Mapping) -> tuple[Shapes, dict[str, np.ndarray]]:
    """Returns the shapes outside, and the arrays under those names, without what says nothing."""
    arrays, ignored = state_dict(given), re.compile(_form(network).ignored(network))
    named = [without_prefix(arrays, layout) for layout in _layouts(network)]
    arrays = max(named, key=lambda arrays: len(_layout(network, arrays).keys() & arrays.keys()))
    arrays = {name: array for name, array in arrays.items() if not ignored.fullmatch(name)}
    return _layout(network, arrays), arrays


def _layout(network: Network, arrays: Mapping[str, np.ndarray]) -> Shapes:
    """Returns the shapes outside by name, in the layout that has most of the arrays' names."""
    return max(_layouts(network), key=lambda layout: len(layout.keys() & arrays.keys()))


def _layouts(network: Network) -> list[Shapes]:
    """Returns the shapes of the arrays outside by name, in every layout that there is."""
    if _is_folded(network):
        return _mobilenet_torch.shapes(network)
    form, shapes = _form(network), flatten(network.shapes())
    return [
        {
            name: tuple(shapes[key].shape[axis] for axis in form.axes(shapes[key].ndim))
            for name, key in _names(network).items()
        }
    ]


def _has_shapes(arrays: Mapping[str, np.ndarray], layout: Shapes) -> bool:
    return {name: array.shape for name, array in arrays.items()} == layout


def _with_classes_of(network: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Returns `network` with the number of classes that the arrays have, where it has one."""
    count = getattr(network, "num_classes", None)
    if count is None or getattr(network, "class_subset", None) is not None:
        return network
    more = _layout(dataclasses.replace(network, num_classes=count + 1), arrays)
    for name, shape in _layout(network, arrays).items():
        for axis, length in enumerate(shape):
            found = arrays[name].shape if name in arrays else ()
            if length != more[name][axis] and len(found) == len(shape) and found[axis] > 1:
                return dataclasses.replace(network, num_classes=found[axis])
    return network


def _without_constants(network: Network, arrays: Mapping[str, np.ndarray]) -> dict:
    arrays = dict(arrays)
    for name, expected in _form(network).constants(network).items():
        found = arrays.pop(name, expected)
        if found.shape != expected.shape or not np.allclose(found, expected, atol=1e-3):
            raise ValueError(
                f"Array {name!r} holds {found.ravel().tolist()}, but this "
                f"{type(network).__name__}'s fields make it {expected.ravel().tolist()}; "
                "set them to match."
            )
    return arrays


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


def _mean_shift(mean: np.ndarray, layer: str) -> dict[str, np.ndarray]:
    """Returns the two fixed 1x1 convolutions with which PyTorch code shifts the mean."""
    identity = np.eye(mean.size, dtype=np.float32)[:, :, None, None]
    return {
        f"sub_mean{layer}.weight": identity,
        f"sub_mean{layer}.bias": -mean,
        f"add_mean{layer}.weight": identity,
        f"add_mean{layer}.bias": mean,
    }


# The first kernel's name tells whose weights they are, and so how their network pads.
_STEMS = {"Conv/weights": "same", "features.0.0.weight": "torch", "conv_stem.weight": "torch"}


def _check_padding(network: MobileNetV2, arrays: Mapping[str, np.ndarray], source: str) -> None:
    for name, padding in _STEMS.items():
        if name in arrays and padding != network.padding:
            raise ValueError(
                f"{source}: array {name!r} belongs to a network with padding={padding!r}, this "
                f"one has padding={network.padding!r}: give the network the padding, mean and "
                "std that the weights were trained with."
            )


# PyTorch's names of what Flax calls so.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

_FORMS: dict[type[Network], _Form] = {
    EDSR: _Form(
        _edsr_name, lambda n: _mean_shift(n.value_range * np.asarray(n.mean, np.float32), "")
    ),
    CARNM: _Form(
        _carn_m_name,
        lambda n: _mean_shift(np.asarray(n.mean, np.float32), ".shifter"),
        lambda n: rf"upsample\.up(?!{n.scale}\.).*",
    ),
    IMDN: _Form(_imdn_name),
    BlindSpot: _Form(_blind_spot_name),
    ResNet: _Form(_resnet_name),
    ResNet4b: _Form(_resnet4b_name),
    MobileNetV2: _Form(_mobilenet_name, axes=lambda ndim: tuple(range(ndim))),
    ImageNetResNet: _Form(_imagenet_resnet_name),
}
