"""Each blocking method and its async form take the same arguments, and both are used."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aios_core import KernelConfig, build_llm_request
from aios_core.access import AccessHandle
from aios_core.cores import ScriptedCore
from aios_core.kernel import Agent, Kernel
from aios_core.kernel.llm import LLM
from aios_core.kernel.port import AgentPort
from aios_core.memory import Memory
from aios_core.memory.handle_kv import KeyValues
from aios_core.memory.handle_thread import Thread
from aios_core.storage import Storage
from aios_core.storage.collections import Collections
from aios_core.tools import Tools

ASKED = build_llm_request("one two three")
ROOT = Path(__file__).parent.parent
OWNERS: tuple[type, ...] = (
    *(AccessHandle, Agent, AgentPort, Collections, Kernel, LLM, Memory, KeyValues, Thread),
    *(Storage, Tools),
)
#: Return types of a blocking form and of its async form that differ by more than `await`.
COUNTERPARTS = {"Stream": "AsyncStream", "Watch": "AsyncWatch", "Iterator": "AsyncIterator"}
ABOUT_LOOPS = re.compile(r"event loop|await|async form|any loop", re.IGNORECASE)


def twins() -> Iterator[Any]:
    for owner in OWNERS:
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            blocking = getattr(owner, name[1:], None) if name.startswith("a") else None
            if inspect.isfunction(blocking) and not name.startswith("__"):
                yield pytest.param(blocking, method, id=f"{owner.__name__}.{name}")


def text_of_users() -> str:
    folders = ("tests", "docs", "adapters", "examples", "compat_bench", "bench", "aios_core")
    files = (file for folder in folders for file in (ROOT / folder).rglob("*"))
    own = Path(__file__)
    return "\n".join(
        file.read_text(encoding="utf-8")
        for file in files
        if file.suffix in {".py", ".md"} and file != own
    )


def shape(method: Any) -> list[tuple[str, Any, Any, Any]]:
    parameters = inspect.signature(method).parameters.values()
    return [(one.name, one.kind, one.default, one.annotation) for one in parameters]


@pytest.mark.parametrize(("blocking", "asynchronous"), list(twins()))
def test_both_forms_have_one_signature(blocking: Any, asynchronous: Any) -> None:
    returned, awaited = (
        str(inspect.signature(method).return_annotation) for method in (blocking, asynchronous)
    )

    if blocking is not Kernel.spawn:  # tests/test_typed_doors.py compares its typed dictionary
        assert shape(asynchronous) == shape(blocking)
    assert awaited in (returned, COUNTERPARTS.get(returned.partition("[")[0], returned))


@pytest.mark.parametrize(("blocking", "asynchronous"), list(twins()))
def test_both_forms_are_documented(blocking: Any, asynchronous: Any) -> None:
    text, text_of_async = inspect.getdoc(blocking), inspect.getdoc(asynchronous) or ""

    assert text
    assert text_of_async == text or ABOUT_LOOPS.search(text_of_async), "names what differs"


def test_every_form_is_used() -> None:
    text = text_of_users()
    used_below = set(re.findall(r'"(\w+)"', inspect.getsource(use))) | {"measure_prompt"}
    names = (one.id.split(".")[1] for one in twins())
    unused = {name for name in names if not re.search(rf"\.{name}\(", text)}

    assert {name for name in unused if name.removeprefix("a") not in used_below} == set()


async def use(agent: Agent, do: Any) -> list[Any]:
    """Use the forms that no other test calls in both ways; `do` makes one call."""
    memory, files, access = agent.memory, agent.storage, agent.access
    thread, namespace = memory.thread("talk"), memory.kv("settings")
    await do(memory, "alloc", "empty")
    await do(memory, "write", "note", "text")
    await do(memory, "pin", "note")
    await do(memory, "unpin", "note")
    await do(thread, "append", "a", "b", "c")
    await do(thread, "archive", last=1)
    await do(thread, "remove", first=1)
    await do(namespace, "set", "key", "1")
    await do(namespace, "touch", ["key"], ttl_s=1e6)
    await do(files, "write", "/a", "one")
    await do(files, "write", "/a", "two")
    await do(files, "snapshot", "first")
    await do(files, "move", "/a", "/b")
    await do(files, "restore_snapshot", "first")
    await do(access, "grant", "memory::note", "*")
    seen = [
        await do(memory, "threads"),
        await do(memory, "namespaces"),
        await do(namespace, "sweep"),
        await do(thread, "count"),
        await do(files, "stat", "/a"),
        await do(files, "history", "/a"),
        await do(files, "diff", "/b", 1, 2),
        await do(files, "snapshots"),
        await do(files, "usage"),
        await do(access, "grants"),
        await do(agent.tools, "in_doubt"),
    ]
    await do(files, "delete_snapshot", "first")
    await do(files, "delete", "/a")
    await do(files, "purge", "/a")
    await do(access, "revoke", "memory::note", "*")
    return [*seen, await do(files, "snapshots"), await do(access, "grants")]


async def block(owner: Any, name: str, *args: Any, **settings: Any) -> Any:
    return getattr(owner, name)(*args, **settings)


async def wait(owner: Any, name: str, *args: Any, **settings: Any) -> Any:
    return await getattr(owner, f"a{name}")(*args, **settings)


def facts(value: Any) -> Any:
    """Reduce a result to what does not depend on the time or the agent."""
    if isinstance(value, list | tuple):
        return [facts(one) for one in value]
    return type(value).__name__ if hasattr(value, "__dataclass_fields__") else value


def test_both_forms_do_one_thing() -> None:
    config = KernelConfig.load(
        environ={}, state={"directory": ":memory:"}, access={"approver": "allow"}
    )
    with Kernel(config, cores=[ScriptedCore("pong")]) as kernel:
        blocking = asyncio.run(use(kernel.spawn("a"), block))
        awaited = asyncio.run(use(kernel.spawn("b"), wait))
        sizes = (kernel.measure_prompt(ASKED), asyncio.run(kernel.ameasure_prompt(ASKED)))

    assert facts(awaited) == facts(blocking)
    assert sizes[0] == sizes[1]
