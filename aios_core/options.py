"""The keyword arguments of LLM calls and of `spawn`, as typed dictionaries.

`agent.llm.generate(messages, **options: Unpack[CallOptions])` shows every argument in an editor
and lets a type checker refuse a wrong one, without four copies of a long signature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from aios_core.budget import Budget
from aios_core.messages import Message, ResponseFormat, ToolChoice, ToolSpec
from aios_core.snapshot import Snapshot

Messages = str | Message | Iterable[Message | Mapping[str, Any]]
Tools = Sequence[ToolSpec | Mapping[str, Any]]


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` but `stop`. None: not sent to the backend."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    min_p: float | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    n: int | None


class PromptOptions(SamplingOptions, total=False):
    """The arguments of an LLM request, without its messages and its model."""

    tools: Tools
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | Mapping[str, Any] | None
    stop: str | Sequence[str] | None
    extra: Mapping[str, Any] | None


class RequestOptions(PromptOptions, total=False):
    """The arguments of an LLM request, without its messages."""

    model: str | None


class ServingOptions(TypedDict, total=False):
    """The time limit of an LLM call, and its priority instead of the agent's."""

    timeout_s: float | None
    priority: int | None


class SubmitOptions(ServingOptions, total=False):
    """The options of a submitted call: also the snapshot from which a saved one continues."""

    resume_from: Snapshot | None


class ProviderOptions(PromptOptions, ServingOptions, total=False):
    """The keyword arguments of a call that a provider answers; its model is named apart."""


class CallOptions(RequestOptions, ServingOptions, total=False):
    """The keyword arguments of `agent.llm.generate` and of the methods like it."""


class ChildOptions(TypedDict, total=False):
    """The keyword arguments of `Agent.spawn`; `Kernel.spawn` documents them."""

    group: str | None
    priority: int | None
    weight: float
    budget: Budget | None


class SpawnOptions(ChildOptions, total=False):
    """The keyword arguments of `Kernel.spawn`, which documents them."""

    parent: int | None


class LoadedOptions(SpawnOptions, total=False):
    """The keyword arguments of a saved agent's spawn: also the identity that it had."""

    identity: str | None
