"""What decides a result, as plain JSON: values with their code, parameters by content."""

import contextvars
import copyreg
import dataclasses
import decimal
import enum
import fractions
import hashlib
import json
import pathlib
import sys
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rainjax.evaluation.provenance import without_folder
from rainjax.evaluation.source import (
    NoContent,
    digest_source,
    is_somebodys,
    name_of,
    parts_of_callable,
)


def describe(value: Any) -> Any:
    """Returns a value as plain JSON: equal for values that compute the same, and only for those.

    A dataclass becomes an object with its class and its fields, another object of somebody's own
    with what it holds. A class or a function from outside of this library is named with its
    module, and with a digest of its code and of all that this reaches: so two classes of one name
    are not one, and a change of code is a change of the value. Arrays are described by their
    content.

    Raises:
        ValueError: something in it has neither fields nor content that could be told apart;
            says what, and how to mend it.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, jax.Array | np.ndarray):
        mask = {"mask": content_digest(value.mask)} if isinstance(value, np.ma.MaskedArray) else {}
        return {"array": content_digest(value), **mask}
    if isinstance(value, pathlib.PurePath):  # another machine has another folder
        return {"class": "path", "is": without_folder(str(value))}
    if isinstance(value, np.dtype | np.ufunc | types.BuiltinFunctionType | types.ModuleType):
        return str(getattr(value, "__name__", value))
    if isinstance(value, _PLAIN):
        return {"class": type(value).__name__, "is": repr(value)}
    known = _known.get()
    if known is None:
        token, limit = _known.set({}), sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(max(limit, _DEEPEST))
            return describe(value)
        except RecursionError:
            raise ValueError(
                f"A {type(value).__name__} reaches too many definitions, one through the other, "
                "for its code to be digested: give what it holds a method `content_digest()`."
            ) from None
        finally:
            sys.setrecursionlimit(limit)
            _known.reset(token)
    if id(value) not in known:
        # An object that holds itself is named there, and not gone into again.
        known[id(value)] = value, {"class": name_of(type(value)), "again": len(known)}
        known[id(value)] = value, _describe(value)
    return known[id(value)][1]


def describe_attack(attack: Any) -> Any:
    """Returns an attack as plain JSON, without what changes memory and not results."""
    return None if attack is None else without_chunks(describe(attack))


def describe_program(value: Any) -> Any:
    """Describes a value that programs are compiled for, and forgets those of its earlier code.

    JAX finds a compiled program by the value's equality, which does not see that a function or a
    global that its methods call has another definition now, as after a cell was run again.
    """
    described = describe(value)
    place, code = (type(value), hash(value)), digest(described)
    first = place not in _compiled and _is_interactive()  # it may have run before it was known
    if first or _compiled.setdefault(place, code) != code:
        jax.clear_caches()
        if not first:
            _compiled.clear()
        _compiled[place] = code
    return described


def _is_interactive() -> bool:
    return "ipykernel" in sys.modules or hasattr(sys, "ps1")


def content_digest(params: PyTree) -> str:
    """Returns a digest of a tree of arrays: names, shapes, kinds and every byte."""
    digest = hashlib.sha256()
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in leaves:
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def digest(value: Any) -> str:
    """Returns a short digest of plain JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


# What was last compiled for a value; its hash stands for it, so that it is not kept alive.
_compiled: dict[tuple[type, int], str] = {}
_PLAIN = (types.EllipsisType, complex, bytes, range, slice, fractions.Fraction, decimal.Decimal)
_DEEPEST = 10_000  # calls, some ten for each definition that reaches the next
# What was described on the way, so that what is held twice is looked at once.
_known: contextvars.ContextVar[dict[int, tuple[Any, Any]] | None] = contextvars.ContextVar(
    "known", default=None
)


def _describe(value: Any) -> Any:
    kind = type(value)
    own = is_somebodys(kind.__module__)
    if isinstance(value, enum.Enum):
        return {**_class(kind), "is": describe(value.value)} if own else value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _field(value, f) for f in dataclasses.fields(value)}
        return {**_class(kind), **_own(value), **fields}
    if isinstance(value, bool | int | float | str):  # of a class that adds to these
        plain = next(base for base in (bool, int, float, str) if isinstance(value, base))
        return {**_class(kind), "is": plain(value)}
    if isinstance(value, weakref.WeakKeyDictionary | weakref.WeakValueDictionary):
        return {"class": kind.__name__}  # a cache
    if isinstance(value, list | tuple | Mapping | set | frozenset):
        return {**_class(kind), "items": _items(value)} if own else _items(value)
    if isinstance(value, type):
        return _class(value)
    if isinstance(value, types.MethodType):
        return {"method": describe(value.__func__), "of": describe(value.__self__)}
    if isinstance(value, types.FunctionType):
        return {"function": _full_name(value), **_source(value)}
    parts = parts_of_callable(value)
    if parts is not None:
        return {"class": kind.__name__, **{name: describe(part) for name, part in parts.items()}}
    if hasattr(value, "content_digest") or hasattr(value, "decided_by"):
        return {**_class(kind), **_own(value)}
    return {**_class(kind), "holds": digest(describe(_content(value)))}


def _field(value: Any, field: dataclasses.Field) -> Any:
    """Describes a field, a tree of arrays that says `by_content` by one digest."""
    found = getattr(value, field.name)
    return content_digest(found) if field.metadata.get("by_content") else describe(found)


def _items(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    items = [describe(item) for item in value]
    # A set's order differs from process to process.
    return sorted(items, key=json.dumps) if isinstance(value, set | frozenset) else items


def _full_name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _class(kind: type) -> dict[str, str]:
    return {"class": name_of(kind), **_source(kind)}


def _source(thing: Any) -> dict[str, str]:
    found = digest_source(thing, describe)
    return {} if found is None else {"source": found}


def _own(value: Any) -> dict[str, Any]:
    """Returns what an object says of what decides it, beside its fields."""
    digested = getattr(value, "content_digest", None)
    decided = getattr(value, "decided_by", None)
    return {
        **({} if digested is None else {"content": digested()}),
        **({} if decided is None else {"decided": digest(describe(decided()))}),
    }


def _content(value: Any) -> Any:
    """Returns what an object of somebody's own holds.

    Raises:
        ValueError: it is of somebody else's class, or holds nothing that can be looked at.
    """
    kind = type(value)
    where = {"nnx": "nets.from_flax(module)", "torch": "adapters.from_torch_module(module, ...)"}
    for name, mend in where.items():
        if any(base.__name__ == "Module" and name in base.__module__ for base in kind.__mro__):
            raise ValueError(
                f"A {kind.__name__} is a module with parameters that no record would see: hand it "
                f"over by {mend}, or its parameters as arrays."
            )
    try:
        known = copyreg.dispatch_table.get(kind)  # what would be pickled of it
        reduced = value.__reduce_ex__(4) if known is None else known(value)
    except (TypeError, AttributeError, ValueError, RuntimeError):
        reduced = None
    if isinstance(reduced, str):
        return reduced
    if reduced is not None:
        make, args, *state = reduced
        args = args[1:] if args and args[0] is kind else args
        held = [list(args), *(list(x) if isinstance(x, Iterator) else x for x in state)]
        if is_somebodys(kind.__module__) or any(held):
            return [describe(make), *held]
    text = repr(value)
    raise NoContent(
        f"{text if len(text) < 200 else text[:200] + ' ...'} has no content that a record could "
        "name: make its class a frozen dataclass, or give it a method `content_digest()` that "
        "returns a text."
    )


def without_chunks(described: Any) -> Any:
    """Leaves out how many draws an EOT holds at a time, which is memory and no result."""
    if isinstance(described, dict):
        memory = ("chunk_size",) if described.get("class") == "EOT" else ()
        return {k: without_chunks(v) for k, v in described.items() if k not in memory}
    if isinstance(described, list):
        return [without_chunks(item) for item in described]
    return described
