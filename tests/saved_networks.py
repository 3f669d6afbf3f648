"""Tiny networks saved to a folder, as a user's own would be."""

import pathlib

import numpy as np

from rainjax import data, zoo
from tests.tiny import (
    BLIND_SPOT_TINY,
    EDSR_TINY,
    RESNET_TINY,
    blind_spot_params,
    edsr_params,
    resnet_params,
)

CARD = {"data": {"name": "builtin"}, "command": "none", "seed": 0, "metrics": {}}


def save(folder) -> dict[str, str]:
    """Returns the paths of a classifier that is sometimes right, and of two EDSRs."""
    images, labels = data.load("builtin", "train").get(np.arange(200))
    classifier = resnet_params(images.astype(np.float32) / 255, labels)
    return {
        "classifier": str(zoo.save(folder, "classifier", RESNET_TINY, classifier, CARD)),
        "pretrained": str(zoo.save(folder, "before", EDSR_TINY, edsr_params(1), CARD)),
        "finetuned": str(zoo.save(folder, "after", EDSR_TINY, edsr_params(2), CARD)),
    }


def save_blind_spot(folder, name: str = "blind_spot", **options) -> str:
    """Returns the path of a blind-spot network; `options` are those its card says beside sigma."""
    said = {
        "given": "smoothed",
        "smoothing.sigma": 1.0,
        "smoothing.kernel_size": 3,
        "smoothing.border": "reflect",
    } | options
    card = {**CARD, "options": said}
    return str(zoo.save(folder, name, BLIND_SPOT_TINY, blind_spot_params(), card))


def tiny_zoo(folder: pathlib.Path) -> pathlib.Path:
    """Saves a tiny classifier that learned a little and a tiny EDSR, and returns their folder."""
    images, labels = data.load("builtin", "train").get(np.arange(250))
    params = resnet_params(images.astype(np.float32) / 255, labels)
    zoo.save(folder, "resnet", RESNET_TINY, params, CARD)
    zoo.save(folder, "edsr", EDSR_TINY, edsr_params(), CARD)
    return folder


def two_classifiers(folder: pathlib.Path) -> pathlib.Path:
    """Saves resnet0 and resnet1, often right where they were fitted, and returns their folder."""
    images, labels = data.load("builtin", "train").get(np.arange(250))
    for seed in (0, 1):
        params = resnet_params(images.astype(np.float32) / 255, labels, seed)
        zoo.save(folder, f"resnet{seed}", RESNET_TINY, params, CARD)
    return folder
