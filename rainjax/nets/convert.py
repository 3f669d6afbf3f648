"""Published weights: from arrays under their original names to parameters, and back."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from rainjax.nets import _mobilenet_torch
from rainjax.nets._layouts import form_of
from rainjax.nets._named import as_float32, flatten, unflatten
from rainjax.nets._network import Network
from rainjax.nets._state_dict import state_dict, without_prefix
from rainjax.nets.mobilenet import MobileNetV2
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
    ...), whose batch norm is folded here. SqueezeNet: Caffe's names (`conv1.weight`,
    `fire2/conv1x1_1.weight`, ..., `conv10.bias`). TinyDarknet: Keras's names and kernels as they
    are (`conv2d_1/kernel`, `batch_normalization_1/moving_mean`, ..., `conv2d_16/bias`).
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
    form, names = form_of(network), _names(network)
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
    form = form_of(network)
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
    for name in form_of(network).constants(network):
        arrays.pop(name, None)
    if _has_shapes(arrays, layout):
        return network
    if arrays.keys() != layout.keys():
        return None
    other = _with_classes_of(network, arrays)
    return other if _has_shapes(arrays, _layout(other, arrays)) else None


def _names(network: Network) -> dict[str, str]:
    """Returns the key of every parameter by the name of its array outside."""
    name = form_of(network).name
    return {name(network, *key.split("/")): key for key in flatten(network.shapes())}


def _is_folded(network: Network) -> TypeGuard[MobileNetV2]:
    """Returns whether its batch norm lies outside in arrays of its own."""
    return isinstance(network, MobileNetV2) and network.padding == "torch"


def _read(network: Network, given: Mapping) -> tuple[Shapes, dict[str, np.ndarray]]:
    """Returns the shapes outside, and the arrays under those names, without what says nothing."""
    arrays, ignored = state_dict(given), re.compile(form_of(network).ignored(network))
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
    form, shapes = form_of(network), flatten(network.shapes())
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
    for name, expected in form_of(network).constants(network).items():
        found = arrays.pop(name, expected)
        if found.shape != expected.shape or not np.allclose(found, expected, atol=1e-3):
            raise ValueError(
                f"Array {name!r} holds {found.ravel().tolist()}, but this "
                f"{type(network).__name__}'s fields make it {expected.ravel().tolist()}; "
                "set them to match."
            )
    return arrays


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
