"""LangChain: `create_agent` with tools, LangGraph's checkpointer for what it remembers.

ReAct text and the team are small graphs of LangGraph, as its pages draw them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from langchain.agents import create_agent
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from compat_bench.backends import Endpoint, KernelSource, Source
from compat_bench.code_execution import run_plainly
from compat_bench.drivers import react
from compat_bench.drivers.base import CannotRun, Find, Recorder, kept, offered_code, vectors
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


class LangChainDriver:
    """See `Driver`."""

    name = "LangChain"
    kinds: ClassVar[frozenset[str]] = frozenset(KINDS)

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        outcome = Outcome()
        model, saver = kept(source, self.name, _model), _saver(source)
        async with AsyncExitStack() as stack:
            find = await _library(source, task, agent) if task.documents else None
            recorder = Recorder(task, outcome, run_plainly, find)
            build = _Builder(source, recorder, model, saver, is_gated=task.kind == TOOL_SYSCALL)
            await build.offer_code(stack, agent)
            thread = {"configurable": {"thread_id": agent}, "recursion_limit": 24}
            for said in task.says:  # by a new agent each time: the saver has its memory
                graph = build.graph(task)
                asked = {"messages": [("user", said)]}
                if task.kind == STREAMING:
                    outcome.answers.append(await _streamed(graph, asked, thread))
                else:
                    state = await graph.ainvoke(asked, thread)
                    outcome.answers.append(_answer(task, state["messages"]))
        return outcome

    async def say(self, source: Source, agent: str) -> None:
        config: Any = {"configurable": {"thread_id": agent}}
        await kept(source, self.name, _model).ainvoke("hi", config)

    async def call_without_model(self) -> None:
        await FakeListChatModel(responses=["ok"]).ainvoke("hi")


class _Builder:
    """Makes the graph of a task."""

    def __init__(
        self,
        source: Source,
        recorder: Recorder,
        model: BaseChatModel,
        saver: Any,
        *,
        is_gated: bool,
    ) -> None:
        self._source = source
        self._recorder = recorder
        self._model = model
        self._saver = saver
        self._is_gated = is_gated
        self._sandboxed: dict[str, BaseTool] = {}  # tools of the kernel, in the places of stubs

    async def offer_code(self, stack: AsyncExitStack, agent: str) -> None:
        """On the kernel, code runs by a tool of the kernel, offered to the agent."""
        if not isinstance(self._source, KernelSource):
            return
        from langchain_aios import akernel_tools  # noqa: PLC0415 - on the kernel only

        self._sandboxed = await offered_code(
            stack, self._source, self._recorder, agent, akernel_tools
        )

    def graph(self, task: Task) -> Any:
        """An agent, or a team."""
        if task.members:
            return self._team(task)
        if task.kind == REACT:
            return self._react(task)
        return create_agent(
            self._model,
            tools=self._tools(task.tools),
            system_prompt=task.system or None,
            checkpointer=self._saver,
        )

    def _tools(self, stubs: Sequence[ToolStub]) -> list[BaseTool]:
        tools = [_tool(self._recorder, stub) for stub in stubs if stub.name not in self._sandboxed]
        made: list[BaseTool] = list(tools)
        if self._is_gated and isinstance(self._source, KernelSource):
            from langchain_aios import wrap_tools  # noqa: PLC0415 - on the kernel only

            made = wrap_tools(tools, kernel=self._source.kernel)
        by_name = {tool.name: tool for tool in made} | self._sandboxed
        return [by_name[stub.name] for stub in stubs]

    def _react(self, task: Task) -> Any:
        tools = {tool.name: tool for tool in self._tools(task.tools)}
        head = SystemMessage(react.prompt(task.tools))

        async def think(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await self._model.ainvoke([head, *state["messages"]])]}

        async def act(state: MessagesState) -> dict[str, Any]:
            action = react.action_in(state["messages"][-1].text)
            if action is None or action.name not in tools:
                seen = "error: no such tool"
            else:
                seen = str(await tools[action.name].ainvoke(action.arguments))
            return {"messages": [HumanMessage(f"Observation: {seen}")]}

        graph = StateGraph(MessagesState)
        graph.add_node("think", think)
        graph.add_node("act", act)
        graph.add_edge(START, "think")
        graph.add_conditional_edges(
            "think",
            lambda state: "act" if react.action_in(state["messages"][-1].text) else END,
            ["act", END],
        )
        graph.add_edge("act", "think")
        return graph.compile(checkpointer=self._saver)

    def _team(self, task: Task) -> Any:
        """The one who has the floor answers; a handover passes it, and ends the turn."""
        handovers = [_handover(self._recorder, member) for member in task.members]
        front = create_agent(self._model, tools=handovers, name="front")
        agents = {
            member.name: create_agent(
                self._model, tools=self._tools(member.tools), name=member.name
            )
            for member in task.members
        }

        def floor(state: MessagesState) -> str:
            for message in reversed(state["messages"]):
                taker = getattr(message, "artifact", None)
                if taker in agents:
                    return str(taker)
            return "front"

        graph = StateGraph(MessagesState)
        for name, agent in {"front": front, **agents}.items():
            graph.add_node(name, agent)
            graph.add_edge(name, END)
        graph.add_conditional_edges(START, floor, ["front", *agents])
        return graph.compile(checkpointer=self._saver)


class _Vectors(Embeddings):
    """The embedder of the kernel, without a kernel."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return vectors(texts)

    def embed_query(self, text: str) -> list[float]:
        return vectors([text])[0]


def _model(source: Source) -> BaseChatModel:
    if isinstance(source, Endpoint):
        from langchain_openai import ChatOpenAI  # noqa: PLC0415 - natively only

        server: Any = {
            "base_url": source.server.base_url,
            "api_key": source.server.api_key,
            "max_retries": 0,
            "max_tokens": source.max_tokens,
        }
        return ChatOpenAI(model=source.server.model, temperature=0, **server)
    from langchain_aios import ChatAIOS  # noqa: PLC0415 - on the kernel only

    return ChatAIOS(kernel=source.kernel, max_tokens=source.max_tokens, temperature=0)


def _saver(source: Source) -> Any:
    if isinstance(source, Endpoint):
        return InMemorySaver()
    from langchain_aios import AIOSSaver  # noqa: PLC0415 - on the kernel only

    return AIOSSaver(kernel=source.kernel)


async def _library(source: Source, task: Task, agent: str) -> Find:
    store = _store(source, agent)
    await store.aadd_texts(list(task.documents))

    async def find(query: str) -> str:
        found = await store.asimilarity_search(query, k=1)
        return found[0].page_content if found else "nothing"

    return find


def _store(source: Source, agent: str) -> VectorStore:
    if isinstance(source, Endpoint):
        return InMemoryVectorStore(_Vectors())
    try:
        from langchain_aios import (  # noqa: PLC0415 - on the kernel only
            AIOSEmbeddings,
            AIOSVectorStore,
        )
    except ImportError as exc:
        raise CannotRun("langchain-aios is too old: it has no AIOSVectorStore") from exc
    embeddings = AIOSEmbeddings(kernel=source.kernel, agent=agent)
    return AIOSVectorStore(embeddings, kernel=source.kernel, agent=agent)


def _tool(recorder: Recorder, stub: ToolStub) -> StructuredTool:
    async def run(**arguments: Any) -> str:
        return await recorder.arun(stub.name, arguments)

    return StructuredTool(
        name=stub.name, description=stub.description, args_schema=stub.schema(), coroutine=run
    )


def _handover(recorder: Recorder, member: Member) -> StructuredTool:
    """Build the tool that hands over: its result ends the turn, its artifact names the next."""
    stub = member.handover

    async def run(**arguments: Any) -> tuple[str, str]:
        recorder.note(stub.name, arguments)
        return f"Transferred to {member.name}, adopting the role of {member.name} immediately.", (
            member.name
        )

    return StructuredTool(
        name=stub.name,
        description=stub.description,
        args_schema=stub.schema(),
        coroutine=run,
        response_format="content_and_artifact",
        return_direct=True,
    )


async def _streamed(graph: Any, asked: Any, thread: Any) -> str:
    """The last message, put together from the pieces that came."""
    pieces: dict[str | None, str] = {}
    async for piece, _ in graph.astream(asked, thread, stream_mode="messages"):
        if isinstance(piece, AIMessageChunk):
            pieces[piece.id] = pieces.get(piece.id, "") + piece.text
    return list(pieces.values())[-1] if pieces else ""


def _answer(task: Task, messages: Sequence[Any]) -> str:
    said = next((m.text for m in reversed(messages) if isinstance(m, AIMessage)), "")
    return react.answer_in(said) if task.kind == REACT else said
