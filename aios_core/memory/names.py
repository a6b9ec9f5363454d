"""Names of blocks, threads, namespaces and keys, and the order in which they are listed."""

from __future__ import annotations

from typing import Final

from aios_core.errors import InvalidRequest
from aios_core.redaction import shown_repr
from aios_core.state import Connection

MAX_NAME_BYTES: Final = 512
MAX_COUNT: Final = 2**53
THREAD: Final = "thread:"  # what grants call a thread, before its name
NAMESPACE: Final = "kv:"  # what grants call a key-value namespace, before its name
_LAST_BEFORE_SURROGATES: Final = 0xD7FF
_FIRST_AFTER_SURROGATES: Final = 0xE000
_LAST: Final = 0x10FFFF


def require_name(what: str, name: object) -> str:
    """The name, if it is one. Raises `InvalidRequest`."""
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{what}: got {shown_repr(name)}; allowed: a text, not empty")
    return require_text(what, name)


def require_text(what: str, text: object) -> str:
    """A part of a name, or one that may be empty. Raises `InvalidRequest`."""
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
    """The name of a block. Those that grants use for threads and namespaces are none."""
    text = require_name("block", name)
    if text.startswith((THREAD, NAMESPACE)):
        raise InvalidRequest(
            f"block: got {shown_repr(text)}; names do not begin with {THREAD!r} or 'kv:'"
        )
    return text


def require_owner(owner: object) -> None:
    """Raise `InvalidRequest` unless it is an identity, or None for the caller's own."""
    if owner is not None:
        require_name("owner", owner)


def beyond(prefix: str) -> str | None:
    """The least text after all that begin with `prefix`, in the order of code points.

    That is also the order of their UTF-8 bytes, by which SQLite compares. None: no text is.
    """
    while prefix:
        prefix, last = prefix[:-1], ord(prefix[-1])
        if last == _LAST:
            continue
        after = _FIRST_AFTER_SURROGATES if last == _LAST_BEFORE_SURROGATES else last + 1
        return prefix + chr(after)
    return None


def require_count(what: str, value: object, *, at_least: int = 0) -> None:
    """Raise `InvalidRequest` unless it is None, or a whole number that is not too small."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_number and at_least <= value <= MAX_COUNT):  # type: ignore[operator]
        allowed = f"a whole number, at least {at_least}, or None"
        raise InvalidRequest(f"{what}: got {shown_repr(value)}; allowed: {allowed}")


def is_kept(connection: Connection, owner: str, name: str) -> bool:
    """Return whether there is something of that name, as grants say it, or below it."""
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
