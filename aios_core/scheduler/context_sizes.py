"""Predict how much KV memory the context of a call needs. Pure.

After an agent's first answer its context is known exactly, since the core reports the tokens of
the prompt and of the answer. Before that it is estimated from the bytes of the prompt. A later
prompt is the last one plus new text, so only the new text is estimated.

An answer counts with the length that nine of ten answers did not exceed, and not with its limit:
engines reserve memory for the prompt, while an answer takes it token by token, and few answers
need all that they may have. What an answer takes beyond that is added while it grows.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from aios_core.messages import Usage
from aios_core.syscalls import LLMGenerate
from aios_core.token_estimate import TokenRatio, num_bytes

_MOST_AGENTS: Final = 10_000  # agents with a known context
_MOST_PREFIXES: Final = 1_000  # prefixes with a known size
_LEAST_PREFIX: Final = 16  # tokens; engines cache whole blocks of at least that size
# Share of a core's KV memory that an answer counts with while no length is known at all.
_UNKNOWN_ANSWER: Final = 1 / 64


class ExpectAnswer(Protocol):
    """Estimates the tokens of a call's answer."""

    def __call__(self, *, at_most_unknown: int | None = None) -> int:
        """Return the expected tokens; at most `at_most_unknown` while nothing is learned."""


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The system prompt and the tools, which engines keep once for all agents that have them."""

    key: tuple[str, ...]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ContextSize:
    """The KV memory of one context, in tokens; the shared prefix is a part of it."""

    num_tokens: int
    prefix: SharedPrefix | None = None

    @property
    def num_own(self) -> int:
        """Tokens that no other agent has."""
        shared = self.prefix.num_tokens if self.prefix else 0
        return max(0, self.num_tokens - shared)


class PromptEstimate:
    """One prompt's size, as exact as it is known.

    Args:
        num_tokens: counted, or estimated when the call was prepared.
        request: None if it has no shared prefix.
        ratio: that `num_tokens` was estimated with; None if it was counted.
    """

    def __init__(
        self, num_tokens: int, request: LLMGenerate | None = None, ratio: TokenRatio | None = None
    ) -> None:
        self._request = request
        self._ratio = ratio
        self._bytes = num_tokens * (ratio.bytes_per_token if ratio else 1.0)

    @property
    def num_tokens(self) -> int:
        """The estimate by what is known of the model's tokens now."""
        if self._ratio is None:
            return round(self._bytes)
        return round(self._bytes / self._ratio.cautious_bytes_per_token)

    def without_text(self) -> PromptEstimate:
        """Return the estimate alone, which keeps no conversation in memory."""
        alone = PromptEstimate(0, None, self._ratio)
        alone._bytes = self._bytes
        return alone

    @cached_property
    def prefix_key(self) -> tuple[str, ...]:
        """The texts that identify the shared prefix; empty if there is none."""
        if self._request is None:
            return ()
        texts = []
        for message in self._request.messages:
            if message.role not in ("system", "developer") or message.parts:
                break
            texts.append(message.content)
        tools = [f"{tool.name}\n{tool.description}" for tool in self._request.tools]
        return (*texts, "", *tools) if texts or tools else ()

    def prefix_tokens(self) -> int:
        """Estimate the tokens of the shared prefix."""
        if self._request is None:
            return 0
        texts = sum(map(num_bytes, self.prefix_key[: len(self.prefix_key) - self._num_tools - 1]))
        tools = sum(len(json.dumps(tool.to_dict(), default=str)) for tool in self._request.tools)
        ratio = self._ratio or TokenRatio()
        return min(self.num_tokens, ratio.tokens_of_bytes(texts + tools))

    @property
    def _num_tools(self) -> int:
        return len(self._request.tools) if self._request else 0


@dataclass(frozen=True, slots=True)
class _Answered:
    """The last answer of an agent: its prompt and its usage."""

    model: str
    prompt: PromptEstimate
    usage: Usage
    num_answers: int  # that the agent has had

    @property
    def num_tokens(self) -> int:
        return self.usage.input_tokens + self.usage.output_tokens


class ContextSizes:
    """The sizes of all agents' contexts, exact since their last answers."""

    def __init__(self) -> None:
        self._answered: OrderedDict[int, _Answered] = OrderedDict()
        self._prefixes: OrderedDict[tuple[str, ...], SharedPrefix | None] = OrderedDict()

    def learn(self, pid: int, model: str, prompt: PromptEstimate, usage: Usage) -> None:
        """Record the usage of an agent's answer."""
        num_answers = self.num_answers(pid) + 1
        self._answered[pid] = _Answered(model, prompt.without_text(), usage, num_answers)
        self._answered.move_to_end(pid)
        if len(self._answered) > _MOST_AGENTS:
            self._answered.popitem(last=False)

    def forget(self, pid: int) -> None:
        """Drop what is known of an agent that exited."""
        self._answered.pop(pid, None)

    def num_answers(self, pid: int) -> int:
        """Return how many answers an agent has had."""
        last = self._answered.get(pid)
        return 0 if last is None else last.num_answers

    def known(self, pid: int) -> int | None:
        """Return the tokens of an agent's context after its last answer; None before the first."""
        last = self._answered.get(pid)
        return None if last is None else last.num_tokens

    def prompt_tokens(self, pid: int, model: str, prompt: PromptEstimate) -> int:
        """Predict the tokens of a prompt: the last one exactly, and an estimate of what is new."""
        estimate = prompt.num_tokens
        last = self._answered.get(pid)
        if last is None or last.model != model:
            return estimate
        before, exact = last.prompt.num_tokens, last.usage.input_tokens
        if estimate >= before:
            return exact + estimate - before
        return round(estimate * exact / before)  # another prompt, or one without old messages

    def reusable_tokens(self, pid: int, model: str, prompt: PromptEstimate) -> int:
        """Return the tokens that a prompt has in common with the last one, if it continues it."""
        last = self._answered.get(pid)
        if last is None or last.model != model or prompt.num_tokens < last.prompt.num_tokens:
            return 0
        return last.usage.input_tokens

    def context(
        self,
        pid: int,
        model: str,
        prompt: PromptEstimate,
        *,
        max_tokens: int,
        expect_answer: ExpectAnswer | None,
        kv_capacity: int,
    ) -> ContextSize:
        """Predict the context of a call at the end of its answer."""
        answer = max_tokens
        if expect_answer is not None:
            least = max(1, round(_UNKNOWN_ANSWER * kv_capacity))
            answer = min(max_tokens, expect_answer(at_most_unknown=least))
        num_tokens = self.prompt_tokens(pid, model, prompt)
        return ContextSize(num_tokens + answer, self.prefix(prompt))

    def prefix(self, prompt: PromptEstimate) -> SharedPrefix | None:
        """Return the shared prefix of a prompt; None if it has none that matters."""
        if not (key := prompt.prefix_key):
            return None
        if key not in self._prefixes:
            num_tokens = prompt.prefix_tokens()
            is_long = num_tokens >= _LEAST_PREFIX
            self._prefixes[key] = SharedPrefix(key, num_tokens) if is_long else None
            if len(self._prefixes) > _MOST_PREFIXES:
                self._prefixes.popitem(last=False)
        return self._prefixes[key]
