"""Digests of code: of a class or a function, and of all that it reaches by name."""

import contextvars
import dis
import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any

from rainjax.evaluation.provenance import source_digest

# What computes the same in every release, as far as anybody promises, and whose versions records
# hold. Other installed packages are digested.
_FRAMEWORKS = ("flax", "jax", "jaxlib", "jaxtyping", "keras", "numpy", "optax", "scipy")
_FRAMEWORKS += ("tensorflow", "torch", "torchvision")


# What `dataclass` writes; fields say the same.
_GENERATED = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__")


class NoContent(ValueError):
    """Something holds nothing that could tell it from another of its class."""


class _Walk:
    """The code of somebody's own that a value reaches, digested from the leaves up.

    What is met while a walk is going on, at whatever depth, is part of that walk: so definitions
    that refer to each other come to an end, at the name of what is being digested already.
    """

    def __init__(self, describe: Callable[[Any], Any]):
        self._describe = describe
        self._labels: dict[int, tuple[Any, str]] = {}  # with the thing: no address is used again

    def visit(self, thing: Any) -> str:
        """Returns the name of a class, function or module, and the digest of what is not ours."""
        if id(thing) not in self._labels:
            self._labels[id(thing)] = thing, name_of(thing)
            found = self._digest(thing)
            if found is not None:
                self._labels[id(thing)] = thing, f"{name_of(thing)} {found}"
        return self._labels[id(thing)][1]

    def _digest(self, thing: Any) -> str | None:
        module = _module(thing)
        if is_ours(module) or _top(module) in _FRAMEWORKS:
            return None
        package = _installed(module)
        if package is not None:
            return package
        return text_digest(
            self._class(thing) if isinstance(thing, type) else self._function(thing)
        )

    def _class(self, kind: type) -> dict[str, Any]:
        """Returns what the body of a class says: its methods, and the values it gives to names."""
        parts: dict[str, Any] = {"bases": [self.visit(base) for base in kind.__mro__[1:]]}
        for name, part in vars(kind).items():
            code = getattr(_plain(part), "__code__", None)
            generated = code is not None and name in _GENERATED and code.co_filename == "<string>"
            special = name.startswith("__") and name.endswith("__") and code is None
            if not (generated or special or name == "_abc_impl"):
                parts[name] = self._reached(part, f"{name} of {kind.__qualname__}", strict=False)
        return parts

    def _function(self, function: Any) -> dict[str, Any]:
        code = function.__code__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        options = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        where = f"the function {function.__qualname__}"
        return {
            "code": _compiled(code, function.__doc__),
            "closure": {n: self._reached(_content(cell), f"{n} of {where}") for n, cell in cells},
            "defaults": [self._reached(option, f"a default of {where}") for option in options],
            "globals": dict(self._globals(function, code)),
            "imports": [_imported(name, function) for name in _imports(code)],
        }

    def _globals(self, function: Any, code: types.CodeType) -> Iterator[tuple[str, Any]]:
        attributes = {name for each in _codes(code) for name in each.co_names}
        for name in sorted(_global_names(code)):
            if name not in function.__globals__:
                continue  # built in, or not there yet
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                yield name, self._of_module(value, attributes, set())
            else:
                where = f"the global {name} of {function.__qualname__}"
                yield name, self._reached(value, where, strict=False)

    def _of_module(self, module: types.ModuleType, names: set[str], seen: set[str]) -> Any:
        """Returns what of a module of somebody's own has one of these names."""
        name = module.__name__
        if not is_somebodys(name):
            return self.visit(module)
        if name in seen:
            return name
        parts = {}
        for attribute in sorted(names & vars(module).keys()):
            value = vars(module)[attribute]
            if isinstance(value, types.ModuleType):
                parts[attribute] = self._of_module(value, names, seen | {name})
            else:
                parts[attribute] = self._reached(value, f"{name}.{attribute}", strict=False)
        return [name, parts]

    def _reached(self, value: Any, where: str, *, strict: bool = True) -> Any:
        functions = functions_of(value)
        if functions:
            return [self.visit(function) for function in functions]
        try:
            return self._describe(value)
        except ValueError as error:
            no_content = isinstance(error, NoContent)
            if not strict and no_content and not is_somebodys(type(value).__module__):
                return name_of(type(value))  # a lock, a logger: nothing that is computed with
            raise type(error)(f"{where}: {error}") from error


_active: contextvars.ContextVar[_Walk | None] = contextvars.ContextVar("walk", default=None)


def digest_source(thing: Any, describe: Callable[[Any], Any]) -> str | None:
    """Returns a digest of a class's or function's code, and of all that it reaches by name.

    These are functions, classes and values that it names, in its module and in others, closures,
    defaults and base classes, with an installed package as the files that it consists of. None
    for what is the library's, Python's or a framework's: versions tell those apart.

    Raises:
        ValueError: it reaches something whose content `describe` cannot tell.
    """
    walk = _active.get()
    if walk is not None:
        return walk.visit(thing).partition(" ")[2] or None
    walk = _Walk(describe)
    token = _active.set(walk)
    try:
        return walk.visit(thing).partition(" ")[2] or None
    finally:
        _active.reset(token)


def functions_of(value: Any) -> list[Any]:
    """Returns the functions that something callable is made of, or the class that it is.

    Of a compiled program, a method or a property that is the function inside, of one with a
    gradient of its own that as well.
    """
    plain = _plain(value)
    if not isinstance(plain, types.FunctionType | type):
        return []
    gradients = (getattr(value, name, None) for name in ("fwd", "bwd", "jvp"))
    return [plain, *(g for g in gradients if isinstance(g, types.FunctionType))]


def name_of(thing: Any) -> str:
    """Returns the name of a class, function or module: with its module, unless that is ours."""
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    module = _module(thing)
    return thing.__qualname__ if is_ours(module) else f"{module}.{thing.__qualname__}"


def is_ours(module: str | None) -> bool:
    """Returns whether a module is of this library or of Python's own."""
    top = _top(module)
    return top == "rainjax" or (top != "__main__" and _is_standard(top))


def is_somebodys(module: str | None) -> bool:
    """Returns whether a module is neither ours, nor Python's, nor installed as a package."""
    return not is_ours(module) and _top(module) not in _FRAMEWORKS and _installed(module) is None


def text_digest(value: Any) -> str:
    """Returns a digest of plain values."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:24]


def _module(thing: Any) -> str | None:
    """Returns the module that a module, a class or a function is from.

    A class that was made by a call, as `type(...)` and `make_dataclass` do, says that it is of the
    module of its metaclass, and is not there.
    """
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    module = thing.__module__
    if isinstance(thing, type) and is_ours(module) and module in sys.modules:
        name = thing.__qualname__.partition(".")[0]
        if name not in vars(sys.modules[module]):
            return "made by a call"
    return module


def _top(module: str | None) -> str:
    return (module or "").split(".")[0]


@functools.cache
def _is_standard(top: str) -> bool:
    """Returns whether the module of this name is Python's, and not one that is called like it."""
    if top in sys.builtin_module_names:
        return True
    if top not in sys.stdlib_module_names:
        return False
    path = getattr(sys.modules.get(top), "__file__", None)
    if path is None:
        return True
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return any(pathlib.Path(path).is_relative_to(folder) for folder in folders) and not (
        _is_installed(pathlib.Path(path))
    )


def _is_installed(path: pathlib.Path) -> bool:
    return "site-packages" in path.parts or "dist-packages" in path.parts


_distributions = functools.cache(importlib.metadata.packages_distributions)


@functools.cache
def _installed(module: str | None) -> str | None:
    """Returns what an installed package is: its files' hashes. None for what is not installed."""
    top = _top(module)
    path = getattr(sys.modules.get(top), "__file__", None)
    if top == "__main__" or path is None or not _is_installed(pathlib.Path(path)):
        return None  # a notebook's or a program's own code, whatever started it
    for name in _distributions().get(top, ()):
        files = importlib.metadata.distribution(name).files or ()
        hashes = [f"{file} {file.hash.value}" for file in files if file.hash is not None]
        return text_digest([h for h in sorted(hashes) if not h.startswith("..")])
    return source_digest(pathlib.Path(path))


def _plain(thing: Any) -> Any:
    """Returns the function below decorators, methods, properties and compiled programs."""
    for _ in range(100):
        if isinstance(thing, staticmethod | classmethod):
            inner = thing.__func__
        elif isinstance(thing, property):
            inner = thing.fget
        elif isinstance(thing, functools.cached_property):
            inner = thing.func
        else:
            inner = None if isinstance(thing, type) else getattr(thing, "__wrapped__", None)
        if inner is None:
            break
        thing = inner
    return thing


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that is bound later
        return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _codes(const)


def _global_names(code: types.CodeType) -> set[str]:
    loads = ("LOAD_GLOBAL", "LOAD_NAME")
    return {
        step.argval
        for each in _codes(code)
        for step in dis.get_instructions(each)
        if step.opname in loads
    }


def _imported(name: str, function: Any) -> list[str]:
    """Returns a module that a function imports when it runs, with its file's digest if it is own.

    What that imports in turn is not looked at.
    """
    package = (function.__module__ or "").rpartition(".")[0]
    for each in (name, f"{package}.{name}") if package else (name,):
        if not is_somebodys(each):
            continue
        try:
            spec = importlib.util.find_spec(each)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            return [each, source_digest(pathlib.Path(spec.origin))]
    return [name]


def _imports(code: types.CodeType) -> list[str]:
    names = {
        step.argval
        for each in _codes(code)
        for step in dis.get_instructions(each)
        if step.opname == "IMPORT_NAME"
    }
    return sorted(name for name in names if name)


def _compiled(code: types.CodeType, doc: str | None = None) -> list[Any]:
    """Returns what a piece of code does, without its lines, comments and docstring."""
    consts = [_const(const) for const in code.co_consts if doc is None or const != doc]
    return [code.co_code.hex(), consts, list(code.co_names), list(code.co_varnames)]


def _const(const: Any) -> Any:
    if isinstance(const, types.CodeType):
        return _compiled(const)
    if isinstance(const, frozenset):  # whose order differs from process to process
        return ["set", sorted(map(repr, const))]
    return repr(const)
