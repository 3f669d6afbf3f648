"""Entries of the zoo checked point by point, where `load` stops at the first that is wrong."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

from rainjax.nets import Model, Network
from rainjax.nets._named import check_shapes, finite_float32, flatten
from rainjax.zoo import _card, _store
from rainjax.zoo._arrays import read_safetensors


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is well with one file of parameters and its card, and what is not.

    `wrong` has a sentence for each point that is not; `unchecked` are the points that could not
    be looked at because of those. `needs_network` names the class of a network of somebody's own
    that was not given: then "network" and "shapes" are no points.
    """

    name: str
    path: pathlib.Path
    well: tuple[str, ...]
    wrong: dict[str, str]
    unchecked: tuple[str, ...]
    needs_network: str | None = None

    @property
    def is_well(self) -> bool:
        """Whether every point was looked at and none is wrong."""
        return not self.wrong and not self.unchecked

    def __str__(self) -> str:
        if self.is_well:
            said = f"{self.name}: well ({', '.join(self.well)})"
            if self.needs_network is None:
                return said
            mine = self.needs_network.split(".")[-1]
            return (
                f"{said}; its network, a {self.needs_network}, was not given: "
                f"zoo.verify(path, network={mine}(...)) checks the shapes as well"
            )
        parts = [f"{point}: {' '.join(said.split())}" for point, said in self.wrong.items()]
        for title, points in (("not checked", self.unchecked), ("well", self.well)):
            parts += [f"{title}: {', '.join(points)}"] if points else []
        return f"{self.name}: NOT WELL; {'; '.join(parts)}"


def verify(
    name_or_path: str | os.PathLike | None = None, network: Network | Model | None = None
) -> list[Verdict]:
    """Checks a shipped entry by name, an entry or a folder of them by path, or all that ship.

    `network` is that of one entry, as for `load`; without it, an entry whose network is somebody's
    own is checked in all but that network and its shapes.

    The points: the card is complete, it describes a network that can be built, the file is the
    one that the card was written for (sha256), it can be read, it stores the precision that the
    card says (dtype), has an array for every parameter of the network and in its shape and no
    other (shapes), and all values are finite.

    Raises:
        FileNotFoundError, ValueError: as `load`, where there is nothing to check.
        ValueError: a network is given for a folder of several entries.
    """
    given = _store.WEIGHTS if name_or_path is None else name_or_path
    folder = pathlib.Path(given)
    if given in _store.names() or not folder.is_dir():
        return [_verdict(_store.find(given), network)]
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"There are no parameters in {folder}.")
    if network is not None and len(paths) > 1:
        raise ValueError(
            f"{folder} holds {len(paths)} entries, and network= is that of one: give its path."
        )
    return [_verdict(path, network) for path in paths]


class _Unchecked(Exception):
    """A point waits for something that an earlier one did not find."""


def _verdict(path: pathlib.Path, network: Network | Model | None) -> Verdict:
    name = path.stem if path.parent == _store.WEIGHTS else str(path)
    well, wrong, unchecked = [], {}, []
    needs_network = None
    found: dict[str, Any] = {}

    def needs(point: str) -> Any:
        if point not in found:
            raise _Unchecked
        return found[point]

    content = path.read_bytes()
    card_path = path.with_suffix(".json")
    points: dict[str, Callable[[], Any]] = {
        "card": lambda: _card.read_card(card_path),
        "network": lambda: _shapes(needs("card"), network, where=f"The card {card_path}"),
        "sha256": lambda: _store.check_sha256(path, content, needs("card")),
        "file": lambda: read_safetensors(path, content),
        "dtype": lambda: _store.check_dtype(path, needs("file"), needs("card")),
        "shapes": lambda: _check_shapes(path, needs("file"), needs("network")),
        "values": lambda: [
            finite_float32(name, array, source=str(path)) for name, array in needs("file").items()
        ],
    }
    for point, check in points.items():
        if needs_network is not None and point in ("network", "shapes"):
            continue
        try:
            found[point] = check()
            well.append(point)
            if point == "card" and network is None:
                cls = found["card"]["architecture"]["class"]
                # A class of the zoo's is named without its module, anybody else's with it.
                needs_network = cls if "." in cls else None
        except _Unchecked:
            unchecked.append(point)
        except (OSError, ValueError) as error:
            wrong[point] = str(error).rstrip(".")
    return Verdict(name, path, tuple(well), wrong, tuple(unchecked), needs_network)


def _shapes(card: dict, given: Network | Model | None, *, where: str) -> Any:
    network, shapes = _store.network_of(card, given, where=where, who="zoo.verify")
    _card.check_given(card, network, where=where)
    return shapes


def _check_shapes(path: pathlib.Path, arrays: dict, shapes: Any) -> None:
    needed = {name: leaf.shape for name, leaf in flatten(shapes).items()}
    check_shapes({k: v.shape for k, v in arrays.items()}, needed, source=str(path))
