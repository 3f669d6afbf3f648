"""What decides a result, as plain JSON: values with their code, parameters by content."""

import argparse
import contextvars
import dataclasses
import decimal
import enum
import fractions
import functools
import hashlib
import json
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rainjax.evaluation.source import NoContent, digest_source, functions_of, is_somebodys, name_of


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
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, jax.Array | np.ndarray):
        return {"array": content_digest(value)}
    if isinstance(value, np.dtype | np.ufunc | types.BuiltinFunctionType | types.ModuleType):
        return str(getattr(value, "__name__", value))
    if isinstance(value, _PLAIN):
        return {"class": type(value).__name__, "is": repr(value)}
    around = _around.get()
    if id(value) in around:
        return {"class": name_of(type(value)), "again": around[::-1].index(id(value))}
    token = _around.set((*around, id(value)))
    try:
        return _describe(value)
    finally:
        _around.reset(token)


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
    if _compiled.setdefault(place, code) != code:
        jax.clear_caches()
        _compiled.clear()
        _compiled[place] = code
    return described


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
_PLAIN = (
    types.EllipsisType,
    complex,
    bytes,
    range,
    slice,
    pathlib.PurePath,
    fractions.Fraction,
    decimal.Decimal,
)
# What is being described: an object that holds itself is named there, not gone into again.
_around: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar("around", default=())


def _describe(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {**_class(type(value)), **_own(value), **fields}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):  # whose order differs from process to process
        return sorted((describe(item) for item in value), key=json.dumps)
    if isinstance(value, type):
        return _class(value)
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "args": value.args, "options": value.keywords}
        return {"class": "partial", **{name: describe(part) for name, part in parts.items()}}
    if isinstance(value, types.MethodType):
        return {"method": describe(value.__func__), "of": describe(value.__self__)}
    functions = functions_of(value)
    if functions:
        described = [_function(function) for function in functions]
        return described[0] if len(described) == 1 else described
    if hasattr(value, "content_digest") or hasattr(value, "decided_by"):
        return {**_class(type(value)), **_own(value)}
    return {**_class(type(value)), "holds": describe(_content(value))}


def _class(kind: type) -> dict[str, str]:
    return {"class": name_of(kind), **_source(kind)}


def _source(thing: Any) -> dict[str, str]:
    found = digest_source(thing, describe)
    return {} if found is None else {"source": found}


def _function(function: types.FunctionType) -> dict[str, Any]:
    """Returns a function by its code; one of the library's by what it closes over as well."""
    described = {"function": f"{function.__module__}.{function.__qualname__}"}
    source = _source(function)
    if source:
        return {**described, **source}
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closed = {name: describe(cell.cell_contents) for name, cell in cells.items()}
    options = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return {
        **described,
        **({"closure": closed} if closed else {}),
        **({"defaults": describe(options)} if options else {}),
    }


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
    if is_somebodys(kind.__module__) or kind in (argparse.Namespace, types.SimpleNamespace):
        slots = [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        return held | getattr(value, "__dict__", {})
    text = repr(value)
    # An address is another one in the next process, and an object's own repr may leave out much.
    if not re.search(r"\b0x[0-9a-f]{6,}|\.\.\.", text):
        return text
    raise NoContent(
        f"{text if len(text) < 200 else text[:200] + ' ...'} has no content that a record could "
        "name: make its class a frozen dataclass, or give it a method `content_digest()` that "
        "returns a text."
    )


def without_chunks(described: Any) -> Any:
    """Leaves out how many draws are held at a time, which is memory and no result."""
    if isinstance(described, dict):
        return {k: without_chunks(v) for k, v in described.items() if k != "chunk_size"}
    if isinstance(described, list):
        return [without_chunks(item) for item in described]
    return described
