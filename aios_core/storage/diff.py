"""Compare two contents as a unified diff. Pure."""

from __future__ import annotations

import difflib
from typing import Final

from aios_core.errors import InvalidRequest
from aios_core.storage.records import FileContent

MAX_BYTES: Final = 1 << 20  # of each text; the time of a comparison grows faster than its length
MAX_LINES: Final = 20_000


def unified(path: str, old: FileContent, new: FileContent) -> str:
    """Return the unified diff of two contents; "" if they are equal.

    Raises `InvalidRequest` if one is too long to compare.
    """
    if old.data == new.data:
        return ""
    names = f"{path}@{old.version}", f"{path}@{new.version}"
    for content, name in zip((old, new), names, strict=True):
        if len(content.data) > MAX_BYTES or content.data.count(b"\n") > MAX_LINES:
            allowed = f"{MAX_BYTES:,} bytes and {MAX_LINES:,} lines"
            raise InvalidRequest(
                f"{name} is too long to compare; allowed: {allowed}; read both versions instead"
            )
    try:
        before, after = old.data.decode(), new.data.decode()
    except UnicodeDecodeError:
        return f"Binary files {names[0]} and {names[1]} differ\n"
    lines = difflib.unified_diff(_lines(before), _lines(after), *names, n=3)
    return "".join(line if line.endswith("\n") else line + _NO_NEWLINE for line in lines)


_NO_NEWLINE: Final = "\n\\ No newline at end of file\n"


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
