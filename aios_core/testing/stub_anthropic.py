"""A server that speaks Anthropic's Messages API and fails on demand, for tests of its clients.

    with AnthropicStubServer([Answer("hello"), Refuse(529, code="overloaded_error")]) as server:
        client = anthropic.Anthropic(base_url=server.base_url, api_key="any")

It takes the behaviors of `StubServer`. The events of its streams, its errors and its counts have
the API's form. It keeps prompts up to their breakpoints (`cache_control`) and reports how much of
a later prompt it read from there. One word is one token.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from aios_core.cores.deltas import split_words
from aios_core.messages import Message, ToolCall
from aios_core.testing.stub_answers import Answer, Refuse
from aios_core.testing.stub_server import Script, StubServer
from aios_core.testing.stub_wire import HEAD_OF_STREAM, Exchange, chunked, json_response

_OK: Final = Answer("ok")
_ERROR_TYPES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

Event = tuple[str, dict[str, Any]]


class AnthropicStubServer(StubServer):
    """The server; a context manager, usable from any thread.

    Args:
        script: what it does at each request; see `StubServer`.
        models: the models that it serves.
        api_key: None: any key will do.
        context_window: tokens of a prompt.
        max_output: tokens of an answer; a request for more is refused.
        structured_outputs: whether the models support them.
    """

    def __init__(
        self,
        script: Script = _OK,
        *,
        models: Sequence[str] = ("stub",),
        api_key: str | None = None,
        context_window: int = 4_096,
        max_output: int = 1_024,
        structured_outputs: bool = True,
    ) -> None:
        super().__init__(script, models=models, api_key=api_key, context_window=context_window)
        self._max_output = max_output
        self._structured_outputs = structured_outputs
        self._kept: set[str] = set()  # prompts up to their breakpoints

    @property
    def base_url(self) -> str:
        return super().base_url.removesuffix("/v1")

    async def _answer(
        self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        path = exchange.path.partition("?")[0]
        if self._api_key and self._api_key not in _keys_of(exchange):
            writer.write(self._refused(Refuse(401, "invalid x-api-key")))
        elif path == "/v1/messages":
            await self._complete(exchange, reader, writer)
        elif path == "/v1/messages/count_tokens":
            with self._lock:
                self.num_counted += 1
            count = {"input_tokens": sum(map(_num_words, _segments(exchange.body)))}
            writer.write(json_response(HTTPStatus.OK, count))
        elif path.startswith("/v1/models"):
            writer.write(self._model_page(path.removeprefix("/v1/models").strip("/")))
        else:
            writer.write(self._refused(Refuse(404, "no such path")))

    def _model_page(self, model: str) -> bytes:
        cards = [self._card(one) for one in self._models]
        if not model:
            page = {"data": cards, "has_more": False, "first_id": None, "last_id": None}
            return json_response(HTTPStatus.OK, page)
        if model not in self._models:
            return self._refused(Refuse(404, f"model: {model}"))
        return json_response(HTTPStatus.OK, self._card(model))

    def _card(self, model: str) -> dict[str, Any]:
        return {
            "id": model,
            "type": "model",
            "display_name": model,
            "created_at": "2026-01-01T00:00:00Z",
            "lifecycle": "active",
            "max_input_tokens": self._context_window,
            "max_tokens": self._max_output,
            "capabilities": {"structured_outputs": {"supported": self._structured_outputs}},
        }

    def _refused(self, refusal: Refuse) -> bytes:
        kind = refusal.code or _ERROR_TYPES.get(refusal.status, "api_error")
        error = {"type": "error", "error": {"type": kind, "message": refusal.message}}
        return json_response(refusal.status, error, refusal.headers)

    def _refusal_of(self, exchange: Exchange) -> Refuse | None:
        """Return the refusal for an unknown model, a long prompt or a high limit, if due."""
        body = exchange.body
        if body.get("model") not in self._models:
            return Refuse(404, f"model: {body.get('model')}")
        num_tokens = sum(map(_num_words, _segments(body)))
        if num_tokens >= self._context_window:
            what = f"prompt is too long: {num_tokens} tokens > {self._context_window} maximum"
            return Refuse(400, what)
        if (limit := body.get("max_tokens", 0)) > self._max_output:
            what = f"max_tokens: {limit} > {self._max_output}, which is the maximum allowed number"
            return Refuse(400, f"{what} of output tokens for {body['model']}")
        if not self._structured_outputs and "format" in body.get("output_config", {}):
            return Refuse(400, "output_config.format: not supported by this model")
        return self._cache_refusal(body)

    def _cache_refusal(self, body: Mapping[str, Any]) -> Refuse | None:
        num_marks = sum(is_end for *_, is_end in _marked_segments(body))
        if num_marks > 4:
            return Refuse(400, f"A maximum of 4 blocks with cache_control, found {num_marks}")
        return None

    # --- answers ------------------------------------------------------------------------------

    async def _stream(
        self, answer: Answer, exchange: Exchange, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(HEAD_OF_STREAM)
        events = list(self._events(answer, exchange.body))
        num_begun = 0
        for name, value in events:
            is_piece = name == "content_block_delta"
            if answer.after is not None and is_piece and num_begun >= answer.after:
                break
            if name == "message_delta" and answer.then != "end":
                break
            await asyncio.sleep(answer.token_s if is_piece else 0)
            writer.write(_event(name, value))
            await writer.drain()
            num_begun += is_piece
            with self._lock:
                exchange.num_chunks += is_piece
                self._lock.notify_all()
        await self._end_badly(answer, writer)

    async def _end_badly(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        """Do what is to follow the events; nothing but the end, usually."""
        match answer.then:
            case "hang":
                await asyncio.Event().wait()
            case "drop":
                writer.transport.abort()
                return
            case "garbage":
                writer.write(chunked(b'event: content_block_delta\ndata: {"type": \n\n'))
            case "error":
                error = {"type": "overloaded_error", "message": "Overloaded"}
                writer.write(_event("error", {"type": "error", "error": error}))
            case "end" | "cut":
                pass
        writer.write(b"0\r\n\r\n")

    async def _whole(
        self, answer: Answer, exchange: Exchange, writer: asyncio.StreamWriter
    ) -> None:
        match answer.then:
            case "hang":
                await asyncio.Event().wait()
            case "drop":
                writer.transport.abort()
            case "error":
                writer.write(self._refused(Refuse(529, "Overloaded")))
            case _:
                whole = self._message(answer, exchange.body)
                writer.write(json_response(HTTPStatus.OK, whole))

    def _message(self, answer: Answer, body: Mapping[str, Any]) -> dict[str, Any]:
        """Build the whole answer to a request."""
        blocks, num_tokens, is_cut = _within(_blocks(answer), body["max_tokens"])
        reason = answer.finish_reason or _stop_reason(blocks, is_cut=is_cut)
        return {
            "id": "msg_stub",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {**self._usage(body, num_tokens), **answer.usage},
            **answer.extra,
        }

    def _usage(self, body: Mapping[str, Any], num_tokens: int) -> dict[str, Any]:
        read, written, rest = self._read_cache(body)
        return {
            "input_tokens": rest,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": read,
            "output_tokens": num_tokens,
        }

    def _read_cache(self, body: Mapping[str, Any]) -> tuple[int, int, int]:
        """Return the tokens of a prompt that are read from the cache, written to it, and others."""
        so_far, num_tokens, num_read, num_marked = str(body["model"]), 0, 0, 0
        for text, is_end in _marked_segments(body):
            so_far, num_tokens = f"{so_far}\0{text}", num_tokens + _num_words(text)
            if so_far in self._kept:
                num_read = num_tokens
            if is_end:
                self._kept.add(so_far)
                num_marked = num_tokens
        num_read = min(num_read, num_marked)
        return num_read, num_marked - num_read, num_tokens - num_marked

    def _events(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[Event]:
        whole = self._message(answer, body)
        end = {key: whole[key] for key in ("stop_reason", "stop_sequence")} | dict(answer.extra)
        start = {**whole, "content": [], "stop_reason": None}
        start["usage"] = {**whole["usage"], "output_tokens": 1}
        yield "message_start", {"message": start}
        for index, block in enumerate(whole["content"]):
            empty, pieces = _split(block, answer.tokens_per_chunk)
            yield "content_block_start", {"index": index, "content_block": empty}
            if index == 0:
                yield "ping", {}
            for piece in pieces:
                yield "content_block_delta", {"index": index, "delta": piece}
            yield "content_block_stop", {"index": index}
        yield "message_delta", {"delta": end, "usage": whole["usage"] if answer.has_usage else {}}
        yield "message_stop", {}


def _keys_of(exchange: Exchange) -> tuple[str, str]:
    """Return the keys in both headers that clients of different versions use."""
    bearer = exchange.headers.get("authorization", "").removeprefix("Bearer ")
    return bearer, exchange.headers.get("x-api-key", "")


def _stop_reason(blocks: Sequence[Mapping[str, Any]], *, is_cut: bool) -> str:
    if is_cut:
        return "max_tokens"
    return "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    """Return the content of an answer: thoughts, text and calls, or its own parts."""
    said: Message = answer.said
    if said.parts:
        return [dict(part) for part in said.parts]
    blocks = [dict(block) for block in said.thinking]
    if said.content:
        blocks.append({"type": "text", "text": said.content})
    return blocks + list(map(_tool_use, said.tool_calls))


def _tool_use(call: ToolCall) -> dict[str, Any]:
    input_ = json.loads(call.arguments or "{}")
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": input_}


def _within(blocks: list[dict[str, Any]], limit: int) -> tuple[list[dict[str, Any]], int, bool]:
    """Return the blocks up to a number of tokens, how many those are, and whether some are cut."""
    kept: list[dict[str, Any]] = []
    left = limit
    for block in blocks:
        words = split_words(_text_of(block)) or [""]
        if left <= 0:
            return kept, limit, True
        if len(words) > left and block["type"] == "text":
            return [*kept, {**block, "text": "".join(words[:left])}], limit, True
        kept.append(block)
        left -= len(words)
    return kept, limit - max(left, 0), False


def _text_of(block: Mapping[str, Any]) -> str:
    if block["type"] == "tool_use":
        return f"{block['name']} {json.dumps(block['input'])}"
    return str(block.get("text") or block.get("thinking") or "")


def _split(
    block: Mapping[str, Any], words_per_piece: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a block as it starts, and the pieces in which the rest comes."""
    match block["type"]:
        case "text":
            pieces = _in_pieces(block["text"], words_per_piece)
            cited = [{"type": "citations_delta", "citation": c} for c in block.get("citations", ())]
            texts = [{"type": "text_delta", "text": one} for one in pieces]
            return {"type": "text", "text": ""}, texts + cited
        case "thinking":
            thoughts = _in_pieces(block["thinking"], words_per_piece)
            pieces_ = [{"type": "thinking_delta", "thinking": one} for one in thoughts]
            signature = {"type": "signature_delta", "signature": block["signature"]}
            return {"type": "thinking", "thinking": "", "signature": ""}, [*pieces_, signature]
        case "tool_use" | "server_tool_use":
            texts_ = ["", *_in_pieces(json.dumps(block["input"]), words_per_piece)]
            texts_ = texts_ if block["input"] else [""]
            deltas = [{"type": "input_json_delta", "partial_json": one} for one in texts_]
            return {**block, "input": {}}, deltas
        case _:
            return dict(block), []


def _in_pieces(text: str, num_words: int) -> list[str]:
    words = split_words(text)
    return ["".join(words[at : at + num_words]) for at in range(0, len(words), num_words)]


def _segments(body: Mapping[str, Any]) -> list[str]:
    return [text for text, _ in _marked_segments(body)]


def _marked_segments(body: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a prompt in order, and whether a breakpoint follows each."""
    for tool in body.get("tools", ()):
        yield f"{tool['name']} {tool.get('description', '')}", bool(tool.get("cache_control"))
    for block in _as_blocks(body.get("system") or ()):
        yield block.get("text", ""), bool(block.get("cache_control"))
    for turn in body.get("messages", ()):
        for block in _as_blocks(turn["content"]):
            yield f"{_content_text(block)}", bool(block.get("cache_control"))


def _as_blocks(content: Any) -> Sequence[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _content_text(block: Mapping[str, Any]) -> str:
    match block.get("type"):
        case "tool_result":
            return " ".join(map(_content_text, _as_blocks(block.get("content") or ())))
        case "tool_use":
            return f"{block['name']} {json.dumps(block['input'])}"
        case kind:
            return str(block.get("text") or block.get("thinking") or kind)


def _num_words(text: str) -> int:
    return len(text.split())


def _event(name: str, value: Mapping[str, Any]) -> bytes:
    data = json.dumps({"type": name, **value})
    return chunked(f"event: {name}\ndata: {data}\n\n".encode())
