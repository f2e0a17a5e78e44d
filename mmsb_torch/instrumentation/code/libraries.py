"""Which modules are libraries, their versions, and the names of what lives in them.

A library is the standard library, anything under site-packages, and this package. Its functions
and classes are identified by qualified name and version; everything else is user code, identified
by what it does. An editable install is user code.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

from .encoding import frame, text
from .identity import MISSING

# Where it says it is, and where it was found: links can make these differ.
_STANDARD = tuple(
    f"{folder}{os.sep}"
    for folder in {
        *map(sysconfig.get_path, ("stdlib", "platstdlib")),
        str(PurePath(os.__file__).parent),
    }
)
_PYTHON = f"python {platform.python_version()}"
_OURS = {"mmsb_torch": "mmsb-torch", "mmsb_kernels": "mmsb-torch"}
# The operators that torch brings along, and ours; any other namespace is somebody's extension.
_TORCH_OPERATORS = {"aten", "prim", "prims", "higher_order"}
_OUR_OPERATORS = {"mmsb"}


def library_of(module: str) -> str | None:
    """Name and version of the library that the module of this name belongs to; None: user code."""
    if module.startswith(("torch.ops.", "torch.classes.")):
        return operators_of(module.split(".")[2])
    loaded = sys.modules.get(module)
    if loaded is None:
        return _unloaded(module.partition(".")[0])
    return _library(module, _file_of(loaded))


def operators_of(namespace: str) -> str | None:
    """The library that `torch.ops.<namespace>` belongs to, if it is known."""
    if namespace in _OUR_OPERATORS:
        return library_of("mmsb_torch")
    return library_of("torch") if namespace in _TORCH_OPERATORS else None


def is_ours(cls: type) -> bool:
    """Whether a class is this package's."""
    return cls.__module__.partition(".")[0] in _OURS


def is_library_file(filename: str) -> bool:
    """Whether code of this file name (`co_filename`) belongs to a library."""
    return filename.startswith("<frozen ") or _place(filename) is not None


def name_of(value: object) -> bytes | None:
    """Canonical bytes of a library function, class or the like; None for user code.

    It is one only if looking its own name up in its own module finds that very object: a wrapper
    that carries a library's name, or a user's function put in its place, is not.
    """
    if not is_genuine(value):
        return None
    for module, name in _spellings(value):
        namespace = sys.modules.get(module)
        if namespace is not None and lookup(namespace, name) is value:
            library = library_of(module)
            return None if library is None else located(library, f"{module}:{name}")
    return None


def is_genuine(value: object) -> bool:
    """False for a user's function that `functools.wraps` gave a library's name."""
    seen: list[object] = []
    while isinstance(value, types.FunctionType) and value not in seen:
        if not is_library_file(value.__code__.co_filename):
            return False
        seen.append(value)
        value = value.__dict__.get("__wrapped__")
    return True


def located(library: str, place: str) -> bytes:
    """Canonical bytes of a place in a library."""
    return frame("library", text(library), text(place))


def lookup(namespace: Any, qualname: str) -> object:
    """What `qualname` names in a module, without running any `__getattr__`; else `MISSING`."""
    found: object = namespace
    for part in qualname.split("."):
        if not isinstance(found, (types.ModuleType, type)):
            return MISSING
        found = vars(found).get(part, MISSING)
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
    return found


def _spellings(value: object) -> Iterator[tuple[str, str]]:
    """Where an object may be found: pairs of module and name."""
    owner = getattr(value, "__self__", None)
    modules = [getattr(value, "__module__", None)]
    if isinstance(owner, types.ModuleType):
        modules.append(owner.__name__)
    elif owner is not None and not isinstance(owner, type):
        # A method of a hidden instance (`random.random`) stands in the module of its class.
        modules.append(type(owner).__module__)
    for name in dict.fromkeys(getattr(value, key, None) for key in ("__qualname__", "__name__")):
        if isinstance(name, str):
            yield from ((module, name) for module in modules if isinstance(module, str))


def _file_of(module: types.ModuleType) -> str | None:
    file = vars(module).get("__file__")
    if isinstance(file, str):
        return file
    try:
        return next(iter(vars(module).get("__path__", ())), None)
    except (TypeError, KeyError):
        return None


class _Known(NamedTuple):
    """What was found of a module, and of the package that it was in then."""

    top: str
    version: object
    spec: object
    library: str | None


_KNOWN: dict[tuple[str, str | None], _Known] = {}
_MOST_KNOWN = 4096


def _library(module: str, file: str | None) -> str | None:
    known = _KNOWN.get((module, file))
    if known is not None:
        version, spec = _state(known.top)
        if known.version is version and known.spec is spec:
            return known.library
    if len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.clear()
    top = module.partition(".")[0]
    found = _find_library(module, top, file)
    _KNOWN[module, file] = _Known(top, *_state(top), found)
    return found


def _state(top: str) -> tuple[object, object]:
    """What is another after a package was loaded again, or says that it is of another version."""
    loaded = sys.modules.get(top)
    if loaded is None:
        return None, None
    names = vars(loaded)
    return names.get("__version__"), names.get("__spec__")


def _find_library(module: str, top: str, file: str | None) -> str | None:
    if top in _OURS:
        return f"{top} {_distribution(_OURS[top])}"
    if top.startswith("__"):
        return None
    if file is None:
        return _fileless(module, top)
    place = _place(file)
    if place == "python":
        return _PYTHON
    version = None if place is None else _version(top)
    # A loose file in site-packages has no version that would tell one state from another.
    return None if version is None else f"{top} {version}"


def _fileless(module: str, top: str) -> str | None:
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return _PYTHON
    package = sys.modules.get(top)
    if module == top or package is None:
        return None
    return _library(top, _file_of(package))


@functools.lru_cache(maxsize=4096)
def _place(file: str) -> str | None:
    if {"site-packages", "dist-packages"} & set(PurePath(file).parts):
        return "site"
    return "python" if file.startswith(_STANDARD) else None


def _version(top: str) -> str | None:
    module = sys.modules.get(top)
    version = None if module is None else vars(module).get("__version__")
    return str(version) if isinstance(version, str) else _distribution(top)


_VERSIONS: dict[str, tuple[object, str | None]] = {}


def _distribution(name: str) -> str | None:
    """The installed version; looked up again when the package was loaded again."""
    spec, known = _state(name)[1], _VERSIONS.get(name)
    if known is None or known[0] is not spec:
        known = _VERSIONS[name] = (spec, _installed(name))
    return known[1]


def _installed(name: str) -> str | None:
    from importlib import metadata  # noqa: PLC0415 - slow to import, and seldom needed

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # Several distributions may share one package name.
        names = sorted(set(metadata.packages_distributions().get(name, ())))
        return ", ".join(f"{name} {metadata.version(name)}" for name in names) or None


def _unloaded(top: str) -> str | None:
    """The library a module would come from; only the finders run, never the module."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    file = spec.origin if spec.has_location else None
    if file is None and spec.submodule_search_locations is not None:
        file = next(iter(spec.submodule_search_locations), None)
    return _library(top, file)
