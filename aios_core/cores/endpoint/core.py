"""The base class of cores that send each run as one request to an endpoint over HTTP.

A subclass builds the request and reads its chunks. `EndpointCore` waits for them within the time
limits, closes connections, and converts every failure to a typed error.

Promises: a cancelled or preempted run closes its connection, so that the server stops
computing. A run is sent once the quota of its model has room (`aios_core.cores.quota`); until then
the core accepts no further one (`load().available_in_s`, then `LoadChanged`). A run that fails
ends within the time limits with one typed error, which is retryable if the connection or the
endpoint failed and not the request; the kernel decides what becomes of the part that was streamed.
If the endpoint refuses connections, the core goes down (`CoreDown`), unless it is streaming
another answer at that time.
"""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any, Final

from aios_core.core import CoreLoad, LoadChanged, Run
from aios_core.cores.endpoint.answer_reader import AnswerReader
from aios_core.cores.endpoint.client_errors import ClientFailure, FailureKind
from aios_core.cores.endpoint.core_quotas import (
    CoreQuotas,
    is_self_hosted,
    refuse,
)
from aios_core.cores.endpoint.errors import (
    OVERLOADED,
    Refusal,
    error_of,
    error_within,
    no_completion,
)
from aios_core.cores.endpoint.event_stream import EventReader, ServerEvent, read_events
from aios_core.cores.endpoint.send_trace import sending
from aios_core.cores.endpoint.time_limits import USAGE_PATIENCE_S, TimeLimits
from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.quota.gate import Permit
from aios_core.cores.streaming import Item, LiveRun, StreamingCore
from aios_core.errors import AuthenticationFailed, CoreError, KernelError, PermissionRefused
from aios_core.shielding import finish_shielded

_GENERATORS_DEEP: Final = 6  # from the client's stream of events down to the socket


class EndpointCore(StreamingCore):
    """A core that sends each run to one endpoint.

    Subclasses implement `build_client`, `ask_what_is_served`, `send`, `read_answer`,
    `failure_of` and `prepare`.
    """

    base_url_hint = ""  # what a base URL looks like, for errors

    def __init__(
        self,
        name: str,
        models: Sequence[str],
        *,
        base_url: str,
        api_key: str | None,
        slots: int,
        num_ahead: int = 0,
        time_limits: TimeLimits | None,
        probe: bool,
        quota: QuotaOptions | None = None,
    ) -> None:
        super().__init__(name, models, slots=slots, num_ahead=num_ahead)
        self._base_url = base_url
        self._api_key = api_key
        self._limits = time_limits or TimeLimits()
        self._probe = probe
        self._client: Any = None  # of the provider's library; None while not connected
        self._quotas = CoreQuotas(
            quota,
            base_url=base_url,
            api_key=api_key,
            on_room=lambda: self.report(LoadChanged()),
        )
        self._permits: dict[int, Permit] = {}  # by run

    # --- for subclasses to implement ----------------------------------------------------------

    @abstractmethod
    async def build_client(self) -> Any:
        """Build the client of the provider's library, with its own retries off."""

    @abstractmethod
    async def ask_what_is_served(self) -> None:
        """Ask the endpoint about the models. Raises if it does not serve them."""

    @abstractmethod
    async def send(self, live: LiveRun) -> Any:
        """Send the request of a run. Returns the client's stream once the endpoint answers.

        If that is in another format than `read_answer` expected, it replaces the reader in
        `live.memo`.
        """

    @abstractmethod
    def read_answer(self, live: LiveRun) -> AnswerReader:
        """Return a reader for the answer to a run."""

    @abstractmethod
    def failure_of(self, exc: Exception) -> ClientFailure | None:
        """Read an exception of the client's library; None if it is not one of its own."""

    # --- the endpoint -------------------------------------------------------------------------

    def load(self) -> CoreLoad:
        """Return the use of slots, and when the quota has room."""
        load, wait_s = super().load(), self._quotas.available_in_s()
        return load if wait_s == load.available_in_s else replace(load, available_in_s=wait_s)

    def run(self, run: Run) -> None:
        """Start a run, or resume it from its snapshot; it is sent once the quota has room."""
        if self._is_up:
            model = self.model_of(run.request)
            size = run.prepared.num_tokens
            self._permits[run.id] = self._quotas.reserve(model, run.request, size)
        super().run(run)
        live = self._live.get(run.id)
        if live is not None and live.task is not None:
            live.task.add_done_callback(lambda _task: self._end_permit(run.id))

    def _end_permit(self, run_id: int) -> None:
        if permit := self._permits.pop(run_id, None):
            permit.end()

    def has_quota(self) -> bool:
        """Return whether the endpoint probably has a quota, so that calls start slowly."""
        return not is_self_hosted(self._base_url)

    async def connect(self) -> None:
        """Build the client and request the server's models. Raises `CoreError`."""
        self._client = await self.build_client()
        if self._probe:
            try:
                await self.ask_what_is_served()
            except KernelError:
                raise
            except Exception as exc:
                raise self._start_error(exc) from exc
        self._quotas.open(self._models, starts_slowly=self.has_quota())

    async def disconnect(self) -> None:
        """Close the client and its connections."""
        self._quotas.close()
        if self._client:
            await self._client.close()
            self._client = None
            # The client leaves its nested generators to the garbage collector, and the loop closes
            # them one by one in tasks of its own. Wait for these, so that no task is left behind.
            for _ in range(_GENERATORS_DEEP * 3):
                await asyncio.sleep(0)

    # --- one answer ---------------------------------------------------------------------------

    async def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        """Send the request and read chunk by chunk. Leaving closes the connection."""
        live.memo = self.read_answer(live)  # `send` may replace it
        body = EventReader()
        try:
            async with aclosing(self._chunks(live, body)) as chunks:
                async for chunk in chunks:
                    for progress in live.memo.read(chunk):
                        yield progress
                        await asyncio.sleep(0)  # chunks come in bursts; others run between them
        except Exception as exc:
            if not live.memo.is_whole:  # otherwise only the usage is missing
                raise self._run_error(live, exc, body) from exc
        reader: AnswerReader = live.memo
        if not reader.is_whole:
            raise self._unfinished(reader, body)
        completion = reader.completion()
        usage = completion.usage
        self._permits[live.run.id].settle(usage.input_tokens, usage.output_tokens)
        yield completion

    def _unfinished(self, reader: AnswerReader, body: EventReader) -> KernelError:
        """Return the error of an answer that ended too early."""
        is_foreign = reader.is_done or reader.is_foreign or not body.is_event_stream
        if is_foreign and not reader.has_begun:
            return no_completion(self._name, body.beginning, self._api_key)
        return self.error("the answer broke off", is_retryable=True)

    async def _chunks(self, live: LiveRun, body: EventReader) -> AsyncGenerator[Any]:
        permit = self._permits[live.run.id]
        await permit.granted()
        async with asyncio.timeout(self._limits.first_chunk_s) as limit:
            with sending(live):
                response = await self.send(live)
        permit.accepted(response.response.headers)
        reader: AnswerReader = live.memo
        loop = asyncio.get_running_loop()
        due = limit.when() or loop.time()
        events = read_events(response.response.aiter_bytes(), body)
        try:
            while not reader.is_done:
                async with asyncio.timeout_at(due):
                    event = await anext(events, None)
                if event is None or event.data.strip() == "[DONE]":
                    reader.is_done = event is not None or reader.is_document
                    return
                yield self._decoded(live, event, response.response.headers)
                patience_s = USAGE_PATIENCE_S if reader.is_whole else self._limits.next_chunk_s
                due = loop.time() + patience_s
        finally:
            await finish_shielded(_close(events, response))

    def _decoded(self, live: LiveRun, event: ServerEvent, headers: Any) -> Any:
        """Parse the chunk in an event. Raises the error that the server sent inside an answer."""
        chunk = json.loads(event.data)
        if event.name == "error" and not (isinstance(chunk, dict) and "error" in chunk):
            chunk = {"error": chunk}
        if (refusal := error_within(chunk, headers, self._api_key)) is not None:
            raise self._error_within(live, refusal)
        return chunk

    # --- failures -----------------------------------------------------------------------------

    def _run_error(self, live: LiveRun, exc: Exception, body: EventReader) -> KernelError:
        """Convert a failure to the error of its run, and take the core down if necessary."""
        fresh = not live.has_streamed
        if isinstance(exc, KernelError):
            return exc
        if isinstance(exc, TimeoutError):
            return self.error(self._silence(live), exc, is_retryable=True)
        if (failure := self.failure_of(exc)) is not None:
            return self._failed(live, exc, failure)
        if not (live.has_streamed or body.is_event_stream):
            return no_completion(self._name, body.beginning, self._api_key)
        what = f"the endpoint sent an unreadable answer ({type(exc).__name__}: {exc!s:.200})"
        return self.error(what, exc, is_retryable=fresh)

    def _failed(self, live: LiveRun, exc: Exception, failure: ClientFailure) -> KernelError:
        """Convert what the client library reported."""
        fresh = not live.has_streamed
        match failure.kind:
            case FailureKind.REFUSED:
                live.was_sent = False  # a refused request costs nothing
                refusal = Refusal.of(failure.status, failure.headers, failure.body, self._api_key)
                if not refusal.is_pause and failure.status < 500:
                    self._permits[live.run.id].accepted(failure.headers)
                return self._as_error(live, refusal)
            case FailureKind.UNREACHABLE:
                reason = f"cannot reach {self._base_url}: {failure.reason}"
                if not any(other.has_streamed for other in self._live.values()):
                    self.report_down(reason, exc)
                return self.error(reason, exc, is_retryable=True)
            case FailureKind.BROKEN:
                what = f"the connection broke: {failure.reason}"
                return self.error(what, exc, is_retryable=True)
            case FailureKind.OTHER:
                return self.error(f"failed midway: {failure.reason}", exc, is_retryable=fresh)

    def _error_within(self, live: LiveRun, refusal: Refusal) -> KernelError:
        """Return an error inside an answer: final, unless it is a rate limit or overload."""
        error = self._as_error(live, refusal)
        if isinstance(error, CoreError):  # the server had started to serve the call
            error.is_retryable = refusal.status == OVERLOADED and not live.has_streamed
        return error

    def _as_error(self, live: LiveRun, refusal: Refusal) -> KernelError:
        if refusal.is_pause:
            refusal = refusal.asking_for(refuse(self._permits[live.run.id], refusal))
        return error_of(
            refusal,
            core=self._name,
            model=self.model_of(live.run.request),
            models=self._models,
            context_window=self.capabilities.context_window,
        )

    def _silence(self, live: LiveRun) -> str:
        if live.has_streamed:
            return f"no chunk for {self._limits.next_chunk_s:g} s in the middle of the answer"
        return f"no answer within {self._limits.first_chunk_s:g} s"

    def _start_error(self, exc: Exception) -> CoreError:
        if isinstance(exc, TimeoutError):
            what = f"{self._base_url} did not answer within {self._limits.probe_s:g} s"
            return self.error(what, is_retryable=True)
        failure = self.failure_of(exc)
        if failure is None or failure.kind is FailureKind.OTHER:
            return self.error(f"{self._base_url} sent an unreadable answer: {exc!r:.200}")
        if failure.kind is not FailureKind.REFUSED:
            what = f"cannot reach {self._base_url}: {failure.reason}"
            return self.error(what, is_retryable=True)
        return self._refused_start(failure)

    def _refused_start(self, failure: ClientFailure) -> CoreError:
        match failure.status:
            case 401 | 403:
                kind = AuthenticationFailed if failure.status == 401 else PermissionRefused
                what = f"{self._base_url} refused the key: {failure.reason}; see api_key"
                return kind(self._name, what)
            case 404 | 405:
                return self.error(
                    f"{self._base_url} has no list of models ({failure.status}); base_url usually"
                    f" {self.base_url_hint}, and probe=False starts without asking"
                )
            case status:
                what = f"{self._base_url} answered {status}: {failure.reason}"
                return self.error(what, is_retryable=True)


async def _close(events: AsyncGenerator[Any], response: Any) -> None:
    """Close a stream of events, and the connection that it is read from."""
    async with AsyncExitStack() as stack:  # both, even if one fails
        stack.push_async_callback(response.close)
        stack.push_async_callback(events.aclose)
