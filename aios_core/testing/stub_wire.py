"""As little of HTTP as the stub servers and their clients need (RFC 9112)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from aios_core.testing.stub_answers import Refuse


@dataclass(slots=True, eq=False)
class Exchange:
    """One request, and how it went."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    num_chunks: int = 0  # of content that were sent
    was_left: bool = False  # by the client, before the end
    is_over: bool = False


HEAD_OF_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)


async def read_request(reader: asyncio.StreamReader) -> Exchange | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
    except asyncio.IncompleteReadError:
        return None
    path = first.split(" ")[1]
    return Exchange(path, headers, json.loads(raw) if raw else {})


def response(
    status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_phrase(status)}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a provider's own, such as 529
        return "Refused"


def json_response(status: int, value: object, headers: Mapping[str, str] | None = None) -> bytes:
    return response(status, json.dumps(value).encode(), "application/json", headers)


def refused(refusal: Refuse) -> bytes:
    error = {"message": refusal.message, "type": "stub", "code": refusal.code or None}
    return json_response(refusal.status, {"error": error}, refusal.headers)


def event(value: object) -> bytes:
    return chunked(b"data: " + json.dumps(value).encode() + b"\n\n")


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
