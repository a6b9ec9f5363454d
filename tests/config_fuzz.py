"""Wrong configurations and bodies: trees, variables and files with one or more bad places."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from aios_core import InvalidRequest, KernelConfig
from aios_core.config_decoder import field_hints
from aios_core.errors import ConfigError

from .fuzz import POOL

TEXTS = (
    *("", " ", "none", "nan", "inf", "-1", "1e400", "[", "{", "[1, 2", "'", '"', "\0", "a.b"),
    *("true", "2026-01-01", "0x10", "[[1]]", "{a = 1}", "9" * 400, "\ud800", "x" * 5_000, "1_0"),
)


def paths(kind: Any = KernelConfig, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of the whole tree; a table of tables has one named "thing"."""
    for name, hint in field_hints(kind).items():
        here = (*above, name)
        yield here
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type) and is_dataclass(inner):
                origin = get_origin(hint)
                is_table = origin is not None and origin is not tuple and name != "cores"
                yield from paths(inner, (*here, "thing") if is_table else here)


KEYS = tuple(paths())


def nested(keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def offence_of_tree(seed: int) -> str | None:
    """A tree with a bad value somewhere, given as arguments."""
    chance = random.Random(f"tree {seed}")
    keys, value = chance.choice(KEYS), chance.choice(POOL)()
    if chance.random() < 0.2:
        keys = (*keys[: chance.randint(1, len(keys))], "nosuchkey")
    return _offence(
        f"tree {seed} {keys}", lambda: KernelConfig.load(environ={}, **nested(keys, value))
    )


def offence_of_variable(seed: int) -> str | None:
    """An environment with a bad variable."""
    chance = random.Random(f"variable {seed}")
    keys, value = chance.choice(KEYS), chance.choice(TEXTS)
    name = "AIOS_" + "__".join(keys).upper()
    if chance.random() < 0.3:
        name = chance.choice(
            (f"{name}S", f"{name}__", name.replace("__", "_"), f"{name}__X__Y", "AIOS___")
        )
    return _offence(f"variable {name}", lambda: KernelConfig.load(environ={name: value}))


def offence_of_file(seed: int, file: Path) -> str | None:
    """A file with a bad line, or one that is not TOML."""
    chance = random.Random(f"file {seed}")
    keys = chance.choice(KEYS)
    value = chance.choice(
        (*TEXTS, "1", "'text'", "1.5", "[1, 'a']", "{a = {b = 1}}", "nan", "-inf")
    )
    line = f"{'.'.join(keys)} = {value}\n".encode(errors="surrogatepass")
    if chance.random() < 0.1:
        line = line[: chance.randint(0, len(line))] + bytes([chance.randrange(256)])
    file.write_bytes(line * chance.choice((1, 1, 2)))
    return _offence(f"file {line!r:.100}", lambda: KernelConfig.load(file, environ={}))


def _offence(what: str, load: Callable[[], object]) -> str | None:
    try:
        repr(load())
    except ConfigError as exc:
        str(exc).encode()
    except Exception as exc:  # noqa: BLE001 - that is the finding
        return f"{what}: {type(exc).__name__}: {exc!s:.200}"
    return None


BODY: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}},
    },
    "stop": ["a"],
    "max_tokens": 3,
    "temperature": 0.5,
    "top_p": 0.9,
    "seed": 1,
    "n": 1,
    "logit_bias": {"1": 2},
    "stream": False,
    "user": "u",
}


def offence_of_body(seed: int, read: Callable[[Mapping[str, Any]], object]) -> str | None:
    """A body in OpenAI's format, with bad values in some places."""
    chance = random.Random(f"body {seed}")
    body: Any = json.loads(json.dumps(BODY))
    for _ in range(chance.choice((1, 1, 2, 3))):
        body = _spoiled(body, chance)
    try:
        read(body)
    except InvalidRequest as exc:
        str(exc).encode(errors="surrogatepass")
    except Exception as exc:  # noqa: BLE001 - that is the finding
        return f"body {seed}: {type(exc).__name__}: {exc!s:.200}"
    return None


def _spoiled(value: Any, chance: random.Random) -> Any:
    """The value with something in it replaced, removed or added."""
    if type(value) not in (dict, list) or not value or chance.random() < 0.1:
        return chance.choice(POOL)()
    if type(value) is list:
        at = chance.randrange(len(value))
        value[at] = _spoiled(value[at], chance)
        return value
    key = chance.choice(list(value))
    if chance.random() < 0.1:
        del value[key]
    elif chance.random() < 0.1:
        value[chance.choice(("extra", 3, None, "\ud800"))] = chance.choice(POOL)()
    else:
        value[key] = _spoiled(value[key], chance)
    return value
