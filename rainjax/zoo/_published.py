"""Weights that others published: files under their original names, and what network they are."""

import hashlib
import os
import pathlib

from rainjax.nets import (
    CARNM,
    EDSR_BASELINE,
    IMAGENETTE_CLASSES,
    IMDN,
    ImageNetResNet,
    MobileNetV2,
    Network,
    ResNet,
    ResNet4b,
    SqueezeNet,
    TinyDarknet,
    from_torch,
)
from rainjax.nets.convert import fitting
from rainjax.typing import Params
from rainjax.zoo._arrays import read_arrays
from rainjax.zoo._store import Entry, load, names

# One network for two layouts: `from_torch` tells torchvision's arrays from timm's by their names.
_MOBILENET = MobileNetV2(padding="torch", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

PUBLISHED: dict[str, Network] = {
    "resnet20": ResNet(depth=20, norm="batch"),
    "resnet56": ResNet(depth=56, norm="batch"),
    "resnet4b": ResNet4b(),
    "mobilenetv2": MobileNetV2(),
    "mobilenetv2_imagenette": MobileNetV2(class_subset=IMAGENETTE_CLASSES),
    "mobilenetv2_torchvision": _MOBILENET,
    "mobilenetv2_timm": _MOBILENET,
    "resnet18_torchvision": ImageNetResNet(blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet34_torchvision": ImageNetResNet(blocks=(3, 4, 6, 3), bottleneck=False),
    "resnet50_torchvision": ImageNetResNet(),  # timm's resnet50 has the same names
    "resnet50_imagenette": ImageNetResNet(class_subset=IMAGENETTE_CLASSES),
    "squeezenet": SqueezeNet(),
    "squeezenet_imagenette": SqueezeNet(class_subset=IMAGENETTE_CLASSES),
    "tinydarknet": TinyDarknet(),
    "tinydarknet_imagenette": TinyDarknet(class_subset=IMAGENETTE_CLASSES),
    "carn_m_x2": CARNM(scale=2),
    "edsr_baseline_x2": EDSR_BASELINE,
    "imdn_x2": IMDN(scale=2),
}


def load_any(name_or_path: str | os.PathLike, architecture: str | None = None) -> Entry:
    """Returns an entry of the zoo or, with `architecture`, a file of published weights.

    `architecture` is a key of `PUBLISHED`, and `name_or_path` then the path of a .npz or
    .safetensors file of arrays under their original names. Such an entry has no card, and its
    network as many classes as the file.

    Raises:
        FileNotFoundError, ValueError: as `load` and `load_torch`, and for an unknown
            architecture, or none where the file has no card.
    """
    path = pathlib.Path(name_or_path)
    if architecture is None:
        if name_or_path not in names() and path.is_file() and not _is_entry(path):
            others = _architectures(read_arrays(path))
            if others:
                raise ValueError(
                    f"{path} has no card that says what network it is of; {_advice(others)}."
                )
        return load(name_or_path)
    network = published(architecture)
    if name_or_path in names() and not path.is_file():
        raise ValueError(
            f"{name_or_path!r} ships with a card that says what network it is of: leave the "
            f"architecture {architecture!r} out."
        )
    arrays = read_arrays(path)
    network = fitting(network, arrays) or network
    params = _params(path, network, arrays, f"the architecture {architecture!r}")
    return Entry(path.stem, network, params, {}, hashlib.sha256(path.read_bytes()).hexdigest())


def load_torch(path: str | os.PathLike, network: Network) -> Params:
    """Returns parameters for `network` from a `.npz` or `.safetensors` file of PyTorch's names.

    The names are those of `rainjax.nets.convert.from_torch`. From PyTorch, write such a file with
    `numpy.savez(path, **{k: v.float().numpy() for k, v in model.state_dict().items()})`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or does not fit the network; says what differs, and which
            published architecture it fits.
    """
    path = pathlib.Path(path)
    return _params(path, network, read_arrays(path), f"this {type(network).__name__}")


def published(architecture: str) -> Network:
    """Returns the network of that name in `PUBLISHED`; raises ValueError if there is none."""
    if architecture not in PUBLISHED:
        raise ValueError(
            f"No architecture is called {architecture!r}; there are {', '.join(PUBLISHED)}."
        )
    return PUBLISHED[architecture]


def _params(path: pathlib.Path, network: Network, arrays: dict, which: str) -> Params:
    """Returns a file's arrays as parameters, or refuses what is not of `which` network."""
    try:
        return from_torch(network, arrays)
    except ValueError as error:
        said = f"{path} does not fit {which}: {error}"
        if _is_entry(path):
            said = f"{said.rstrip('.')}; its card says what network it is of: load it without one."
        elif fitting(network, arrays) is None and (others := _architectures(arrays)):
            said = f"{said.rstrip('.')}; {_advice(others)}."
        raise ValueError(said) from None


def _architectures(arrays: dict) -> list[str]:
    """Returns the names of the published architectures that a file's arrays fit."""
    return [name for name, network in PUBLISHED.items() if fitting(network, arrays) is not None]


def _advice(architectures: list[str]) -> str:
    name = architectures[0]
    return (
        f"it fits {' and '.join(map(repr, architectures))}: give the architecture, as in "
        f"zoo.load_any(path, {name!r}), or --classifier-arch {name} for a program"
    )


def _is_entry(path: pathlib.Path) -> bool:
    """Returns whether `load` reads a file: one with a card beside it."""
    return path.suffix.lower() == ".safetensors" and path.with_suffix(".json").is_file()
