"""Claude as a core, over Anthropic's Messages API or a gateway that speaks it.

Only this file imports the `anthropic` client. The client exists from `start` to `close`; its
own retries are off, since the kernel decides about retries. Its promises are those of
`EndpointCore`.

The API requires a token limit for each answer. Without one from the caller or a budget it is the
model's own, as the API reports it; a limit above that is lowered. The kernel places the
breakpoints of the prompt cache (`prompt_cache`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final, Literal

import anthropic

from aios_core.core import Capabilities, Prepared, Run
from aios_core.cores.anthropic.answer_format import AnswerForm, form_of
from aios_core.cores.anthropic.client_library import http
from aios_core.cores.anthropic.events import MessageReader
from aios_core.cores.anthropic.model_limits import LimitBook, ModelLimits
from aios_core.cores.anthropic.prompt_cache import CacheTime
from aios_core.cores.anthropic.wire import betas_of, count_body, message_body
from aios_core.cores.endpoint.certificates import certificates
from aios_core.cores.endpoint.client_errors import ClientFailure
from aios_core.cores.endpoint.core import EndpointCore
from aios_core.cores.endpoint.send_trace import watch_request
from aios_core.cores.endpoint.time_limits import TimeLimits
from aios_core.cores.openai.prompt_counting import CountCache
from aios_core.cores.openai.wire import max_prompt_tokens
from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.streaming import LiveRun
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.reported_numbers import whole_number

UNKNOWN_WINDOW: Final = 200_000  # tokens; assumed if neither the user nor the endpoint sets it

_NOTES: Final = (
    "seed, penalties, min_p, logit_bias and log probabilities are not sent: the API has none",
    "a temperature above 1 is sent as 1",
)


class AnthropicCore(EndpointCore):
    """A core that calls Anthropic's Messages API.

    Args:
        models: the models to use; the first is the default.
        base_url: without the version, as in ``https://api.anthropic.com``.
        api_key: None for gateways that need no key.
        context_window: tokens; None: as the endpoint reports.
        max_output_tokens: of an answer without a limit of its own; None: as the endpoint reports.
        prompt_cache: how long the provider keeps an agent's prompt; "off": not at all.
        betas: names of beta features, for the header ``anthropic-beta``.
        probe: whether `start` asks the endpoint about the models, and fails if it does not serve
            one of them.
        omit: parameters that the models refuse, such as "temperature".
        quota: a name; all cores with it draw on one quota. None: those with the same endpoint, key
            and model do.
        requests_per_minute: a limit of calls, for an endpoint that does not report its own.
        tokens_per_minute: a limit of tokens, likewise.
        max_concurrent: calls that may be on their way at once.
    """

    base_url_hint = "has no path"

    def __init__(
        self,
        models: Sequence[str],
        *,
        base_url: str = "https://api.anthropic.com",
        api_key: str | None = None,
        name: str = "anthropic",
        context_window: int | None = None,
        max_output_tokens: int | None = None,
        prompt_cache: Literal["off"] | CacheTime = "5m",
        betas: Collection[str] = (),
        slots: int = 64,
        time_limits: TimeLimits | None = None,
        probe: bool = True,
        omit: Collection[str] = (),
        quota: str | None = None,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        max_concurrent: int | None = None,
    ) -> None:
        super().__init__(
            name,
            models,
            base_url=base_url.rstrip("/").removesuffix("/v1"),
            api_key=api_key,
            slots=slots,
            time_limits=time_limits,
            probe=probe,
            quota=QuotaOptions(quota, requests_per_minute, tokens_per_minute, max_concurrent),
        )
        self._wanted_window = context_window
        self._wanted_output = max_output_tokens
        self._cache_time: CacheTime | None = None if prompt_cache == "off" else prompt_cache
        self._betas = tuple(betas)
        self._omit = frozenset(omit)
        self._book = LimitBook()
        self._counts = CountCache()
        self._capabilities = self._describe()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Return an upper bound of the prompt's tokens, and check the request.

        Raises `InvalidRequest` for content that the API has no form for.
        """
        body = self._body(request, None)
        self._headers(request)
        window = self._capabilities.context_window
        limit = min(int(body["max_tokens"]), window)
        return Prepared(max_prompt_tokens(request), limit, is_exact=False)

    async def count_prompt(self, request: LLMGenerate) -> int | None:
        """Count a prompt's tokens at the endpoint; None if it does not count them."""
        if self._client is None:
            return None
        body = count_body(self._body(request, None))
        return await self._counts.get(body, partial(self._count, body, self._headers(request)))

    async def _count(self, body: dict[str, Any], headers: dict[str, str]) -> int | None:
        try:
            async with asyncio.timeout(self._limits.probe_s):
                answer: Any = await self._client.post(
                    "/v1/messages/count_tokens",
                    body=body,
                    cast_to=object,
                    options={"headers": headers},
                )
        except (TimeoutError, anthropic.AnthropicError, http.HTTPError, ValueError):
            return None
        return whole_number(answer.get("input_tokens")) if isinstance(answer, dict) else None

    # --- the endpoint -------------------------------------------------------------------------

    async def build_client(self) -> anthropic.AsyncAnthropic:
        """Build the client."""
        client = anthropic.DefaultAsyncHttpxClient(
            verify=await asyncio.to_thread(certificates, http.create_ssl_context),
            timeout=http.Timeout(None, connect=self._limits.connect_s),
            limits=http.Limits(max_connections=None, max_keepalive_connections=self._slots),
            event_hooks={"request": [watch_request]},
        )
        return anthropic.AsyncAnthropic(
            base_url=self._base_url,
            api_key=self._api_key or "none",  # without one, the client searches the machine
            max_retries=0,
            http_client=client,
        )

    async def disconnect(self) -> None:
        """Close the client and its connections."""
        self._counts.clear()
        await super().disconnect()

    async def ask_what_is_served(self) -> None:
        """Ask for each model. Raises `CoreError` if the endpoint does not serve one of them."""
        async with asyncio.timeout(self._limits.probe_s):
            for model in self._models:
                await self._ask_about(model)
        self._capabilities = self._describe()

    async def _ask_about(self, model: str) -> None:
        try:
            card = await self._client.models.retrieve(model)
        except anthropic.NotFoundError as exc:
            page = await self._client.models.list(limit=1_000)
            served = sorted(str(card.id) for card in page.data)
            what = f"{self._base_url} does not serve {[model]}; has {served}"
            raise self.error(what) from exc
        self._book.set(model, ModelLimits.of_card(card))

    def _describe(self) -> Capabilities:
        reported = [self._book.of(model).context_window for model in self._models]
        known = [window for window in reported if window is not None]
        window = self._wanted_window or min(known, default=None)
        notes = [] if window else [f"context window unknown; {UNKNOWN_WINDOW} tokens assumed"]
        return Capabilities(
            context_window=window or UNKNOWN_WINDOW,
            exact_resume=False,
            seed=False,
            parts=None,
            notes=(*notes, *_NOTES),
        )

    # --- one answer ---------------------------------------------------------------------------

    def read_answer(self, live: LiveRun) -> MessageReader:
        """Return a reader for the answer to a run."""
        request = live.run.request
        return MessageReader(live, self.model_of(request), self._form(request).tool_name)

    def failure_of(self, exc: Exception) -> ClientFailure | None:
        """Read an exception of the client's library; None if it is not one of its own."""
        return ClientFailure.of(exc, anthropic, http)

    async def send(self, live: LiveRun) -> anthropic.AsyncStream[Any]:
        """Send the request of a run, again if a refusal shows a limit that fits."""
        if self._client is None:
            raise self.error("is not up", is_retryable=True)
        run = live.run
        limit: int | None = None
        while True:
            body = self._body(run.request, run, limit)
            try:
                return await self._post(body, self._headers(run.request))
            except anthropic.APIStatusError as exc:
                model = self.model_of(run.request)
                limit = self._book.learn(model, body, exc.status_code, str(exc))
                if limit is None:
                    raise
            # The way in which an answer is constrained may have changed.
            live.memo.answer_tool = self._form(run.request).tool_name

    async def _post(
        self, body: dict[str, Any], headers: dict[str, str]
    ) -> anthropic.AsyncStream[Any]:
        stream: anthropic.AsyncStream[Any] = await self._client.post(
            "/v1/messages",
            body=body,
            cast_to=object,
            options={"headers": headers},
            stream=True,
            stream_cls=anthropic.AsyncStream[object],
        )
        return stream

    def _body(
        self, request: LLMGenerate, run: Run | None, learned_limit: int | None = None
    ) -> dict[str, Any]:
        """Build the body of a request; `learned_limit` is what the endpoint allows for it."""
        model, sampling = self.model_of(request), request.sampling
        budget = None if run is None else run.token_limit
        limit = self._book.answer_limit(model, sampling.max_tokens, budget, self._wanted_output)
        body = message_body(
            request,
            model,
            max_tokens=min(limit, learned_limit or limit),
            form=self._form(request),
            cache_time=self._cache_time,
        )
        for parameter in self._omit | self._book.of(model).refused:
            body.pop(parameter, None)
        return body

    def _form(self, request: LLMGenerate) -> AnswerForm:
        limits = self._book.of(self.model_of(request))
        return form_of(
            request,
            has_structured_outputs=limits.has_structured_outputs,
            close=anthropic.transform_schema,
        )

    def _headers(self, request: LLMGenerate) -> dict[str, str]:
        betas = dict.fromkeys((*self._betas, *betas_of(request)))
        return {"anthropic-beta": ",".join(betas)} if betas else {}
