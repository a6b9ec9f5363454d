"""A core of another package: it answers with the words it was asked with, over and over.

A core of a real provider has the same three parts: `connect` makes the client, `prepare` measures a
request, and `stream` asks for one answer and yields what comes.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from itertools import cycle, islice
from typing import Annotated

from aios_core.cores import (
    Capabilities,
    Item,
    LiveRun,
    LLMGenerate,
    Prepared,
    Progress,
    Range,
    Snapshot,
    StreamingCore,
)
from aios_core.errors import ContextOverflow, InvalidRequest
from aios_core.messages import Completion, Delta, FinishReason, Message, Usage


class EchoCore(StreamingCore):
    """One word is one token. The parameters are the options of `[[cores]]`."""

    def __init__(
        self,
        *,
        name: str = "echo",
        models: Sequence[str] = ("echo",),
        slots: Annotated[int, Range(1)] = 4,
        context_window: Annotated[int, Range(16)] = 4096,
        token_s: Annotated[float, Range(0, 10)] = 0.0,
    ) -> None:
        super().__init__(name, models, slots=slots)
        self._token_s = token_s
        self._capabilities = Capabilities(
            context_window, preemptible=True, exact_resume=True, tools=False, json_schema=False
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Count the words of a prompt. Raises `InvalidRequest` and `ContextOverflow`."""
        if request.tools:
            raise InvalidRequest(f"core {self.name!r} offers no tools to its model")
        num_tokens = sum(len(message.content.split()) for message in request.messages)
        left = self._capabilities.context_window - num_tokens
        if left < 1:
            window = self._capabilities.context_window
            raise ContextOverflow(num_tokens, window, self.model_of(request))
        return Prepared(num_tokens, min(request.sampling.max_tokens or 32, left))

    async def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        """Yield word after word from where the run is, and at last the whole answer."""
        prepared, request = live.run.prepared, live.run.request
        words = list(islice(cycle(request.last_text.split() or ["..."]), prepared.max_tokens))
        for word in words[live.num_tokens :]:
            await asyncio.sleep(self._token_s)
            delta = Delta(word if not live.num_tokens else f" {word}")
            yield Progress(live.run.id, 1, delta)  # a bare delta counts as its text, about
        usage = Usage(prepared.num_tokens, live.num_tokens)
        message = Message("assistant", live.answer.text)
        yield Completion(message, FinishReason.LENGTH, usage, self.model_of(request))

    def snapshot(self, live: LiveRun) -> Snapshot:
        """Keep how many words were sent: the next run continues from there."""
        sent = tuple(range(live.num_tokens))
        kept = super().snapshot(live)
        return Snapshot(kept.model, kept.prompt_ids, sent, text=kept.text)
