"""`reference/syscalls.md`: every request that an agent can make, by its kind."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from text import code, first_sentence, table
from walk import all_modules, hints_of, subclasses

from aios_core import Agent
from aios_core.permissions import Access, Resource, Right
from aios_core.syscalls import Request

# kind -> what the AIOS paper calls it
_PAPER = {
    "access.ask": "ask_permission",
    "access.check": "check_access",
    "access.grant": "add_privilege, sto_share",
    "llm.generate": "llm_generate",
    "memory.alloc": "mem_alloc",
    "memory.clear": "mem_clear",
    "memory.read": "mem_read",
    "memory.write": "mem_write",
    "storage.create": "sto_create",
    "storage.delete": "sto_clear",
    "storage.read": "sto_read",
    "storage.retrieve": "sto_retrieve",
    "storage.rollback": "sto_rollback",
    "storage.write": "sto_write",
    "tool.run": "tool_run",
}


@cache
def requests_by_kind() -> Mapping[str, type]:
    """Return the class of every request by its kind, without those that wrap another one."""
    all_modules()
    found: dict[str, type] = {}
    for one in subclasses(Request):
        if "kind" in vars(one) and not _wraps_another(one):
            found.setdefault(one.kind, one)  # type: ignore[attr-defined]
    if unknown := _PAPER.keys() - found.keys():
        raise AssertionError(f"docs/_generate/syscalls_page.py: no such kinds: {sorted(unknown)}")
    return dict(sorted(found.items()))


def _wraps_another(request: type) -> bool:
    hints = hints_of(request)
    return any(
        isinstance(hints.get(item.name), type) and issubclass(hints[item.name], Request)
        for item in fields(request)
    )


def syscalls(manager: str) -> str:
    """Return the table of the requests of one manager."""
    rows = [
        _row(kind, request)
        for kind, request in requests_by_kind().items()
        if kind.split(".")[0] == manager
    ]
    return table(("Kind", "What it does", "Fields", "Answer", "Access"), rows)


def managers() -> frozenset[str]:
    """Return the first parts of all kinds."""
    return frozenset(kind.split(".")[0] for kind in requests_by_kind())


def _row(kind: str, request: type) -> tuple[str, str, str, str, str]:
    paper = f"<br><small>paper: {_PAPER[kind]}</small>" if kind in _PAPER else ""
    made_by = _method_of(request)
    how = f"<br><small>`{made_by}`</small>" if made_by else ""
    return (
        code(kind) + paper + how,
        first_sentence(request),
        ", ".join(map(_field, _shown_fields(request))),
        code(_name_of(_answer(request))),
        _access(request),
    )


def _shown_fields(request: type) -> Iterator[Field[Any]]:
    for item in fields(request):
        if item.init and not item.name.startswith("_"):
            yield item


def _field(item: Field[Any]) -> str:
    return code(item.name) + ("" if _is_required(item) else "?")


# --- what it is answered with ---------------------------------------------------------------------


def _answer(request: type) -> Any:
    """Return the type that a request is answered with, through generic bases."""
    for base in getattr(request, "__orig_bases__", ()):
        arguments = get_args(base)
        if arguments and isinstance(get_origin(base), type):
            return arguments[0]
    return next((_answer(base) for base in request.__bases__ if base is not Request), Any)


def _name_of(answer: Any) -> str:
    if answer is None or answer is type(None):
        return "None"
    text = answer.__name__ if isinstance(answer, type) and not get_args(answer) else str(answer)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


# --- what it needs --------------------------------------------------------------------------------

_NOTES = Resource("memory", "default/agent", "notes")

# Example values for fields with rules of their own.
_EXAMPLES: Mapping[str, Any] = {
    "offset": 0,
    "resource": _NOTES,
    "source": "tools.py",
    "to": "default/other",
    "texts": ("text",),
    "value": "text",
    "wanted": Access("memory.read", Right.READ, _NOTES),
    "window": None,
    "numbers": (1,),
    "version": 1,
    "k": 1,
    "limit": 1,
    "name": "name",
    "query": "query",
    "messages": ({"role": "user", "content": "hello"},),
}


def _access(request: type) -> str:
    found = sample_access(request)
    return " and ".join(dict.fromkeys(map(_in_words, found))) or "that of the question"


def _in_words(access: Access) -> str:
    words = f"{access.right.value} {access.resource.kind}"
    return f"{words}; irreversible" if access.irreversible else words


def sample_access(request: type) -> tuple[Access, ...]:
    """Return what a request with made-up fields does to what; () if none can be made."""
    required, more = _samples(request, is_required=True), _samples(request, is_required=False)
    for samples in (required, more, {**required, "messages": ()}):
        try:
            access = request(**samples).access("default/agent")
        except Exception:  # noqa: BLE001, S112 - a rule of a field that the sample does not keep
            continue
        return access if isinstance(access, tuple) else (access,)
    return ()


def _samples(request: type, *, is_required: bool) -> dict[str, Any]:
    """Return made-up values for the required fields, or also for others with an example."""
    hints = hints_of(request)
    return {
        item.name: _EXAMPLES[item.name] if item.name in _EXAMPLES else _sample(hints[item.name])
        for item in fields(request)
        if item.init and (_is_required(item) or (not is_required and item.name in _EXAMPLES))
    }


def _is_required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _sample(hint: Any) -> Any:
    plain = {str: "name", int: 0, bool: True, bytes: b"x", Path: Path("name")}
    if hint in plain:
        return plain[hint]
    origin = get_origin(hint)
    if origin is tuple:
        return (_sample(get_args(hint)[0]),)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"name": "value"}
    arguments = get_args(hint)
    return _sample(arguments[0]) if arguments else None


# --- which method makes it ------------------------------------------------------------------------


@cache
def _methods() -> Mapping[str, list[str]]:
    """Return the methods of an agent's handles that build a request, by the request's name."""
    found: dict[str, list[str]] = {}
    for path, handle in _handles():
        names = [name for name, _ in inspect.getmembers(handle, inspect.isfunction)]
        for name in names:
            is_twin = name.startswith("a") and name[1:] in names  # the async form of another
            if not name.startswith("_") and not is_twin:
                for built in getattr(handle, name).__code__.co_names:
                    found.setdefault(built, []).append(f"{path}.{name}()")
    return found


def _handles() -> Iterator[tuple[str, type]]:
    """Yield the handles of an agent, and those that they hand out."""
    for name, handle in _attributes_of(Agent):
        path = f"agent.{name}"
        yield path, handle
        for inner, method in inspect.getmembers(handle, inspect.isfunction):
            result: Any = hints_of(method).get("return")
            if _is_handle(result) and result is not handle and not inner.startswith("_"):
                yield f"{path}.{inner}(...)", result


def _attributes_of(owner: type) -> Iterator[tuple[str, type]]:
    """Yield the attributes that a constructor sets to an object of a class, with the class."""
    source = ast.parse(textwrap.dedent(inspect.getsource(owner.__init__)))  # type: ignore[misc]
    names = vars(sys.modules[owner.__module__])
    for node in ast.walk(source):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            function = node.value.func if isinstance(node.value, ast.Call) else None
            value: object = names.get(function.id) if isinstance(function, ast.Name) else None
            if isinstance(value, type):
                yield node.targets[0].attr, value


def _is_handle(result: Any) -> bool:
    is_ours = isinstance(result, type) and result.__module__.startswith("aios_core.")
    has_port = "_port" in getattr(result, "__annotations__", {})
    return is_ours and (has_port or not is_dataclass(result))


# Where the method that builds the request is not the one that agents call.
_MADE_BY = {
    "access.grant": "agent.access.grant()",
    "llm.generate": "agent.llm.generate()",
    "storage.changes": "agent.storage.watch()",
    "storage.wait": "agent.storage.watch()",
}


def _method_of(request: type) -> str:
    if made_by := _MADE_BY.get(request.kind):  # type: ignore[attr-defined]
        return made_by
    manager, _, action = request.kind.partition(".")  # type: ignore[attr-defined]
    found = _methods().get(request.__name__, [""])
    return max(found, key=lambda one: (one.endswith(f".{action}()"), f".{manager}." in one))
