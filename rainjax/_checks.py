"""Options of values, refused in one sentence where they are not what their fields say."""

import dataclasses
import numbers
import types
from typing import Any, Literal, get_args, get_origin

import jax.numpy as jnp


def check_fields(value: Any) -> None:
    """Refuses a dataclass with a field that is not of the type it is declared with.

    Whole numbers may be NumPy's; True and False are no numbers. A list is no tuple, for a value
    must have a hash. Types of arrays, and others that are not read here, are passed over.

    Raises:
        ValueError: with the field, what it holds, and what it may hold.
    """
    for field in dataclasses.fields(value):
        given = getattr(value, field.name)
        if get_origin(field.type) is Literal:
            check_option(field.name, given, field.type)
        elif not _fits(given, field.type):
            raise ValueError(_refusal(type(value).__name__, field.name, given, field.type))


def check_kind(given: Any, kind: type, where: str) -> None:
    """Refuses what is no `kind`, a base class of values; says what to make of what was given.

    `where` names what takes it, as in "run_attack(attack=...)".

    Raises:
        ValueError: with what it takes, what it was given, and the mend.
    """
    if not isinstance(given, kind):
        raise ValueError(_wrong(where, given, kind))


def is_nnx_module(given: Any) -> bool:
    """Returns whether it is a Flax NNX module, without importing Flax."""
    return _comes_from(given, "flax.nnx", "Module")


def check_image(image: Any, whose: str) -> None:
    """Refuses what is not one image of floats, before it gives numbers that mean nothing.

    Raises:
        ValueError: naming `whose` input it is, its type and its shape.
    """
    if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"{whose} takes one image `h w c` of floats in [0, 1], got {image.dtype} of shape "
            f"{image.shape}: divide integers by 255, and use jax.vmap for a batch."
        )


def check_option(name: str, given: Any, options: Any) -> None:
    """Refuses what is none of `options`, a `Literal` of names.

    Raises:
        ValueError: with the names there are.
    """
    # By type as well: a list could not be looked up, and 1 is True.
    if not any(type(given) is type(option) and given == option for option in get_args(options)):
        raise ValueError(f"{name}={given!r} is none of {', '.join(map(repr, get_args(options)))}.")


_PLAIN = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "True or False"),
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
}
_MENDS = {
    "Network": _TO_NETWORK,
    "Defense": _TO_DEFENSE,
    "Pipeline": _TO_PIPELINE,
    "Attack": _TO_ATTACK,
}


def _refusal(owner: str, name: str, given: Any, kind: Any) -> str:
    """Returns why a field cannot hold what it was given."""
    each = get_args(kind)[0] if get_origin(kind) is tuple else kind
    if getattr(each, "__name__", "") not in _MENDS:
        return f"{name}={given!r} must be {_words(kind)}."
    if each is not kind:
        if not isinstance(given, tuple):
            return f"{name}={given!r} must be {_words(kind)}."
        given = next(part for part in given if not isinstance(part, each))
    return _wrong(f"{owner}({name}=...)", given, each)


def _wrong(where: str, given: Any, kind: type) -> str:
    mend = _MENDS[kind.__name__].get(_what(given))
    if isinstance(given, type) and issubclass(given, kind):
        mend = f"make a value of it, {given.__name__}(...)"
    wrong = f"{where} takes {_an(kind.__name__)}, not {_described(given)}"
    return f"{wrong}: {mend}." if mend else f"{wrong}."


def _described(given: Any) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}"
    what, name = _what(given), type(given).__name__
    if what == "nothing":
        return "None"
    if what == "a function":
        return f"the function {getattr(given, '__name__', name)}"
    return f"{what} ({name})" if what else f"{given!r}"


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
    return any(
        base.__name__ == name and f"{base.__module__}.".startswith(f"{origin}.")
        for base in type(given).__mro__
    )


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def _fits(given: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(given, bool):
        return False
    if kind in _PLAIN:
        return isinstance(given, _PLAIN[kind][0])
    if isinstance(kind, types.UnionType):
        return any(_fits(given, one) for one in get_args(kind))
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        return isinstance(given, tuple) and all(_fits(one, get_args(kind)[0]) for one in given)
    try:
        return not isinstance(kind, type) or isinstance(given, kind)
    except TypeError:  # Any, and protocols, have no instances
        return True


def _words(kind: Any) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind][1]
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_words, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple, and each part of it {_words(get_args(kind)[0])}"
    return f"of type {kind.__name__}"
