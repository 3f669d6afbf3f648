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
    from_torch,
)
from rainjax.zoo._store import Entry, load, read_arrays

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
    "carn_m_x2": CARNM(scale=2),
    "edsr_baseline_x2": EDSR_BASELINE,
    "imdn_x2": IMDN(scale=2),
}


def load_any(name_or_path: str | os.PathLike, architecture: str | None = None) -> Entry:
    """Returns an entry of the zoo or, with `architecture`, a file of published weights.

    `architecture` is a key of `PUBLISHED`, and `name_or_path` then the path of a .npz or
    .safetensors file of arrays under their original names. Such an entry has no card.

    Raises:
        FileNotFoundError, ValueError: as `load` and `load_torch`, and for an unknown
            architecture.
    """
    if architecture is None:
        return load(name_or_path)
    network, path = published(architecture), pathlib.Path(name_or_path)
    arrays = read_arrays(path)
    try:
        params = from_torch(network, arrays)
    except ValueError as error:
        raise ValueError(
            f"{path} does not fit the architecture {architecture!r}, one of "
            f"{', '.join(PUBLISHED)}: {error}"
        ) from None
    return Entry(path.stem, network, params, {}, hashlib.sha256(path.read_bytes()).hexdigest())


def published(architecture: str) -> Network:
    """Returns the network of that name in `PUBLISHED`; raises ValueError if there is none."""
    if architecture not in PUBLISHED:
        raise ValueError(
            f"No architecture is called {architecture!r}; there are {', '.join(PUBLISHED)}."
        )
    return PUBLISHED[architecture]
