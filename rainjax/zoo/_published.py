"""Weights that others published: files under their original names, and what network they are."""

import hashlib
import os
import pathlib

from rainjax.nets import (
    CARNM,
    EDSR_BASELINE,
    IMAGENETTE_CLASSES,
    IMDN,
    MobileNetV2,
    Network,
    ResNet,
    ResNet4b,
)
from rainjax.zoo._store import Entry, load, load_torch

PUBLISHED: dict[str, Network] = {
    "resnet20": ResNet(depth=20, norm="batch"),
    "resnet56": ResNet(depth=56, norm="batch"),
    "resnet4b": ResNet4b(),
    "mobilenetv2": MobileNetV2(),
    "mobilenetv2_imagenette": MobileNetV2(class_subset=IMAGENETTE_CLASSES),
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
    if architecture not in PUBLISHED:
        raise ValueError(
            f"No architecture is called {architecture!r}; there are {', '.join(PUBLISHED)}."
        )
    network, path = PUBLISHED[architecture], pathlib.Path(name_or_path)
    params = load_torch(path, network)
    return Entry(path.stem, network, params, {}, hashlib.sha256(path.read_bytes()).hexdigest())
