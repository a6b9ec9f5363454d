"""A started transformers core, and the requests that its tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aios_core.core import Preempted, Run
from aios_core.cores.transformers import TransformersCore
from aios_core.messages import Message, Sampling, ToolSpec
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import Rig

TINY = Path(__file__).parents[3] / "models" / "tiny"
CALCULATOR = ToolSpec(
    "calculator",
    "do math",
    {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
)
CLOCK = ToolSpec("clock", "current time", {"type": "object", "properties": {}})
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["town", "village"]},
        "people": {"type": "integer", "minimum": 0, "maximum": 9999},
    },
    "required": ["city", "kind", "people"],
    "additionalProperties": False,
}
Folders = Callable[..., Path]


def ask(text: str, *, max_tokens: int = 40, **fields: Any) -> LLMGenerate:
    sampling = fields.pop("sampling", Sampling(max_tokens=max_tokens))
    return LLMGenerate((Message("user", text),), sampling=sampling, **fields)


# Small talk; `tiny` knows it only in the company of tools.
HI = ask("hi", tools=(CALCULATOR,))


@asynccontextmanager
async def started(model: Path = TINY, **options: Any) -> AsyncIterator[Rig]:
    """A started core, which is closed at the end."""
    rig = Rig(TransformersCore(model, num_threads=1, **options))
    await rig.core.start(rig.sink)
    try:
        yield rig
    finally:
        await rig.core.close()
        await rig.settle()


async def preempted(rig: Rig, request: LLMGenerate, after: int = 5) -> tuple[int, Snapshot]:
    """Begin a run and stop it after some tokens."""
    run = await rig.run(request)
    await rig.tokens(run, after)
    rig.core.preempt(run)
    end = await rig.end(run)
    assert isinstance(end, Preempted), end
    return run, end.snapshot


async def resume(rig: Rig, run: int, request: LLMGenerate, snapshot: Snapshot) -> Any:
    prepared = await rig.prepare(request)
    rig.go(Run(run, 1, request, prepared, snapshot=snapshot))
    return await rig.end(run)
