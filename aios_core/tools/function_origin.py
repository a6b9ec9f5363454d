"""Find a tool's function again in another process.

A function cannot be sent to a process, only its name: a tool with `isolation="process"` has to
be found in a module or a file, as an attribute of it or among the tools that its hook returns.
A function that a factory makes at each call (a closure, a lambda, a `partial`, a bound method)
has no such place, and is refused when it is offered.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aios_core.errors import InvalidRequest
from aios_core.tools.import_code import module_of
from aios_core.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class FunctionOrigin:
    """The place of a tool's function: its module, and where it is in the module."""

    module: str
    name: str  # of the tool
    path: str = ""  # the file, if the module is not importable
    digest: str = ""  # SHA-256 of the source when it was loaded; "" for a first import
    attribute: str = ""  # "TOOL", "function" or "Class.function"; "": among `tools_of` the module

    @classmethod
    def of(cls, tool: Tool) -> FunctionOrigin:
        """Find the place of a tool. Raises `InvalidRequest` if a process cannot find it again."""
        module = module_of(tool.function) or ""
        found = sys.modules.get(module)
        path = getattr(found, "__aios_path__", "")
        digest = getattr(found, "__aios_digest__", "")
        if found is None or module == "__main__" or (not path and _is_unimportable(found)):
            raise InvalidRequest(
                f"tool {tool.name!r} is to run in a process of its own, which has to import it: "
                f"put it into a module or a file, not into {module!r}"
            )
        return cls(module, tool.name, path, digest, _attribute_of(tool, found))

    @property
    def source(self) -> tuple[str, str, str]:
        """The module, path and digest that a process loads, to run any tool of the module."""
        return self.module, self.path, self.digest


def require_attribute(tool: Tool) -> None:
    """Raise `InvalidRequest` unless a process can find a tool that was offered as an object."""
    if not FunctionOrigin.of(tool).attribute:
        function = tool.function
        named = getattr(function, "__qualname__", type(function).__name__)
        raise InvalidRequest(
            f"tool {tool.name!r} is to run in a process of its own, which has to find {named} "
            "again; allowed: a function at the top level of a module, or a tool assigned there; "
            "a closure, a lambda, a bound method or a `partial` runs with isolation='thread'"
        )


def find(module: ModuleType, attribute: str) -> Any:
    """Return the tool or function at a dotted attribute. Raises `AttributeError`."""
    found: Any = module
    for name in attribute.split("."):
        found = getattr(found, name)
    return found


def _attribute_of(tool: Tool, module: ModuleType) -> str:
    """Return the attribute of the module that is the tool or its function, or ""."""
    for name, value in tuple(vars(module).items()):
        if value is tool or value is tool.function or _function_of(value) is tool.function:
            return name
    named = getattr(tool.function, "__qualname__", "<")
    if "<" in named:
        return ""
    try:
        found = find(module, named)
    except AttributeError:
        return ""
    is_same = found is tool.function or _function_of(found) is tool.function
    return named if is_same else ""


def _function_of(value: object) -> object:
    return value.function if type(value) is Tool else None


def _is_unimportable(module: Any) -> bool:
    spec = getattr(module, "__spec__", None)
    return spec is None or not spec.origin
