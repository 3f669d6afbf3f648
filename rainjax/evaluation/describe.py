"""What decides a result, as plain JSON: values with their code, parameters by content."""

import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import pathlib
import re
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rainjax.evaluation.provenance import source_digest


def describe(value: Any) -> Any:
    """Returns a value as plain JSON: equal for values that compute the same, and only for those.

    A dataclass becomes an object with its class and its fields. A class or a function from outside
    of this library is named with its module, and with a digest of its source, so that two
    classes of one name are not one, and a change of code is a change of the value. Arrays are
    described by their content.

    Raises:
        ValueError: something in it has neither fields nor content that could be told apart;
            says what, and how to mend it.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": _name(type(value)), **_source(type(value)), **_own(value), **fields}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(name): describe(item) for name, item in value.items()}
    if isinstance(value, jax.Array | np.ndarray):
        return {"array": content_digest(value)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, type):
        return {"class": _name(value), **_source(value)}
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "args": value.args, "options": value.keywords}
        return {"class": "partial", **{name: describe(part) for name, part in parts.items()}}
    if isinstance(value, types.MethodType):
        return {"method": value.__func__.__qualname__, "of": describe(value.__self__)}
    if isinstance(value, types.FunctionType):
        return _function(value)
    if hasattr(value, "content_digest"):
        kinds = [describe(kind) for kind in getattr(value, "kinds", ())]
        parts = {"kinds": kinds} if kinds else {}
        return {"class": _name(type(value)), **_source(type(value)), **parts, **_own(value)}
    text = repr(value)
    if re.search(r"\b0x[0-9a-f]{6,}", text):  # an address, another one in the next process
        raise ValueError(
            f"{text} has no content that a record could name: make its class a frozen dataclass, "
            "or give it a method `content_digest()` that returns a text."
        )
    return {"class": _name(type(value)), "is": text}


def describe_attack(attack: Any) -> Any:
    """Returns an attack as plain JSON, without what changes memory and not results."""
    return None if attack is None else _without_chunks(describe(attack))


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


def _own(value: Any) -> dict[str, str]:
    """Returns the digest of what an object holds beside its fields, where it says so."""
    own = getattr(value, "content_digest", None)
    return {} if own is None else {"content": own()}


def _name(kind: type) -> str:
    if _is_ours(kind.__module__):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_ours(module: str | None) -> bool:
    top = (module or "").split(".")[0]
    return top == "rainjax" or (top in sys.stdlib_module_names and top != "__main__")


def _source(kind: type) -> dict[str, str]:
    """Returns a digest of the code of a class and of those that it inherits from."""
    found = [_code(each) for each in kind.__mro__ if not _is_ours(each.__module__)]
    found = [code for code in found if code]
    return {"source": digest(found)} if found else {}


def _function(function: types.FunctionType) -> dict[str, Any]:
    cells = function.__closure__ or ()
    closed = dict(
        zip(function.__code__.co_freevars, (c.cell_contents for c in cells), strict=True)
    )
    options = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    return {
        "function": f"{function.__module__}.{function.__qualname__}",
        **({} if _is_ours(function.__module__) else {"source": _code(function)}),
        **({"closure": describe(closed)} if closed else {}),
        **({"defaults": describe(options)} if options else {}),
    }


def _code(thing: Any) -> str | None:
    """Returns a digest of the file that a class or function is from, or else of its code.

    Classes of other packages are as their versions say, which records hold.
    """
    try:
        path = pathlib.Path(inspect.getfile(thing))
    except (TypeError, OSError):  # from a notebook, or built in
        return _bytecode(thing)
    if "site-packages" in path.parts or "dist-packages" in path.parts:
        return None
    return source_digest(path) if path.exists() else _bytecode(thing)


def _bytecode(thing: Any) -> str | None:
    code = getattr(thing, "__code__", None)
    if code is not None:
        return digest(_compiled(code))
    parts = {}
    for name, part in vars(thing).items():
        part = getattr(part, "__func__", part)
        part = part.fget if isinstance(part, property) else part
        inner = getattr(inspect.unwrap(part) if callable(part) else part, "__code__", None)
        if inner is not None:
            parts[name] = _compiled(inner)
    return digest(parts) if parts else None


def _compiled(code: types.CodeType) -> list[Any]:
    consts = [_compiled(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), consts, list(code.co_names), list(code.co_varnames)]


def _without_chunks(described: Any) -> Any:
    if isinstance(described, dict):
        return {k: _without_chunks(v) for k, v in described.items() if k != "chunk_size"}
    if isinstance(described, list):
        return [_without_chunks(item) for item in described]
    return described
