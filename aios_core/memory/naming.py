"""Check the names of blocks, threads, namespaces and keys, and search them by prefix."""

from __future__ import annotations

from typing import Final

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr
from aios_core.state import Connection

MAX_NAME_BYTES: Final = 512
MAX_COUNT: Final = 2**53
THREAD: Final = "thread:"  # starts the name of a thread in grants
NAMESPACE: Final = "kv:"  # starts the name of a key-value namespace in grants
_LAST_BEFORE_SURROGATES: Final = 0xD7FF
_FIRST_AFTER_SURROGATES: Final = 0xE000
_LAST: Final = 0x10FFFF


def require_name(what: str, name: object) -> str:
    """Return a name. Raises `InvalidRequest` if it is empty or not valid."""
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{what}: got {shown_repr(name)}; allowed: a text, not empty")
    return require_text(what, name)


def require_text(what: str, text: object) -> str:
    """Return a name or prefix that may be empty. Raises `InvalidRequest` if it is not valid."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{what}: got {shown_repr(text)}; allowed: a text")
    try:
        length = len(text.encode())
    except UnicodeEncodeError as exc:
        raise InvalidRequest(f"{what}: {text!r:.200} is not valid Unicode: {exc}") from exc
    if "\0" in text or length > MAX_NAME_BYTES:
        allowed = f"at most {MAX_NAME_BYTES} bytes without NUL"
        raise InvalidRequest(f"{what}: got {shown_repr(text)}; allowed: {allowed}")
    return text


def require_block(name: object) -> str:
    """Return the name of a block. Raises `InvalidRequest`.

    Names that grants use for threads and namespaces are not allowed.
    """
    text = require_name("block", name)
    if text.startswith((THREAD, NAMESPACE)):
        raise InvalidRequest(
            f"block: got {shown_repr(text)}; a name cannot start with {THREAD!r} or {NAMESPACE!r}"
        )
    return text


def require_owner(owner: object) -> None:
    """Raise `InvalidRequest` unless the owner is an identity, or None for the caller."""
    if owner is not None:
        require_name("owner", owner)


def prefix_end(prefix: str) -> str | None:
    """Return the smallest text after all texts that start with `prefix`, or None.

    Texts are ordered by code points, which is also the order of their UTF-8 bytes, by which
    SQLite compares. None: no text comes after them.
    """
    while prefix:
        prefix, last = prefix[:-1], ord(prefix[-1])
        if last == _LAST:
            continue
        after = _FIRST_AFTER_SURROGATES if last == _LAST_BEFORE_SURROGATES else last + 1
        return prefix + chr(after)
    return None


def require_count(what: str, value: object, *, at_least: int = 0) -> None:
    """Raise `InvalidRequest` unless the value is None or a whole number of at least `at_least`."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_number and at_least <= value <= MAX_COUNT):  # type: ignore[operator]
        allowed = f"a whole number, at least {at_least}, or None"
        raise InvalidRequest(f"{what}: got {shown_repr(value)}; allowed: {allowed}")


def is_kept(connection: Connection, owner: str, name: str) -> bool:
    """Return whether an object has that name (in the form of grants), or one below it."""
    parameters = (owner, name, f"{name}/", f"{name}0")  # "0" comes after "/"
    return connection.execute(_IS_KEPT, parameters).fetchone() is not None


_IS_KEPT: Final = " UNION ALL ".join(
    f"SELECT 1 FROM {table} WHERE owner = ?1 "  # noqa: S608 - constants
    f"AND ('{head}' || {column} = ?2 OR '{head}' || {column} >= ?3 AND '{head}' || {column} < ?4)"
    for table, column, head in (
        ("memory_blocks", "name", ""),
        ("memory_threads", "name", THREAD),
        ("memory_kv", "namespace", NAMESPACE),
    )
)
