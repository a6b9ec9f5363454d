"""Serve OpenAI's own client from the kernel, in place of its endpoint.

    with KernelTransport(agent_ref) as transport, transport.raising():
        client = transport.aclient_for(theirs)
        answer = await client.chat.completions.create(model="gpt-4o", messages=[...])

A framework that is built on OpenAI's client keeps its own code: it writes the request's body and
reads the answer as with its provider. The body is served in this process, as an LLM call of an
agent, so no argument of a constructor or a call gets lost. Needs the package `openai`, and is
imported only by adapters of frameworks that are built on it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import httpx
import openai

from aios_adapters.agent_ref import AgentRef
from aios_adapters.kernels import adefault_kernel
from aios_adapters.model_names import resolve_model
from aios_adapters.openai_completions import (
    TextChunkWriter,
    read_prompt_request,
    write_text_completion,
)
from aios_adapters.openai_errors import as_both, as_openai_error, as_response
from aios_adapters.openai_format import ChunkWriter, read_request, write_completion
from aios_core.errors import InvalidRequest, KernelError
from aios_core.kernel import Kernel
from aios_core.kernel.default import default_kernel
from aios_core.kernel.streams import AsyncStream, Stream
from aios_core.launch.notices import give_notice
from aios_core.messages.conversation import Completion, Delta

log = logging.getLogger(__name__)

_DONE: Final = b"data: [DONE]\n\n"
# Headers that every client of OpenAI's sends, and those that carry a key.
_USUAL_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "api-key", "authorization", "connection", "content-length"}
    | {"content-type", "host", "user-agent", "x-ms-useragent", "idempotency-key"}
)
_NOT_SET: Final = openai.DEFAULT_TIMEOUT.read

#: The API key of a client that requires one.
NO_KEY: Final = "no key is needed on the kernel"
#: The model of a client that requires one; the kernel's default model answers.
DEFAULT_MODEL: Final = "aios-default"


class _Form(NamedTuple):
    """The functions that read the requests of an endpoint, and write its answers."""

    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[Completion], dict[str, Any]]
    chunks: type[ChunkWriter]


# The more specific path first.
_FORMS: Final = {
    "/chat/completions": _Form(read_request, write_completion, ChunkWriter),
    "/completions": _Form(read_prompt_request, write_text_completion, TextChunkWriter),
}


class _Call(NamedTuple):
    """A request, read as an LLM call."""

    form: _Form
    is_streamed: bool
    arguments: dict[str, Any]


class KernelTransport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Serves the requests of OpenAI's clients, for chats and for prompts, as one agent's LLM calls.

    An instance serves one call of a framework, with the retries that its client makes. Leaving the
    block ends a stream that was left half-read, without an await.

    Args:
        agent: the agent that makes the calls.
    """

    def __init__(self, agent: AgentRef) -> None:
        self._agent = agent
        self._stack = ExitStack()
        self._refusal: KernelError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        self._stack.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: an open stream ends with the block around the call."""

    def close(self) -> None:
        """Do nothing: an open stream ends with the block around the call."""

    async def aclose(self) -> None:
        """Do nothing: an open stream ends with the block around the call."""

    # --- clients ---------------------------------------------------------------------------------

    def client_for(self, theirs: Any) -> Any:
        """Return a copy of an `openai.OpenAI` that sends its requests here."""
        return _without_credentials(
            theirs.copy(http_client=httpx.Client(transport=self, trust_env=False))
        )

    def aclient_for(self, theirs: Any) -> Any:
        """Return a copy of an `openai.AsyncOpenAI` that sends its requests here."""
        return _without_credentials(
            theirs.copy(http_client=httpx.AsyncClient(transport=self, trust_env=False))
        )

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise the kernel's error under both names, where the client raises its own for it."""
        try:
            yield
        except Exception as exc:
            if self._refusal is None or isinstance(exc, KernelError):
                raise
            raise as_both(self._refusal, exc) from self._refusal.__cause__

    # --- requests of a client --------------------------------------------------------------------

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Serve a request of a blocking client."""
        self._refusal = None
        try:
            kernel = self._agent.kernel or default_kernel()
            call = _read(request, kernel)
            agent = self._stack.enter_context(self._agent.use(kernel))
            if not call.is_streamed:
                return _whole(call.form, agent.llm.generate(**call.arguments))
            deltas = self._stack.enter_context(agent.llm.stream(**call.arguments))
            first = next(deltas, None)
        except KernelError as exc:
            return self._refused(exc, request)
        return _stream(_Events(self, deltas, _Writer(call.form, first), request))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve a request of a client on an event loop."""
        self._refusal = None
        try:
            kernel = self._agent.kernel or await adefault_kernel()
            call = _read(request, kernel)
            agent = await self._agent.hold(self._stack, kernel)
            if not call.is_streamed:
                return _whole(call.form, await agent.llm.agenerate(**call.arguments))
            deltas = self._stack.enter_context(closing(agent.llm.astream(**call.arguments)))
            first = await anext(deltas, None)
        except KernelError as exc:
            return self._refused(exc, request)
        return _stream(_AsyncEvents(self, deltas, _Writer(call.form, first), request))

    def _refused(self, error: KernelError, request: httpx.Request) -> httpx.Response:
        self._refusal = error
        return as_response(error, request)

    def broken_off(self, error: KernelError, request: httpx.Request) -> Exception:
        """Return the exception that a stream raises when it ends with an error."""
        self._refusal = error
        return as_openai_error(error, request)


def _without_credentials(client: Any) -> Any:
    """Remove the credentials of a client: the kernel needs none, and no token is to be fetched."""
    for name in ("_azure_ad_token_provider", "_azure_ad_token", "_api_key_provider"):
        if hasattr(client, name):
            setattr(client, name, None)
    client.api_key = NO_KEY
    return client


# --- requests ------------------------------------------------------------------------------------


def _read(request: httpx.Request, kernel: Kernel) -> _Call:
    """Read a request as an LLM call."""
    path = next((path for path in _FORMS if request.url.path.endswith(path)), None)
    if path is None:
        allowed = " and ".join(_FORMS)
        raise InvalidRequest(f"request path: got {request.url.path}; allowed: {allowed}")
    body = json.loads(request.content)
    _notice_dropped(request)
    arguments = _FORMS[path].read(body)
    model = arguments.get("model")
    arguments["model"] = None if model == DEFAULT_MODEL else resolve_model(kernel, model)
    if (timeout_s := request.extensions.get("timeout", {}).get("read")) not in (None, _NOT_SET):
        arguments.setdefault("timeout_s", timeout_s)
    return _Call(_FORMS[path], bool(body.get("stream")), arguments)


def _notice_dropped(request: httpx.Request) -> None:
    """Give one notice for each header and parameter that is meant for the provider's endpoint."""
    dropped = [f"header {name!r}" for name in request.headers if not _is_usual(name)]
    dropped += [f"parameter {name!r}" for name in request.url.params if name != "api-version"]
    for what in dropped:
        give_notice(
            log,
            (__name__, what),
            f"the {what} of OpenAI's client is for its endpoint and is not sent; to send it to the "
            "kernel's endpoint, set it in the configuration of the core",
        )


def _is_usual(header: str) -> bool:
    return header in _USUAL_HEADERS or header.startswith("x-stainless-")


# --- answers -------------------------------------------------------------------------------------


def _whole(form: _Form, completion: Completion) -> httpx.Response:
    return httpx.Response(200, json=form.write(completion))


def _stream(events: httpx.SyncByteStream | httpx.AsyncByteStream) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=events)


class _Writer:
    """Writes a stream's deltas as events. The model's name is known only at the end."""

    def __init__(self, form: _Form, first: Delta | None) -> None:
        self._chunks = form.chunks("")
        self._first = first

    def begin(self) -> Iterator[bytes]:
        """Yield the event of the delta that was read to see whether the call is refused."""
        if self._first is not None:
            yield self.delta(self._first)

    def delta(self, delta: Delta) -> bytes:
        """Return the event of one delta."""
        return _event(self._chunks.delta(delta))

    def end(self, completion: Completion) -> bytes:
        """Return the last events: finish reasons and usage."""
        self._chunks.model = completion.model
        ends = (self._chunks.end(completion), self._chunks.usage(completion))
        return b"".join(map(_event, ends)) + _DONE


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


class _Events(httpx.SyncByteStream):
    """A stream of the kernel as server-sent events."""

    def __init__(
        self, owner: KernelTransport, deltas: Stream, writer: _Writer, request: httpx.Request
    ) -> None:
        self._owner = owner
        self._deltas = deltas
        self._writer = writer
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        writer = self._writer
        try:
            yield from writer.begin()
            for delta in self._deltas:
                if delta:
                    yield writer.delta(delta)
        except KernelError as exc:
            raise self._owner.broken_off(exc, self._request) from exc.__cause__
        yield writer.end(self._deltas.completion)

    def close(self) -> None:
        """End the call if it is still running."""
        self._owner.__exit__()


class _AsyncEvents(httpx.AsyncByteStream):
    """A stream of the kernel as server-sent events, on an event loop."""

    def __init__(
        self,
        owner: KernelTransport,
        deltas: AsyncStream,
        writer: _Writer,
        request: httpx.Request,
    ) -> None:
        self._owner = owner
        self._deltas = deltas
        self._writer = writer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        writer = self._writer
        try:
            for event in writer.begin():
                yield event
            async for delta in self._deltas:
                if delta:
                    yield writer.delta(delta)
        except KernelError as exc:
            raise self._owner.broken_off(exc, self._request) from exc.__cause__
        yield writer.end(self._deltas.completion)

    async def aclose(self) -> None:
        """End the call if it is still running."""
        self._owner.__exit__()
