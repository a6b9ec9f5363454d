"""An OpenAI-compatible endpoint as a core: OpenAI, vLLM, Ollama, SGLang, llama.cpp, LiteLLM.

Only this file imports the `openai` client. The client exists from `start` to `close`; its
own retries are off, since the kernel decides about retries.

Promises: a cancelled or preempted run closes its connection, so that the server stops
computing. After a 429 the whole core pauses until the server's `Retry-After` has passed
(`load().available_in_s`, then `LoadChanged`). A run that fails ends within the time limits
with one typed error, which is retryable only if nothing was streamed. If the endpoint
refuses connections, the core goes down (`CoreDown`), unless it is streaming another answer
at that time.

A vLLM server (`dialect`) receives the kernel's priority, and its runs can be preempted: the
request is aborted, and continues later after the tokens that it had generated. Tool calls,
constrained answers and seeded sampling cannot be continued; such runs are not preempted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import openai

from aios_core.core import Capabilities, CoreLoad, LoadChanged, Prepared, Run
from aios_core.cores.openai.certificates import certificates
from aios_core.cores.openai.chunks import ChunkReader
from aios_core.cores.openai.core_pause import CorePause
from aios_core.cores.openai.dialect import PLAIN, VLLM, Dialect, can_resume, resume_request
from aios_core.cores.openai.errors import (
    Refusal,
    error_of,
    error_within,
    innermost_cause,
    no_completion,
)
from aios_core.cores.openai.event_stream import EventReader, ServerEvent, read_events
from aios_core.cores.openai.pressure_watch import PressureWatch
from aios_core.cores.openai.prompt_counting import (
    CountCache,
    LocalTokenizer,
    count_at_server,
    is_countable,
    tokenize_body,
)
from aios_core.cores.openai.refused_limits import LimitMemory
from aios_core.cores.openai.send_trace import sending, watch_request
from aios_core.cores.openai.wire import (
    Flavor,
    chat_body,
    max_prompt_tokens,
)
from aios_core.cores.streaming import Item, LiveRun, StreamingCore
from aios_core.errors import (
    AuthenticationFailed,
    CoreError,
    KernelError,
    PermissionRefused,
    SnapshotError,
)
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.reported_numbers import whole_number

UNKNOWN_WINDOW: Final = 128_000  # tokens; assumed if neither the user nor the server sets it
USAGE_PATIENCE_S: Final = 5.0  # for the usage, once the answer itself is complete

_GENERATORS_DEEP: Final = 6  # from the client's stream of events down to the socket

# OpenAI's own services accept the token limit only under its newer name.
_NEW_LIMIT_HOSTS = (".openai.com", ".openai.azure.com")


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The times that an endpoint may take, in seconds."""

    connect_s: float = 10.0
    first_chunk_s: float = 300.0  # from sending a request, the server's own queue included
    next_chunk_s: float = 60.0  # from one chunk to the next
    probe_s: float = 10.0  # for the list of models, when the core starts


class OpenAICore(StreamingCore):
    """A core that calls one endpoint.

    Args:
        base_url: up to and including the version, as in ``http://localhost:8000/v1``.
        models: the models to use; the first is the default.
        api_key: None for servers that need no key.
        flavor: "auto" detects at `start` whether it is a vLLM server.
        context_window: tokens; None: as the server reports (vLLM does).
        probe: whether `start` requests the list of models, and fails if one of `models` is
            not on it.
        tokenizer: a folder with the model's tokenizer, to count prompts exactly if the server
            cannot (vLLM can).
        omit: parameters that the models refuse, such as "temperature" for reasoning models.
    """

    def __init__(
        self,
        base_url: str,
        models: Sequence[str],
        *,
        api_key: str | None = None,
        name: str = "openai",
        flavor: Literal["auto"] | Flavor = "auto",
        context_window: int | None = None,
        slots: int = 64,
        time_limits: TimeLimits | None = None,
        probe: bool = True,
        omit: Collection[str] = (),
        tokenizer: str | None = None,
    ) -> None:
        super().__init__(name, models, slots=slots)
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._finds_dialect = flavor == "auto"
        self._dialect = VLLM if flavor == "vllm" else PLAIN
        self._wanted_window = context_window
        self._limits = time_limits or TimeLimits()
        self._probe = probe
        self._omit = frozenset(omit)
        self._tokenizer = None if tokenizer is None else LocalTokenizer(tokenizer)
        host = urlsplit(self._base_url).hostname or ""
        is_new = f".{host}".endswith(_NEW_LIMIT_HOSTS)
        self._limit_parameter = "max_completion_tokens" if is_new else "max_tokens"
        self._capabilities = self._describe(context_window)
        self._http: httpx.AsyncClient | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._pause = CorePause(name, on_over=lambda: self.report(LoadChanged()))
        self._server_root = self._base_url.removesuffix("/v1")
        self._watch = PressureWatch(
            name,
            self._server_root,
            is_busy=lambda: bool(self._live),
            timeout_s=self._limits.probe_s,
        )
        self._limit_memory = LimitMemory()
        self._counts = CountCache()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Return an upper bound of the prompt's tokens; only the server can count them.

        The server refuses a prompt that is too long, which raises `ContextOverflow`.
        """
        window = self._capabilities.context_window
        limit = min(request.sampling.max_tokens or window, window)
        return Prepared(max_prompt_tokens(request), limit, is_exact=False)

    async def count_prompt(self, request: LLMGenerate) -> int | None:
        """Count a prompt's tokens with the configured tokenizer, or at a vLLM server."""
        if self._http is None or not is_countable(request):
            return None
        if self._tokenizer is None and not self._dialect.counts_prompts:
            return None
        body = tokenize_body(request, self.model_of(request))
        return await self._counts.get(body, partial(self._count, self._http, request, body))

    async def _count(
        self, http: httpx.AsyncClient, request: LLMGenerate, body: dict[str, Any]
    ) -> int | None:
        if self._tokenizer is not None:
            return await asyncio.to_thread(self._tokenizer.count, request)
        return await count_at_server(
            http,
            self._server_root,
            body,
            key=self._api_key,
            patience_s=self._limits.probe_s,
        )

    def load(self) -> CoreLoad:
        """Return the use of slots and of the server's KV memory, and any pause."""
        return replace(
            super().load(),
            available_in_s=self._pause.left_s(),
            kv_tokens=self._watch.pressure.kv_tokens,
            kv_capacity=self._watch.pressure.kv_capacity,
        )

    def run(self, run: Run) -> None:
        """Start a run, or resume it from its snapshot."""
        super().run(run)
        if self._dialect.reports_memory and self._is_up and self._http is not None:
            self._watch.start(self._http)

    def can_resume(self, live: LiveRun) -> bool:
        """Return whether the server can continue a run after the tokens that it has generated."""
        return can_resume(live)

    # --- the endpoint -------------------------------------------------------------------------

    async def connect(self) -> None:
        """Build the client and request the server's models. Raises `CoreError`."""
        limits = self._limits
        if self._tokenizer is not None:
            await asyncio.to_thread(self._tokenizer.load)
        self._http = openai.DefaultAsyncHttpxClient(
            verify=await asyncio.to_thread(certificates),
            timeout=httpx.Timeout(None, connect=limits.connect_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._slots),
            event_hooks={"request": [watch_request]},
        )
        self._client = openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._api_key or "none",  # the client requires one
            max_retries=0,
            http_client=self._http,
        )
        if self._probe:
            await self._ask_what_is_served(self._client)

    async def disconnect(self) -> None:
        """Close the client and its connections."""
        self._pause.reset()
        self._counts.clear()
        await self._watch.stop()
        if self._client:
            await self._client.close()
            self._client = self._http = None
            # The client leaves its nested generators to the garbage collector, and the loop closes
            # them one by one in tasks of its own. Wait for these, so that no task is left behind.
            for _ in range(_GENERATORS_DEEP * 3):
                await asyncio.sleep(0)

    async def _ask_what_is_served(self, client: openai.AsyncOpenAI) -> None:
        try:
            async with asyncio.timeout(self._limits.probe_s):
                page = await client.models.list()
            served = {str(card.id): card for card in page.data}
        except Exception as exc:
            raise self._start_error(exc) from exc
        missing = [m for m in self._models if m not in served and f"{m}:latest" not in served]
        if missing:
            raise self.error(f"{self._base_url} does not serve {missing}; has {sorted(served)}")
        cards = [served.get(m) for m in self._models]
        if self._finds_dialect:
            self._dialect = Dialect.of_cards(cards)
        windows = (whole_number(getattr(card, "max_model_len", None), at_least=1) for card in cards)
        window = min((window for window in windows if window), default=None)
        self._capabilities = self._describe(self._wanted_window or window)

    def _describe(self, context_window: int | None) -> Capabilities:
        is_counted = self._tokenizer is not None or self._dialect.counts_prompts
        notes = [] if is_counted else ["tokens of a prompt are estimated, not counted"]
        if context_window is None:
            notes.append(f"context window unknown; {UNKNOWN_WINDOW} tokens assumed")
        return Capabilities(
            context_window=context_window or UNKNOWN_WINDOW,
            preemptible=self._dialect.preemptible,
            exact_resume=False,
            seed=self._dialect.seeds,
            parts=None,
            choices=True,
            notes=(*notes, *self._dialect.notes),
        )

    # --- one answer ---------------------------------------------------------------------------

    async def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        """Send the request and read chunk by chunk. Leaving closes the connection."""
        reader = live.memo = ChunkReader(live, self.model_of(live.run.request))
        body = EventReader()
        try:
            async with aclosing(self._chunks(live, reader, body)) as chunks:
                async for chunk in chunks:
                    for progress in reader.read(chunk):
                        yield progress
                        await asyncio.sleep(0)  # chunks come in bursts; others run between them
        except Exception as exc:
            if not reader.is_whole:  # otherwise only the usage is missing
                raise self._run_error(live, exc, body) from exc
        if not reader.is_whole:
            raise self._unfinished(live, reader, body)
        self._pause.end_series()
        yield reader.completion()

    def _unfinished(self, live: LiveRun, reader: ChunkReader, body: EventReader) -> KernelError:
        """Return the error of an answer that ended too early."""
        is_foreign = reader.is_done or reader.is_foreign or not body.is_event_stream
        if is_foreign and not reader.has_begun:
            return no_completion(self._name, body.beginning, self._api_key)
        return self.error("the answer broke off", is_retryable=not live.has_streamed)

    async def _chunks(
        self, live: LiveRun, reader: ChunkReader, body: EventReader
    ) -> AsyncGenerator[Any]:
        async with asyncio.timeout(self._limits.first_chunk_s) as limit:
            with sending(live):
                response = await self._request(live)
        loop = asyncio.get_running_loop()
        due = limit.when() or loop.time()
        events = read_events(response.response.aiter_bytes(), body)
        try:
            while True:
                async with asyncio.timeout_at(due):
                    event = await anext(events, None)
                if event is None or event.data.strip() == "[DONE]":
                    reader.is_done = event is not None or reader.is_document
                    return
                yield self._decoded(live, event, response.response.headers)
                patience_s = USAGE_PATIENCE_S if reader.is_whole else self._limits.next_chunk_s
                due = loop.time() + patience_s
        finally:
            await events.aclose()
            await response.close()

    def _decoded(self, live: LiveRun, event: ServerEvent, headers: httpx.Headers) -> Any:
        """Parse the chunk in an event. Raises the error that the server sent inside an answer."""
        chunk = json.loads(event.data)
        if event.name == "error" and not (isinstance(chunk, dict) and "error" in chunk):
            chunk = {"error": chunk}
        if (refusal := error_within(chunk, headers, self._api_key)) is not None:
            raise self._error_within(live, refusal)
        return chunk

    async def _request(self, live: LiveRun) -> openai.AsyncStream[Any]:
        if self._client is None:
            raise self.error("is not up", is_retryable=True)
        run = live.run
        body = chat_body(
            run.request,
            self.model_of(run.request),
            flavor=self._dialect.flavor,
            token_limit_key=self._limit_parameter,
            token_limit=self._limit_of_budget(run),
            priority=run.priority,
        )
        for parameter in self._omit:
            body.pop(parameter, None)
        if (was := run.snapshot) is None or not was.text:
            return await self._ask(self._client, run, body)
        if was.model != body["model"] or not self._capabilities.preemptible:
            raise SnapshotError(
                f"core {self._name!r} cannot continue an answer of model {was.model!r}"
            )
        return await self._post(
            self._client, *resume_request(run, body, was, self._limit_parameter)
        )

    def _limit_of_budget(self, run: Run) -> int | None:
        """Return a budget's token limit, if it binds and the server has not refused it before."""
        limit, model = run.token_limit, self.model_of(run.request)
        if limit is None or limit >= self._capabilities.context_window:
            return None
        return limit if self._limit_memory.allows(model, limit) else None

    async def _ask(
        self, client: openai.AsyncOpenAI, run: Run, body: dict[str, Any]
    ) -> openai.AsyncStream[Any]:
        """Start a chat; repeat it without a budget's limit if the server refuses the limit."""
        is_ours = run.request.sampling.max_tokens is None and self._limit_parameter in body
        try:
            return await self._post(client, "/chat/completions", body)
        except openai.APIStatusError as exc:
            if not (is_ours and self._limit_memory.is_refusal(exc.status_code, str(exc))):
                raise
        limit = body.pop(self._limit_parameter)
        response = await self._post(client, "/chat/completions", body)
        self._limit_memory.refused(body["model"], limit)
        return response

    async def _post(
        self, client: openai.AsyncOpenAI, path: str, body: dict[str, Any]
    ) -> openai.AsyncStream[Any]:
        return await client.post(
            path,
            body=body,
            cast_to=object,
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )

    # --- failures -----------------------------------------------------------------------------

    def _run_error(  # noqa: PLR0911 - one row for each kind of failure
        self, live: LiveRun, exc: Exception, body: EventReader
    ) -> KernelError:
        """Convert a failure to the error of its run, and take the core down if necessary."""
        fresh = not live.has_streamed
        match exc:
            case KernelError():
                return exc
            case openai.APIStatusError():
                return self._refused(live, exc)
            case TimeoutError():
                return self.error(self._silence(live), exc, is_retryable=fresh)
            case openai.APIConnectionError() if _never_reached(exc):
                reason = f"cannot reach {self._base_url}: {innermost_cause(exc)}"
                if not any(other.has_streamed for other in self._live.values()):
                    self.report_down(reason, exc)
                return self.error(reason, exc, is_retryable=True)
            case openai.APIConnectionError() | httpx.HTTPError():
                return self.error(
                    f"the connection broke: {innermost_cause(exc)}", exc, is_retryable=fresh
                )
            case openai.APIError():
                return self.error(f"failed midway: {exc.message}", exc, is_retryable=fresh)
            case _ if not (live.has_streamed or body.is_event_stream):
                return no_completion(self._name, body.beginning, self._api_key)
            case _:
                what = (
                    f"the endpoint sent an unreadable answer ({type(exc).__name__}: {exc!s:.200})"
                )
                return self.error(what, exc, is_retryable=fresh)

    def _refused(self, live: LiveRun, exc: openai.APIStatusError) -> KernelError:
        live.was_sent = False  # a refused request costs nothing
        refusal = Refusal.of(exc.status_code, exc.response.headers, exc.body, self._api_key)
        return self._as_error(live, refusal)

    def _error_within(self, live: LiveRun, refusal: Refusal) -> KernelError:
        """Return an error inside an answer: final, unless it is a rate limit."""
        error = self._as_error(live, refusal)
        if isinstance(error, CoreError):
            error.is_retryable = False  # the server had started to serve the call
        return error

    def _as_error(self, live: LiveRun, refusal: Refusal) -> KernelError:
        if refusal.is_pause:
            self._pause.extend(
                refusal.retry_after_s() or None
            )  # "0" must not end the core's own back-off
            refusal = refusal.asking_for(self._pause.left_s())
        return error_of(
            refusal,
            core=self._name,
            model=self.model_of(live.run.request),
            models=self._models,
            context_window=self._capabilities.context_window,
        )

    def _silence(self, live: LiveRun) -> str:
        if live.has_streamed:
            return f"no chunk for {self._limits.next_chunk_s:g} s in the middle of the answer"
        return f"no answer within {self._limits.first_chunk_s:g} s"

    def _start_error(self, exc: Exception) -> CoreError:
        match exc:
            case openai.APIStatusError(status_code=401 | 403):
                kind = AuthenticationFailed if exc.status_code == 401 else PermissionRefused
                what = f"{self._base_url} refused the key: {exc.message}; see api_key"
                return kind(self._name, what)
            case openai.APIStatusError(status_code=404 | 405):
                return self.error(
                    f"{self._base_url} has no list of models ({exc.status_code}); base_url usually"
                    " ends in /v1, and probe=False starts without asking"
                )
            case openai.APIStatusError():
                what = f"{self._base_url} answered {exc.status_code}: {exc.message}"
                return self.error(what, is_retryable=True)
            case TimeoutError():
                what = f"{self._base_url} did not answer within {self._limits.probe_s:g} s"
                return self.error(what, is_retryable=True)
            case openai.APIConnectionError():
                what = f"cannot reach {self._base_url}: {innermost_cause(exc)}"
                return self.error(what, is_retryable=True)
            case _:
                return self.error(f"{self._base_url} sent an unreadable answer: {exc!r:.200}")


def _never_reached(exc: openai.APIConnectionError) -> bool:
    """Return whether the connection could not be made, so that nothing was sent."""
    return isinstance(exc.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
