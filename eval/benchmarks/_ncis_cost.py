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
from rainjax.report.tables import Cell, Table
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


def share_notes(record: dict[str, Any]) -> list[str]:
    """Returns sentences on the share of the arithmetic limit; none for a record without NCIS."""
    limit = record.get("arithmetic")
    entries = [e for e in record["entries"] if e.get("multiply_adds")]
    if not limit or not entries:
        return []
    per_second = limit["multiply_adds_per_second"]
    told = []
    for entry in entries:
        share = entry["multiply_adds"] / (entry["median_ms"] / 1000) / per_second
        kept = entry["kept_multiply_adds"] / entry["multiply_adds"]
        told.append(
            f"{entry['name']} at {entry['size']}, batch {entry['batch_size']}: "
            f"{entry['multiply_adds'] / 1e9:,.3g} billion an image, of which masks keep "
            f"{kept:.0%}, {share:.0%} of the limit"
        )
    return [
        f"The arithmetic limit is what a product of matrices of {limit['side']} reaches on all "
        f"devices together, in turns with the others: {per_second / 1e9:,.3g} billion "
        f"multiply-adds a second. {'; '.join(told)}."
    ]


def ncis_texts(record: dict[str, Any]) -> dict[str, str]:
    """Returns what NCIS takes, and how many times its rivals' times that is, as it is quoted.

    At the size and the largest batch of the record; empty for a record without NCIS.
    """
    size, batch = record["options"]["size"], max(record["options"]["batch_sizes"])
    times = {
        e["name"]: e["median_ms"]
        for e in record["entries"]
        if e["whose"] == "rainjax" and e["batch_size"] == batch and e.get("size", size) == size
    }
    found = {}
    for name, median in times.items():
        if name.startswith("NCIS") or name == "Gaussian smoothing":
            ratios = [
                f"{median / times[rival]:.3g} × {rival}" for rival, _ in rivals() if rival in times
            ]
            found[name] = f"{median:,.3g} ms an image at {size} (" + ", ".join(ratios) + ")"
    return found if any(name.startswith("NCIS") for name in found) else {}


def other_sizes_table(record: dict[str, Any], text: Callable[[float], str]) -> Table | None:
    """Returns what was timed at other sizes than the benchmark's; None for a record without."""
    options = record["options"]
    lines: dict[tuple[str, int], dict[int, float]] = {}
    for entry in record["entries"]:
        size = entry.get("size", options["size"])
        if size != options["size"]:
            place = entry["name"], size
            lines.setdefault(place, {})[entry["batch_size"]] = entry["median_ms"]
    if not lines:
        return None
    sizes = options["batch_sizes"]
    return Table(
        "What smoothing costs an image of another size",
        tuple(map(Cell, ("", "size", *(f"batch {batch}" for batch in sizes)))),
        tuple(
            (
                Cell(name),
                Cell(f"{size} × {size}"),
                *(Cell(text(line[batch])) for batch in sizes),
            )
            for (name, size), line in lines.items()
        ),
        ("rainjax's, in turns with those of the table above, on the middles of the same images.",),
    )
