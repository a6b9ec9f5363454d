"""Mode "passthrough" for `autogen_ext`'s clients, which keep their provider and key.

Their own `create` and `create_stream` still make every call. Each call waits for a slot of its
provider's model and is a syscall of the agent that makes it. If the kernel cancels the syscall,
the call is cancelled and the kernel's error is raised.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import ModuleType
from typing import Any

from autogen_core.models import CreateResult, LLMMessage

from aios_adapters import (
    AsyncScope,
    PassthroughCall,
    apassthrough_call,
    aregister_provider_model,
    limit_parameter,
    read_answer_limits,
    to_kernel_messages,
)
from aios_core import ToolCall, Usage
from aios_core.launch import Patches
from autogen_aios import translation
from autogen_aios.model_client import AIOSChatCompletionClient


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of the clients in `autogen_ext.models.openai._openai_client`."""
    _patch(module.BaseOpenAIChatCompletionClient, patches)


def patch_anthropic(module: ModuleType, patches: Patches) -> None:
    """Schedule the calls of the clients in `autogen_ext.models.anthropic._anthropic_client`."""
    _patch(module.BaseAnthropicChatCompletionClient, patches)


def _patch(base: Any, patches: Patches) -> None:
    ask, ask_for_stream = base.create, base.create_stream

    async def create(
        self: Any,
        messages: Sequence[LLMMessage],
        *,
        extra_create_args: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> CreateResult:
        extra, said = _without_ours(extra_create_args)
        async with _slot(self, messages, extra, said) as slot:

            def begin() -> Awaitable[CreateResult]:
                limited = _limited(self, slot, extra)
                return ask(self, messages, extra_create_args=limited, **arguments)  # type: ignore[no-any-return]

            result = await slot.aattempt(begin)
            _settle(slot, result)
            return result

    def create_stream(
        self: Any,
        messages: Sequence[LLMMessage],
        *,
        extra_create_args: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> AsyncGenerator[str | CreateResult, None]:
        extra, said = _without_ours(extra_create_args)

        def begin(slot: PassthroughCall) -> AsyncGenerator[str | CreateResult, None]:
            limited = _limited(self, slot, extra)
            return ask_for_stream(self, messages, extra_create_args=limited, **arguments)  # type: ignore[no-any-return]

        return _streamed(_slot(self, messages, extra, said), begin)

    patches.replace(base, "create", create)
    patches.replace(base, "create_stream", create_stream)


async def _streamed(
    entering: AbstractAsyncContextManager[PassthroughCall],
    begin: Callable[[PassthroughCall], AsyncGenerator[str | CreateResult, None]],
) -> AsyncGenerator[str | CreateResult, None]:
    async with entering as slot:
        async for item in slot.iterate(begin(slot), partial(begin, slot)):
            if isinstance(item, CreateResult):
                _settle(slot, item)
            yield item


def _without_ours(extra: Mapping[str, Any] | None) -> tuple[dict[str, Any], Any]:
    """Return the arguments for AutoGen's client, and the value of the option "aios"."""
    rest = dict(extra or {})
    return rest, rest.pop("aios", None)


def _limited(theirs: Any, slot: PassthroughCall, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Limit the answer to what the agent's budget has left, if the program set no limit."""
    own = read_answer_limits(theirs._create_args, extra)["max_tokens"]  # noqa: SLF001 - what it will send
    return slot.limiting(extra, limit_parameter(theirs._client.base_url), own=own)  # noqa: SLF001


def _slot(
    theirs: Any, messages: Sequence[LLMMessage], extra: Mapping[str, Any], said: Any
) -> AbstractAsyncContextManager[PassthroughCall]:
    options = {**theirs._create_args, **extra}  # noqa: SLF001 - what it will send
    ref = AIOSChatCompletionClient().agent_ref({"aios": said})
    limits = read_answer_limits(options)
    request: dict[str, Any] = {
        "messages": to_kernel_messages(messages, translation.to_messages),
        **limits,
    }
    model = str(options.get("model"))

    async def enter(stack: AsyncExitStack) -> PassthroughCall:
        kernel = await aregister_provider_model(model)
        agent = await stack.enter_async_context(ref.ause(kernel))
        return await stack.enter_async_context(apassthrough_call(agent, model, **request))

    return AsyncScope(enter)


def _settle(slot: PassthroughCall, result: CreateResult) -> None:
    usage = Usage(result.usage.prompt_tokens, result.usage.completion_tokens)
    if isinstance(result.content, str):
        slot.record_usage(usage, result.content)
        return
    calls = [ToolCall(call.id, call.name, call.arguments) for call in result.content]
    slot.record_usage(usage, result.thought or "", calls)
