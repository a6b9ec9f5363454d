"""An OpenAI-compatible endpoint as a core: OpenAI, vLLM, Ollama, SGLang, llama.cpp, LiteLLM.

Only this file imports the `openai` client. The client exists from `start` to `close`; its
own retries are off, since the kernel decides about retries. Its promises are those of
`EndpointCore`.

A vLLM server (`dialect`) receives the kernel's priority, and its runs can be preempted: the
request is aborted, and continues later after the tokens that it had generated. Tool calls,
constrained answers and seeded sampling cannot be continued; such runs are not preempted.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import httpx
import openai

from aios_core.config_decoder import Range
from aios_core.core import Capabilities, CoreLoad, Prepared, Run
from aios_core.cores.endpoint.certificates import certificates
from aios_core.cores.endpoint.client_errors import ClientFailure
from aios_core.cores.endpoint.core import EndpointCore
from aios_core.cores.endpoint.send_trace import watch_request
from aios_core.cores.endpoint.time_limits import TimeLimits
from aios_core.cores.openai import responses_wire
from aios_core.cores.openai.api_choice import API, ApiChoice
from aios_core.cores.openai.chunks import ChunkReader
from aios_core.cores.openai.dialect import DIALECTS, PLAIN, Dialect, can_resume, resume_request
from aios_core.cores.openai.engine_signals import add_signals
from aios_core.cores.openai.metrics_watch import MetricsWatch
from aios_core.cores.openai.prompt_counting import (
    CountCache,
    LocalTokenizer,
    count_at_server,
    is_countable,
    tokenize_body,
)
from aios_core.cores.openai.refused_limits import LimitMemory
from aios_core.cores.openai.responses_events import ResponseReader
from aios_core.cores.openai.vllm_version import SESSIONS_SINCE, ask_version
from aios_core.cores.openai.wire import Flavor, chat_body, max_prompt_tokens
from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.streaming import LiveRun
from aios_core.errors import SnapshotError
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.reported_numbers import whole_number

UNKNOWN_WINDOW: Final = 128_000  # tokens; assumed if neither the user nor the server sets it

# OpenAI's own services accept the token limit only under its newer name.
_NEW_LIMIT_HOSTS = (".openai.com", ".openai.azure.com")


class OpenAICore(EndpointCore):
    """A core that calls one OpenAI-compatible endpoint.

    Args:
        base_url: up to and including the version, as in ``http://localhost:8000/v1``.
        models: the models to use; the first is the default.
        api_key: None for servers that need no key.
        flavor: "auto" detects at `start` whether it is a vLLM or an SGLang server.
        context_window: tokens; None: as the server reports (vLLM does).
        probe: whether `start` requests the list of models, and fails if one of `models` is
            not on it.
        tokenizer: a folder with the model's tokenizer, to count prompts exactly if the server
            cannot (vLLM can).
        omit: parameters that the models refuse, such as "temperature" for reasoning models.
        quota: a name; all cores and embedders with it draw on one quota. None: those with the same
            endpoint, key and model do.
        requests_per_minute: a limit of calls, for an endpoint that does not report its own.
        tokens_per_minute: a limit of tokens, likewise.
        max_concurrent: calls that may be on their way at once.
        api: "chat" for chat completions, "responses" for OpenAI's Responses API; "auto" starts
            with chat completions, and uses the other for models that have nothing else.
        num_ahead: calls that the endpoint gets beyond `slots`, so that a slot is never idle for the
            time of a round trip. 0 for endpoints that refuse calls instead of queueing them.
        kv_tokens: the tokens that agents may hold in the server's KV memory; None: as the server
            reports (vLLM does, and SGLang with `--enable-metrics`). Of two figures the smaller one
            counts.
    """

    base_url_hint = "ends in /v1"

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
        api: Literal["auto"] | API = "auto",
        num_ahead: int = 1,
        kv_tokens: Annotated[int, Range(1)] | None = None,
        quota: str | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrent: int | None = None,
    ) -> None:
        super().__init__(
            name,
            models,
            base_url=base_url.rstrip("/"),
            api_key=api_key,
            slots=slots,
            num_ahead=num_ahead,
            time_limits=time_limits,
            probe=probe,
            quota=QuotaOptions(quota, requests_per_minute, tokens_per_minute, max_concurrent),
        )
        self._finds_dialect = flavor == "auto"
        self._dialect = PLAIN if flavor == "auto" else DIALECTS[flavor]
        self._wanted_window = context_window
        self._omit = frozenset(omit)
        self._tokenizer = None if tokenizer is None else LocalTokenizer(tokenizer)
        host = urlsplit(self._base_url).hostname or ""
        self._apis, self._has_choices = ApiChoice(api), api != "responses"
        is_new = f".{host}".endswith(_NEW_LIMIT_HOSTS)
        self._limit_parameter = "max_completion_tokens" if is_new else "max_tokens"
        self._capabilities = self._describe(context_window)
        self._http: httpx.AsyncClient | None = None
        self._server_root = self._base_url.removesuffix("/v1")
        self._kv_tokens = kv_tokens
        self._session = ""  # names this core's agents to the server; "": it takes no such names
        self._watch = MetricsWatch(
            name,
            self._server_root,
            key=api_key,
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
        return add_signals(super().load(), self._watch.signals, self._kv_tokens)

    def run(self, run: Run) -> None:
        """Start a run, or resume it from its snapshot."""
        super().run(run)
        read = self._dialect.read_signals
        if read is not None and self._is_up and self._http is not None:
            self._watch.start(self._http, read)

    def has_quota(self) -> bool:
        """Return whether the endpoint probably has a quota; an engine has none."""
        return self._dialect.read_signals is None and super().has_quota()

    def can_resume(self, live: LiveRun) -> bool:
        """Return whether the server can continue a run after the tokens that it has generated."""
        return can_resume(live)

    # --- the endpoint -------------------------------------------------------------------------

    def move_to(self, base_url: str) -> None:
        """Use another URL from the next `connect` on."""
        self._base_url = base_url
        self._server_root = self._watch.root = base_url.removesuffix("/v1")

    async def build_client(self) -> openai.AsyncOpenAI:
        """Build the client, and load a configured tokenizer. Raises `ModelLoadError`."""
        limits = self._limits
        if self._tokenizer is not None:
            await asyncio.to_thread(self._tokenizer.load)
        self._http = openai.DefaultAsyncHttpxClient(
            verify=await asyncio.to_thread(certificates, httpx.create_ssl_context),
            timeout=httpx.Timeout(None, connect=limits.connect_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=self._slots),
            event_hooks={"request": [watch_request]},
        )
        return openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=self._api_key or "none",  # the client requires one
            max_retries=0,
            http_client=self._http,
        )

    async def disconnect(self) -> None:
        """Close the client and its connections."""
        self._counts.clear()
        await self._watch.stop()
        await super().disconnect()
        self._http = None

    async def ask_what_is_served(self) -> None:
        """Request the list of models. Raises `CoreError` if it lacks one of this core's."""
        async with asyncio.timeout(self._limits.probe_s):
            page = await self._client.models.list()
        served = {str(card.id): card for card in page.data}
        missing = [m for m in self._models if m not in served and f"{m}:latest" not in served]
        if missing:
            raise self.error(f"{self._base_url} does not serve {missing}; has {sorted(served)}")
        cards = [served.get(m) for m in self._models]
        if self._finds_dialect:
            self._dialect = Dialect.of_cards(cards)
        windows = (whole_number(getattr(card, "max_model_len", None), at_least=1) for card in cards)
        window = min((window for window in windows if window), default=None)
        self._capabilities = self._describe(self._wanted_window or window)
        if self._http is not None:
            await self._ask_the_engine(self._http)

    async def _ask_the_engine(self, http: httpx.AsyncClient) -> None:
        """Read what an engine states outside of OpenAI's API. It need not state anything."""
        if (read := self._dialect.read_signals) is not None:
            await self._watch.read_now(http, read)  # the first burst needs a capacity
        if self._dialect.flavor == "vllm":
            version = await ask_version(http, self._server_root, self._limits.probe_s)
            self._session = secrets.token_hex(8) if version >= SESSIONS_SINCE else ""

    def _describe(self, context_window: int | None) -> Capabilities:
        is_counted = self._tokenizer is not None or self._dialect.counts_prompts
        notes = [] if is_counted else ["tokens of a prompt are estimated, not counted"]
        if context_window is None:
            notes.append(f"context window unknown; {UNKNOWN_WINDOW} tokens assumed")
        return Capabilities(
            context_window=context_window or UNKNOWN_WINDOW,
            preemptible=self._dialect.preemptible and self._has_choices,
            exact_resume=False,
            seed=self._dialect.seeds,
            parts=None,
            choices=self._has_choices,
            notes=(*notes, *self._dialect.notes),
        )

    # --- one answer ---------------------------------------------------------------------------

    def read_answer(self, live: LiveRun) -> ChunkReader | ResponseReader:
        """Return a reader for the answer to a run."""
        model = self.model_of(live.run.request)
        is_chat = self._apis.of(model) == "chat"
        return ChunkReader(live, model) if is_chat else ResponseReader(live, model)

    def failure_of(self, exc: Exception) -> ClientFailure | None:
        """Read an exception of the client's library; None if it is not one of its own."""
        return ClientFailure.of(exc, openai, httpx)

    async def send(self, live: LiveRun) -> openai.AsyncStream[Any]:
        """Send the request of a run. Returns the client's stream once the endpoint answers."""
        if self._client is None:
            raise self.error("is not up", is_retryable=True)
        run, model = live.run, self.model_of(live.run.request)
        while True:
            body = self._body(run, model)
            if (was := run.snapshot) is not None and was.text:
                return await self._resume(self._client, run, body, was)
            try:
                return await self._ask(self._client, run, body)
            except openai.APIStatusError as exc:
                if not self._apis.learn(model, exc.status_code, str(exc)):
                    raise
            live.memo = self.read_answer(live)

    def _body(self, run: Run, model: str) -> dict[str, Any]:
        limit = self._limit_of_budget(run)
        if self._apis.of(model) == "responses":
            encrypted = self._apis.has_thoughts(model)
            body = responses_wire.responses_body(
                run.request, model, token_limit=limit, encrypted=encrypted
            )
        else:
            body = chat_body(
                run.request,
                model,
                flavor=self._dialect.flavor,
                token_limit_key=self._limit_parameter,
                token_limit=limit,
                priority=run.priority,
                session=f"{self._session}-{run.pid}" if self._session else None,
            )
        return {key: value for key, value in body.items() if key not in self._omit}

    async def _resume(
        self, client: openai.AsyncOpenAI, run: Run, body: dict[str, Any], was: Snapshot
    ) -> openai.AsyncStream[Any]:
        if was.model != body["model"] or not self._capabilities.preemptible:
            raise SnapshotError(
                f"core {self._name!r} cannot continue an answer of model {was.model!r}"
            )
        return await self._post(client, *resume_request(run, body, was, self._limit_parameter))

    def _limit_of_budget(self, run: Run) -> int | None:
        """Return a budget's token limit, if it binds and the server has not refused it before."""
        limit, model = run.token_limit, self.model_of(run.request)
        if limit is None or limit >= self._capabilities.context_window:
            return None
        return limit if self._limit_memory.allows(model, limit) else None

    async def _ask(
        self, client: openai.AsyncOpenAI, run: Run, body: dict[str, Any]
    ) -> openai.AsyncStream[Any]:
        """Start an answer; repeat it without a budget's limit if the server refuses the limit."""
        is_chat = self._apis.of(body["model"]) == "chat"
        path = "/chat/completions" if is_chat else responses_wire.PATH
        key = self._limit_parameter if is_chat else responses_wire.LIMIT_KEY
        is_ours = run.request.sampling.max_tokens is None and key in body
        try:
            return await self._post(client, path, body)
        except openai.APIStatusError as exc:
            if not (is_ours and self._limit_memory.is_refusal(exc.status_code, str(exc))):
                raise
        limit = body.pop(key)
        response = await self._post(client, path, body)
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
