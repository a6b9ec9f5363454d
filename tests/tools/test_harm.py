"""Tools that raise exceptions that cannot be shown, and calls that leave nothing behind."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from aios_core import Agent, Kernel, KernelConfig, ToolContext, ToolError
from aios_core.cores.scripted import ScriptedCore
from aios_core.untrusted.third_party import MAX_CHARS, RENDER_S

from .rig import PATIENCE, OpenDoor, make, quiet_kernel


class TextRaises(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")

    __repr__ = __str__


class TextIsHuge(Exception):
    def __str__(self) -> str:
        return "x" * 100_000_000


class NoException(BaseException):
    """An exception that `except Exception` does not catch."""

    def __str__(self) -> str:
        raise SystemExit(1)


class Liar(Exception):
    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError("do not ask")


class StopsTheFuture(ToolError, StopIteration):
    """An error of the kernel that no future accepts."""


class ForeignToolError(ToolError):
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


class Hanging(Exception):
    """An exception that takes until `go_on` to be shown."""

    go_on = threading.Event()

    def __str__(self) -> str:
        self.go_on.wait(PATIENCE)
        return "late"


def _raises(make_exc: Callable[[], BaseException]) -> Callable[[], None]:
    def fail() -> None:
        raise make_exc()

    return fail


def _deep() -> None:
    def recurse(left: int) -> None:
        if not left:
            raise ValueError("deep")
        recurse(left - 1)

    recurse(500)


def _returns(value: Callable[[], Any]) -> Callable[[], Any]:
    return value


class BadKey(str):
    __slots__ = ()

    def __repr__(self) -> str:
        raise ZeroDivisionError("no repr")


class BadMapping(dict[str, Any]):
    def items(self) -> Any:
        raise NoException


MISBEHAVING: dict[str, Callable[[], Any]] = {
    "its text raises": _raises(TextRaises),
    "its text is huge": _raises(TextIsHuge),
    "no exception": _raises(NoException),
    "a liar": _raises(Liar),
    "stops the future": _raises(lambda: StopsTheFuture("a", "b")),
    "a foreign error of the kernel": _raises(lambda: ForeignToolError("a", "b")),
    "a long error of the kernel": _raises(lambda: ToolError("a", "b" * 10_000_000)),
    "a group": _raises(lambda: BaseExceptionGroup("g", [TextRaises(), NoException()])),
    "interrupt": _raises(KeyboardInterrupt),
    "exit with an object": _raises(lambda: SystemExit(TextRaises())),
    "deep": _deep,
    "a bad key": _returns(lambda: {BadKey("\ud800"): 1}),
    "a bad mapping": _returns(lambda: BadMapping(a=1)),
    "a bad object": _returns(TextRaises),
}


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with quiet_kernel(tools={"max_running": 2}) as kernel:
        yield kernel
        kernel.check()


@pytest.mark.parametrize("name", MISBEHAVING)
def test_a_failure_that_cannot_be_shown_frees_all_that_the_call_held(
    kernel: Kernel, name: str
) -> None:
    kernel.load_tools(make("odd", MISBEHAVING[name], exclusive=("it",), read_only=False))
    kernel.load_tools(make("fine", lambda: "here", exclusive=("it",)))
    agent = kernel.spawn("alice")

    for _ in range(4):  # more than may run at once
        with pytest.raises(ToolError) as caught:
            agent.tools.run("odd")
        assert len(str(caught.value)) < MAX_CHARS + 300
        assert caught.value.__cause__ is None or caught.value.__cause__.__traceback__ is None

    assert agent.tools.run("fine") == "here"
    assert agent.tools.in_doubt() == ()


def test_a_text_that_hangs_holds_neither_a_slot_nor_a_resource(kernel: Kernel) -> None:
    kernel.load_tools(make("odd", _raises(Hanging), exclusive=("it",), timeout_s=60.0 * RENDER_S))
    kernel.load_tools(make("fine", lambda: "here", exclusive=("it",)))
    agent = kernel.spawn("alice")
    try:
        with pytest.raises(ToolError, match=r"raised Hanging \(its text took longer than 1 s\)"):
            agent.tools.run("odd")
        assert agent.tools.run("fine") == "here"
    finally:
        Hanging.go_on.set()


def test_what_a_failed_tool_worked_with_is_let_go_of_where_it_ran(kernel: Kernel) -> None:
    ended_on: list[str] = []

    class Held:
        def __del__(self) -> None:
            ended_on.append(threading.current_thread().name)

    def fail() -> None:
        held = Held()
        raise ValueError(f"with {type(held).__name__}")

    kernel.load_tools(make("fail", fail))
    with pytest.raises(ToolError, match="ValueError: with Held"):
        kernel.spawn("alice").tools.run("fail")
    assert [name.startswith("aios-tool") for name in ended_on] == [True]


# --- what is left behind -------------------------------------------------------------------------


def _num_objects() -> Counter[str]:
    gc.collect()
    return Counter(
        f"{type(one).__module__}.{type(one).__qualname__}"
        for one in gc.get_objects()
        if str(type(one).__module__).startswith("aios_core")
    )


def _all_objects() -> Counter[str]:
    for _ in range(3):  # what a collection frees may itself have held something
        gc.collect()
    return Counter(type(one).__qualname__ for one in gc.get_objects())


@pytest.mark.parametrize("outcome", ["raises", "raises in a coroutine", "answers"])
def test_many_calls_of_an_untrusted_tool_leave_no_object_of_any_kind_behind(outcome: str) -> None:
    """Neither labels, nor frames of what was raised: not one for each call."""

    def fail(number: int) -> str:
        try:
            int(f"no {number} of all the good things in the world")
        except ValueError as exc:
            raise RuntimeError(f"the tool failed for good at number {number}") from exc

    async def afail(number: int) -> str:
        return fail(number)

    def answer(number: int) -> str:
        return f"a text that is long enough to be known again: {number}"

    config = KernelConfig(
        state={"directory": ":memory:"},  # type: ignore[arg-type]
        tools={"plugins": (), "breaker_failures": 0},  # type: ignore[arg-type]
        guard={"max_repeats": None},  # type: ignore[arg-type]
    )
    function = {"raises": fail, "raises in a coroutine": afail, "answers": answer}[outcome]
    number = {"type": "object", "properties": {"number": {"type": "integer"}}}
    with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        kernel.load_tools(make("it", function, trusted=False, parameters=number))
        agent = kernel.spawn("alice")

        def call(times: int) -> None:
            for each in range(times):
                with suppress(ToolError):
                    agent.tools.run("it", {"number": each})

        call(200)  # caches fill
        before = _all_objects()
        call(2_000)
        grown = {kind: n - before[kind] for kind, n in _all_objects().items() if n > before[kind]}

    assert all(more < 200 for more in grown.values()), grown


def _llm(agent: Agent, _: int) -> None:
    agent.llm.generate("hello")


def _memory(agent: Agent, number: int) -> None:
    agent.memory.write("note", f"{number}")
    agent.memory.read("note")


def _storage(agent: Agent, number: int) -> None:
    agent.storage.write("note.txt", f"{number}")
    agent.storage.read("note.txt")


def _tool(agent: Agent, number: int) -> None:
    agent.tools.run("echo", {"who": f"{number}"})


def _failing_tool(agent: Agent, _: int) -> None:
    with pytest.raises(ToolError):
        agent.tools.run("fail")


def _port(agent: Agent, _: int) -> None:
    agent.tools.run("ports")


CALLS = {
    "llm": _llm,
    "memory": _memory,
    "storage": _storage,
    "tool": _tool,
    "failing tool": _failing_tool,
    "port": _port,
}


@pytest.mark.parametrize(
    ("name", "policy"),
    [*((name, "fifo") for name in CALLS), ("tool", "fair"), ("tool", "priority")],
)
def test_a_finished_call_leaves_no_object_behind(name: str, policy: str) -> None:
    config = KernelConfig(
        state={"directory": ":memory:"},  # type: ignore[arg-type]
        tools={"plugins": (), "breaker_failures": 0},  # type: ignore[arg-type]
        storage={"max_versions": 2},  # type: ignore[arg-type]
        guard={"max_repeats": None},  # type: ignore[arg-type]
        scheduler={"policy": policy},  # type: ignore[arg-type]
        drain_s=0.0,
    )
    core = ScriptedCore(lambda _request: "ok")
    with Kernel(config, cores=[core], gatekeeper=OpenDoor()) as kernel:

        def ports(context: ToolContext) -> str:
            return context.port.identity

        def fail() -> None:
            raise ValueError("as ever")

        kernel.load_tools(make("echo", lambda who: who))
        kernel.load_tools(make("fail", fail))
        kernel.load_tools(make("ports", ports, context_name="context"))
        agent = kernel.spawn("alice")
        for number in range(50):  # caches fill
            CALLS[name](agent, number)
        core.requests.clear()
        before = _num_objects()
        for number in range(200):
            CALLS[name](agent, number)
        core.requests.clear()  # it keeps the latest for tests
        grown = {kind: n - before[kind] for kind, n in _num_objects().items() if n > before[kind]}
        assert all(more < 50 for more in grown.values()), grown
