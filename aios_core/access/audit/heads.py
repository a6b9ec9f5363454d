"""Store the head of the audit trail in the state directory, and copies of it elsewhere.

`audit.head` in the state directory is replaced with every batch, and encrypted if the
state is encrypted, so that only the holder of the key can write one. An anchor
(`access.audit_anchor`: a file on another disk, or one that may only be appended to) gets a
line every `ANCHOR_EVERY_S` seconds and at the end. Blocking; for threads and commands.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from aios_core.access.audit.chain import Head
from aios_core.errors import StateError
from aios_core.private_files import open_private, write_file
from aios_core.state import Cipher
from aios_core.state.completeness import HEAD
from aios_core.state.disk_full import describe_os_error

HEAD_FILE: Final = HEAD
ANCHOR_EVERY_S: Final = 10.0


def write_head(directory: Path, head: Head, cipher: Cipher) -> None:
    """Replace the head file, durably. Raises `StateError`."""
    try:
        write_file(directory / HEAD_FILE, cipher.encrypt(_line(head), "audit", "head"))
    except OSError as exc:
        raise StateError(
            f"the head of the audit trail cannot be written: {describe_os_error(exc, directory)}"
        ) from exc


def read_head(directory: Path, cipher: Cipher) -> Head | None:
    """Read the head file; None if there is none. Raises `StateError` if damaged or forged."""
    path = directory / HEAD_FILE
    try:
        encrypted = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"{path} cannot be read: {exc}") from exc
    return _head(cipher.decrypt(encrypted, "audit", "head"), str(path))


def append_anchor(path: Path, head: Head) -> None:
    """Append a head to the anchor file, durably. Raises `StateError`."""
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with os.fdopen(open_private(path, flags), "ab") as file:
            file.write(_line(head) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise StateError(f"access.audit_anchor {path} cannot be written: {exc}") from exc


def read_anchor(path: Path) -> list[Head]:
    """Read all heads of an anchor file. Raises `StateError`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise StateError(f"access.audit_anchor {path} cannot be read: {exc}") from exc
    return [_head(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _line(head: Head) -> bytes:
    content = {"number": head.number, "hash": head.hash.hex(), "at": round(head.at, 3)}
    return json.dumps(content).encode()


def _head(line: bytes, source: str) -> Head:
    try:
        content = json.loads(line)
        head = Head(int(content["number"]), bytes.fromhex(content["hash"]), float(content["at"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise StateError(f"{source} is not a head of an audit trail: it was damaged") from exc
    return replace(head, source=source)
