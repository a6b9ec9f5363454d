"""AutoGen 0.4 and later: `AssistantAgent` with tools, `Swarm` for handing over."""

from __future__ import annotations

from typing import Any, ClassVar

from autogen_agentchat.agents import AssistantAgent
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, ModelFamily, UserMessage
from autogen_core.tools import BaseTool
from pydantic import BaseModel, ConfigDict, create_model

from compat_bench.drivers.base import Recorder, kept
from compat_bench.sources import Endpoint, Source
from compat_bench.tasks import Outcome, Task, ToolStub

_TYPES: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}


class AutoGenDriver:
    """See `Driver`."""

    name = "AutoGen"
    kinds: ClassVar[frozenset[str]] = frozenset(
        {
            "single tool",
            "chain",
            "parallel tools",
            "memory across turns",
            "handover",
            "code execution",
            "plain talk",
        }
    )

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        outcome = Outcome()
        recorder = Recorder(task, outcome)
        client = kept(source, self.name, _client)
        assistant = AssistantAgent(
            "assistant",
            client,
            tools=[_Stub(recorder, stub) for stub in recorder.stubs()],
            system_message=task.system or None,
            model_context=_context(source, agent),
            max_tool_iterations=8,
            reflect_on_tool_use=True,
        )
        for said in task.says:
            result = await assistant.run(task=said)
            outcome.answers.append(str(getattr(result.messages[-1], "content", "")))
        return outcome

    async def say(self, source: Source, agent: str) -> None:
        client = kept(source, self.name, _client)
        await client.create([UserMessage(content="hi", source=agent)])


def _client(source: Source) -> ChatCompletionClient:
    about = {
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "structured_output": True,
        "multiple_system_messages": True,
        "family": ModelFamily.UNKNOWN,
    }
    if isinstance(source, Endpoint):
        from autogen_ext.models.openai import (  # noqa: PLC0415 - natively only
            OpenAIChatCompletionClient,
        )

        server: Any = {"base_url": source.server.base_url, "api_key": "none", "max_retries": 0}
        return OpenAIChatCompletionClient(
            model=source.server.model,
            model_info=about,  # type: ignore[arg-type]  # a TypedDict
            temperature=0,
            **server,
        )
    from autogen_aios import AIOSChatCompletionClient  # noqa: PLC0415 - on the kernel only

    return AIOSChatCompletionClient(kernel=source.kernel, max_tokens=96)


def _context(source: Source, agent: str) -> Any:
    if isinstance(source, Endpoint):
        return None
    from autogen_aios import AIOSChatCompletionContext  # noqa: PLC0415 - on the kernel only

    return AIOSChatCompletionContext(agent, agent, kernel=source.kernel)


class _Arguments(BaseModel):
    """Arguments that are kept as the model gave them."""

    model_config = ConfigDict(extra="allow")


class _Stub(BaseTool[_Arguments, str]):
    """A tool of a task."""

    def __init__(self, recorder: Recorder, stub: ToolStub) -> None:
        fields: Any = {
            name: (_TYPES[kind], ...) if name in stub.required else (_TYPES[kind] | None, None)
            for name, kind in stub.properties.items()
        }
        arguments: Any = create_model(f"{stub.name}_arguments", **fields)
        super().__init__(arguments, str, stub.name, stub.description)
        self._recorder = recorder
        self._stub = stub

    async def run(self, args: _Arguments, cancellation_token: CancellationToken) -> str:
        del cancellation_token
        return self._recorder.run(self._stub.name, args.model_dump(exclude_unset=True))
