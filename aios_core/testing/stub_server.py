"""An OpenAI-compatible server that fails on demand, for tests of its clients.

    with StubServer([Answer("hello"), Refuse(429, headers={"Retry-After": "1"}), Hang()]) as server:
        client = SomeClient(base_url=server.base_url)

It listens on 127.0.0.1, on a port that the system chooses, and runs in a thread
of its own, so that it serves synchronous and asynchronous tests. Each
request to a completion gets the next behavior; the last one stays. `exchanges`
lists the requests and how they ended: served, refused, or left by the client.

It serves chat completions, completions, embeddings and the Responses API.
With `flavor="vllm"` it also speaks vLLM's dialect: token ids, continuation of an
unfinished turn, `/metrics`, `/tokenize`. With `slots`, it serves so many completions at once
and queues the others, as an engine does. One word is one token. Nothing outside the standard
library is used; HTTP is as little of RFC 9112 as clients need.

The lock guards `exchanges` and the script's position; all else belongs to the
server's own loop.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Literal, Self

from aios_core.cores.deltas import assemble, split_words
from aios_core.messages import Delta
from aios_core.shielding import finish_shielded
from aios_core.testing import stub_responses
from aios_core.testing.stub_answers import (
    FIRST_OUTPUT_ID,
    Answer,
    Drop,
    Hang,
    Raw,
    Refuse,
    deltas,
    embeddings,
    finish_reason,
    joined,
    logprobs,
    num_said,
    piece,
    prompt_ids,
    usage,
)
from aios_core.testing.stub_wire import (
    HEAD_OF_STREAM,
    Exchange,
    chunked,
    event,
    json_response,
    read_request,
    refused,
    response,
)

TIMEOUT_S: Final = 10.0
_RESPONSES: Final = "/v1/responses"
_PATHS: Final = frozenset(
    f"/v1/{name}" for name in ("chat/completions", "completions", "embeddings", "responses")
)


Behavior = Answer | Refuse | Raw | Hang | Drop
Script = Behavior | Sequence[Behavior] | Callable[[dict[str, Any]], Behavior]


_OK: Final = Answer("ok")
_VLLM_METRICS: Final = (
    'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
    "vllm:kv_cache_usage_perc{} 0.25\n"
)


class StubServer:
    """The server; a context manager, usable from any thread."""

    def __init__(
        self,
        script: Script = _OK,
        *,
        models: Sequence[str] = ("stub",),
        flavor: Literal["openai", "vllm", "sglang"] = "openai",
        api_key: str | None = None,
        context_window: int = 4_096,
        requests_per_minute: float = math.inf,
        slots: int | None = None,
        metrics: str | None = None,
    ) -> None:
        self._behavior = script if callable(script) else self._in_order
        given = [script] if isinstance(script, Behavior) else script
        self._script = () if callable(given) else tuple(given)
        self._position = 0
        self._models = tuple(models)
        self._flavor = flavor
        self._api_key = api_key
        self._context_window = context_window
        self._quota = requests_per_minute
        self._slots = asyncio.Semaphore(slots) if slots else nullcontext()
        self.version = ""  # of a vLLM server; "": it does not state one
        self.metrics = _VLLM_METRICS if metrics is None else metrics  # the page
        self._recent: deque[float] = deque()  # when requests were let in, the last minute
        self.exchanges: list[Exchange] = []  # of completions, in the order of arrival
        self.max_concurrent = 0
        self.num_counted = 0  # requests to count the tokens of a prompt (vLLM's /tokenize)
        self._port = 0
        self._lock = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="stub-server", daemon=True)

    def __repr__(self) -> str:
        return f"<StubServer {self.base_url}: {len(self.exchanges)} exchanges>"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(TIMEOUT_S), "the stub server did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection and stop listening. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(TIMEOUT_S)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def num_active(self) -> int:
        """Completions that are being served at present."""
        with self._lock:
            return sum(not exchange.is_over for exchange in self.exchanges)

    def wait(self, holds: Callable[[], object], what: str = "what was waited for") -> None:
        """Block until `holds()`, which is asked after every change."""
        with self._lock:
            assert self._lock.wait_for(holds, TIMEOUT_S), f"{what} did not come: {self.exchanges}"

    async def until(self, holds: Callable[[], object], what: str = "what was waited for") -> None:
        """`wait`, without blocking the caller's loop."""
        await asyncio.to_thread(self.wait, holds, what)

    # --- the server's own loop ----------------------------------------------------------------

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._connection(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._is_ready.set()
        await self._stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request for each connection."""
        try:
            request = await read_request(reader)
            if request is not None:
                await self._answer(request, reader, writer)
            await writer.drain()
        except ConnectionError:
            pass  # the client left; its exchange records that
        finally:
            writer.close()

    async def _answer(
        self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._api_key and exchange.headers.get("authorization") != f"Bearer {self._api_key}":
            writer.write(refused(Refuse(401, "Incorrect API key provided")))
        elif exchange.path == "/v1/models":
            writer.write(json_response(HTTPStatus.OK, {"object": "list", "data": self._cards()}))
        elif exchange.path == "/tokenize" and self._flavor == "vllm":
            writer.write(json_response(HTTPStatus.OK, self._tokenized(exchange.body)))
        elif exchange.path == "/version" and self.version:
            writer.write(json_response(HTTPStatus.OK, {"version": self.version}))
        elif exchange.path == "/metrics" and self._flavor != "openai":
            page = f"{self.metrics}vllm:num_requests_running{{}} {self.num_active}\n"
            writer.write(response(HTTPStatus.OK, page.encode(), "text/plain"))
        elif exchange.path in _PATHS:
            await self._complete(exchange, reader, writer)
        else:
            writer.write(refused(Refuse(404, "no such path")))

    async def _complete(
        self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve, unless the client leaves first."""
        with self._lock:
            self.exchanges.append(exchange)
            self.max_concurrent = max(self.max_concurrent, self.num_active)
            self._lock.notify_all()
        work = self._loop.create_task(self._behave(exchange, writer))
        leaving = self._loop.create_task(reader.read(1))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
            exchange.was_left = not work.done()
        finally:
            for task in (work, leaving):
                task.cancel()
            try:
                await finish_shielded(asyncio.wait([work, leaving]))
            finally:
                with self._lock:
                    exchange.is_over = True
                    self._lock.notify_all()

    async def _behave(self, exchange: Exchange, writer: asyncio.StreamWriter) -> None:
        async with self._slots:
            await self._serve_one(exchange, writer)

    async def _serve_one(self, exchange: Exchange, writer: asyncio.StreamWriter) -> None:
        match self._refusal_of(exchange) or self._behavior(exchange.body):
            case Refuse() as refusal:
                writer.write(self._refused(refusal))
            case Raw(body, content_type):
                writer.write(response(HTTPStatus.OK, body, content_type))
            case Drop():
                writer.transport.abort()
            case Hang():
                await asyncio.Event().wait()
            case Answer() if exchange.path == "/v1/embeddings":
                writer.write(json_response(HTTPStatus.OK, embeddings(exchange.body)))
            case Answer() as answer if exchange.body.get("stream"):
                await self._stream(answer, exchange, writer)
            case Answer() as answer:
                await self._whole(answer, exchange, writer)

    def _refused(self, refusal: Refuse) -> bytes:
        """Return a refusal in the form of this server's API."""
        return refused(refusal)

    def _refusal_of(self, exchange: Exchange) -> Refuse | None:
        """Return the refusal for an unknown model, a long prompt or too many requests, if due."""
        body = exchange.body
        if body.get("model") not in self._models:
            return Refuse(
                404, f"The model {body.get('model')!r} does not exist", code="model_not_found"
            )
        if (num_tokens := len(prompt_ids(body))) >= self._context_window:
            return Refuse(
                400,
                f"This model's maximum context length is {self._context_window} tokens. "
                f"However, your messages resulted in {num_tokens} tokens.",
                code="context_length_exceeded",
            )
        if (wait_s := self._quota_wait_s()) > 0:
            return Refuse(429, "Rate limit reached", {"Retry-After": f"{wait_s:.3f}"})
        return None

    def _quota_wait_s(self) -> float:
        """Seconds until one more request fits into the last minute; 0 lets this one in."""
        now = self._loop.time()
        while self._recent and self._recent[0] <= now - 60.0:
            self._recent.popleft()
        if len(self._recent) >= self._quota:
            return self._recent[0] + 60.0 - now
        self._recent.append(now)
        return 0.0

    def _in_order(self, _: dict[str, Any]) -> Behavior:
        with self._lock:
            behavior = self._script[min(self._position, len(self._script) - 1)]
            self._position += 1
        return behavior

    async def _stream(
        self, answer: Answer, exchange: Exchange, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(HEAD_OF_STREAM)
        is_chat = exchange.path != _RESPONSES
        said = deltas(answer, exchange.body)
        chunks = (
            list(self._chunks(answer, exchange.body))
            if is_chat
            else stub_responses.events(answer, exchange.body, said)
        )
        after = len(chunks) if answer.after is None else answer.after
        for chunk in chunks[:after]:
            await asyncio.sleep(answer.token_s)
            writer.write(event(chunk))
            await writer.drain()
            with self._lock:
                exchange.num_chunks += 1
                self._lock.notify_all()
        match answer.then:
            case "hang":
                await asyncio.Event().wait()
            case "drop":
                writer.transport.abort()
                return
            case "garbage":
                writer.write(chunked(b'data: {"choices": [{"delta": \n\ndata: \xff\xfe}{\n\n'))
            case "error":
                writer.write(event({"error": {"message": "the engine died", "code": 500}}))
            case "end":
                last = (
                    self._last_chunks(answer, exchange.body, len(said))
                    if is_chat
                    else stub_responses.last_events(answer, exchange.body, said)
                )
                for chunk in last:
                    writer.write(event(chunk))
                if is_chat:
                    writer.write(chunked(b"data: [DONE]\n\n"))
            case "cut":
                pass
        writer.write(b"0\r\n\r\n")

    async def _whole(
        self, answer: Answer, exchange: Exchange, writer: asyncio.StreamWriter
    ) -> None:
        said = deltas(answer, exchange.body)
        await asyncio.sleep(answer.token_s * len(said[: answer.after]))
        match answer.then:
            case "hang":
                await asyncio.Event().wait()
            case "drop":
                writer.transport.abort()
            case "garbage":
                writer.write(response(HTTPStatus.OK, b'{"choices": [{\xff', "application/json"))
            case "error":
                writer.write(refused(Refuse(500, "the engine died")))
            case "end":
                is_chat = exchange.path != _RESPONSES
                build = self._completion if is_chat else stub_responses.document
                writer.write(json_response(HTTPStatus.OK, build(answer, exchange.body, said)))
            case "cut":
                said = said[: answer.after]
                cut = self._completion(answer, exchange.body, said)
                cut["choices"][0]["finish_reason"] = None
                writer.write(json_response(HTTPStatus.OK, cut))

    # --- what an answer looks like ------------------------------------------------------------

    def _chunks(self, answer: Answer, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of content, of all answers in turn where several are wanted."""
        chunks = joined(deltas(answer, body), answer.tokens_per_chunk)
        for position, delta in enumerate(chunks, start=num_said(body)):
            for index in range(body.get("n") or 1):
                chunk = self._chunk(body, piece(delta), ids=[FIRST_OUTPUT_ID + position])
                chunk["choices"][0]["index"] = index
                if answer.logprobs and delta.text:
                    chunk["choices"][0]["logprobs"] = logprobs([delta.text])
                yield {**chunk, **answer.extra}

    def _last_chunks(
        self, answer: Answer, body: Mapping[str, Any], num_tokens: int
    ) -> Iterator[dict[str, Any]]:
        """The finish reason and the usage."""
        num_choices = body.get("n") or 1
        reason = finish_reason(answer, body, num_tokens)
        for index in range(num_choices):
            chunk = self._chunk(body, {}, ids=[], finish_reason=reason)
            chunk["choices"][0]["index"] = index
            yield chunk
        if answer.has_usage and body.get("stream_options", {}).get("include_usage"):
            figures = {**usage(body, num_tokens * num_choices), **answer.usage}
            yield {**self._envelope(body), "choices": [], "usage": figures}

    def _completion(
        self, answer: Answer, body: Mapping[str, Any], said: Sequence[Delta]
    ) -> dict[str, Any]:
        """Build the whole answer from the deltas."""
        reason = finish_reason(answer, body, len(said))
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "logprobs": None}
        message = assemble(said).message()
        if answer.logprobs:
            choice["logprobs"] = logprobs(split_words(message.content))
        if "prompt" in body:
            kind, choice["text"] = "text_completion", message.content
        else:
            kind, choice["message"] = "chat.completion", message.to_dict()
        choices = [{**choice, "index": index} for index in range(body.get("n") or 1)]
        out = {**self._envelope(body), "object": kind, "choices": choices, **answer.extra}
        if answer.has_usage:
            out["usage"] = {**usage(body, len(said) * len(choices)), **answer.usage}
        if self._flavor == "vllm" and body.get("return_token_ids"):
            first = FIRST_OUTPUT_ID + num_said(body)
            choices[0]["token_ids"] = list(range(first, first + len(said)))
            out["prompt_token_ids"] = prompt_ids(body)
        return out

    def _chunk(
        self,
        body: Mapping[str, Any],
        piece: dict[str, Any],
        *,
        ids: list[int],
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
        if "prompt" in body:
            choice["text"] = piece.get("content", "")
        else:
            choice["delta"] = {"role": "assistant", **piece}
        out = {**self._envelope(body), "choices": [choice]}
        if self._flavor == "vllm" and body.get("return_token_ids"):
            choice["token_ids"] = ids
            out["prompt_token_ids"] = prompt_ids(body)
        return out

    def _envelope(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": "stub-1",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": body["model"],
        }

    def _cards(self) -> list[dict[str, Any]]:
        owner = {"owned_by": self._flavor}
        if self._flavor != "openai":
            owner["max_model_len"] = self._context_window  # type: ignore[assignment]
        return [{"id": model, "object": "model", "created": 0, **owner} for model in self._models]

    def _tokenized(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """VLLM's answer on how many tokens a prompt has."""
        with self._lock:
            self.num_counted += 1
        ids = prompt_ids(body)
        return {"count": len(ids), "max_model_len": self._context_window, "tokens": ids}
