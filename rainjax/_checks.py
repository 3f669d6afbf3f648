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
            raise ValueError(f"{field.name}={given!r} must be {_words(field.type)}.")


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


def _fits(given: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(given, bool):
        return False
    if kind in _PLAIN:
        return isinstance(given, _PLAIN[kind][0])
    if isinstance(kind, types.UnionType):
        return any(_fits(given, one) for one in get_args(kind))
    if get_origin(kind) is tuple and get_args(kind)[1:] == (...,):
        return isinstance(given, tuple) and all(_fits(one, get_args(kind)[0]) for one in given)
    return not isinstance(kind, type) or isinstance(given, kind)


def _words(kind: Any) -> str:
    if kind in _PLAIN:
        return _PLAIN[kind][1]
    if isinstance(kind, types.UnionType):
        return " or ".join(map(_words, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"a tuple, and each part of it {_words(get_args(kind)[0])}"
    return f"of type {kind.__name__}"
