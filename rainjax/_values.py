"""What a value is: an object that equality and hash know by everything it holds.

`jax.jit` reuses the program of an equal value. Where equality does not see a field, one value
runs another one's program, and its numbers are the other one's, without a word.
"""

import dataclasses
import functools
import inspect
from typing import Any

from rainjax._arguments import Named
from rainjax._checks import check_fields, is_nnx_module

_FROZEN = "@dataclasses.dataclass(frozen=True)"


class _Checked(Named):
    """Checks a value as soon as it is made, whatever its class does in `__init__`."""

    def __call__(cls, *args, **kwargs):
        _check_class(cls)
        value = super().__call__(*args, **kwargs)
        check_value(value)
        return value


class Value(metaclass=_Checked):
    """Base class of what users define: a frozen dataclass whose fields are all there is to it.

    A subclass is refused at its first use unless equality and hash cover whatever its
    instances hold. Derived numbers may be kept in a `functools.cached_property`.

    Raises:
        ValueError: an instance is made with a field that is not of the type it is declared with,
            or that holds something which equality does not see, or which has no hash; or one is
            changed.
    """

    def __post_init__(self):
        check_fields(self)

    def __setattr__(self, name: str, value: Any) -> None:
        # A dataclass's own comes first. `typing` keeps notes under names with underscores.
        if not name.startswith("__"):
            raise ValueError(_undeclared(type(self), name))
        super().__setattr__(name, value)


def check_value(value: Any) -> None:
    """Refuses an object whose equality or hash do not cover all that it holds.

    Equality is tried, not read: a copy with another object in the place of one field must not
    be equal. Objects that are equal to themselves alone, such as functions, are fine, and what
    is in tuples and in other dataclasses is looked at as well.

    Raises:
        ValueError: naming the field, and how to mend the class.
    """
    if isinstance(value, tuple | frozenset):
        for part in value:
            check_value(part)
    cls = type(value)
    if cls.__eq__ is object.__eq__ or isinstance(value, type) or not hasattr(value, "__dict__"):
        return
    held = _held(value)
    _check_hash(value, held)
    for name, part in held.items():
        if _holds_module(part):
            raise ValueError(
                f"{cls.__name__}.{name} holds an NNX module, whose numbers may change under a "
                "compiled program: take a network from rainjax.nets.from_flax(module), and pass "
                "its parameters through `init`."
            )
        if not isinstance(part, Value):  # which was checked when it was made
            check_value(part)
    for name in held:
        if not _sees(value, held, name):
            if name not in _fields(cls):
                raise ValueError(_undeclared(cls, name))
            raise ValueError(
                f"Equality of {cls.__name__} does not see its field {name!r}, so jax.jit would "
                f"take two of its values for one: decorate {cls.__name__} itself with {_FROZEN}, "
                "without eq=False and compare=False."
            )


def _holds_module(part: Any) -> bool:
    """Returns whether it is an NNX module, or a container that has one somewhere."""
    if isinstance(part, tuple | frozenset):
        return any(map(_holds_module, part))
    if isinstance(part, functools.partial):
        return any(map(_holds_module, (part.func, *part.args, *part.keywords.values())))
    return is_nnx_module(getattr(part, "__self__", part))  # itself, or a method of it


def _check_class(cls: type) -> None:
    """Refuses annotations that are meant as fields, and are none without the decorator."""
    for base in cls.__mro__:
        if not isinstance(base, _Checked) or "__dataclass_params__" in vars(base):
            continue
        for name, kind in inspect.get_annotations(base).items():
            if name not in _fields(cls) and "ClassVar" not in str(kind):
                raise ValueError(_undeclared(base, name))


def _undeclared(cls: type, name: str) -> str:
    return (
        f"{name!r} is no field of {cls.__name__}, so equality and hash do not see it, and jax.jit "
        f"would take two values that differ in it for one: decorate {cls.__name__} with {_FROZEN} "
        f"and declare {name!r} as a field."
    )


def _check_hash(value: Any, held: dict[str, Any]) -> None:
    try:
        hash(value)
    except TypeError:
        cls = type(value).__name__
        culprits = [name for name, part in held.items() if not _has_hash(part)]
        if not culprits:
            raise ValueError(
                f"{cls} has no hash, and jax.jit knows a value by its hash: decorate {cls} with "
                f"{_FROZEN}, or define __hash__ beside __eq__."
            ) from None
        part = held[culprits[0]]
        what = "an array" if hasattr(part, "dtype") else f"a {type(part).__name__}"
        raise ValueError(
            f"{cls}.{culprits[0]} holds {what}, which has no hash, and jax.jit knows a value by "
            "its hash: pass arrays as parameters from `init`, or a tuple."
        ) from None


def _has_hash(part: Any) -> bool:
    try:
        hash(part)
    except TypeError:
        return False
    return True


def _sees(value: Any, held: dict[str, Any], name: str) -> bool:
    """Returns whether a copy of `value` that differs in `name` alone is another value."""
    try:
        twin = object.__new__(type(value))
        for other, part in held.items():
            object.__setattr__(twin, other, object() if other == name else part)
        return not (value == twin and twin == value)
    except Exception:  # no class of Python's, or an equality that looks into what it compares
        return True


def _held(value: Any) -> dict[str, Any]:
    """Returns what an instance holds by name, but for what a `cached_property` keeps.

    Other libraries' classes may keep notes of their own under names with an underscore.
    """
    cls = type(value)
    start = "__" if isinstance(value, Value) else "_"
    slots = [vars(base).get("__slots__", ()) for base in cls.__mro__]
    slots = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    names = [n for n in dict.fromkeys([*vars(value), *slots]) if not n.startswith(start)]
    lazy = lambda name: isinstance(
        inspect.getattr_static(cls, name, None), functools.cached_property
    )
    return {n: getattr(value, n) for n in names if hasattr(value, n) and not lazy(n)}


def _fields(cls: type) -> set[str]:
    return {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
