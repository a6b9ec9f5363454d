"""LlamaIndex: `FunctionAgent`, `ReActAgent`, `AgentWorkflow`; `Memory` over a chat store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.agent.react.formatter import ReActChatFormatter
from llama_index.core.agent.workflow import (
    AgentInput,
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
)
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.memory import Memory
from llama_index.core.schema import TextNode
from llama_index.core.tools import AsyncBaseTool, FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.tools.types import BaseTool
from llama_index.core.workflow import Context
from pydantic import create_model

from compat_bench.backends import Endpoint, KernelSource, Source
from compat_bench.code_execution import run_plainly
from compat_bench.drivers import react
from compat_bench.drivers.base import TYPES, Find, Recorder, kept, offered_code, vectors
from compat_bench.tasks import (
    KINDS,
    REACT,
    STREAMING,
    TOOL_SYSCALL,
    Member,
    Outcome,
    Task,
    ToolStub,
)

_TIMEOUT_S = 120
_WINDOW = 900  # tokens that a memory hands out


class LlamaIndexDriver:
    """See `Driver`."""

    name = "LlamaIndex"
    kinds: ClassVar[frozenset[str]] = frozenset(KINDS)

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        outcome = Outcome()
        llm = kept(source, self.name, _llm)
        async with AsyncExitStack() as stack:
            find = await _library(source, task, agent) if task.documents else None
            recorder = Recorder(task, outcome, run_plainly, find)
            build = _Builder(source, recorder, llm, is_gated=task.kind == TOOL_SYSCALL)
            await build.offer_code(stack, agent)
            memory, context, worker = _memory(source, agent), None, None
            for said in task.says:
                # A new worker has the memory of the old one. A team's context names the speaker.
                if not (worker and task.members):
                    worker = build.worker(task)
                    context = Context(worker)
                handler = worker.run(said, ctx=context, memory=memory, max_iterations=8)
                streamed = await _streamed(handler) if task.kind == STREAMING else None
                whole = str(await handler)
                outcome.answers.append(whole if streamed is None else streamed)
        return outcome

    async def say(self, source: Source, agent: str) -> None:
        del agent
        await kept(source, self.name, _llm).acomplete("hi")

    async def call_without_model(self) -> None:
        await MockLLM(max_tokens=1).acomplete("hi")


class _Builder:
    """Makes the agent of a task."""

    def __init__(self, source: Source, recorder: Recorder, llm: LLM, *, is_gated: bool) -> None:
        self._source = source
        self._recorder = recorder
        self._llm = llm
        self._is_gated = is_gated
        self._sandboxed: dict[str, BaseTool] = {}  # tools of the kernel, in the places of stubs

    async def offer_code(self, stack: AsyncExitStack, agent: str) -> None:
        """On the kernel, code runs by a tool of the kernel, offered to the agent."""
        if not isinstance(self._source, KernelSource):
            return
        from llama_index_aios.tools import akernel_tools  # noqa: PLC0415 - on the kernel only

        self._sandboxed = await offered_code(
            stack, self._source, self._recorder, agent, akernel_tools
        )

    def worker(self, task: Task) -> Any:
        """An agent, or a team."""
        if task.members:
            return self._team(task)
        settings: dict[str, Any] = {
            "llm": self._llm,
            "tools": self._tools(task.tools),
            "system_prompt": task.system or None,
            "timeout": _TIMEOUT_S,
        }
        if task.kind == REACT:
            formatter = ReActChatFormatter(system_header=react.HEADER)
            return ReActAgent(**settings, formatter=formatter)
        return FunctionAgent(**settings)

    def _tools(self, stubs: Sequence[ToolStub]) -> list[Any]:
        own = [_Stub(self._recorder, stub) for stub in stubs if stub.name not in self._sandboxed]
        made: list[BaseTool] = list(own)
        if self._is_gated and isinstance(self._source, KernelSource):
            from llama_index_aios.tools import wrap_tools  # noqa: PLC0415 - on the kernel only

            made = wrap_tools(own, kernel=self._source.kernel)
        by_name = {tool.metadata.get_name(): tool for tool in made} | self._sandboxed
        return [by_name[stub.name] for stub in stubs]

    def _team(self, task: Task) -> AgentWorkflow:
        front = FunctionAgent(
            name="front",
            description="Hands over.",
            llm=self._llm,
            tools=[_handover(self._recorder, member) for member in task.members],
            can_handoff_to=[],
        )
        members = [
            FunctionAgent(
                name=member.name,
                description=member.handover.description,
                llm=self._llm,
                tools=self._tools(member.tools),
                can_handoff_to=[],
            )
            for member in task.members
        ]
        return AgentWorkflow([front, *members], root_agent="front", timeout=_TIMEOUT_S)


class _Vectors(BaseEmbedding):
    """The embedder of the kernel, without a kernel."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return vectors([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return vectors([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return vectors([query])[0]


def _llm(source: Source) -> LLM:
    if isinstance(source, Endpoint):
        from llama_index.llms.openai_like import OpenAILike  # noqa: PLC0415 - natively only

        return OpenAILike(
            model=source.server.model,
            api_base=source.server.base_url,
            api_key=source.server.api_key,
            temperature=0,
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=1_024,
            max_tokens=source.max_tokens,
            max_retries=0,
        )
    from llama_index.llms.aios import AIOSLLM  # noqa: PLC0415 - on the kernel only

    return AIOSLLM(kernel=source.kernel, max_tokens=source.max_tokens, temperature=0)


def _memory(source: Source, agent: str) -> Memory:
    if isinstance(source, Endpoint):
        return Memory.from_defaults(session_id=agent, token_limit=_WINDOW)
    from llama_index.storage.chat_store.aios import AIOSChatStore  # noqa: PLC0415 - on the kernel

    store = AIOSChatStore(kernel=source.kernel)
    return Memory.from_defaults(session_id=agent, token_limit=_WINDOW, chat_store=store)


async def _library(source: Source, task: Task, agent: str) -> Find:
    """An index of the documents. Natively it is LlamaIndex's own `SimpleVectorStore`."""
    embedding: BaseEmbedding = _Vectors()
    storage = None
    if isinstance(source, KernelSource):
        from llama_index.embeddings.aios import AIOSEmbedding  # noqa: PLC0415 - on the kernel
        from llama_index.vector_stores.aios import AIOSVectorStore  # noqa: PLC0415 - on the kernel

        kernel = source.kernel
        embedding = AIOSEmbedding(kernel=kernel, agent=agent)
        storage = StorageContext.from_defaults(
            vector_store=AIOSVectorStore(kernel=kernel, agent=agent)
        )
    index = VectorStoreIndex([], storage_context=storage, embed_model=embedding, use_async=True)
    await index.ainsert_nodes([TextNode(text=text) for text in task.documents])
    retriever = index.as_retriever(similarity_top_k=1)

    async def find(query: str) -> str:
        found = await retriever.aretrieve(query)
        return found[0].get_content() if found else "nothing"

    return find


async def _streamed(handler: Any) -> str:
    """The last message, put together from the pieces that came."""
    answer = ""
    async for event in handler.stream_events():
        if isinstance(event, AgentInput):
            answer = ""  # another message begins
        elif isinstance(event, AgentStream):
            answer += event.delta
    return answer


def _handover(recorder: Recorder, member: Member) -> FunctionTool:
    """As LlamaIndex's own `handoff`, but one for each agent; its result ends the turn."""
    stub, name = member.handover, member.name

    async def transfer(ctx: Context) -> str:
        recorder.note(stub.name, {})
        await ctx.store.set("next_agent", name)
        return f"Transferred to {name}, adopting the role of {name} immediately."

    # LlamaIndex looks for the class itself, and annotations are texts in this file.
    transfer.__annotations__["ctx"] = Context
    return FunctionTool.from_defaults(
        async_fn=transfer,
        name=stub.name,
        description=stub.description,
        fn_schema=create_model(f"{stub.name}_arguments"),
        return_direct=True,
    )


class _Stub(AsyncBaseTool):
    """A tool of a task."""

    def __init__(self, recorder: Recorder, stub: ToolStub) -> None:
        fields: Any = {
            name: (TYPES[kind], ...) if name in stub.required else (TYPES[kind] | None, None)
            for name, kind in stub.properties.items()
        }
        schema = create_model(f"{stub.name}_arguments", **fields)
        self._about = ToolMetadata(stub.description, stub.name, schema)
        self._recorder = recorder

    @property
    def metadata(self) -> ToolMetadata:
        return self._about

    def call(self, *_: Any, **arguments: Any) -> ToolOutput:
        name = self._about.get_name()
        return _output(name, arguments, self._recorder.run(name, arguments))

    async def acall(self, *_: Any, **arguments: Any) -> ToolOutput:
        name = self._about.get_name()
        return _output(name, arguments, await self._recorder.arun(name, arguments))


def _output(name: str, arguments: dict[str, Any], said: str) -> ToolOutput:
    return ToolOutput(content=said, tool_name=name, raw_input=arguments, raw_output=said)
