"""Split the bytes of a server's answer into JSON texts: an event stream, or one document.

Source: the WHATWG's HTML standard, section "Server-sent events" (line ends, a byte order
mark, comments, fields). A server may also answer a request for a stream with one JSON
document.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, NamedTuple

_LINE_END = re.compile(r"\r\n|\n|\r")
_BOM: Final = "\ufeff"
_FIELDS: Final = frozenset({"data", "event", "id", "retry", ""})  # "": a comment
MAX_BEGINNING: Final = 300  # characters of a body, kept for error messages
MAX_EVENT_CHARS: Final = 64 * 1024 * 1024  # no answer has longer events


class ServerEvent(NamedTuple):
    """One event. `name` is "message" unless the server named it otherwise."""

    name: str
    data: str


class EventReader:
    """A parser that cuts an answer into events while it arrives.

    An answer that starts with a JSON object is one event, which ends with the answer.
    Raises `ValueError` for an event that is too long.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""  # a line that has not ended yet
        self._data: list[str] = []
        self._name = ""
        self._is_json: bool | None = None  # None: only white space so far
        self._document: list[str] = []
        self._num_chars = 0
        self.beginning = ""  # of the body
        self.is_event_stream = False  # it contains a line of an event

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Add bytes; return the events that are complete now."""
        return self._take(self._decoder.decode(chunk))

    def end(self) -> list[ServerEvent]:
        """Return the rest at the end of the answer."""
        events = self._take(self._decoder.decode(b"", final=True))
        if self._is_json:
            return [ServerEvent("message", "".join(self._document))]
        if self._pending:
            self._read_line(self._pending)
            self._pending = ""
        return events + self._dispatch()

    def _take(self, text: str) -> list[ServerEvent]:
        if self._is_json is None:
            text = (self._pending + text).lstrip(_BOM + " \t\r\n")
            self._pending = ""
            if not text:
                return []
            self._is_json = text[0] in "{["
        self.beginning += text[: MAX_BEGINNING - len(self.beginning)]
        self._count(text)
        if self._is_json:
            self._document.append(text)
            return []
        return self._read_lines(text)

    def _read_lines(self, text: str) -> list[ServerEvent]:
        text = self._pending + text
        # A lone "\r" at the end may be the first half of "\r\n".
        held = text[-1:] if text.endswith("\r") else ""
        *lines, rest = _LINE_END.split(text[: len(text) - len(held)])
        self._pending = rest + held
        events: list[ServerEvent] = []
        for line in lines:
            if line:
                self._read_line(line)
            else:
                events += self._dispatch()
        return events

    def _read_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        self.is_event_stream = self.is_event_stream or name in _FIELDS
        value = value.removeprefix(" ").rstrip("\r")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value

    def _dispatch(self) -> list[ServerEvent]:
        data, name = "\n".join(self._data), self._name
        has_data = bool(self._data)
        self._data, self._name, self._num_chars = [], "", 0
        return [ServerEvent(name or "message", data.removeprefix(_BOM))] if has_data else []

    def _count(self, text: str) -> None:
        self._num_chars += len(text)
        if self._num_chars > MAX_EVENT_CHARS:
            raise ValueError(f"an answer of more than {MAX_EVENT_CHARS:,} characters in one event")


async def read_events(
    pieces: AsyncIterator[bytes], reader: EventReader
) -> AsyncGenerator[ServerEvent]:
    """Yield the events of an answer while it arrives. Raises what `EventReader` raises."""
    async for piece in pieces:
        for event in reader.feed(piece):
            yield event
    for event in reader.end():
        yield event
