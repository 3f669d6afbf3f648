"""Options of values, refused in one sentence where they are not what their fields say."""

import dataclasses
import enum
import numbers
import re
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

_LONGEST = 80  # letters of a value in a sentence


def check_fields(value: Any) -> None:
    """Refuses a dataclass with a field that is not of the type it is declared with.

    Numbers of NumPy and JAX become Python's; True and False are no numbers. A list is no tuple,
    for a value must have a hash. Types of arrays, and others that are not read here, are passed
    over.

    Raises:
        ValueError: with the field, what it holds, and what it may hold.
    """
    for field in dataclasses.fields(value):
        if not hasattr(value, field.name):  # a subclass will set it
            continue
        given = getattr(value, field.name)
        plain = _as_plain(given, field.type)
        if plain is not given:
            object.__setattr__(value, field.name, plain)
        if get_origin(field.type) is Literal:
            check_option(field.name, plain, field.type)
        elif not _fits(plain, field.type):
            raise ValueError(_refusal(type(value).__name__, field.name, plain, field.type))


def check_kind(given: Any, kind: type, where: str, *, verb: str = "takes") -> None:
    """Refuses what is no `kind`; says what to make of what was given.

    `where` names what takes it, as in "run_attack(attack=...)".

    Raises:
        ValueError: with what it takes, what it was given, and the mend.
    """
    if not isinstance(given, kind):
        raise ValueError(_wrong(where, given, (kind,), verb))


def check_kind_of(given: Any, package: str, name: str, where: str) -> None:
    """Does as `check_kind` for the class `name` of a package that is not imported for it."""
    base = next((kind for kind in _bases(given) if _is_called(kind, package, name)), None)
    if base is None or isinstance(given, type):
        raise ValueError(_wrong(where, given, (base or type(name, (), {}),)))


def as_plain(name: str, given: Any, kind: Any = float) -> Any:
    """Returns an option of Python's `kind`, also where NumPy's or JAX's was given.

    Raises:
        ValueError: it is none; True and False are no numbers.
    """
    plain = _as_plain(given, kind)
    if not _fits(plain, kind):
        raise ValueError(_not_of_kind(name, plain, kind, "call it once"))
    return plain


def is_whole(given: Any) -> bool:
    """Returns whether it is a whole number, Python's or NumPy's; True and False are none."""
    return _fits(given, int)


def is_nnx_module(given: Any) -> bool:
    """Returns whether it is a Flax NNX module, without importing Flax."""
    return _comes_from(given, "flax.nnx", "Module")


def check_image(image: Any, whose: str) -> None:
    """Refuses what is not one image of floats, before it gives numbers that mean nothing.

    Raises:
        ValueError: naming `whose` input it is, its type and its shape.
    """
    if not isinstance(image, jax.Array | np.ndarray):
        raise ValueError(
            f"{whose} takes one image `h w c` of floats in [0, 1], not {shown(image)}: make an "
            "array of it by jnp.asarray."
        )
    if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"{whose} takes one image `h w c` of floats in [0, 1], got {image.dtype} of shape "
            f"{image.shape}: divide integers by 255, and use jax.vmap for a batch."
        )
    if channels_first(image.shape):
        raise ValueError(
            f"{whose} takes one image `h w c`, and {image.shape} has its channels first: give "
            "jnp.moveaxis(image, 0, -1)."
        )


def channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether it is the shape of an image, or of a batch, as PyTorch has them: `c h w`."""
    channels, height, width = shape[-3:]
    return channels in (1, 3) and height > 4 and width > 4


def check_num_classes(num: int, whose: str) -> None:
    """Refuses a classifier with a single output, which is "right" for class 0 whatever is done.

    Raises:
        ValueError: naming it, and how to make two logits of the one.
    """
    if num < 2:
        raise ValueError(
            f"{whose} returns {num} logit{'' if num == 1 else 's'} for an image, and a classifier "
            "tells two classes or more apart: of a single output z, before its sigmoid, make the "
            "two logits jnp.stack([jnp.zeros(()), z]), as nets.from_function(..., sigmoid=True) "
            "does."
        )


def check_option(name: str, given: Any, options: Any) -> None:
    """Refuses what is none of `options`, a `Literal` of names.

    Raises:
        ValueError: with the names there are.
    """
    # By type as well: a list could not be looked up, and 1 is True.
    if not any(type(given) is type(option) and given == option for option in get_args(options)):
        raise ValueError(f"{name}={shown(given)} is none of {_listed(options)}.")


_PLAIN = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "True or False"),
    str: (str, "text"),
    types.NoneType: (types.NoneType, "None"),
}


# What to do with something that is not of the kind that is wanted: by the kind that it is.
_TO_NETWORK = {
    "an NNX module": "take .network and .params of rainjax.nets.from_flax(module)",
    "a Linen module": "take .network and .params of rainjax.nets.from_linen(module, variables)",
    "a PyTorch module": "wrap it by rainjax.adapters.from_torch_module(module, num_classes)",
    "a zoo entry": "take entry.network, and entry.params among the parameters",
    "a network with its parameters": "take model.network, and model.params among the parameters",
    "a function": "take .network and .params of rainjax.nets.from_function(fn, params)",
    "a Pipeline": "take its .classifier",
}
_TO_DEFENSE = {
    "a Network": "put it into a defense, as in RAIN(network); no defense is rainjax.Identity()",
    "a zoo entry": "put entry.network into a defense, as in RAIN(entry.network)",
    "a network with its parameters": "put model.network into a defense, as in RAIN(model.network)",
    "a function": "call it in the `apply` of a subclass of rainjax.Defense",
    "a Pipeline": "take its .defense",
    "nothing": "no defense is rainjax.Identity()",
}
_TO_PIPELINE = {
    "a Network": "put it behind a defense: Defended(Identity(), network)",
    "a Defense": "put it before a classifier: Defended(defense, network)",
    "a zoo entry": "put it behind a defense: Defended(Identity(), entry.network)",
    "a network with its parameters": "put it behind a defense: Defended(Identity(), "
    "model.network)",
    "a function": "put it behind a defense: Defended(Identity(), network), with the network of "
    "rainjax.nets.from_function(fn, params)",
    "an NNX module": "put it behind a defense: Defended(Identity(), network), with the network of "
    "rainjax.nets.from_flax(module)",
    "a Linen module": "put it behind a defense: Defended(Identity(), network), with the network "
    "of rainjax.nets.from_linen(module, variables)",
    "a PyTorch module": "put it behind a defense: Defended(Identity(), network), with the network "
    "of rainjax.adapters.from_torch_module(module, num_classes)",
}
_TO_ATTACK = {
    "an ensemble": "give its members to rainjax.run_ensemble",
    "a Pipeline": "the pipeline comes first, as in run_attack(pipeline, attack, ...)",
    "a function": "subclass rainjax.Attack",
    "": "give an attack with its options, such as PGD(radius=8 / 255)",
}
_MENDS = {  # "" is for whatever else was given
    "Network": _TO_NETWORK,
    "Defense": _TO_DEFENSE,
    "Pipeline": _TO_PIPELINE,
    "Attack": _TO_ATTACK,
    "EOT": {"": "give eot=EOT(16) for 16 draws"},
    "Surrogate": {"": "give a value such as Itself() or ClassifierAlone()"},
    "Measure": {"": "give a value such as Robustness()"},
    "ImageSet": {"": "make one by rainjax.data.from_arrays(images, labels, name=...)"},
    "Subject": {"": "make one by Subject(name, pipeline, params)"},
    "ThreatModel": {"": "make one by ThreatModel(name, attack)"},
    "Study": {"a function": "call it, and give the study that it returns"},
    "Record": {"": "give a study's folder, or what evaluate or load_records returned"},
    "Display": {"": "give a value such as rainjax.report.ResultsTable()"},
    "Extra": {"": "give a value such as rainjax.evaluation.extras.Panels()"},
    "Shard": {"": "give Shard(0, 3), or parse_shard('0/3')"},
    "Mesh": {"": "give rainjax.devices.data_mesh(), or None"},
    "Member": {"": "make one by Member(name, attack)"},
    "Smoothed": {"": "make one by Smoothed(pipeline, sigma)"},
    "Purpose": {"": "give one such as Purpose.ATTACK"},
}


def _refusal(owner: str, name: str, given: Any, kind: Any) -> str:
    """Returns why a field cannot hold what it was given."""
    each = get_args(kind)[0] if get_origin(kind) in (tuple, Sequence) else kind
    named = tuple(one for one in _alternatives(each) if getattr(one, "__name__", "") in _MENDS)
    if named and each is not kind and _is_series(given, get_origin(kind)):
        given = next(part for part in given if not _fits(part, each))
    elif not named or each is not kind:
        return _not_of_kind(name, given, kind, f"make one {owner}")
    return _wrong(f"{owner}({name}=...)", given, named)


def _not_of_kind(name: str, given: Any, kind: Any, mend: str) -> str:
    wrong = f"{name}={shown(given)} must be {_words(kind)}"
    if isinstance(given, jax.core.Tracer):  # an option decides what is compiled
        wrong += (
            f", not one that jax.jit, jax.vmap or jax.grad traces: {mend} for each of its values"
        )
        wrong += ", outside of them"
    return f"{wrong}."


def _wrong(where: str, given: Any, kinds: tuple[type, ...], verb: str = "takes") -> str:
    mends = _MENDS.get(kinds[0].__name__, {})
    mend = mends.get(_what(given)) or mends.get("")
    if isinstance(given, type) and issubclass(given, kinds):
        mend = f"make a value of it, {given.__name__}(...)"
    wrong = f"{where} {verb} {_an(kinds[0].__name__)}, not {_described(given)}"
    return f"{wrong}: {mend}." if mend else f"{wrong}."


def _described(given: Any) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}"
    what, name = _what(given), type(given).__name__
    if what == "nothing":
        return "None"
    if what == "a function":
        return f"the function {getattr(given, '__name__', name)}"
    return f"{what} ({name})" if what else shown(given)


def _what(given: Any) -> str:
    """Returns what somebody gave in the place of a value, or "" for anything else."""
    if given is None:
        return "nothing"
    for origin, name, what in _ORIGINS:
        if _comes_from(given, origin, name):
            return what
    return "a function" if callable(given) and not isinstance(given, type) else ""


_ORIGINS = (
    ("rainjax.zoo", "Entry", "a zoo entry"),
    ("rainjax.nets", "Model", "a network with its parameters"),
    ("rainjax.evaluation", "AutoAttack", "an ensemble"),
    ("rainjax.evaluation", "Ladder", "a ladder"),
    ("rainjax", "Network", "a Network"),
    ("rainjax", "Defense", "a Defense"),
    ("rainjax", "Pipeline", "a Pipeline"),
    ("rainjax", "Attack", "an Attack"),
    ("flax.nnx", "Module", "an NNX module"),
    ("flax.linen", "Module", "a Linen module"),
    ("torch.nn", "Module", "a PyTorch module"),
)


def _comes_from(given: Any, origin: str, name: str) -> bool:
    """Returns whether its class, or a base of it, is that one, without importing the package."""
    return any(_is_called(base, origin, name) for base in type(given).__mro__)


def _bases(given: Any) -> tuple[type, ...]:
    return (given if isinstance(given, type) else type(given)).__mro__


def _is_called(kind: type, package: str, name: str) -> bool:
    return kind.__name__ == name and f"{kind.__module__}.".startswith(f"{package}.")


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def _as_plain(given: Any, kind: Any) -> Any:
    """Returns a number of NumPy or JAX as Python's, where the field takes numbers."""
    wanted = [part for one in _alternatives(kind) for part in (one, *get_args(one))]
    if not any(part in (int, float, bool) for part in wanted):
        return given
    if type(given) is tuple:
        plain = tuple(_as_plain(part, kind) for part in given)
        return plain if any(a is not b for a, b in zip(plain, given, strict=True)) else given
    if getattr(given, "shape", None) != () or not hasattr(given, "item"):
        return given
    try:
        return given.item()
    except Exception:  # it is being traced, or a key: no number, which is said next
        return given


def _fits(given: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(given, bool):
        return False
    if kind in _PLAIN:
        return isinstance(given, _PLAIN[kind][0])
    if len(_alternatives(kind)) > 1:
        return any(_fits(given, one) for one in _alternatives(kind))
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(given) is type(option) and given == option for option in parts)
    if origin is Sequence or (origin is tuple and parts[1:] == (...,)):
        return _is_series(given, origin) and all(_fits(one, parts[0]) for one in given)
    if origin is dict:
        pairs = given.items() if isinstance(given, dict) else [(None, None)]
        return all(_fits(a, parts[0]) and _fits(b, parts[1]) for a, b in pairs)
    try:
        return not isinstance(kind, type) or isinstance(given, kind)
    except TypeError:  # Any, and protocols, have no instances
        return True


def _is_series(given: Any, kind: Any) -> bool:
    return isinstance(given, kind) and not isinstance(given, str)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Returns the types of a union, or the one that there is."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _words(kind: Any) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind][1]
    if len(_alternatives(kind)) > 1:
        return " or ".join(map(_words, _alternatives(kind)))
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {_listed(kind)}"
    if origin in (tuple, Sequence):
        series = "a tuple" if origin is tuple else "a list"
        return f"{series}, and each part of it {_words(parts[0])}"
    if origin is dict:
        return f"a dict of {_words(parts[0])} to {_words(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"one of {', '.join(f'{kind.__name__}.{one.name}' for one in kind)}"
    return f"of type {getattr(kind, '__name__', kind)}"


def _listed(options: Any) -> str:
    return ", ".join(map(repr, get_args(options)))


def shown(given: Any) -> str:
    """Returns what was given as one line of a sentence."""
    if not isinstance(given, type) and getattr(given, "shape", ()) != ():
        return f"an array of shape {given.shape}"
    text = re.sub(r" at 0x\w+", "", " ".join(repr(given).split()))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."
