"""MobileNetV2's weights under PyTorch's names, torchvision's and timm's: batch norm to fold in."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from rainjax.nets._named import as_float32, flatten
from rainjax.nets.mobilenet import MobileNetV2


class Names(NamedTuple):
    """The names of a convolution and of the batch norm behind it; "" where there is none."""

    conv: str
    norm: str


Layers = dict[str, Names]  # by the key of the layer in our tree, such as "blocks/1/expand"

_NORM = ("weight", "bias", "running_mean", "running_var")
_EPSILON = 1e-5


def torchvision_names(network: MobileNetV2) -> Layers:
    """Returns where torchvision's `mobilenet_v2` keeps each layer."""
    layers = {"stem": Names("features.0.0", "features.0.1")}
    for index, (_, _, expands) in enumerate(_blocks(network)):
        inner = f"features.{index + 1}.conv"
        key = f"blocks/{index}"
        place = 0
        if expands:
            layers[f"{key}/expand"] = Names(f"{inner}.0.0", f"{inner}.0.1")
            place = 1
        layers[f"{key}/depthwise"] = Names(f"{inner}.{place}.0", f"{inner}.{place}.1")
        layers[f"{key}/project"] = Names(f"{inner}.{place + 1}", f"{inner}.{place + 2}")
    last = f"features.{len(_blocks(network)) + 1}"
    layers["last"] = Names(f"{last}.0", f"{last}.1")
    layers["logits"] = Names("classifier.1", "")
    return layers


def timm_names(network: MobileNetV2) -> Layers:
    """Returns where timm's `mobilenetv2_100` keeps each layer."""
    layers = {"stem": Names("conv_stem", "bn1")}
    for index, (stage, place, expands) in enumerate(_blocks(network)):
        inner, key = f"blocks.{stage}.{place}", f"blocks/{index}"
        if expands:
            layers[f"{key}/expand"] = Names(f"{inner}.conv_pw", f"{inner}.bn1")
            layers[f"{key}/depthwise"] = Names(f"{inner}.conv_dw", f"{inner}.bn2")
            layers[f"{key}/project"] = Names(f"{inner}.conv_pwl", f"{inner}.bn3")
        else:
            layers[f"{key}/depthwise"] = Names(f"{inner}.conv_dw", f"{inner}.bn1")
            layers[f"{key}/project"] = Names(f"{inner}.conv_pw", f"{inner}.bn2")
    layers["last"] = Names("conv_head", "bn2")
    layers["logits"] = Names("classifier", "")
    return layers


LAYOUTS: tuple[Callable[[MobileNetV2], Layers], ...] = (torchvision_names, timm_names)


def shapes(network: MobileNetV2) -> list[dict[str, tuple[int, ...]]]:
    """Returns the shapes of the arrays outside by name, in each of `LAYOUTS`."""
    return [_shapes(network, layout(network)) for layout in LAYOUTS]


def fold(
    network: MobileNetV2, arrays: Mapping[str, np.ndarray], *, source: str
) -> dict[str, np.ndarray]:
    """Returns the arrays under the keys of our tree, batch norm folded into the convolutions.

    The layout is the one of torchvision's and timm's that has more of the names. Raises
    ValueError as `as_float32` does, and for a variance below zero.
    """
    layouts = zip((layout(network) for layout in LAYOUTS), shapes(network), strict=True)
    layers, needed = max(layouts, key=lambda layout: len(layout[1].keys() & arrays.keys()))
    arrays = as_float32(arrays, needed, source=source)
    named = {}
    for key, (conv, norm) in layers.items():
        kernel = arrays[f"{conv}.weight"].astype(np.float64)
        if norm:
            gain, shift, mean, variance = (arrays[f"{norm}.{leaf}"] for leaf in _NORM)
            if variance.min() < 0:
                raise ValueError(f"{source}: array '{norm}.running_var' has values below zero.")
            factor = gain / np.sqrt(variance.astype(np.float64) + _EPSILON)
            kernel = kernel * factor[:, None, None, None]
            bias = shift - mean * factor
        else:
            kernel, bias = kernel[:, :, None, None], arrays[f"{conv}.bias"]
        named[f"{key}/kernel"] = kernel.transpose(2, 3, 1, 0)
        named[f"{key}/bias"] = bias
    return named


def unfold(network: MobileNetV2, named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what `fold` reads under torchvision's names, with batch norm that only adds."""
    arrays = {}
    for key, (conv, norm) in torchvision_names(network).items():
        kernel = np.ascontiguousarray(named[f"{key}/kernel"].transpose(3, 2, 0, 1))
        bias = np.array(named[f"{key}/bias"])
        if norm:
            # A variance that is one once epsilon is added, to within what float32 cannot tell.
            values = (
                np.ones_like(bias),
                bias,
                np.zeros_like(bias),
                np.full_like(bias, 1 - _EPSILON),
            )
            arrays |= {f"{norm}.{leaf}": value for leaf, value in zip(_NORM, values, strict=True)}
        else:
            kernel, arrays[f"{conv}.bias"] = kernel[:, :, 0, 0], bias
        arrays[f"{conv}.weight"] = kernel
    return arrays


def _shapes(network: MobileNetV2, layers: Layers) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays outside, by name."""
    ours = {key: leaf.shape for key, leaf in flatten(network.shapes()).items()}
    shapes = {}
    for key, (conv, norm) in layers.items():
        height, width, features_in, features = ours[f"{key}/kernel"]
        if norm:
            shapes[f"{conv}.weight"] = (features, features_in, height, width)
            shapes |= {f"{norm}.{leaf}": (features,) for leaf in _NORM}
        else:
            shapes |= {f"{conv}.weight": (features, features_in), f"{conv}.bias": (features,)}
    return shapes


def _blocks(network: MobileNetV2) -> list[tuple[int, int, bool]]:
    """Returns every block's stage, its place there, and whether it expands."""
    return [
        (stage, place, expansion > 1)
        for stage, (expansion, _, num_blocks, _) in enumerate(network.stages)
        for place in range(num_blocks)
    ]
