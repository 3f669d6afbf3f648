"""The card beside a file of parameters: what it must say, and the network it describes."""

import contextlib
import dataclasses
import difflib
import json
import pathlib
import typing

from rainjax.nets import (
    EDSR,
    BlindSpot,
    ImageNetResNet,
    MobileNetV2,
    Network,
    QualityNet,
    ResNet,
    ResNet4b,
    SqueezeNet,
    TinyDarknet,
)
from rainjax.zoo._arrays import OTHERS

# The architectures that a card can name and `load` then builds. Any other is given to `load`: what
# a file says never decides which code is imported.
NETWORKS: dict[str, type[Network]] = {
    cls.__name__: cls
    for cls in (
        BlindSpot,
        EDSR,
        ImageNetResNet,
        MobileNetV2,
        QualityNet,
        ResNet,
        ResNet4b,
        SqueezeNet,
        TinyDarknet,
    )
}

# Written by `save` itself, and given by whoever trained the parameters.
_OWN = {"name": str, "architecture": dict, "sha256": str}
_GIVEN = {"data": dict, "command": str, "seed": int, "metrics": dict}
_DEFAULTS = {"licence": "Apache-2.0", "dtype": "float32"}
DTYPES = ("float32", "float16")


def make_card(name: str, network: Network, extra: dict) -> dict:
    """Returns a card without its sha256; raises ValueError if `extra` lacks a needed key."""
    if not isinstance(extra, dict):
        raise ValueError(
            f"The card of {name!r} must be a dict with {_list(map(repr, _GIVEN))}, not {extra!r}."
        )
    for key in (*_OWN,):
        if key in extra:
            raise ValueError(f"The card's {key!r} is written by zoo.save; leave it out.")
    card = {"name": name, "architecture": describe(network), **_DEFAULTS, **extra}
    _check(card, {**_GIVEN, **dict.fromkeys(_DEFAULTS, str)}, where=f"The card of {name!r}")
    return card


def read_card(path: pathlib.Path) -> dict:
    """Returns the card in the JSON file at `path`, complete; raises ValueError if it is not."""
    if not path.is_file():
        raise FileNotFoundError(
            f"The card {path} is missing: parameters are loaded together with the .json file "
            f"that zoo.save wrote beside them; {OTHERS}."
        )
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The card {path} is not valid JSON ({error}).") from None
    if not isinstance(card, dict):
        raise ValueError(f"The card {path} holds a {type(card).__name__}, not an object.")
    _check(card, {**_OWN, **_GIVEN, **dict.fromkeys(_DEFAULTS, str)}, where=f"The card {path}")
    for key, kind in (("class", str), ("fields", dict)):
        said = card["architecture"].get(key)
        if not isinstance(said, kind):
            raise ValueError(
                f"The card {path} has 'architecture' with {key!r} = {said!r}; it must be a "
                f"{kind.__name__}, as zoo.save writes it."
            )
    return card


def describe(network: Network) -> dict:
    """Returns the class and fields of `network` as plain JSON.

    A class that is not in `NETWORKS` is named with its module, and of its fields those are left
    out that are no plain JSON.
    """
    kind = type(network)
    if is_known(kind.__name__) and NETWORKS[kind.__name__] is kind:
        return {"class": kind.__name__, "fields": dataclasses.asdict(network)}
    fields = {}
    for field in dataclasses.fields(network):
        with contextlib.suppress(TypeError, ValueError):
            fields[field.name] = json.loads(json.dumps(getattr(network, field.name)))
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "fields": fields}


def is_known(cls: str) -> bool:
    """Returns whether `build` makes networks of the class that a card names so."""
    return cls in NETWORKS


def check_given(card: dict, network: Network, *, where: str) -> None:
    """Refuses a network that is not the one that `card` describes, as far as it does.

    The class counts by its name alone: a program may have moved it to another module.

    Raises:
        ValueError: naming the first thing that differs.
    """
    said, given = card["architecture"], describe(network)
    wanted = said["class"]
    if wanted.split(".")[-1] != given["class"].split(".")[-1]:
        raise ValueError(
            f"{where} names the network class {wanted!r}, and network= is a {given['class']!r}: "
            "give the network that these parameters were saved with."
        )
    for name, value in said["fields"].items():
        if name in given["fields"] and _tuples(given["fields"][name]) != _tuples(value):
            raise ValueError(
                f"{where} says {name}={_tuples(value)!r}, and network= has "
                f"{name}={_tuples(given['fields'][name])!r}: give the network that these "
                "parameters were saved with."
            )


def build(card: dict, *, where: str) -> Network:
    """Returns the network that `card` describes."""
    architecture = card["architecture"]
    cls, fields = architecture["class"], architecture["fields"]
    if not is_known(cls):
        mine = cls.split(".")[-1]
        raise ValueError(
            f"{where} names the network class {cls!r}; known are {_list(NETWORKS)}, and any other "
            f"is given as a value: zoo.load(path, network={mine}(...))."
        )
    known = {field.name: field.type for field in dataclasses.fields(NETWORKS[cls])}
    for field in fields:
        if field not in known:
            raise ValueError(f"{where} gives {cls} the field {field!r}; it has {_list(known)}.")
    try:
        values = {key: _made(value, known[key]) for key, value in fields.items()}
        network = NETWORKS[cls](**values)
        network.shapes()  # fields of another type show when the network is built
        return network
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{where} describes a {cls} that cannot be built: {error}") from None


# More names than these are no help in a sentence.
_FEW = 8


def unknown_name(name: str, known: list[str]) -> ValueError:
    """Returns the error for a name that is not in the zoo, with what was perhaps meant."""
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    few = len(known) <= _FEW
    entries = _list(known) if few else f"{len(known)} entries, which `rainjax zoo` lists"
    return ValueError(
        f"The zoo has no {name!r}.{hint} It has {entries}; "
        "a path to a file of parameters works as well, and no such file is there."
    )


def _check(card: dict, needed: dict[str, type], *, where: str) -> None:
    for key, kind in needed.items():
        if key not in card:
            raise ValueError(f"{where} lacks {key!r}.")
        if not isinstance(card[key], kind) or isinstance(card[key], bool):
            raise ValueError(f"{where} has {key!r} = {card[key]!r}; it must be a {kind.__name__}.")
    if card["dtype"] not in DTYPES:
        raise ValueError(f"{where} has dtype {card['dtype']!r}; it must be one of {DTYPES}.")


def _tuples(value):
    """Returns `value` with JSON's lists as the tuples that frozen dataclasses hold."""
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _made(value, kind):
    """Returns `value` as a field of this type holds it: JSON's objects are dataclasses there."""
    if isinstance(value, list):
        part = next(iter(typing.get_args(kind)), None)
        return tuple(_made(one, part) for one in value)
    if isinstance(value, dict) and isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**{str(key): _tuples(part) for key, part in value.items()})
    return value


def _list(names) -> str:
    return ", ".join(sorted(names)) or "nothing yet"
