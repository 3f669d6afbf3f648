"""Published weights: from arrays under their PyTorch names to parameters, and back."""

from collections.abc import Mapping

import numpy as np

from rainjax._types import Params
from rainjax.nets import _mobilenet_torch
from rainjax.nets._named import as_float32, flatten, unflatten
from rainjax.nets._network import Network
from rainjax.nets.edsr import EDSR
from rainjax.nets.imagenet_resnet import ImageNetResNet
from rainjax.nets.mobilenet import MobileNetV2
from rainjax.nets.resnet import ResNet
from rainjax.nets.resnet4b import ResNet4b


def from_torch(network: Network, arrays: Mapping[str, np.ndarray]) -> Params:
    """Returns `arrays` as parameters of `network`.

    EDSR: the names of the authors' PyTorch code (`head.0.weight`, `body.0.body.2.bias`, ...),
    whose fixed `sub_mean` and `add_mean` may be there and are then compared with `network.mean`.
    ResNet: `conv1.weight`, `layer1.0.bn1.running_mean`, ..., `linear.weight`;
    `num_batches_tracked` is ignored. ResNet4b: `conv1.weight`, `layer1.0.shortcut.0.bias`, ...,
    `linear2.weight`. ImageNetResNet: torchvision's and timm's names (`layer1.0.conv1.weight`,
    `layer1.0.downsample.0.weight`, ..., `fc.weight`). MobileNetV2: TensorFlow's names and kernels
    as they are, batch norm folded in (`expanded_conv_1/depthwise/weights`, ...); with
    `padding="torch"` torchvision's (`features.0.0.weight`, ...) or timm's (`conv_stem.weight`,
    ...), whose batch norm is folded here.
    Raises ValueError that names the first array that is missing, unexpected or mis-shaped.
    """
    source = f"This set of arrays for {type(network).__name__}"
    arrays = {k: np.asarray(v) for k, v in arrays.items() if not k.endswith("num_batches_tracked")}
    if isinstance(network, MobileNetV2):
        _check_padding(network, arrays, source)
        if network.padding == "torch":
            named = _mobilenet_torch.fold(network, arrays, source=source)
            return unflatten(named, network.shapes(), source=source)
    names = _names(network)
    if isinstance(network, EDSR):
        arrays = _without_mean_shift(network, arrays)
    shapes = {key: leaf.shape for key, leaf in flatten(network.shapes()).items()}
    axes = {name: _torch_axes(network, len(shapes[key])) for name, key in names.items()}
    expected = {name: tuple(shapes[key][a] for a in axes[name]) for name, key in names.items()}
    arrays = as_float32(arrays, expected, source=source)
    named = {key: arrays[name].transpose(np.argsort(axes[name])) for name, key in names.items()}
    return unflatten(named, network.shapes(), source=source)


def to_torch(network: Network, params: Params) -> dict[str, np.ndarray]:
    """Returns `params` under the names and in the layout that `from_torch` reads.

    For an EDSR or a ResNet with batch norm that is a state dict of the authors' PyTorch code,
    which `load_state_dict({k: torch.from_numpy(v) ...})` takes; for an ImageNetResNet, and a
    MobileNetV2 with `padding="torch"`, one of torchvision's.
    """
    named = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}
    unflatten(
        named, network.shapes(), source=f"This tree of parameters for {type(network).__name__}"
    )
    if isinstance(network, MobileNetV2) and network.padding == "torch":
        return _mobilenet_torch.unfold(network, named)
    arrays = _mean_shift(network) if isinstance(network, EDSR) else {}
    for name, key in _names(network).items():
        axes = _torch_axes(network, named[key].ndim)
        arrays[name] = np.ascontiguousarray(named[key].transpose(axes))
    return arrays


def _names(network: Network) -> dict[str, str]:
    """Returns the key of every parameter by the name of its array outside."""
    parts = {key: key.split("/") for key in flatten(network.shapes())}
    if isinstance(network, EDSR):
        return {_edsr_name(network, *path): key for key, path in parts.items()}
    if isinstance(network, ResNet):
        return {_resnet_name(network, *path): key for key, path in parts.items()}
    if isinstance(network, ResNet4b):
        return {_resnet4b_name(*path): key for key, path in parts.items()}
    if isinstance(network, MobileNetV2):
        return {_mobilenet_name(*path): key for key, path in parts.items()}
    if isinstance(network, ImageNetResNet):
        return {_imagenet_resnet_name(*path): key for key, path in parts.items()}
    raise ValueError(
        "Weights can be converted for EDSR, ResNet, ResNet4b, MobileNetV2 and ImageNetResNet, "
        f"got a {type(network).__name__}."
    )


def _torch_axes(network: Network, ndim: int) -> tuple[int, ...]:
    """Returns the order of axes outside: OIHW for our HWIO, (out, in) for (in, out)."""
    if isinstance(network, MobileNetV2):
        return tuple(range(ndim))
    return {4: (3, 2, 0, 1), 2: (1, 0)}.get(ndim, tuple(range(ndim)))


def _edsr_name(network: EDSR, part: str, *rest: str) -> str:
    leaf = {"kernel": "weight", "bias": "bias"}[rest[-1]]
    if part == "blocks":
        return f"body.{rest[0]}.body.{ {'conv1': 0, 'conv2': 2}[rest[1]] }.{leaf}"
    if part == "upsample":
        return f"tail.0.{2 * int(rest[0])}.{leaf}"  # convolutions and shuffles take turns
    return {"head": "head.0", "body_end": f"body.{network.num_blocks}", "tail": "tail.1"}[
        part
    ] + f".{leaf}"


_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _resnet_name(network: ResNet, part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    norm = {"batch": "bn", "group": "gn"}[network.norm]
    if part == "blocks":
        group, index = divmod(int(rest[0]), (network.depth - 2) // 6)
        return f"layer{group + 1}.{index}.{rest[1].replace('norm', norm)}.{leaf}"
    return f"{part.replace('norm', norm)}.{leaf}"


def _resnet4b_name(part: str, *rest: str) -> str:
    leaf = {"kernel": "weight", "bias": "bias"}[rest[-1]]
    if part == "blocks":
        group, index = divmod(int(rest[0]), 2)
        layer = {"shortcut": "shortcut.0"}.get(rest[1], rest[1])
        return f"layer{group + 1}.{index}.{layer}.{leaf}"
    return f"{part}.{leaf}"


def _imagenet_resnet_name(part: str, *rest: str) -> str:
    leaf = _LEAVES[rest[-1]]
    if part == "groups":
        group, index, *layers, _ = rest
        layer = layers[-1].replace("norm", "bn")  # what is in "residual" lies beside the shortcut
        layer = {"shortcut": "downsample.0", "shortcut_bn": "downsample.1"}.get(layer, layer)
        return f"layer{int(group) + 1}.{index}.{layer}.{leaf}"
    return {"conv1": "conv1", "norm1": "bn1", "linear": "fc"}[part] + f".{leaf}"


def _mobilenet_name(part: str, *rest: str) -> str:
    leaf = {"kernel": "weights", "bias": "biases"}[rest[-1]]
    if part == "blocks":
        index = f"_{rest[0]}" if rest[0] != "0" else ""
        return f"expanded_conv{index}/{rest[1]}/{leaf}"
    return {"stem": "Conv", "last": "Conv_1", "logits": "Logits/Conv2d_1c_1x1"}[part] + f"/{leaf}"


def _mean_shift(network: EDSR) -> dict[str, np.ndarray]:
    """Returns the two fixed 1x1 convolutions with which the PyTorch code shifts the mean."""
    mean = network.value_range * np.asarray(network.mean, np.float32)
    identity = np.eye(mean.size, dtype=np.float32)[:, :, None, None]
    return {
        "sub_mean.weight": identity,
        "sub_mean.bias": -mean,
        "add_mean.weight": identity,
        "add_mean.bias": mean,
    }


def _without_mean_shift(network: EDSR, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = dict(arrays)
    for name, expected in _mean_shift(network).items():
        found = arrays.pop(name, expected)
        if found.shape != expected.shape or not np.allclose(found, expected, atol=1e-3):
            raise ValueError(
                f"Array {name!r} holds {found.ravel().tolist()}, but this EDSR's mean and "
                f"value_range make it {expected.ravel().tolist()}; set them to match."
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
