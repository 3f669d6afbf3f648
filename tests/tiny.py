"""Networks small enough to compile in a blink, and defenses that lay their draws open."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

from rainjax.defenses import Defense
from rainjax.nets import EDSR, BlindSpot, ResNet
from rainjax.nets._network import Network

EDSR_TINY = EDSR(num_blocks=1, num_features=4)
BLIND_SPOT_TINY = BlindSpot(num_layers=3, num_features=8)
RESNET_TINY = ResNet(depth=8, width=8, norm="group", num_groups=4)


def edsr_params(seed: int = 0):
    """Small random numbers on top of those that repeat every pixel 2x2."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: rng.normal(0, 0.03, a.shape), EDSR_TINY.shapes())
    for channel in range(3):
        params["head"]["kernel"][1, 1, channel, channel] += 1
        params["tail"]["kernel"][1, 1, channel, channel] += 1
        for part in range(4):
            params["upsample"][0]["kernel"][1, 1, channel, 4 * channel + part] += 1
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def blind_spot_params(seed: int = 0, noise: float = 0.01):
    """Small random numbers on top of those that return the mean of the nearest eight pixels."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda a: rng.normal(0, noise, a.shape), BLIND_SPOT_TINY.shapes())
    first, *others = params["convs"].values()
    for channel in range(3):
        first["kernel"][:, :, channel, channel] += 1 / 8
        params["tail"]["kernel"][0, 0, channel, channel] += 1
    for conv in others:  # the rest pass on what they get
        middle = conv["kernel"].shape[0] // 2
        conv["kernel"][middle, middle] += np.eye(BLIND_SPOT_TINY.num_features)
    for residual in (*params["residuals"].values(), params["mean_residual"]):
        for name in ("conv1", "conv2"):
            residual[name]["kernel"][0, 0] += np.eye(BLIND_SPOT_TINY.num_features)
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def resnet_params(images, labels, seed: int = 0):
    """Random numbers, but for the last layer: least squares, so that answers differ."""
    rng, width = np.random.default_rng(seed), 4 * RESNET_TINY.width
    bare = dataclasses.replace(RESNET_TINY, num_classes=width)
    params = jax.tree.map(lambda a: _he_normal(rng, a.shape), bare.shapes())
    params["linear"] = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    features = jax.jit(jax.vmap(bare.apply, (None, 0)))(params, images)
    features = np.column_stack([np.asarray(features, np.float64), np.ones(len(labels))])
    targets = 5 * np.eye(RESNET_TINY.num_classes)[np.asarray(labels)]
    solved = np.linalg.lstsq(features, targets, rcond=1e-6)[0].astype(np.float32)
    return {
        **params,
        "linear": {"kernel": jnp.asarray(solved[:-1]), "bias": jnp.asarray(solved[-1])},
    }


def _he_normal(rng, shape):
    """Kernels of unit gain; for the norms' scales and biases, ones and a little noise."""
    if len(shape) == 1:
        return jnp.asarray(rng.normal(0.5, 0.1, shape), jnp.float32)
    return jnp.asarray(rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1])), jnp.float32)


@contextlib.contextmanager
def unchecked():
    """Switches the checks of annotations off, as they are for a user."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@dataclasses.dataclass(frozen=True)
class Repeat(EDSR):
    """Repeats every pixel 2x2, so that what went in can be read off what came out."""

    gain: float = 1.0
    ramp: float = 0.0

    def init(self, key):
        return ()

    def apply(self, params, *inputs):
        (image,) = inputs
        image = jnp.repeat(jnp.repeat(image, 2, axis=0), 2, axis=1)
        # A ramp over the rows tells a shift before the network from one after it.
        rows = jnp.linspace(0.0, 1.0, image.shape[0])[:, None, None]
        return self.gain * image + self.ramp * rows


@dataclasses.dataclass(frozen=True)
class Linear(Network):
    """Logits that are linear in the image, with parameters `{"kernel": [h*w*c, classes]}`."""

    size: int
    num_classes: int

    def init(self, key):
        return {"kernel": jax.random.normal(key, (self.size, self.num_classes))}

    def apply(self, params, *inputs):
        return inputs[0].reshape(self.size) @ params["kernel"]


@dataclasses.dataclass(frozen=True)
class Mask(Defense):
    """Keeps each value with probability one half: its draw is its gradient."""

    def apply(self, params, key, image):
        return image * jax.random.bernoulli(key, 0.5, image.shape)


@dataclasses.dataclass(frozen=True)
class Scale(Defense):
    """Multiplies by a constant."""

    factor: float

    def apply(self, params, key, image):
        return self.factor * image
