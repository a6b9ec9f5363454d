"""`reference/policy-file.md`: the keys of a rule and the tests of arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from text import code, table
from walk import all_modules

_KEYS = {
    "effect": "`allow`, `ask` or `deny`. A rule that denies goes before all others.",
    "name": "What the rule is called in explanations and in the audit trail.",
    "agents": "Identities (`default/bob`, `research/*`), `group:NAME` or `*`.",
    "actions": "Kinds of requests, such as `memory.read` or `tool.*`; see [syscalls](syscalls.md).",
    "rights": "Rights that the request asks for: `read`, `write`, `execute`, `share`.",
    "resources": "`kind:owner:name`, as `file:default/alice:/notes`; `*` in any part.",
    "labels": "Labels of data that the agent has read, such as `tool:http_fetch`. Empty: any data.",
    "when": "Tests of the request's arguments, listed below.",
    "preapproved": "For `allow`: irreversible requests that the rule fits need no approval.",
    "reason": "Shown to an agent that is refused.",
}

_OPERATORS = {
    "above": "The number is greater.",
    "below": "The number is smaller.",
    "in": "The value is one of the list. Numbers in texts count as numbers.",
    "like": "The text fits one of the patterns.",
    "host": "The host of the URL fits one of the list.",
    "longer": "The text has more characters.",
}


def rule_keys() -> str:
    """Return the table of the keys of a rule."""
    keys = {item.name: item for item in fields(_defined("_RuleTable"))}
    _require_same(keys, _KEYS, "keys of a rule")
    rows = [(code(name), _default(item), _KEYS[name]) for name, item in keys.items()]
    return table(("Key", "Default", "Meaning"), rows)


def operators() -> str:
    """Return the table of the tests of arguments."""
    known: Mapping[str, Any] = _defined("OPERATORS")
    _require_same(known, _OPERATORS, "operators")
    rows = [(code(name), one.allowed, _OPERATORS[name]) for name, one in known.items()]
    return table(("Operator", "Operand", "Holds if"), rows)


def _default(item: Field[Any]) -> str:
    if item.default is MISSING:
        return "required" if item.default_factory is MISSING else "empty"
    values = item.default if isinstance(item.default, tuple) else (item.default,)
    shown = [str(value).lower() if isinstance(value, bool) else value for value in values]
    return ", ".join(code(value) for value in shown if value) or "empty"


def _defined(name: str) -> Any:
    """Return what has that name in the access manager."""
    found = [vars(module)[name] for module in all_modules() if name in vars(module)]
    return found[0]


def _require_same(code_has: Mapping[str, Any], page_has: Mapping[str, Any], what: str) -> None:
    if different := code_has.keys() ^ page_has.keys():
        raise AssertionError(f"docs/_generate/policy_page.py, {what}: {sorted(different)}")
