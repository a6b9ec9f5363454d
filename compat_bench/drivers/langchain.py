"""LangChain: `create_agent` with tools, LangGraph's checkpointer for what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver

from compat_bench.drivers.base import Recorder, kept
from compat_bench.sources import Endpoint, Source
from compat_bench.tasks import Outcome, Task, ToolStub


class LangChainDriver:
    """See `Driver`."""

    name = "LangChain"
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
        graph: Any = create_agent(
            kept(source, self.name, _model),
            tools=[_tool(recorder, stub) for stub in recorder.stubs()],
            system_prompt=task.system or None,
            checkpointer=_saver(source),
        )
        thread = {"configurable": {"thread_id": agent}, "recursion_limit": 16}
        for said in task.says:
            state = await graph.ainvoke({"messages": [("user", said)]}, thread)
            outcome.answers.append(_text(state["messages"]))
        return outcome

    async def say(self, source: Source, agent: str) -> None:
        config: Any = {"configurable": {"thread_id": agent}}
        await kept(source, self.name, _model).ainvoke("hi", config)


def _model(source: Source) -> BaseChatModel:
    if isinstance(source, Endpoint):
        from langchain_openai import ChatOpenAI  # noqa: PLC0415 - natively only

        server: Any = {"base_url": source.server.base_url, "api_key": "none", "max_retries": 0}
        return ChatOpenAI(model=source.server.model, temperature=0, **server)
    from langchain_aios import ChatAIOS  # noqa: PLC0415 - on the kernel only

    return ChatAIOS(kernel=source.kernel, max_tokens=96)


def _saver(source: Source) -> Any:
    if isinstance(source, Endpoint):
        return InMemorySaver()
    from langchain_aios import AIOSSaver  # noqa: PLC0415 - on the kernel only

    return AIOSSaver(kernel=source.kernel)


def _tool(recorder: Recorder, stub: ToolStub) -> StructuredTool:
    async def run(**arguments: Any) -> str:
        return recorder.run(stub.name, arguments)

    return StructuredTool(
        name=stub.name, description=stub.description, args_schema=stub.schema(), coroutine=run
    )


def _text(messages: Sequence[Any]) -> str:
    return next((m.text for m in reversed(messages) if isinstance(m, AIMessage)), "")
