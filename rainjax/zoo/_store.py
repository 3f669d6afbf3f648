"""Writing and reading entries of the zoo. Nothing is unpickled: numbers are safetensors."""

import dataclasses
import hashlib
import json
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import PyTree

from rainjax._checks import check_kind
from rainjax._files import write_bytes
from rainjax.nets import Model, Network, num_params
from rainjax.nets._named import flatten, unflatten
from rainjax.nets.own import Function, LinenModule
from rainjax.typing import Params
from rainjax.zoo import _card
from rainjax.zoo._arrays import OTHERS, read_safetensors

WEIGHTS = pathlib.Path(__file__).parent / "weights"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Entry:
    """A network with its numbers; `card` says where they come from, `sha256` which they are."""

    name: str
    network: Network
    params: Params
    card: dict
    sha256: str

    def __repr__(self) -> str:
        count = num_params(self.params)
        return f"Entry({self.name!r}, {self.network!r}, {count:,} parameters)"


def names() -> list[str]:
    """Returns the names of the parameters that ship with the package."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load(name_or_path: str | os.PathLike, network: Network | Model | None = None) -> Entry:
    """Returns a shipped entry by name, or any other by the path of its `.safetensors` file.

    A path may also name the folder that holds exactly one, or leave the ending out.
    Parameters are float32, whatever precision they are stored in.

    `network` is the network that they belong to, needed where its class is not one of
    `zoo.NETWORKS`: a card names the class, but never decides what code is imported. A model of
    `nets.from_flax`, `from_linen` or `from_function` may stand for its network; its parameters
    give the shapes.

    >>> import dataclasses, tempfile, jax, jax.numpy as jnp
    >>> from rainjax import nets, zoo
    >>> @dataclasses.dataclass(frozen=True)
    ... class Linear(nets.Network):
    ...     num_classes: int
    ...     def init(self, key):
    ...         return {"kernel": jax.random.normal(key, (48, self.num_classes))}
    ...     def apply(self, params, *inputs):
    ...         return inputs[0].reshape(48) @ params["kernel"]
    >>> network, card = Linear(10), {"data": {}, "command": "none", "seed": 0, "metrics": {}}
    >>> params = network.init(jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = zoo.save(folder, "mine", network, params, card)
    ...     entry = zoo.load(path, network=Linear(10))
    >>> entry.network
    Linear(num_classes=10)

    Raises:
        FileNotFoundError: there is no such file, or no card beside it.
        ValueError: in one sentence, for an unknown name, a damaged file, a file that is not the
            one its card describes, a class of networks that is not known, and parameters that do
            not fit the network: the first that differs.
    """
    path = find(name_or_path)
    card = _card.read_card(path.with_suffix(".json"))
    content = path.read_bytes()
    check_sha256(path, content, card)
    where = f"The card {path.with_suffix('.json')}"
    network, shapes = network_of(card, network, where=where, who="zoo.load")
    arrays = read_safetensors(path, content)
    check_dtype(path, arrays, card)
    params = unflatten(arrays, shapes, source=str(path))
    _card.check_given(card, network, where=where)
    return Entry(card["name"], network, params, card, card["sha256"])


def network_of(
    card: dict, network: Network | Model | None, *, where: str, who: str
) -> tuple[Network, PyTree[jax.ShapeDtypeStruct]]:
    """Returns the network of a card, or the one that was given for it, and its shapes.

    Raises:
        ValueError: the card's class is not known and none was given.
    """
    if isinstance(network, Model):
        network, shapes = network.network, _shapes_of(network.params)
    else:
        network = _card.build(card, where=where) if network is None else network
        check_kind(network, Network, f"{who}(network=...)")
        shapes = network.shapes()
    return network, shapes


def save(
    folder: str | os.PathLike, name: str, network: Network, params: Params, card_extra: dict
) -> pathlib.Path:
    """Writes `<name>.safetensors` and its card into `folder`; returns the former's path.

    `card_extra` must have "data", "command", "seed" and "metrics", all of them plain JSON; it
    may have "licence", "dtype" ("float32", or "float16" for half the size) and keys of its own.
    The card names the network's class and fields; `load` wants the network itself where its
    class is not one of `zoo.NETWORKS`.

    Raises:
        ValueError: in one sentence, for a name that is none, a card that lacks something, and
            parameters that are not the network's, no floats, too large for the dtype, or none at
            all.
    """
    check_name(name)
    check_kind(network, Network, "zoo.save(network=...)")
    card = _card.make_card(name, network, card_extra)
    named = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}
    if not named:
        raise ValueError(f"There is nothing to save as {name!r}: its network has no parameters.")
    for key, leaf in named.items():
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"Parameter {key!r} of {name!r} is {leaf.dtype}, and {card['dtype']} is what is "
                "kept and loaded: make it float32, or a field of the network."
            )
    # A Linen module and a function know no shapes but those of the parameters they came with.
    came_with_them = isinstance(network, LinenModule | Function)
    shapes = _shapes_of(params) if came_with_them else network.shapes()
    unflatten(named, shapes, source=f"The tree of parameters given for {name!r}")
    with np.errstate(over="ignore"):
        stored = {key: np.ascontiguousarray(leaf, card["dtype"]) for key, leaf in named.items()}
    for key, leaf in stored.items():
        if not np.isfinite(leaf).all():
            raise ValueError(f"Parameter {key!r} of {name!r} is too large for {card['dtype']}.")
    content = safetensors.numpy.save(stored)
    card["sha256"] = hashlib.sha256(content).hexdigest()
    try:
        text = json.dumps(card, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The card of {name!r} is not plain JSON: {error}.") from None

    folder = pathlib.Path(folder)
    path = folder / f"{name}.safetensors"
    write_bytes(path, content)
    write_bytes(path.with_suffix(".json"), (text + "\n").encode())
    return path


def check_name(name: str) -> None:
    """Raises ValueError for a name that parameters cannot be saved under."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"A name has letters, digits, '_' and '-' only, got {name!r}.")


def find(name_or_path: str | os.PathLike) -> pathlib.Path:
    """Returns the file of an entry by its name or path; raises as `load` does for none."""
    if name_or_path in names():
        return WEIGHTS / f"{name_or_path}.safetensors"
    path = pathlib.Path(name_or_path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise ValueError(
                f"The folder {path} holds {len(found)} .safetensors files, not one; "
                "give the path of a file."
            )
        return found[0]
    if path.suffix.lower() != ".safetensors":
        if path.is_file():
            raise ValueError(f"{path} is no .safetensors file that zoo.save wrote: {OTHERS}.")
        path = path.with_name(path.name + ".safetensors")
    if path.is_file():
        return path
    if path.parent == pathlib.Path() and isinstance(name_or_path, str):
        raise _card.unknown_name(name_or_path, names())
    raise FileNotFoundError(f"There are no parameters at {path}.")


def check_sha256(path: pathlib.Path, content: bytes, card: dict) -> None:
    """Raises ValueError if the content of `path` is not what its card was written for."""
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != card["sha256"]:
        raise ValueError(
            f"{path} has sha256 {sha256[:12]}..., its card says {card['sha256'][:12]}...: "
            "the file is damaged or was replaced; restore it and its card together."
        )


def check_dtype(path: pathlib.Path, arrays: dict[str, np.ndarray], card: dict) -> None:
    """Raises ValueError for the first array that is not in the precision its card says."""
    for name, array in arrays.items():
        if array.dtype.name != card["dtype"]:
            raise ValueError(
                f"{path} stores {name!r} as {array.dtype.name}, its card says {card['dtype']}."
            )


def _shapes_of(params: Params) -> PyTree[jax.ShapeDtypeStruct]:
    return jax.eval_shape(lambda: params)
