"""LlamaIndex: `FunctionAgent` and `ReActAgent` with tools, `Memory` over a chat store."""

from __future__ import annotations

from typing import Any, ClassVar

from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.llms import LLM
from llama_index.core.memory import Memory
from llama_index.core.tools import AsyncBaseTool, ToolMetadata, ToolOutput
from llama_index.core.workflow import Context
from pydantic import create_model

from compat_bench.drivers.base import Recorder, kept
from compat_bench.sources import Endpoint, Source
from compat_bench.tasks import Outcome, Task, ToolStub

_TYPES: dict[str, type] = {"string": str, "integer": int, "number": float, "boolean": bool}


class LlamaIndexDriver:
    """See `Driver`."""

    name = "LlamaIndex"
    kinds: ClassVar[frozenset[str]] = frozenset(
        {
            "single tool",
            "chain",
            "parallel tools",
            "memory across turns",
            "ReAct text",
            "handover",
            "code execution",
            "plain talk",
        }
    )

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        outcome = Outcome()
        recorder = Recorder(task, outcome)
        kind = ReActAgent if task.kind == "ReAct text" else FunctionAgent
        worker: Any = kind(
            llm=kept(source, self.name, _llm),
            tools=[_Stub(recorder, stub) for stub in recorder.stubs()],
            system_prompt=task.system or None,
            timeout=120,
        )
        context, memory = Context(worker), _memory(source, agent)
        for said in task.says:
            response = await worker.run(said, ctx=context, memory=memory, max_iterations=8)
            outcome.answers.append(str(response))
        return outcome

    async def say(self, source: Source, agent: str) -> None:
        del agent
        await kept(source, self.name, _llm).acomplete("hi")


def _llm(source: Source) -> LLM:
    if isinstance(source, Endpoint):
        from llama_index.llms.openai_like import OpenAILike  # noqa: PLC0415 - natively only

        return OpenAILike(
            model=source.server.model,
            api_base=source.server.base_url,
            api_key="none",
            temperature=0,
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=1_024,
            max_retries=0,
        )
    from llama_index.llms.aios import AIOSLLM  # noqa: PLC0415 - on the kernel only

    return AIOSLLM(kernel=source.kernel, max_tokens=96)


def _memory(source: Source, agent: str) -> Memory:
    if isinstance(source, Endpoint):
        return Memory.from_defaults(session_id=agent, token_limit=900)
    from llama_index.storage.chat_store.aios import AIOSChatStore  # noqa: PLC0415 - on the kernel

    store = AIOSChatStore(kernel=source.kernel)
    return Memory.from_defaults(session_id=agent, token_limit=900, chat_store=store)


class _Stub(AsyncBaseTool):
    """A tool of a task."""

    def __init__(self, recorder: Recorder, stub: ToolStub) -> None:
        fields: Any = {
            name: (_TYPES[kind], ...) if name in stub.required else (_TYPES[kind] | None, None)
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
        said = self._recorder.run(name, arguments)
        return ToolOutput(content=said, tool_name=name, raw_input=arguments, raw_output=said)

    async def acall(self, *_: Any, **arguments: Any) -> ToolOutput:
        return self.call(**arguments)
