"""Answer from a script, for tests of agents and of the kernel.

    ScriptedCore("always this")
    ScriptedCore(["first", ToolCall("c1", "add", '{"a": 1}'), RateLimited("busy", 2.0)])
    ScriptedCore({"2+2?": "4"})                       # by the text of the last message
    ScriptedCore(lambda request: request.messages[-1].content.upper())

One word is one token. Without `latency_s` and `token_s` a run ends inside `run` itself,
without a task, a timer or an iteration of the loop. With them, `asyncio.sleep` takes the
time, so that a loop with virtual time does not wait.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from aios_core.core import Capabilities, Failed, Finished, Prepared, Progress, Report, Run
from aios_core.cores.answer_format import (
    decode_completion,
    decode_delta,
    encode_completion,
    encode_delta,
)
from aios_core.cores.deltas import assemble, count_deltas, split_words, to_deltas, to_one_delta
from aios_core.cores.streaming import Item, LiveRun, StreamingCore
from aios_core.errors import (
    ContextOverflow,
    CoreError,
    InvalidRequest,
    KernelError,
    NoSuchObject,
    SnapshotError,
)
from aios_core.messages import Completion, Delta, FinishReason, Message, ToolCall, Usage
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.third_party import RAISED, describe, detach, pass_on

# One answer. A sequence of deltas is streamed as it is, and may end in an error, as if the
# core failed in the middle of its answer.
Answer = (
    Completion | Message | str | ToolCall | KernelError | Sequence[ToolCall | Delta | KernelError]
)
Answering = Callable[[LLMGenerate], Answer | None]  # None: there is no answer to this request
Script = str | Sequence[Answer] | Mapping[str, Answer] | Answering

_REQUESTS_KEPT = 1_000


class ScriptedCore(StreamingCore):
    """A core that answers from a script.

    `requests` holds the latest requests in order of arrival. With `preemptible`, a run can
    be suspended between any two tokens and resumes exactly there: its snapshot carries the
    rest of its answer.

    Args:
        script: a text (the answer to everything), a list (one answer after the other),
            a mapping from the text of the last message, or a function of the request.
        latency_s: seconds before the first token of an answer.
        token_s: seconds for each token.
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        models: Sequence[str] = ("scripted",),
        latency_s: float = 0.0,
        token_s: float = 0.0,
        slots: int = 64,
        preemptible: bool = False,
        context_window: int = 128_000,
    ) -> None:
        super().__init__(name, models, slots=slots)
        self.requests: deque[LLMGenerate] = deque(maxlen=_REQUESTS_KEPT)
        self._answering = _answering(script)
        self._latency_s = latency_s
        self._token_s = token_s
        self._takes_time = bool(latency_s or token_s)
        self._capabilities = Capabilities(
            context_window=context_window,
            preemptible=preemptible,
            exact_resume=preemptible,
            parts=None,
            notes=("answers from a script; one word is one token",),
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Count the words of the prompt as tokens. Raises `ContextOverflow` if they do not fit."""
        num_tokens = sum(len(m.content.split()) for m in request.messages)
        window = self._capabilities.context_window
        if num_tokens >= window:
            raise ContextOverflow(num_tokens, window, self.model_of(request))
        left = window - num_tokens
        return Prepared(num_tokens, min(request.sampling.max_tokens or left, left))

    def run(self, run: Run) -> None:
        """Start a run; without latency, also end it."""
        if self._takes_time or not self._is_up:
            super().run(run)
            return
        try:
            answer = self._answer_for(run)
        except KernelError as exc:
            self.report(Failed(run.id, exc))
            return
        num_sent = len(run.snapshot.output_ids) if run.snapshot else 0
        self.report(*answer.at_once(run.id, num_sent))

    async def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        """Stream the answer from the position of the run, with the configured delays."""
        answer = live.memo = self._answer_for(live.run)
        if not live.num_tokens:
            await asyncio.sleep(self._latency_s)
        for delta in answer.deltas()[live.num_tokens :]:
            await asyncio.sleep(self._token_s)
            yield Progress(live.run.id, 1, delta)  # one token, however long its text is
        if isinstance(answer.end, KernelError):
            raise answer.end
        yield answer.end

    def can_resume(self, live: LiveRun) -> bool:
        return isinstance(live.memo, ScriptedAnswer) and not isinstance(live.memo.end, KernelError)

    def snapshot(self, live: LiveRun) -> Snapshot:
        """Take a snapshot; its `sampler` holds the scripted answer, with the rest of the text."""
        if isinstance(live.memo, ScriptedAnswer):
            rest = live.memo.encode()
        else:  # suspended before it started
            rest = live.run.snapshot.sampler if live.run.snapshot else None
        output_ids = tuple(range(live.num_tokens))
        return replace(super().snapshot(live), output_ids=output_ids, sampler=rest)

    def _answer_for(self, run: Run) -> ScriptedAnswer:
        """Return the answer of a run: that of its snapshot, or the script's next."""
        if run.snapshot is not None and run.snapshot.sampler is not None:
            return ScriptedAnswer.decode(run.snapshot.sampler)
        self.requests.append(run.request)
        return self._next_answer(run)

    def _next_answer(self, run: Run) -> ScriptedAnswer:
        """Return the script's answer to a run. Raises the error that the script has there."""
        answer = self._ask(run.request)
        prompt, limit = run.prepared.num_tokens, run.prepared.max_tokens
        return _to_scripted(answer, self.model_of(run.request), prompt, limit)

    def _ask(self, request: LLMGenerate) -> Answer:
        try:
            answer = self._answering(request)
        except KernelError:
            raise
        except RAISED as exc:  # the script is the user's code
            pass_on(exc)
            raise CoreError(self._name, f"the script raised {describe(exc)}") from detach(exc)
        if answer is None:
            raise NoSuchObject("scripted answer to", request.last_text)
        return answer


@dataclass(frozen=True)
class ScriptedAnswer:
    """A scripted answer: its deltas, and the completion or error at its end."""

    end: Completion | KernelError
    cuts: tuple[Delta, ...] | None = None  # None: word by word

    def deltas(self) -> tuple[Delta, ...]:
        if self.cuts is not None:
            return self.cuts
        if not isinstance(self.end, Completion):
            return ()
        return tuple(
            replace(delta, choice=number)
            for number, choice in enumerate(self.end.all_choices)
            for delta in to_deltas(choice.message)
        )

    @cached_property
    def parts(self) -> tuple[tuple[int, Delta], ...]:
        """The deltas of an answer without delays, each with its number of tokens."""
        if self.cuts is None and isinstance(self.end, Completion):
            first, *others = (to_one_delta(c.message, c.logprobs) for c in self.end.all_choices)
            further = ((0, replace(delta, choice=i)) for i, delta in enumerate(others, 1))
            return ((self.end.usage.output_tokens, first), *further)
        return tuple((1, delta) for delta in self.cuts or ())

    def at_once(self, run_id: int, num_sent: int = 0) -> Sequence[Report]:
        """Return all reports of a run without delays, except its first `num_sent` deltas."""
        end = self.end
        last = Finished(run_id, end) if isinstance(end, Completion) else Failed(run_id, end)
        parts = [(1, delta) for delta in self.deltas()[num_sent:]] if num_sent else self.parts
        return (*[Progress(run_id, n, delta) for n, delta in parts], last)

    def encode(self) -> bytes | None:
        """Encode the answer for a snapshot; None for an error, which cannot be resumed."""
        if isinstance(self.end, KernelError):
            return None
        cuts = None if self.cuts is None else [encode_delta(delta) for delta in self.cuts]
        return json.dumps({"end": encode_completion(self.end), "cuts": cuts}).encode()

    @classmethod
    def decode(cls, raw: bytes) -> ScriptedAnswer:
        try:
            answer: dict[str, Any] = json.loads(raw)
            cuts = answer["cuts"]
            return cls(
                decode_completion(answer["end"]),
                None if cuts is None else tuple(map(decode_delta, cuts)),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise SnapshotError(f"not a snapshot of a scripted core: {exc!r}") from exc


def _answering(script: Script) -> Answering:
    """Turn any kind of script into a function of the request."""
    if isinstance(script, str):
        return lambda _: script
    if isinstance(script, Mapping):
        return lambda request: _look_up(script, request)
    if callable(script):
        return script
    return _Sequence(script)


def _look_up(script: Mapping[str, Answer], request: LLMGenerate) -> Answer:
    asked = request.last_text
    if asked not in script:
        raise NoSuchObject("scripted answer to", asked, script)
    return script[asked]


class _Sequence:
    """A script of answers in order, then an error that lists them all."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = tuple(answers)
        self._num_given = 0

    def __call__(self, request: LLMGenerate) -> Answer:
        if self._num_given >= len(self._answers):
            raise InvalidRequest(
                f"the script's {len(self._answers)} answers are used up; asked: "
                f"{request.last_text!r}; scripted: {list(self._answers)!r:.500}"
            )
        self._num_given += 1
        return self._answers[self._num_given - 1]


def _to_scripted(answer: Answer, model: str, prompt: int, limit: int) -> ScriptedAnswer:
    match answer:
        case str():
            return _spoken(answer, model, prompt, limit)
        case KernelError():
            raise answer
        case Completion():
            return ScriptedAnswer(answer)
        case Message():
            return ScriptedAnswer(_completion(answer, model, prompt))
        case ToolCall():
            return ScriptedAnswer(
                _completion(Message("assistant", tool_calls=(answer,)), model, prompt)
            )
        case _:
            return _from_parts(answer, model, prompt)


@lru_cache(maxsize=256)
def _spoken(text: str, model: str, prompt: int, limit: int) -> ScriptedAnswer:
    """Answer with a text, cut off at the token limit. Cached, since benchmarks repeat requests."""
    spoken = split_words(text)
    message = Message("assistant", "".join(spoken[:limit]))
    completion = _completion(message, model, prompt)
    if len(spoken) > limit:
        completion = replace(completion, finish_reason=FinishReason.LENGTH)
    return ScriptedAnswer(completion)


def _from_parts(
    parts: Sequence[ToolCall | Delta | KernelError], model: str, prompt: int
) -> ScriptedAnswer:
    """Answer with tool calls, or with deltas that may end in an error."""
    deltas = tuple(part for part in parts if isinstance(part, Delta))
    if parts and isinstance(parts[-1], KernelError):
        return ScriptedAnswer(parts[-1], deltas)
    calls = tuple(part for part in parts if isinstance(part, ToolCall))
    if calls:
        return ScriptedAnswer(_completion(Message("assistant", tool_calls=calls), model, prompt))
    completion = _completion(assemble(deltas).message(), model, prompt)
    usage = Usage(prompt, len(deltas))
    return ScriptedAnswer(replace(completion, usage=usage), deltas)


def _completion(message: Message, model: str, prompt: int) -> Completion:
    reason = FinishReason.TOOL_CALLS if message.tool_calls else FinishReason.STOP
    return Completion(message, reason, Usage(prompt, count_deltas(message)), model)
