"""Serve Anthropic's own client from the kernel, in place of its endpoint.

    with AnthropicTransport(agent_ref) as transport, transport.raising():
        client = transport.aclient_for(theirs)
        answer = await client.messages.create(model="claude-sonnet-4-6", messages=[...])

As with `KernelTransport`, a framework that is built on the client keeps its own code. The body of
its request is served in this process, as an LLM call of an agent. Needs the package `anthropic`,
and is imported only by adapters of frameworks that are built on it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import anthropic

from aios_adapters.agent_ref import AgentRef
from aios_adapters.anthropic_answers import MessageEventWriter, as_event, write_message
from aios_adapters.anthropic_errors import (
    as_anthropic_error,
    as_both_anthropic,
    as_message_error,
)
from aios_adapters.anthropic_format import read_betas, read_message_request
from aios_adapters.kernels import adefault_kernel
from aios_adapters.model_names import resolve_model
from aios_core.cores.anthropic.client_library import http
from aios_core.errors import InvalidRequest, KernelError
from aios_core.kernel import Agent, Kernel
from aios_core.kernel.default import default_kernel
from aios_core.kernel.streams import AsyncStream, Stream
from aios_core.messages.conversation import Delta, Usage

#: The API key of a client that requires one.
NO_ANTHROPIC_KEY: Final = "no key is needed on the kernel"

_NO_ENDPOINT: Final = "http://kernel.invalid"
_MESSAGES: Final = "/messages"
_COUNT: Final = "/messages/count_tokens"
_NOT_SET: Final = anthropic.DEFAULT_TIMEOUT.read
_COUNTED: Final = ("messages", "model", "tools")


class _Call(NamedTuple):
    """A request, read as an LLM call."""

    model: str  # as the program names it
    is_streamed: bool
    is_count: bool
    arguments: dict[str, Any]


class AnthropicTransport(http.BaseTransport, http.AsyncBaseTransport):  # type: ignore[misc]
    """Serves the requests of Anthropic's clients as one agent's LLM calls.

    An instance serves one call of a framework, with the retries that its client makes. Leaving the
    block ends a stream that was left half-read, without an await.

    Args:
        agent: the agent that makes the calls.
    """

    def __init__(self, agent: AgentRef) -> None:
        self._agent = agent
        self._stack = ExitStack()
        self._refusal: KernelError | None = None
        self.num_prompt_tokens = 0  # of the last streamed answer, without cached ones

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

    def client_for(self, theirs: Any) -> anthropic.Anthropic:
        """Return a client with the settings of `theirs` that sends its requests here."""
        client = http.Client(transport=self, trust_env=False)
        return anthropic.Anthropic(**_settings(theirs), http_client=client)

    def aclient_for(self, theirs: Any) -> anthropic.AsyncAnthropic:
        """Return an asynchronous client that sends its requests here."""
        client = http.AsyncClient(transport=self, trust_env=False)
        return anthropic.AsyncAnthropic(**_settings(theirs), http_client=client)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise the kernel's error under both names, where the client raises its own for it."""
        try:
            yield
        except Exception as exc:
            if self._refusal is None or isinstance(exc, KernelError):
                raise
            raise as_both_anthropic(self._refusal, exc) from self._refusal.__cause__

    # --- requests of a client --------------------------------------------------------------------

    def handle_request(self, request: Any) -> Any:
        """Serve a request of a blocking client."""
        self._refusal = None
        try:
            kernel = self._agent.kernel or default_kernel()
            call = _read(request, kernel)
            agent = self._stack.enter_context(self._agent.use(kernel))
            if call.is_count:
                return _count(agent.llm.measure(**call.arguments).num_tokens)
            if not call.is_streamed:
                completion = agent.llm.generate(**call.arguments)
                return http.Response(200, json=write_message(completion))
            deltas = self._stack.enter_context(agent.llm.stream(**call.arguments))
            first = next(deltas, None)
        except KernelError as exc:
            return self._refused(exc, request)
        return _stream(_Events(self, deltas, _Writer(call.model, first), request))

    async def handle_async_request(self, request: Any) -> Any:
        """Serve a request of a client on an event loop."""
        self._refusal = None
        try:
            kernel = self._agent.kernel or await adefault_kernel()
            call = _read(request, kernel)
            agent: Agent = await self._agent.hold(self._stack, kernel)
            if call.is_count:
                return _count((await agent.llm.ameasure(**call.arguments)).num_tokens)
            if not call.is_streamed:
                completion = await agent.llm.agenerate(**call.arguments)
                return http.Response(200, json=write_message(completion))
            deltas = self._stack.enter_context(closing(agent.llm.astream(**call.arguments)))
            first = await anext(deltas, None)
        except KernelError as exc:
            return self._refused(exc, request)
        return _stream(_AsyncEvents(self, deltas, _Writer(call.model, first), request))

    def _refused(self, error: KernelError, request: Any) -> Any:
        self._refusal = error
        return as_message_error(error, request)

    def record(self, usage: Usage) -> None:
        """Keep the size of the prompt, which a stream's first event cannot have."""
        cached = usage.cached_tokens + usage.cache_write_tokens
        self.num_prompt_tokens = usage.input_tokens - cached

    def broken_off(self, error: KernelError, request: Any) -> Exception:
        """Return the exception that a stream raises when it ends with an error."""
        self._refusal = error
        return as_anthropic_error(error, request)


def _settings(theirs: Any) -> dict[str, Any]:
    """Return the settings of a client that hold without its endpoint and credentials."""
    timeout = {"timeout": theirs.timeout} if hasattr(theirs, "timeout") else {}
    return {
        **timeout,
        "api_key": NO_ANTHROPIC_KEY,
        "base_url": _NO_ENDPOINT,
        "max_retries": theirs.max_retries,
        "default_headers": getattr(theirs, "_custom_headers", None),
    }


# --- requests ------------------------------------------------------------------------------------


def _read(request: Any, kernel: Kernel) -> _Call:
    """Read a request as an LLM call."""
    path = request.url.path
    if not path.endswith((_MESSAGES, _COUNT)):
        raise InvalidRequest(f"request path: got {path}; allowed: {_MESSAGES} and {_COUNT}")
    body: Mapping[str, Any] = json.loads(request.content)
    arguments = read_message_request(body)
    if betas := read_betas(request.headers.get("anthropic-beta")):
        arguments["extra"]["betas"] = list(betas)
    arguments["model"] = resolve_model(kernel, arguments.get("model"))
    if (timeout_s := request.extensions.get("timeout", {}).get("read")) not in (None, _NOT_SET):
        arguments.setdefault("timeout_s", timeout_s)
    is_count = path.endswith(_COUNT)
    if is_count:
        arguments = {key: arguments[key] for key in _COUNTED}
    return _Call(str(body.get("model")), bool(body.get("stream")), is_count, arguments)


# --- answers -------------------------------------------------------------------------------------


def _count(num_tokens: int) -> Any:
    return http.Response(200, json={"input_tokens": num_tokens})


def _stream(events: Any) -> Any:
    return http.Response(200, headers={"content-type": "text/event-stream"}, stream=events)


class _Writer:
    """Writes a stream's deltas as events."""

    def __init__(self, model: str, first: Delta | None) -> None:
        self._events = MessageEventWriter(model)
        self._first = first

    def begin(self) -> bytes:
        """Return the first events, with the delta that was read to see if the call is refused."""
        start = b"".join(map(as_event, self._events.begin()))
        return start + (b"" if self._first is None else self.delta(self._first))

    def delta(self, delta: Delta) -> bytes:
        """Return the events of one delta."""
        return b"".join(map(as_event, self._events.delta(delta)))

    def end(self, deltas: Stream | AsyncStream) -> bytes:
        """Return the last events."""
        return b"".join(map(as_event, self._events.end(deltas.completion)))


class _Events(http.SyncByteStream):  # type: ignore[misc]
    """A stream of the kernel as server-sent events."""

    def __init__(
        self, owner: AnthropicTransport, deltas: Stream, writer: _Writer, request: Any
    ) -> None:
        self._owner = owner
        self._deltas = deltas
        self._writer = writer
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield self._writer.begin()
            for delta in self._deltas:
                yield self._writer.delta(delta)
        except KernelError as exc:
            raise self._owner.broken_off(exc, self._request) from exc.__cause__
        self._owner.record(self._deltas.completion.usage)
        yield self._writer.end(self._deltas)

    def close(self) -> None:
        """End the call if it is still running."""
        self._owner.__exit__()


class _AsyncEvents(http.AsyncByteStream):  # type: ignore[misc]
    """A stream of the kernel as server-sent events, on an event loop."""

    def __init__(
        self,
        owner: AnthropicTransport,
        deltas: AsyncStream,
        writer: _Writer,
        request: Any,
    ) -> None:
        self._owner = owner
        self._deltas = deltas
        self._writer = writer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            yield self._writer.begin()
            async for delta in self._deltas:
                yield self._writer.delta(delta)
        except KernelError as exc:
            raise self._owner.broken_off(exc, self._request) from exc.__cause__
        self._owner.record(self._deltas.completion.usage)
        yield self._writer.end(self._deltas)

    async def aclose(self) -> None:
        """End the call if it is still running."""
        self._owner.__exit__()
