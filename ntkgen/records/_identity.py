"""What made a number, as JSON: settings, arrays by their digest, and functions by their code, recursively.

Two processes describe equal things equally, so a description can name a folder.
"""

import ast
import dataclasses
import dis
import functools
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntkgen import io

PACKAGE = "ntkgen"
STUDIES = "ntkgen.studies"  # their functions are described by what they do: other changes of a study leave them alone
# Of a class: what says nothing about what it does, and what a dataclass makes from its fields.
NO_CODE = {"__annotations__", "__dict__", "__doc__", "__firstlineno__", "__module__", "__qualname__", "__slots__",
           "__static_attributes__", "__weakref__"}  # fmt: skip
GENERATED = {"__dataclass_fields__", "__dataclass_params__", "__delattr__", "__eq__", "__hash__", "__init__",
             "__match_args__", "__replace__", "__repr__", "__setattr__"}  # fmt: skip
RULES = ("jvp", "fwd", "bwd")  # of `jax.custom_jvp` and `jax.custom_vjp`


def describe(value: Any) -> Any:
    """Return a value as JSON types that tell it apart from every other.

    Arrays become digests. A function or class of an installed package is its name and that package's version; of this
    package, its name and the `source` of its module. Other functions, those of studies too, are their bytecode, with
    what they close over and the globals that they use.

    Example:
      >>> from ntkgen import records, train
      >>> one, same, other = (records.describe(train.Config(epochs=epochs)) for epochs in (1, 1, 2))
      >>> one == same, one == other
      (True, False)

    Args:
      value: numbers, text, arrays, functions, dataclasses (Flax modules too), in containers of any depth.

    Raises:
      TypeError: something in it has no description that another process would repeat.
    """
    return _Describer().of(value)


class _Describer:
    def __init__(self) -> None:
        # Functions and classes met before, which may refer to themselves; held, so that no other gets their id.
        self._seen: dict[int, tuple[int, Any]] = {}
        self._within: set[str] = set()  # modules that are being described

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, np.generic | np.ndarray | jax.Array):
            return {"array": _digest(value)}
        if isinstance(value, Mapping):
            return {"dict": [[self.of(key), self.of(item)] for key, item in sorted(value.items(), key=_key_text)]}
        if isinstance(value, list | tuple):
            return {type(value).__qualname__: [self.of(item) for item in value]}
        if isinstance(value, set | frozenset):
            return {"set": sorted((self.of(item) for item in value), key=io.canonical_json)}
        if isinstance(value, functools.partial):  # jax.tree_util.Partial too
            return {"partial": [self.of(part) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, np.dtype):
            return {"dtype": str(value)}
        if isinstance(value, jax.ShapeDtypeStruct):
            return {"shape": list(value.shape), "dtype": str(value.dtype)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [field.name for field in dataclasses.fields(value) if field.name != "parent"]
            return {"class": self.of(type(value)), "fields": {name: self.of(getattr(value, name)) for name in names}}
        if isinstance(value, types.MethodType):
            return {"method": self.of(value.__func__), "self": self.of(value.__self__)}
        if isinstance(value, types.BuiltinFunctionType):
            owner = value.__self__
            if owner is None or inspect.ismodule(owner):
                return {"name": f"{value.__module__}.{value.__name__}"}
            return {"method": value.__name__, "self": self.of(owner)}
        if isinstance(value, np.ufunc) and "(vectorized)" not in value.__name__:  # those of `np.frompyfunc`
            return {"name": f"{getattr(value, '__module__', None) or 'numpy'}.{value.__name__}"}
        if isinstance(value, type):
            return self._once(value, self._class)
        if type(value) is object:  # a sentinel, which is nothing but itself
            return self._once(value, lambda _: {"object": True})
        if callable(value):
            return self._once(value, self._function)
        raise _no_description(value)

    def _once(self, value: Any, describe: Callable[[Any], Any]) -> Any:
        if id(value) in self._seen:
            return {"again": self._seen[id(value)][0]}
        self._seen[id(value)] = len(self._seen), value
        return describe(value)

    def _class(self, value: type) -> Any:
        named = {"name": f"{value.__module__}.{value.__qualname__}"}
        if _installed(value.__module__):
            return named | _release(value.__module__)
        skipped, fields = set(NO_CODE), getattr(value, "__dataclass_fields__", {})
        if fields:
            skipped |= GENERATED | set(fields)
        own = {key: item for key, item in vars(value).items() if key not in skipped}
        bases = [self.of(base) for base in value.__bases__ if base is not object]
        return {**named, "bases": bases, "own": {key: self._member(own[key]) for key in sorted(own)}}

    def _member(self, value: Any) -> Any:
        """Describe what stands in the body of a class."""
        if type(value).__module__.startswith("flax.") and hasattr(value, "wrapped"):  # what Flax puts around a property
            return self._member(value.wrapped)
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return [self.of(part) for part in (value.fget, value.fset)]
        if inspect.isdatadescriptor(value) and _installed(type(value).__module__):  # where fields and slots are found
            return None
        return self.of(value.func if isinstance(value, functools.cached_property) else value)

    def _function(self, value: Any) -> Any:
        """Describe a function, or an object of JAX or Python around one (`jax.jit`, `jax.custom_jvp`)."""
        if not inspect.isfunction(value):
            return self._around(value)
        # Not `__module__`, which a decorator copies from the function within.
        module = value.__globals__.get("__name__") or ""
        found: dict[str, Any] = {"name": f"{module}.{value.__qualname__}"}
        found["closure"] = [self._cell(cell) for cell in value.__closure__ or ()]
        found["defaults"] = self.of([value.__defaults__, value.__kwdefaults__])
        if _installed(module):
            return found | _release(module)
        names = _names(value.__code__)
        used = {name: value.__globals__[name] for name in names if name in value.__globals__}
        found["code"] = _bytecode(value.__code__)
        found["globals"] = {name: self._global(used[name], names) for name in sorted(used)}
        return found

    def _around(self, value: Any) -> Any:
        """Describe an object that is called: by what it is around, by its name, or not at all."""
        kind, module = type(value), getattr(value, "__module__", None)
        if not _installed(kind.__module__):  # whose attributes may be copies of those of what it is around
            raise _no_description(value)
        if hasattr(value, "__wrapped__"):
            own = () if _installed(module) else RULES
            rules = {rule: self.of(getattr(value, rule)) for rule in own if hasattr(value, rule)}
            return {"kind": f"{kind.__module__}.{kind.__qualname__}", "around": self.of(value.__wrapped__), **rules}
        if _installed(module) and hasattr(value, "__qualname__"):
            return {"name": f"{module}.{value.__qualname__}"} | _release(str(module))
        raise _no_description(value)

    def _global(self, value: Any, names: set[str]) -> Any:
        """Describe what a function finds by name; of a module, what goes by the names that the function uses."""
        if not inspect.ismodule(value):
            return self.of(value)
        if _installed(value.__name__):
            return {"module": value.__name__} | _release(value.__name__)
        if value.__name__ in self._within:
            return {"module": value.__name__}
        self._within.add(value.__name__)
        used = {name: self._global(getattr(value, name), names) for name in sorted(names) if hasattr(value, name)}
        self._within.remove(value.__name__)  # another function may use other names of it
        return {"module": value.__name__, "used": used}

    def _cell(self, cell: Any) -> Any:
        try:
            return self.of(cell.cell_contents)
        except ValueError:  # not yet filled
            return None


def _no_description(value: Any) -> TypeError:
    return TypeError(f"describe: {type(value).__name__} {value!r:.60} has no description that lasts")


def _key_text(item: tuple[Any, Any]) -> str:
    return repr(item[0])


def _digest(array: Any) -> str:
    if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return io.digest({"": np.asarray(array)})


def _installed(module: str | None) -> bool:
    """Return whether a module belongs to this package (studies apart), to Python or to installed packages."""
    top = (module or "").partition(".")[0]
    if top == PACKAGE:
        return module != STUDIES and not str(module).startswith(f"{STUDIES}.")
    if top in sys.stdlib_module_names - {"__main__"}:
        return True
    return "site-packages" in Path(_origin(top) or "/").parts


def _origin(top: str) -> str | None:
    if top in sys.modules:
        return getattr(sys.modules[top], "__file__", None)
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def _release(module: str) -> dict[str, Any]:
    """Return what says which code of an installed module this is."""
    top = module.partition(".")[0]
    if top == PACKAGE:
        return {"source": source(module)}
    version = None if top in sys.stdlib_module_names else getattr(sys.modules.get(top), "__version__", None)
    return {} if version is None else {"version": str(version)}


def _bytecode(code: types.CodeType) -> str:
    return io.sha256_bytes(repr(_parts(code)).encode())


def _parts(code: types.CodeType) -> tuple:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME" and not _installed(instruction.argval):
            raise TypeError(f"describe: {code.co_name} imports {instruction.argval!r} when it runs")
    signature = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_code, code.co_exceptiontable, [_constant(item) for item in code.co_consts], names, signature


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _parts(value)
    if isinstance(value, frozenset):  # their order changes with every process
        return "frozenset", sorted(repr(_constant(item)) for item in value)
    return tuple(map(_constant, value)) if isinstance(value, tuple) else value


def _names(code: types.CodeType) -> set[str]:
    inner = [item for item in code.co_consts if isinstance(item, types.CodeType)]
    return set(code.co_names).union(*(_names(item) for item in inner))


# --- Source files


def source(*code: str | Path) -> str:
    """Return a digest of the code of modules, of all of this package that they import, recursively, and of files.

    Example:
      >>> from ntkgen import records
      >>> records.source("ntkgen.tree") == records.source("ntkgen.tree") != records.source("ntkgen.io")
      True

    Args:
      code: dotted names of modules, such as "ntkgen.ensemble"; files, which stand for themselves alone.
    """
    return io.config_hash({name: io.sha256_bytes(content) for name, content in _files(code)})


def _files(code: Sequence[str | Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file once."""
    found: set[str] = set()
    waiting = list(code)
    while waiting:
        item = waiting.pop()
        path = item if isinstance(item, Path) else _file(item)
        name = f"{item.parent.name}/{item.name}" if isinstance(item, Path) else item
        if path is None or name in found:
            continue
        found.add(name)
        content = path.read_bytes()
        waiting += () if isinstance(item, Path) else _imported(content)
        yield name, content


@functools.cache
def _file(module: str) -> Path | None:
    """Return the file of a module, or None: the name of a function within a module is none."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
    else:
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            return None
        origin = None if spec is None else spec.origin
    return Path(origin) if origin else None


@functools.cache
def _imported(content: bytes) -> tuple[str, ...]:
    """Return what a file imports of this package: modules, and names within them."""
    found: set[str] = set()
    tree = list(ast.walk(ast.parse(content)))
    for node in tree:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
            packages = {alias.asname or alias.name for alias in node.names if alias.name == PACKAGE}
            found.update(f"{PACKAGE}.{n.attr}" for n in tree if isinstance(n, ast.Attribute) and _id(n) in packages)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            within = str(node.module)
            names = [f"{within}.{alias.name}" for alias in node.names]
            # A name that is no module is made by the package's face, which then counts with all that it imports.
            found.update(name if _file(name) else within for name in names)
    return tuple(sorted(found))


def _id(node: ast.Attribute) -> str | None:
    return node.value.id if isinstance(node.value, ast.Name) else None
