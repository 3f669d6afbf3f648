"""Trains NCIS's blind-spot network without labels or attacks: `python -m train.blind_spot small`.

The network sees a photograph, smoothed or as it is, and predicts each pixel from the others. What
the abstracts of NCIS say is that it is trained on general images, to restore what smoothing took;
which of the two images is given and which is wanted, loss and sizes are our reading, and options.
"""

import dataclasses
import functools
from typing import Annotated, Literal

import jax.numpy as jnp
import tyro

from rainjax import transforms
from rainjax.data.splits import Data
from rainjax.metrics import psnr
from rainjax.nets import BLIND_SPOT, BLIND_SPOT_SMALL, BlindSpot
from train.augment import random_symmetry
from train.compute import PLAIN, Compute
from train.optimizers import Optimizer
from train.options import (
    Output,
    check_counts,
    program,
)
from train.panels import blind_spot_panel
from train.skeleton import fit_patches

Which = Literal["smoothed", "raw"]


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """How images are smoothed, as NCIS does it before every pass."""

    sigma: float = 1.0
    """Standard deviation of the Gaussian, in pixels."""
    kernel_size: int = 5
    """Its kernel's height and width, odd."""
    border: Literal["reflect", "edge"] = "reflect"
    """What lies beyond the border."""

    def __call__(self, image):
        """Returns the smoothed image."""
        return transforms.gaussian_smooth(image, self.sigma, self.kernel_size, border=self.border)


@dataclasses.dataclass(frozen=True)
class BlindSpotTraining:
    """Trains a blind-spot network to restore photographs, on random patches of them."""

    run: Annotated[Output, tyro.conf.arg(name="")]
    data: Annotated[Data, tyro.conf.arg(name="")]
    network: BlindSpot
    optimizer: Optimizer
    compute: Compute = Compute()
    smoothing: Smoothing = Smoothing()
    given: Which = "smoothed"
    """The image that the network sees: smoothed, or raw."""
    wanted: Which = "raw"
    """The image that it should return: raw, or smoothed."""
    distance: Literal["l2", "l1"] = "l2"
    """How far it is from it: the mean square of the error, or its mean size, in grey levels."""
    patch: int = 32
    """Height and width of the patches."""
    init: str | None = None
    """Start from this zoo entry, by name or path, instead of from scratch."""
    num_epochs: int = 8
    """Epochs; after each, a checkpoint is written and validation images are measured."""
    steps_per_epoch: int = 250
    """Steps an epoch."""
    batch_size: int = 32
    """Patches a step."""
    seed: int = 0
    """Decides initial parameters, patches and augmentation."""

    def __post_init__(self):
        check_counts(self, "num_epochs", "steps_per_epoch", "batch_size")
        if self.patch < self.smoothing.kernel_size:
            raise ValueError(
                f"patch={self.patch} is smaller than smoothing.kernel_size="
                f"{self.smoothing.kernel_size}: take larger patches."
            )
        channels = self.network.in_channels, self.network.out_channels
        if channels[0] != channels[1]:
            raise ValueError(
                f"The network makes {channels[1]} channels of {channels[0]}: a purifier keeps "
                "their number."
            )
        transforms.gaussian_kernel(self.smoothing.sigma, self.smoothing.kernel_size)  # or says why


PRESETS = {
    "paper": (
        "The 17 layers of 64 features of the authors' own blind-spot network, on ImageNet's "
        "training pictures imported under the name `imagenet224`; what NCIS was trained with is "
        "not known, and these are its denoiser's rates. Not run here: for a GPU.",
        BlindSpotTraining(
            run=Output("paper_blind_spot"),
            data=Data("imagenet224"),
            network=BLIND_SPOT,
            optimizer=Optimizer(
                learning_rate=1e-3, schedule="steps", boundaries=(10, 20, 30, 40), factor=0.5
            ),
            patch=220,
            num_epochs=50,
            steps_per_epoch=3000,
            batch_size=8,
        ),
    ),
    "small": (
        "The small network on the built-in set: 27.5 dB where smoothing keeps 25.5, in half "
        "an hour on two busy cores.",
        BlindSpotTraining(
            run=Output("builtin_blind_spot"),
            data=Data(num_validation=500),
            network=BLIND_SPOT_SMALL,
            optimizer=Optimizer(learning_rate=2e-3, clip_norm=1e4),
            num_epochs=6,
        ),
    ),
    "cifar10": (
        "The small network on CIFAR-10: 29.9 dB where smoothing keeps 25.5, in twenty minutes on "
        "one busy core of two.",
        BlindSpotTraining(
            run=Output("cifar10_blind_spot"),
            data=Data("cifar10", num_validation=500),
            network=BLIND_SPOT_SMALL,
            optimizer=Optimizer(learning_rate=2e-3, clip_norm=1e4),
            compute=Compute(average=0.999),
            num_epochs=6,
        ),
    ),
    "natural": (
        "The small network on photographs, the imported data set `bsds500` or another: 29.3 dB "
        "where smoothing keeps 26.7, in a quarter of an hour on one busy core of two.",
        BlindSpotTraining(
            run=Output("natural_blind_spot"),
            data=Data("bsds500", num_validation=20),
            network=BLIND_SPOT_SMALL,
            optimizer=Optimizer(learning_rate=2e-3, clip_norm=1e4),
            compute=Compute(average=0.999),
            patch=64,
            num_epochs=5,
            batch_size=8,
        ),
    ),
    "smoke": (
        "A tiny network on 500 pictures of the built-in set, to see that everything works.",
        BlindSpotTraining(
            run=Output("smoke_blind_spot"),
            data=Data(num_training=500, num_validation=100),
            network=BlindSpot(num_layers=4, num_features=12),
            optimizer=Optimizer(learning_rate=4e-3, clip_norm=1e4),
            num_epochs=3,
            steps_per_epoch=100,
            batch_size=16,
        ),
    ),
}


def views(image, *, options: BlindSpotTraining):
    """Returns the image that is given, and the one that is wanted."""
    smoothed = options.smoothing(image)
    chosen = {"smoothed": smoothed, "raw": image}
    return chosen[options.given], chosen[options.wanted]


def loss(params, frozen, key, example, *, options: BlindSpotTraining, compute: Compute = PLAIN):
    """Returns the error of one turned or mirrored patch, in grey levels or their squares."""
    del frozen
    image = random_symmetry(key, jnp.asarray(example["image"], jnp.float32) / 255)
    given, wanted = views(image, options=options)
    error = 255 * (compute.lower(options.network.apply)(params, given) - wanted)
    return (jnp.square(error) if options.distance == "l2" else jnp.abs(error)).mean(), {}


def score(params, key, example, *, options: BlindSpotTraining):
    """Returns the PSNR of one image's prediction, and of the smoothed image in its place."""
    del key
    image = jnp.asarray(example["image"], jnp.float32) / 255
    given, wanted = views(image, options=options)
    bounded = lambda found: jnp.minimum(psnr(found, wanted), 100.0)  # of equal ones it is infinite
    return {
        "psnr": bounded(jnp.clip(options.network.apply(params, given), 0.0, 1.0)),
        "smoothed_psnr": bounded(options.smoothing(image)),
    }


def train(options: BlindSpotTraining) -> None:
    """Runs the training that `options` describe, or goes on with it."""
    fit_patches(
        options,
        loss=functools.partial(loss, options=options, compute=options.compute),
        score=functools.partial(score, options=options),
        panel=functools.partial(blind_spot_panel, views=functools.partial(views, options=options)),
        panel_shows="what is given, what the network makes of it, what is wanted",
    )


if __name__ == "__main__":
    program(train, PRESETS, __doc__)
