"""AutoGen 0.4 and later: `AssistantAgent` with tools, `Swarm` for handing over.

ReAct text is a `RoundRobinGroupChat` of one that thinks and one that acts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Handoff, Response, TerminationCondition
from autogen_agentchat.conditions import (
    HandoffTermination,
    MaxMessageTermination,
    TextMentionTermination,
)
from autogen_agentchat.messages import (
    BaseChatMessage,
    HandoffMessage,
    ModelClientStreamingChunkEvent,
    TextMessage,
    ToolCallRequestEvent,
)
from autogen_agentchat.teams import RoundRobinGroupChat, Swarm
from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, CodeExecutor
from autogen_core.memory import Memory, MemoryContent, MemoryMimeType
from autogen_core.models import ChatCompletionClient, ModelFamily, UserMessage
from autogen_core.tools import BaseTool
from autogen_ext.models.replay import ReplayChatCompletionClient
from pydantic import BaseModel, ConfigDict, create_model

from compat_bench.backends import Endpoint, Source
from compat_bench.code_execution import TIMEOUT_S, Execute, said_of
from compat_bench.drivers import react
from compat_bench.drivers.base import TYPES, Find, Recorder, kept, vectors
from compat_bench.tasks import (
    CODE_EXECUTION,
    KINDS,
    REACT,
    STREAMING,
    TOOL_SYSCALL,
    Outcome,
    Task,
    ToolStub,
)


class AutoGenDriver:
    """See `Driver`."""

    name = "AutoGen"
    kinds: ClassVar[frozenset[str]] = frozenset(KINDS)

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        outcome = Outcome()
        client = kept(source, self.name, _client)
        async with AsyncExitStack() as stack:
            execute = (
                await _executing(source, stack, agent) if task.kind == CODE_EXECUTION else None
            )
            find = await _library(source, stack, task, agent) if task.documents else None
            recorder = Recorder(task, outcome, execute, find)
            if task.members:
                team = _team(source, client, recorder, task, agent)
                outcome.answers += await _converse(team, task)
            elif task.kind == REACT:
                outcome.answers += await _converse(_react(client, recorder, task), task)
            else:
                outcome.answers += await _answers(source, recorder, task, agent)
        return outcome

    async def say(self, source: Source, agent: str) -> None:
        client = kept(source, self.name, _client)
        await client.create([UserMessage(content="hi", source=agent)])

    async def call_without_model(self) -> None:
        await ReplayChatCompletionClient(["ok"]).create([UserMessage(content="hi", source="user")])


async def _answers(source: Source, recorder: Recorder, task: Task, agent: str) -> list[str]:
    """Run turn by turn, with a new agent each; natively its saved state is passed on."""
    answers, state = [], None
    for said in task.says:
        assistant = AssistantAgent(
            "assistant",
            kept(source, AutoGenDriver.name, _client),
            **_tools(source, recorder, task.tools, is_gated=task.kind == TOOL_SYSCALL),
            system_message=task.system or None,
            model_context=_context(source, agent),
            max_tool_iterations=8,
            reflect_on_tool_use=True,
            model_client_stream=task.kind == STREAMING,
        )
        if state is not None:
            await assistant.load_state(state)
        if task.kind == STREAMING:
            answers.append(await _streamed(assistant, said))
        else:
            result = await assistant.run(task=said)
            answers.append(str(getattr(result.messages[-1], "content", "")))
        state = await assistant.save_state() if isinstance(source, Endpoint) else None
    return answers


async def _streamed(assistant: AssistantAgent, said: str) -> str:
    """The last message, put together from the pieces that came."""
    answer = ""
    async for event in assistant.run_stream(task=said):
        if isinstance(event, ModelClientStreamingChunkEvent):
            answer += event.content
        elif isinstance(event, ToolCallRequestEvent):
            answer = ""  # another message begins
    return answer


async def _converse(team: Any, task: Task) -> list[str]:
    answers = []
    for said in task.says:
        result = await team.run(task=said)
        last = result.messages[-1]
        if isinstance(last, HandoffMessage):
            answers.append("")
        else:
            answers.append(_last_answer(task, str(getattr(last, "content", ""))))
    return answers


def _last_answer(task: Task, said: str) -> str:
    return react.answer_in(said) if task.kind == REACT else said


def _team(
    source: Source, client: ChatCompletionClient, recorder: Recorder, task: Task, agent: str
) -> Swarm:
    """A turn ends when one takes over; the next turn is theirs."""
    front = _Front(
        "front",
        client,
        handoffs=[
            Handoff(
                target=member.name,
                name=member.handover.name,
                description=member.handover.description,
            )
            for member in task.members
        ],
        system_message=None,
        model_context=_context(source, f"{agent}, front"),
    )
    front.recorder = recorder
    members = [
        AssistantAgent(
            member.name,
            client,
            description=member.handover.description,
            tools=[_Stub(recorder, stub) for stub in member.tools],
            system_message=None,
            model_context=_context(source, f"{agent}, {member.name}"),
            max_tool_iterations=8,
            reflect_on_tool_use=True,
        )
        for member in task.members
    ]
    ends: TerminationCondition = MaxMessageTermination(6)
    for member in task.members:
        ends |= HandoffTermination(member.name)
    return Swarm([front, *members], termination_condition=ends, max_turns=1)


class _Front(AssistantAgent):
    """Writes its handovers down; AutoGen makes their tools itself."""

    recorder: Recorder

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Any:
        async for event in super().on_messages_stream(messages, cancellation_token):
            said = event.chat_message if isinstance(event, Response) else None
            if isinstance(said, HandoffMessage):
                self.recorder.note(f"transfer_to_{said.target}", {})
            yield event


def _react(client: ChatCompletionClient, recorder: Recorder, task: Task) -> RoundRobinGroupChat:
    thinker = AssistantAgent("thinker", client, system_message=react.prompt(task.tools))
    actor = _Actor(recorder)
    ends = TextMentionTermination(react.ANSWER, sources=["thinker"]) | MaxMessageTermination(
        2 * react.MAX_STEPS
    )
    return RoundRobinGroupChat([thinker, actor], termination_condition=ends)


class _Actor(BaseChatAgent):
    """Runs the tool that the thinker's last message asks for, and reports the result."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("actor", "Runs the tools.")
        self._recorder = recorder
        self._names = {stub.name for stub in recorder.stubs()}

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        del cancellation_token
        said = messages[-1].to_text() if messages else ""
        action = react.action_in(said)
        if action is None or action.name not in self._names:
            seen = "error: no such tool"
        else:
            seen = await self._recorder.arun(action.name, action.arguments)
        return Response(chat_message=TextMessage(content=f"Observation: {seen}", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """Has no state."""


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

        server: Any = {
            "base_url": source.server.base_url,
            "api_key": source.server.api_key,
            "max_retries": 0,
            "max_tokens": source.max_tokens,
        }
        return OpenAIChatCompletionClient(
            model=source.server.model,
            model_info=about,  # type: ignore[arg-type]  # a TypedDict
            temperature=0,
            **server,
        )
    from autogen_aios import AIOSChatCompletionClient  # noqa: PLC0415 - on the kernel only

    return AIOSChatCompletionClient(
        kernel=source.kernel, max_tokens=source.max_tokens, temperature=0
    )


def _context(source: Source, agent: str) -> Any:
    if isinstance(source, Endpoint):
        return None
    from autogen_aios import AIOSChatCompletionContext  # noqa: PLC0415 - on the kernel only

    return AIOSChatCompletionContext(agent, agent, kernel=source.kernel)


def _tools(
    source: Source, recorder: Recorder, stubs: Sequence[ToolStub], *, is_gated: bool
) -> dict[str, Any]:
    """Return what gives an agent its tools."""
    tools = [_Stub(recorder, stub) for stub in stubs]
    if isinstance(source, Endpoint) or not is_gated:
        return {"tools": tools}
    from autogen_aios import AIOSWorkbench  # noqa: PLC0415 - on the kernel only

    return {"workbench": AIOSWorkbench(tools, kernel=source.kernel)}


async def _executing(source: Source, stack: AsyncExitStack, agent: str) -> Execute:
    """Natively AutoGen's own executor on this machine, else the kernel's."""
    executor = _executor(source, stack, agent)
    await executor.start()
    stack.push_async_callback(executor.stop)

    async def execute(language: str, code: str) -> str:
        blocks = [CodeBlock(code=code, language=language)]
        try:
            result = await executor.execute_code_blocks(blocks, CancellationToken())
        except ValueError as exc:
            return f"error: {exc}"
        return said_of(result.exit_code, result.output, result.output)

    return execute


def _executor(source: Source, stack: AsyncExitStack, agent: str) -> CodeExecutor:
    if isinstance(source, Endpoint):
        from autogen_ext.code_executors.local import (  # noqa: PLC0415 - natively only
            LocalCommandLineCodeExecutor,
        )

        directory = stack.enter_context(TemporaryDirectory())
        with warnings.catch_warnings(action="ignore"):  # it warns that it confines nothing
            return LocalCommandLineCodeExecutor(int(TIMEOUT_S), directory)
    from autogen_aios import AIOSCodeExecutor  # noqa: PLC0415 - on the kernel only

    return AIOSCodeExecutor(agent=f"{agent}, code", timeout=TIMEOUT_S, kernel=source.kernel)


async def _library(source: Source, stack: AsyncExitStack, task: Task, agent: str) -> Find:
    """Natively a memory over Chroma, which is AutoGen's vector store."""
    memory = _memory(source, stack, agent)
    stack.push_async_callback(memory.close)
    for text in task.documents:
        await memory.add(MemoryContent(content=text, mime_type=MemoryMimeType.TEXT))

    async def find(query: str) -> str:
        found = (await memory.query(query)).results
        return str(found[0].content) if found else "nothing"

    return find


def _memory(source: Source, stack: AsyncExitStack, agent: str) -> Memory:
    if isinstance(source, Endpoint):
        from autogen_ext.memory.chromadb import (  # noqa: PLC0415 - natively only
            ChromaDBVectorMemory,
            CustomEmbeddingFunctionConfig,
            PersistentChromaDBVectorMemoryConfig,
        )

        directory = stack.enter_context(TemporaryDirectory())
        return ChromaDBVectorMemory(
            PersistentChromaDBVectorMemoryConfig(
                persistence_path=directory,
                k=1,
                embedding_function_config=CustomEmbeddingFunctionConfig(function=_embedding),
            )
        )
    from autogen_aios import AIOSMemory  # noqa: PLC0415 - on the kernel only

    return AIOSMemory(agent, kernel=source.kernel, limit=1)


def _embedding() -> Any:
    """The embedder of the kernel, as Chroma takes one."""
    import numpy as np  # noqa: PLC0415 - Chroma brings it
    from chromadb import EmbeddingFunction  # noqa: PLC0415 - natively only

    class Vectors(EmbeddingFunction):  # type: ignore[type-arg]  # of any content
        def __init__(self) -> None:
            """Takes nothing."""

        def __call__(self, input: Any) -> Any:  # noqa: A002 - Chroma's name
            return [np.array(vector, dtype=np.float32) for vector in vectors(list(input))]

    return Vectors()


class _Arguments(BaseModel):
    """Arguments that are kept as the model gave them."""

    model_config = ConfigDict(extra="allow")


class _Stub(BaseTool[_Arguments, str]):  # type: ignore[type-var]  # AutoGen takes a text, too
    """A tool of a task."""

    def __init__(self, recorder: Recorder, stub: ToolStub) -> None:
        fields: Any = {
            name: (TYPES[kind], ...) if name in stub.required else (TYPES[kind] | None, None)
            for name, kind in stub.properties.items()
        }
        arguments: Any = create_model(f"{stub.name}_arguments", **fields)
        super().__init__(arguments, str, stub.name, stub.description)
        self._recorder = recorder
        self._stub = stub

    async def run(self, args: _Arguments, cancellation_token: CancellationToken) -> str:
        del cancellation_token
        return await self._recorder.arun(self._stub.name, args.model_dump(exclude_unset=True))
