"""Translate the parts of a message to content blocks of the Messages API.

Pure. Parts in OpenAI's format become blocks; blocks of the API itself are kept unchanged.
Source: Anthropic's API reference (Messages, vision, PDF support).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from aios_core.errors import InvalidRequest
from aios_core.messages import Message, text_of_part
from aios_core.redaction import shown_repr

Block = dict[str, Any]

_TEXTS: Final = ("text", "input_text", "output_text")
_IMAGES: Final = ("image_url", "input_image")
_AUDIO: Final = ("input_audio", "audio")
_FILES: Final = ("file", "input_file")
_KEPT_OF_TEXT: Final = ("cache_control", "citations")
_PDF: Final = "application/pdf"


def content_blocks(message: Message) -> list[Block]:
    """Return the content of a message as blocks; blank texts are left out, as the API wants."""
    if not message.parts:
        return [text_block(message.content)] if message.content.strip() else []
    return [block for part in message.parts if (block := block_of(part))]


def text_block(text: str) -> Block:
    """Return a block of text."""
    return {"type": "text", "text": text}


def block_of(part: Mapping[str, Any]) -> Block | None:
    """Return a part as a block; None for a blank text. Raises `InvalidRequest`."""
    kind = part.get("type", "text")
    if kind in _TEXTS:
        return _text(part)
    if kind in _IMAGES:
        return _image(part)
    if kind in _FILES and "source" not in part:
        return _document(part)
    if kind in _AUDIO:
        raise InvalidRequest("content part: Claude takes no audio; allowed: text, images, files")
    return dict(part)


def _text(part: Mapping[str, Any]) -> Block | None:
    text = text_of_part(part)
    if not text.strip():
        return None
    return text_block(text) | {key: part[key] for key in _KEPT_OF_TEXT if part.get(key)}


def _image(part: Mapping[str, Any]) -> Block:
    given = part.get("image_url")
    url = given.get("url") if isinstance(given, Mapping) else given
    if not isinstance(url, str) or not url:
        raise InvalidRequest(f"an image part needs a URL, got {shown_repr(part)}")
    return {"type": "image", "source": _source(url)} | _cache_mark(part)


def _source(url: str) -> dict[str, Any]:
    """Return the source of an image or document: a URL, or the data inside one."""
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, comma, data = url.removeprefix("data:").partition(",")
    media_type, _, encoding = head.partition(";")
    if not comma or "base64" not in encoding or not media_type:
        raise InvalidRequest(
            f"a data URL: got {url[:40]!r}...; allowed: data:<media type>;base64,<data>"
        )
    return {"type": "base64", "media_type": media_type, "data": data}


def _document(part: Mapping[str, Any]) -> Block:
    given = part.get("file")
    file: Mapping[str, Any] = given if isinstance(given, Mapping) else part
    name = file.get("filename")
    title = {"title": name} if isinstance(name, str) and name else {}
    return {"type": "document", "source": _file_source(file), **title} | _cache_mark(part)


def _file_source(file: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(file_id := file.get("file_id"), str):
        return {"type": "file", "file_id": file_id}
    given = file.get("file_data") or file.get("file_url")
    if not isinstance(given, str):
        raise InvalidRequest(f"a file part needs file_data or a file_id, got {shown_repr(file)}")
    if not given.startswith(("data:", "http://", "https://")):
        given = f"data:{_PDF};base64,{given}"
    source = _source(given)
    media_type = source.get("media_type", _PDF)
    if media_type == _PDF:
        return source
    if media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _decoded(source["data"])}
    raise InvalidRequest(f"a file: got {media_type}; allowed: {_PDF}, or text")


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"a text file: its data is not base64 of UTF-8: {exc}") from exc


def _cache_mark(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"cache_control": part["cache_control"]} if part.get("cache_control") else {}
