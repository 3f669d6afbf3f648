"""Trains EDSR x2 to undo a halving of images: `python -m train.super_resolution small`."""

import dataclasses
import functools
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import tyro

from rainjax import transforms
from rainjax.data.splits import Data
from rainjax.metrics import psnr
from rainjax.nets import EDSR, EDSR_BASELINE, EDSR_SMALL
from train.augment import random_symmetry
from train.compute import PLAIN, Compute
from train.optimizers import Optimizer
from train.options import (
    Output,
    check_counts,
    program,
)
from train.panels import super_resolution_panel
from train.skeleton import fit_patches


@dataclasses.dataclass(frozen=True)
class SuperResolution:
    """Trains EDSR x2 with the L1 loss, in grey levels, on random patches."""

    run: Annotated[Output, tyro.conf.arg(name="")]
    data: Annotated[Data, tyro.conf.arg(name="")]
    network: EDSR
    optimizer: Optimizer
    compute: Compute = Compute()
    degradation: Literal["bicubic", "random"] = "bicubic"
    """How patches are halved: bicubic in 8 bits, as in the super-resolution literature, or by
    RAIN's own random pick of one pixel in four."""
    patch: int = 32
    """Height and width of the patches EDSR should produce; even."""
    init: str | None = None
    """Start from this zoo entry, by name or path, instead of from scratch."""
    num_epochs: int = 20
    """Epochs; after each, a checkpoint is written and validation images are measured."""
    steps_per_epoch: int = 500
    """Steps an epoch."""
    batch_size: int = 16
    """Patches a step."""
    seed: int = 0
    """Decides initial parameters, patches and augmentation."""

    def __post_init__(self):
        check_counts(self, "num_epochs", "steps_per_epoch", "batch_size")
        if self.patch < 4 or self.patch % 2:
            raise ValueError(f"patch={self.patch} must be even and at least 4.")
        if self.network.scale != 2:
            raise ValueError(f"network.scale={self.network.scale}: RAIN needs scale 2.")


_HALVED_ONCE = Optimizer(learning_rate=1e-4, schedule="steps", boundaries=(200,), factor=0.5)

PRESETS = {
    "paper": (
        "EDSR baseline as its authors trained it, on DIV2K imported under the name `div2k`: they "
        "report 37.99 dB on Set5; hours on a GPU, with --compute.precision bfloat16 fewer.",
        SuperResolution(
            run=Output("paper_edsr"),
            data=Data("div2k", num_validation=10),
            network=EDSR_BASELINE,
            optimizer=_HALVED_ONCE,
            patch=192,
            num_epochs=300,
            steps_per_epoch=1000,
        ),
    ),
    "small": (
        "The small EDSR on the built-in set: 26.3 dB where bicubic reaches 25.6, in 6 minutes on "
        "two busy cores.",
        SuperResolution(
            run=Output("builtin_edsr"),
            data=Data(num_validation=500),
            network=EDSR_SMALL,
            optimizer=Optimizer(learning_rate=1e-3),
            num_epochs=4,
            steps_per_epoch=300,
            batch_size=32,
        ),
    ),
    "natural": (
        "EDSR baseline on photographs, the imported data set `bsds500` or another, with small "
        "patches and one cycle: 28.8 dB where bicubic reaches 26.8, in 48 minutes on two busy "
        "cores.",
        SuperResolution(
            run=Output("natural_edsr"),
            data=Data("bsds500", num_validation=20),
            network=EDSR_BASELINE,
            optimizer=Optimizer(learning_rate=5e-4, clip_norm=100.0),
            compute=Compute(average=0.999),
            patch=48,
            num_epochs=16,
            steps_per_epoch=500,
        ),
    ),
    "natural_small": (
        "The small EDSR on photographs: 28.5 dB where bicubic reaches 26.8, in 5 minutes on two "
        "busy cores.",
        SuperResolution(
            run=Output("natural_small_edsr"),
            data=Data("bsds500", num_validation=20),
            network=EDSR_SMALL,
            optimizer=Optimizer(learning_rate=1e-3),
            patch=48,
            num_epochs=12,
        ),
    ),
    "smoke": (
        "A tiny EDSR on 500 pictures of the built-in set, to see that everything works: 26.7 dB "
        "where bicubic reaches 26.1, in a minute on two cores.",
        SuperResolution(
            run=Output("smoke_edsr"),
            data=Data(num_training=500, num_validation=100),
            network=EDSR(num_blocks=2, num_features=16),
            optimizer=Optimizer(learning_rate=4e-3),
            num_epochs=3,
            steps_per_epoch=250,
        ),
    ),
}


def degrade(key, image, *, degradation: str):
    """Returns the image at half its size."""
    if degradation == "random":
        return transforms.random_pixel_downsample(key, image)
    return transforms.halve_bicubic(image)


def loss(
    params,
    frozen,
    key,
    example,
    *,
    network: EDSR,
    degradation: str,
    compute: Compute = PLAIN,
):
    """Returns the mean absolute error of one turned or mirrored patch, in grey levels."""
    del frozen
    symmetry_key, degrade_key = jax.random.split(key)
    high = random_symmetry(symmetry_key, jnp.asarray(example["image"], jnp.float32) / 255)
    low = degrade(degrade_key, high, degradation=degradation)
    restored = compute.lower(network.apply)(params, low)
    return 255 * jnp.abs(restored - high).mean(), {}


def score(params, key, example, *, network: EDSR, degradation: str):
    """Returns the PSNR of one image restored by EDSR, and by bicubic interpolation."""
    high = jnp.asarray(example["image"], jnp.float32) / 255
    low = degrade(key, high, degradation=degradation)
    restored = jnp.clip(network.apply(params, low), 0.0, 1.0)
    bicubic = jnp.clip(transforms.resize_bicubic(low, *high.shape[:2]), 0.0, 1.0)
    bounded = lambda image: jnp.minimum(psnr(image, high), 100.0)  # of equal images it is infinite
    return {"psnr": bounded(restored), "bicubic_psnr": bounded(bicubic)}


def train(options: SuperResolution) -> None:
    """Runs the training that `options` describe, or goes on with it."""
    choices = {"network": options.network, "degradation": options.degradation}
    fit_patches(
        options,
        loss=functools.partial(loss, compute=options.compute, **choices),
        score=functools.partial(score, **choices),
        panel=functools.partial(
            super_resolution_panel,
            degrade=functools.partial(degrade, degradation=options.degradation),
            seed=options.seed,
        ),
        panel_shows="low resolution, bicubic, EDSR, original",
    )


if __name__ == "__main__":
    program(train, PRESETS, __doc__)
