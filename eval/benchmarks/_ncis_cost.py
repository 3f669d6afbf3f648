"""What NCIS costs beside its baseline and its rivals, and how near it is to the machine's limit.

A part of `python -m eval speed`: what is timed, the multiply-adds that a network takes by its
shapes, and the rate at which this machine does them.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from rainjax.defenses import NCIS, Defense, GaussianSmoothing, NonLocalMeans, TotalVariation
from rainjax.devices import batch_sharding, data_mesh
from rainjax.nets import BLIND_SPOT, BLIND_SPOT_SMALL, BlindSpot
from rainjax.typing import Params

NETWORKS = {"small": BLIND_SPOT_SMALL, "full": BLIND_SPOT}
_SIDE = 1536  # of the matrices: large enough for a full rate, and 7 MiB each


@dataclasses.dataclass(frozen=True)
class Work:
    """Multiply-adds that a network takes for one image.

    `computed` counts whole kernels, as they are convolved with; `kept` leaves out the taps that
    masks drop.
    """

    computed: int
    kept: int


def ncis_rows() -> Iterator[tuple[str, Defense, Params, str, BlindSpot | None]]:
    """Yields what is timed for NCIS alone: name, defense, parameters, settings, network."""
    smoothing = GaussianSmoothing()
    yield "Gaussian smoothing", smoothing, (), repr(smoothing), None
    for name, network in NETWORKS.items():
        defense = NCIS(network)
        settings = (
            f"num_iterations={defense.num_iterations}, sigma={defense.sigma}, "
            f"kernel_size={defense.kernel_size}, num_layers={network.num_layers}, "
            f"num_features={network.num_features}, fresh parameters"
        )
        yield f"NCIS, {name}", defense, defense.init(jax.random.key(0)), settings, network


def rivals() -> Iterator[tuple[str, Defense]]:
    """Yields what NCIS is held against, with the names that the benchmark has for them."""
    yield "total variation", TotalVariation()
    yield "non-local means", NonLocalMeans()


def work_of(network: BlindSpot, height: int, width: int) -> Work:
    """Returns what one pass of a blind-spot network takes, from its shapes.

    Convolutions alone: what is added pixel by pixel is a thousandth of them.
    """
    features, layers = network.num_features, network.num_layers
    channels = (network.in_channels, *(layers - 1) * (features,))
    within = 2 * (layers + 1) * features**2 + features * network.out_channels
    counted = []
    for taps in (lambda mask: math.prod(mask.shape), lambda mask: len(mask.offsets)):
        between = sum(
            taps(mask) * given * features
            for mask, given in zip(network.layer_masks, channels, strict=True)
        )
        counted.append(height * width * (between + within))
    return Work(*counted)


def matrix_product() -> Callable[[], Any]:
    """Returns a call that multiplies two square matrices on every device at once."""
    num = len(jax.local_devices())
    place = batch_sharding(data_mesh(batch_size=num))
    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (
        jax.device_put(jax.random.normal(key, (num, _SIDE, _SIDE)), place) for key in keys
    )
    product = jax.jit(jnp.matmul).lower(first, second).compile()
    return lambda: jax.block_until_ready(product(first, second))


def rate(seconds: list[float]) -> dict[str, Any]:
    """Returns the multiply-adds a second of the calls of `matrix_product`, as a record has it."""
    num = len(jax.local_devices())
    per_second = num * _SIDE**3 / statistics.median(seconds)
    return {"side": _SIDE, "seconds": seconds, "multiply_adds_per_second": per_second}
