"""What made a number, as JSON: settings, arrays by their digest, and functions by their code, recursively.

Two processes describe equal things equally, so a description can name a folder.
"""

import ast
import dataclasses
import functools
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntkgen import io

PACKAGE = "ntkgen"


def describe(value: Any) -> Any:
    """Return a value as JSON types that tell it apart from every other.

    Arrays become digests. A function or class of an installed package is its name; that package's version says the
    rest. A function of this package is its name and the digest of its source: what trains does not import every probe.
    Other functions are their bytecode, with what they close over and the globals that they use.

    Args:
      value: numbers, text, arrays, functions, dataclasses (Flax modules too), in containers of any depth.

    Raises:
      TypeError: something in it has no description that another process would repeat.
    """
    return _Describer().of(value)


class _Describer:
    def __init__(self) -> None:
        self._seen: dict[int, int] = {}  # functions and classes that are being described, which may refer to themselves

    def of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, np.generic | np.ndarray | jax.Array):
            return {"array": _digest(value)}
        if isinstance(value, Mapping):
            return {"dict": [[self.of(key), self.of(item)] for key, item in sorted(value.items(), key=repr_key)]}
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
            return {"method": value.__func__.__qualname__, "self": self.of(value.__self__)}
        if isinstance(value, types.BuiltinFunctionType | np.ufunc):
            return {"name": f"{getattr(value, '__module__', 'numpy')}.{value.__name__}"}
        if isinstance(value, type) or callable(value):
            return self._code(value)
        raise TypeError(f"describe: {type(value).__name__} {value!r:.60} has no description that lasts")

    def _code(self, value: Any) -> Any:
        """Describe a class, a function, or an object that wraps a function (`jax.jit`, `jax.custom_jvp`)."""
        if id(value) in self._seen:
            return {"again": self._seen[id(value)]}
        self._seen[id(value)] = len(self._seen)
        name = f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        if isinstance(value, type):
            if _installed(value.__module__):
                return {"name": name}
            own = {key: item for key, item in vars(value).items() if inspect.isfunction(item)}
            bases = [self.of(base) for base in value.__bases__ if base is not object]
            return {"name": name, "bases": bases, "methods": {key: self.of(own[key]) for key in sorted(own)}}
        function = inspect.unwrap(value)
        if not inspect.isfunction(function):
            if _installed(value.__module__) and hasattr(value, "__qualname__"):
                return {"name": name}
            raise TypeError(f"describe: {type(value).__name__} {name} has no description that lasts")
        found: dict[str, Any] = {"name": name, "closure": [self._cell(cell) for cell in function.__closure__ or ()]}
        found["defaults"] = self.of([function.__defaults__, function.__kwdefaults__])
        if function.__module__.partition(".")[0] == PACKAGE:
            found["source"] = source(function.__module__)
        if not _installed(function.__module__):
            found["code"] = _bytecode(function.__code__)
            used = {n: function.__globals__[n] for n in _names(function.__code__) if n in function.__globals__}
            found["globals"] = {n: self.of(used[n]) for n in sorted(used) if not inspect.ismodule(used[n])}
        return found

    def _cell(self, cell: Any) -> Any:
        try:
            return self.of(cell.cell_contents)
        except ValueError:  # not yet filled
            return None


def repr_key(item: tuple[Any, Any]) -> str:
    """Return the text by which dict items are sorted."""
    return repr(item[0])


def _digest(array: Any) -> str:
    if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return io.digest({"": np.asarray(array)})


def _installed(module: str) -> bool:
    """Say whether a module belongs to this package (whose code `source` covers), to Python or to installed packages."""
    top = module.partition(".")[0]
    if top == PACKAGE or top in sys.stdlib_module_names - {"__main__"}:
        return True
    found = sys.modules.get(top)
    return "site-packages" in Path(getattr(found, "__file__", None) or "/").parts


def _bytecode(code: types.CodeType) -> str:
    return io.sha256_bytes(repr(_parts(code)).encode())


def _parts(code: types.CodeType) -> tuple:
    constants = [_parts(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


def _names(code: types.CodeType) -> set[str]:
    inner = [item for item in code.co_consts if isinstance(item, types.CodeType)]
    return set(code.co_names).union(*(_names(item) for item in inner))


# --- Source files


def source(*code: str | Path) -> str:
    """Return a digest of the code of modules and files, and of all of this package that they import, recursively.

    Args:
      code: dotted names of modules, such as "ntkgen.ensemble", and files.
    """
    files = _closure(code)
    return io.config_hash({name: io.sha256_bytes(path.read_bytes()) for name, path in files.items()})


@functools.cache
def _closure(code: tuple[str | Path, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = list(code)
    while waiting:
        item = waiting.pop()
        path = item if isinstance(item, Path) else _file(item)
        name = f"{item.parent.name}/{item.name}" if isinstance(item, Path) else item
        if path is None or name in found:
            continue
        found[name] = path
        waiting += _imported(path)
    return found


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


def _imported(path: Path) -> Iterable[str]:
    """Yield what a file imports of this package: modules, and names within them."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            if node.module != PACKAGE:
                yield str(node.module)
