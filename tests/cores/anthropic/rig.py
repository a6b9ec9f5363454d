"""An Anthropic core that is connected to a stub server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aios_core.core import Failed
from aios_core.cores.anthropic.core import AnthropicCore
from aios_core.cores.endpoint.time_limits import TimeLimits
from aios_core.errors import KernelError
from aios_core.messages import ToolCall, ToolSpec, parse_messages
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig
from aios_core.testing.stub_anthropic import AnthropicStubServer
from aios_core.testing.stub_server import Answer

STORY = "Once upon a time there was a kernel that never lost a single call of its agents."
TELL = Answer(STORY)
ADD = ToolSpec("add", "Add two numbers", {"type": "object", "properties": {}})
CALL = ToolCall("toolu_7", "add", '{"a": 1, "b": 2}')
IMPATIENT = TimeLimits(first_chunk_s=1.0, next_chunk_s=1.0, probe_s=0.2)  # with who hangs


def ask(messages: Any = "hello there", **fields: Any) -> LLMGenerate:
    return LLMGenerate(parse_messages(messages), **fields)


def core_of(server: AnthropicStubServer, **options: Any) -> AnthropicCore:
    return AnthropicCore(["stub"], base_url=server.base_url, **options)


@asynccontextmanager
async def connected(server: AnthropicStubServer, **options: Any) -> AsyncIterator[Rig]:
    rig = Rig(core_of(server, **options))
    await rig.core.start(rig.sink)
    try:
        yield rig
    finally:
        await rig.core.close()
        await rig.settle()
        rig.check()


async def failure(rig: Rig, request: LLMGenerate | None = None) -> KernelError:
    end = await rig.end(await rig.run(request or ask()))
    assert isinstance(end, Failed), end
    return end.error
