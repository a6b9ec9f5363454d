"""Import third-party code into this process: a file or a module, fresh at each load.

A reload makes a new module object, so that calls in flight end with the functions and
globals that they started with. The source is compiled from the file on disk, not taken from
Python's bytecode cache, because its time stamps are too coarse for an edit a moment ago.
Called on a worker thread, since a third-party import may take any time.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import partial
from itertools import count, islice
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pluggy

from aios_core.errors import InvalidRequest, KernelError, NoSuchObject, ToolError
from aios_core.tools import hookspecs
from aios_core.tools.tool import Tool
from aios_core.untrusted.third_party import (
    describe,
    describe_on_worker,
    detach,
    shown_value,
    type_name,
)

_numbers = count(1)
_MAX_SOURCE_BYTES: Final = 16 << 20
_MAX_TOOLS: Final = 1_000  # of one source


def load_file(path: str | Path, *, expected: str = "") -> ModuleType:
    """Run a Python file as a new module.

    Args:
        path: of the file; "~" is expanded.
        expected: the SHA-256 of its content, in hex; "" for any.

    Raises:
        NoSuchObject: there is no such file.
        InvalidRequest: it is a directory, a device or a pipe, or too large.
        ToolError: it cannot be read or compiled, raises, or has another hash than `expected`.
    """
    file = Path(path).expanduser().absolute()
    try:
        source = _read(file)
    except FileNotFoundError:
        raise NoSuchObject("file", str(file)) from None
    except IsADirectoryError:
        raise InvalidRequest(f"{file} is a directory; tools come from a file") from None
    except OSError as exc:
        raise ToolError(file.stem, f"{file} cannot be read: {exc}") from exc
    digest = hashlib.sha256(source).hexdigest()
    if expected and digest != expected:
        raise ToolError(file.stem, f"{file} has changed since it was loaded; load it again")
    module = ModuleType(f"aios_tools_{file.stem}_{digest[:8]}_{next(_numbers)}")
    module.__file__ = str(file)
    vars(module).update(__aios_path__=str(file), __aios_digest__=digest)
    sys.modules[module.__name__] = module  # where annotations and dataclasses look it up
    try:
        exec(compile(source, str(file), "exec"), vars(module))  # noqa: S102 - loading means to run it
    except BaseException as exc:  # noqa: BLE001 - foreign code
        del sys.modules[module.__name__]
        text = describe_on_worker(exc)
        raise ToolError(file.stem, f"{file} cannot be loaded: {text}") from detach(exc, text)
    return module


def _read(file: Path) -> bytes:
    """Read a regular file that is not too large; a pipe or a device may have no end."""
    if file.is_dir():
        raise IsADirectoryError(str(file))
    if file.exists() and not file.is_file():
        raise InvalidRequest(f"{file} is not a regular file; allowed: a Python file")
    with file.open("rb") as opened:
        source = opened.read(_MAX_SOURCE_BYTES + 1)
    if len(source) > _MAX_SOURCE_BYTES:
        raise InvalidRequest(f"{file} is too large; allowed: {_MAX_SOURCE_BYTES:,} bytes")
    return source


def load_module(name: str, *, fresh: bool = False) -> ModuleType:
    """Import a module, or with `fresh` run its code again in a new module object.

    Raises:
        NoSuchObject: there is no such module.
        ToolError: importing it raises.
    """
    before = sys.modules.get(name)
    if before is None or not fresh:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as exc:
            if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
                raise NoSuchObject("module", name) from exc
            raise ToolError(name, f"cannot be imported: {describe(exc)}") from detach(exc)
        except BaseException as exc:  # noqa: BLE001 - foreign code
            text = describe_on_worker(exc)
            raise ToolError(name, f"cannot be imported: {text}") from detach(exc, text)
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError) as exc:  # such as "__main__"
        raise ToolError(name, f"cannot be loaded again: {exc}") from exc
    if spec is None or spec.loader is None:
        raise NoSuchObject("module", name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        _execute(spec.loader, module)
    except BaseException as exc:  # noqa: BLE001 - foreign code
        sys.modules[name] = before
        text = describe_on_worker(exc)
        raise ToolError(name, f"cannot be loaded again: {text}") from detach(exc, text)
    return module


def _execute(loader: Any, module: ModuleType) -> None:
    if module.__file__ and module.__file__.endswith(".py") and hasattr(loader, "source_to_code"):
        source = Path(module.__file__).read_bytes()
        vars(module)["__aios_digest__"] = hashlib.sha256(source).hexdigest()
        exec(loader.source_to_code(source, module.__file__), vars(module))  # noqa: S102
    else:
        loader.exec_module(module)


def tools_of(plugin: object) -> tuple[Tool, ...]:
    """Return the tools of a plug-in: from its hook, or those that its module defines.

    Raises:
        InvalidRequest: it offers nothing, too much, something other than a `Tool`, or one twice.
        ToolError: its hook raises.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    name = getattr(plugin, "__name__", type(plugin).__name__)
    try:
        manager.register(plugin, name)
        manager.check_pending()
        hooks: list[Any] = manager.hook.aios_tools.get_hookimpls()
        found: list[list[object]] = [
            list(islice(hook.function(), _MAX_TOOLS + 1)) for hook in hooks
        ]
    except pluggy.PluginValidationError as exc:
        raise InvalidRequest(f"plug-in {name!r}: {exc}") from exc
    except KernelError:
        raise
    except BaseException as exc:  # noqa: BLE001 - foreign code
        text = describe_on_worker(exc)
        raise ToolError(name, f"its hook raised {text}") from detach(exc, text)
    offered: Iterable[object] = found[0] if found else _made_in(plugin, name)
    tools = []
    for tool in offered:
        if not isinstance(tool, Tool):
            shown = shown_value(tool) or f"<{type_name(tool)}>"
            raise InvalidRequest(f"plug-in {name!r} offers {shown:.100}, which is not a Tool")
        tools.append(tool)
    if len(tools) > _MAX_TOOLS:
        raise InvalidRequest(f"plug-in {name!r} offers more than {_MAX_TOOLS:,} tools")
    ids = [tool.id for tool in tools]
    if twice := sorted({one for one in ids if ids.count(one) > 1}):
        raise InvalidRequest(f"plug-in {name!r} offers {twice} twice")
    if not tools:
        has_hook = callable(getattr(plugin, "aios_tools", None))
        why = (
            "its `aios_tools` returns none"
            if found
            else "its `aios_tools` is not marked with @hookimpl"
            if has_hook
            else "it has no `aios_tools` hook and no @tool"
        )
        raise InvalidRequest(f"plug-in {name!r} offers no tools: {why}")
    return tuple(tools)


def _made_in(plugin: object, name: str) -> list[Tool]:
    """Return the tools that a module defines, each once, without those that it imports."""
    found = {
        id(one): one for one in getattr(plugin, "__dict__", {}).values() if isinstance(one, Tool)
    }
    return [one for one in found.values() if module_of(one.function) == name]


def module_of(function: Any) -> str | None:
    """Return the name of the module that defines a function, or the function of a `partial`."""
    while isinstance(function, partial):
        function = function.func
    module: str | None = getattr(function, "__module__", None)
    return module
