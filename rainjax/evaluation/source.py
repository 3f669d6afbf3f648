"""Digests of code: of a class or a function, and of all that it reaches by name."""

import ast
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
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from rainjax.evaluation.provenance import source_digest

# What computes the same in every release, as far as anybody promises. Other installed packages are
# digested.
_FRAMEWORKS = ("flax", "jax", "jaxlib", "jaxtyping", "keras", "numpy", "optax", "scipy")
_FRAMEWORKS += ("tensorflow", "torch", "torchvision")


# What Python keeps in a class beside what its body says.
_NO_CODE = frozenset(
    {"_abc_impl", "__abstractmethods__", "__annotate_func__", "__annotations__"}
    | {"__annotations_cache__", "__classcell__", "__dataclass_fields__", "__dataclass_params__"}
    | {"__dict__", "__doc__", "__firstlineno__", "__match_args__", "__module__", "__orig_bases__"}
    | {"__parameters__", "__qualname__", "__slotnames__", "__slots__", "__static_attributes__"}
    | {"__type_params__", "__weakref__"}
)
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
        # `functools.wraps` gives a function another's name and module.
        is_function = isinstance(thing, types.FunctionType)
        module = thing.__globals__.get("__name__") if is_function else _module(thing)
        known = is_ours(module) or _top(module) in _FRAMEWORKS
        package = None if known else _installed(module)
        if not known and package is None:
            parts = self._class(thing) if isinstance(thing, type) else self._function(thing)
            return text_digest(parts)
        if is_function and thing.__closure__:
            return text_digest([package, self._held(thing, strict=False)])
        return package

    def _class(self, kind: type) -> dict[str, Any]:
        """Returns what the body of a class says: its methods, and the values it gives to names."""
        parts: dict[str, Any] = {"bases": [self.visit(base) for base in kind.__mro__[1:]]}
        for name, part in vars(kind).items():
            file = getattr(getattr(part, "__code__", None), "co_filename", None)
            generated = name in _GENERATED and (part is None or file == "<string>")
            if not (generated or name in _NO_CODE):
                parts[name] = self._reached(part, f"{name} of {kind.__qualname__}", strict=False)
        return parts

    def _function(self, function: Any) -> dict[str, Any]:
        code = function.__code__
        return {
            "code": _compiled(code),
            **self._held(function, strict=True),
            "globals": dict(self._globals(function, code)),
            "imports": sorted(_imported(code, function.__globals__)),
        }

    def _held(self, function: Any, *, strict: bool) -> dict[str, Any]:
        """Returns what a function closes over, and its defaults."""
        code, where = function.__code__, f"the function {function.__qualname__}"
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        options = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        names = _attributes(code)
        reached = functools.partial(self._reached, names=names, strict=strict)
        return {
            "closure": {
                name: reached(_content(cell), f"{name} of {where}") for name, cell in cells
            },
            "defaults": [
                self._reached(option, f"a default of {where}", strict=False) for option in options
            ],
        }

    def _globals(self, function: Any, code: types.CodeType) -> Iterator[tuple[str, Any]]:
        names = _attributes(code)
        for name in sorted(_global_names(code)):
            # What is not there is built in, or is not there yet; a file's own place is no content.
            if name in function.__globals__ and name not in ("__file__", "__name__"):
                where = f"the global {name} of {function.__qualname__}"
                value = function.__globals__[name]
                yield name, self._reached(value, where, names=names, strict=False)

    def _of_module(self, module: types.ModuleType, names: Set[str], seen: Set[str]) -> Any:
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

    def _reached(
        self, value: Any, where: str, *, names: Set[str] = frozenset(), strict: bool = True
    ) -> Any:
        if isinstance(value, types.ModuleType):
            return self._of_module(value, names, set())
        if isinstance(value, types.FunctionType | type):
            return self.visit(value)
        try:
            return self._describe(value)
        except NoContent as error:
            if not strict and not is_somebodys(type(value).__module__):
                return name_of(type(value))  # a lock, a file: nothing that is computed with
            raise NoContent(f"{where}: {error}") from error
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


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


def parts_of_callable(value: Any) -> dict[str, Any] | None:
    """Returns what something callable that is no function is made of; None if it is no such thing.

    Of a method or a property that is the function inside, of a compiled program the function that
    was compiled, of one with a gradient or a batching rule of its own those as well.
    """
    if isinstance(value, staticmethod | classmethod):
        return {"function": value.__func__}
    if isinstance(value, property):
        return {name: getattr(value, name) for name in ("fget", "fset", "fdel")}
    if isinstance(value, functools.cached_property):
        return {"function": value.func}
    if isinstance(value, functools.partial | functools.partialmethod):
        return {"function": value.func, "args": value.args, "options": value.keywords}
    if isinstance(value, types.FunctionType | type) or not callable(value):
        return None
    inner = getattr(value, "__wrapped__", None)
    if inner is None:
        return None
    held = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return {"function": inner, **held}


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
    if module == "__main__":
        return _main()
    if isinstance(thing, type) and is_ours(module) and module in sys.modules:
        name = thing.__qualname__.partition(".")[0]
        if name not in vars(sys.modules[module]):
            return "made by a call"
    return module


def _top(module: str | None) -> str:
    return (module or "").split(".")[0]


def _main() -> str:
    """Returns the name that a program's own module has where it is imported, or "__main__"."""
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    name = spec.name if spec is not None else pathlib.Path(path or "__main__").stem
    return name if is_somebodys(name) else "__main__"


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
        distribution = importlib.metadata.distribution(name)
        files = [file for file in distribution.files or () if file.suffix == ".py"]
        hashes = sorted(f"{file} {file.hash.value}" for file in files if file.hash is not None)
        return text_digest([name, distribution.version, hashes])
    return source_digest(pathlib.Path(path))


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
    steps = (step for each in _codes(code) for step in dis.get_instructions(each))
    return {step.argval for step in steps if step.opname in loads}


def _attributes(code: types.CodeType) -> frozenset[str]:
    return frozenset(name for each in _codes(code) for name in each.co_names)


def _imported(code: types.CodeType, names: dict[str, Any]) -> Iterator[str]:
    """Yields the files that a function imports when it runs, and theirs, each with its digest."""
    package = names.get("__package__") or str(names.get("__name__", "")).rpartition(".")[0]
    wanted: list[tuple[int, str, tuple[str, ...]]] = []
    for each in _codes(code):
        steps = list(dis.get_instructions(each))
        for i, step in enumerate(steps):
            if step.opname == "IMPORT_NAME":
                level, items = steps[i - 2].argval, steps[i - 1].argval
                wanted.append((level, step.argval, items or ()))
    seen: dict[str, str] = {}
    for level, name, items in wanted:
        _follow(level, name, items, package, seen)
    yield from (f"{name} {found}" for name, found in seen.items())


def _follow(
    level: int, name: str, items: Iterable[str], package: str, seen: dict[str, str]
) -> None:
    """Takes a module of somebody's own into `seen`, what it is asked for, and what it imports."""
    if level and not package:
        return
    base = importlib.util.resolve_name("." * level + name, package or None)
    for each in (base, *(f"{base}.{item}" for item in items)):
        if each in seen or not is_somebodys(each) or each == "__main__":
            continue
        try:
            spec = importlib.util.find_spec(each)
        except (ImportError, ValueError):
            continue
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        path = pathlib.Path(spec.origin)
        seen[each] = source_digest(path)
        home = each if path.name == "__init__.py" else each.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    _follow(0, alias.name, (), home, seen)
            elif isinstance(node, ast.ImportFrom):
                asked = [alias.name for alias in node.names]
                _follow(node.level, node.module or "", asked, home, seen)


def _compiled(code: types.CodeType) -> list[Any]:
    """Returns what a piece of code does: no lines, no comments, no docstring of a function."""
    return [
        [step.opname, _const(step.argval)]
        for step in dis.get_instructions(code)
        if step.opname not in ("CACHE", "NOP", "RESUME")
    ]


def _const(const: Any) -> Any:
    if isinstance(const, types.CodeType):
        return [const.co_varnames, _compiled(const)]
    if isinstance(const, frozenset):  # whose order differs from process to process
        return ["set", sorted(map(repr, const))]
    return repr(const)
