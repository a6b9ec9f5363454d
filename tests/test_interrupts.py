"""Foreign code that ends the program ends no call: each is answered, and Ctrl-C gets through.

Python raises `KeyboardInterrupt` on the main thread, wherever that is: in a policy, an observer, a
script. A kernel on the program's own loop answers all that wait, and then lets it through. On a
thread of the kernel's own, foreign code raised it itself: that is an error of that code.
"""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import aios_adapters
import aios_core
from aios_core import Agent, Kernel, KernelConfig, KernelError, KernelEvent
from aios_core.access import ApprovalRequest
from aios_core.config import AccessConfig, StateConfig
from aios_core.core import Run
from aios_core.cores.scripted import ScriptedCore
from aios_core.queueing.policy import Rank, WaitingCall
from aios_core.scheduler import FIFO
from aios_core.syscalls import LLMGenerate

PATIENCE_S = 30.0  # spent only by a call that is never answered


class Stop(BaseException):
    """Not an `Exception`, and nothing that Python or asyncio knows."""


ENDS = [KeyboardInterrupt, SystemExit, Stop, GeneratorExit]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Disable logging: these tests raise errors on purpose."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def policy(end: type[BaseException]) -> Kernel:
    class Ending(FIFO):
        def rank(self, call: WaitingCall) -> Rank:  # noqa: ARG002
            raise end("foreign")

    return _kernel(policy=Ending())


def observer(end: type[BaseException]) -> Kernel:
    def observe(_: KernelEvent) -> None:
        raise end("foreign")

    return _kernel(observers=[observe])


def script(end: type[BaseException], **settings: Any) -> Kernel:
    def answer(_: LLMGenerate) -> str:
        raise end("foreign")

    return _kernel(cores=[ScriptedCore(answer, **settings)])


def slow_script(end: type[BaseException]) -> Kernel:
    return script(end, latency_s=0.001)


def core(end: type[BaseException]) -> Kernel:
    class Ending(ScriptedCore):
        def run(self, run: Run) -> None:  # noqa: ARG002
            raise end("foreign")

    return _kernel(cores=[Ending("ok")])


def preparation(end: type[BaseException]) -> Kernel:
    class Ending(ScriptedCore):
        def prepare(self, request: LLMGenerate) -> Any:  # noqa: ARG002
            raise end("foreign")

    return _kernel(cores=[Ending("ok")])


def load(end: type[BaseException]) -> Kernel:
    class Ending(ScriptedCore):
        def load(self) -> Any:
            if self._is_up:
                self._is_up = False  # as one that broke down
                raise end("foreign")
            return super().load()

    return _kernel(cores=[Ending("ok"), ScriptedCore("ok", name="other")])


PLACES = [policy, observer, script, slow_script, core, preparation, load]


def _kernel(**given: Any) -> Kernel:
    config = KernelConfig(
        state=StateConfig(":memory:"), access=AccessConfig(approval_timeout_s=PATIENCE_S)
    )
    return Kernel(config, **{"cores": [ScriptedCore("ok")], **given})


async def outcome(work: Awaitable[object]) -> object:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await work
    except (KernelError, *ENDS) as exc:
        return exc


def interrupted(main: Callable[[], Any], times: int = 9) -> tuple[Any, int]:
    """Run to the end, continuing after each interrupt. Returns the result and their number."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    num = 0
    try:
        for _ in range(times):
            try:
                return loop.run_until_complete(task), num
            except KeyboardInterrupt:
                num += 1
        raise AssertionError("interrupted again and again")
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def two_calls(kernel: Kernel) -> list[object]:
    one, two = await kernel.aspawn("one"), await kernel.aspawn("two")
    return list(await asyncio.gather(*(outcome(a.llm.agenerate("hi")) for a in (one, two))))


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("place", PLACES)
def test_every_call_is_answered_and_an_interrupt_reaches_the_program(
    place: Callable[[type[BaseException]], Kernel], end: type[BaseException]
) -> None:
    async def main() -> list[object]:
        async with place(end) as kernel:
            outcomes = await two_calls(kernel)
            kernel.check()
            return outcomes

    outcomes, num_interrupts = interrupted(main)

    assert all(isinstance(one, KernelError | aios_core.Completion) for one in outcomes)
    assert (num_interrupts > 0) is (end is KeyboardInterrupt)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("place", PLACES)
def test_on_a_thread_of_the_kernel_it_is_an_error_of_that_code(
    place: Callable[[type[BaseException]], Kernel], end: type[BaseException]
) -> None:
    with place(end) as kernel:
        outcomes = [_outcome(kernel.spawn(name)) for name in ("one", "two")]
        kernel.check()

    assert all(isinstance(one, KernelError | aios_core.Completion) for one in outcomes)


def _outcome(agent: Agent) -> object:
    try:
        return agent.llm.generate("hi", timeout_s=PATIENCE_S)
    except (KernelError, *ENDS) as exc:
        return exc


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, Stop])
def test_an_approver_that_ends_the_program_has_not_said_yes(
    end: type[BaseException], is_async: bool
) -> None:
    async def ask(_: ApprovalRequest) -> bool:
        raise end("foreign")

    def ask_on_a_thread(_: ApprovalRequest) -> bool:
        raise end("foreign")

    async def main() -> object:
        async with _kernel(approver=ask if is_async else ask_on_a_thread) as kernel:
            agent = await kernel.aspawn("a")
            return await outcome(agent.access.aask("sell the house"))

    answer, num_interrupts = interrupted(main)

    assert isinstance(answer, KernelError)
    assert (num_interrupts > 0) is (is_async and end is KeyboardInterrupt)


@pytest.mark.parametrize("end", ENDS)
def test_a_tool_that_ends_the_program_fails_for_its_caller_alone(end: type[BaseException]) -> None:
    def quit_now() -> str:
        """End everything."""
        raise end("foreign")

    async def main() -> tuple[object, object]:
        async with _kernel() as kernel:
            await kernel.aload_tools(quit_now)
            agent = await kernel.aspawn("a")
            failed = await outcome(agent.tools.arun("quit_now"))
            return failed, await outcome(agent.llm.agenerate("hi"))

    (failed, served), num_interrupts = interrupted(main)

    assert isinstance(failed, KernelError)
    assert isinstance(served, aios_core.Completion)
    assert num_interrupts == 0


def test_whoever_contains_foreign_code_passes_an_interrupt_on() -> None:
    """Each `except RAISED` begins with `pass_on`."""
    forgotten = []
    packages = (Path(package.__file__ or "").parent for package in (aios_core, aios_adapters))
    for path in chain.from_iterable(package.rglob("*.py") for package in packages):
        code = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(code)) if "except RAISED" in code else ():
            if isinstance(node, ast.ExceptHandler) and _is_raised(node.type):
                first = ast.unparse(node.body[0])
                if first != "pass_on(exc)":
                    forgotten.append(f"{path.name}:{node.lineno}: {first}")

    assert forgotten == []


def _is_raised(kind: ast.expr | None) -> bool:
    return isinstance(kind, ast.Name) and kind.id == "RAISED"
