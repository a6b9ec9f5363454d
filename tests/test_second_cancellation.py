"""A second cancellation, at any step of what the first one started, interrupts no cleanup."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest

from aios_core import Kernel, KernelClosed, KernelConfig
from aios_core.access.approvals.files import ApprovalFiles
from aios_core.access.approvals.queue import QueueApprover
from aios_core.config import StateConfig
from aios_core.core import Capabilities, Prepared, ReportSink
from aios_core.cores.streaming import Item, LiveRun, StreamingCore
from aios_core.state import NullCipher
from aios_core.syscalls import LLMGenerate
from aios_core.testing import cancel_twice, nothing_left
from aios_core.tools.mcp_transports import StderrTail, connect_stdio
from aios_core.tools.requests import McpServer
from tests.access.approvals.test_files import question
from tests.puppet import PuppetCore, asks, error_of, settled, virtual

ROOT = Path(__file__).parent.parent
PATIENCE = 30.0  # seconds; only ever spent when a test is about to fail
STEPS = pytest.mark.parametrize("num_steps", range(12))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - the state of a fake
            await asyncio.sleep(0)


class SlowCore(PuppetCore):
    """A core that takes some time to start and to close."""

    def __init__(self, name: str = "slow") -> None:
        super().__init__(name, models=(name,))
        self.is_up = False

    async def start(self, sink: ReportSink) -> None:
        await super().start(sink)
        self.is_up = True

    async def close(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        await super().close()
        self.is_up = False


class NeverUp(SlowCore):
    """A core that never finishes its start."""

    async def start(self, sink: ReportSink) -> None:
        await super().start(sink)
        await asyncio.Event().wait()


# --- a kernel -------------------------------------------------------------------------------------


@STEPS
def test_a_kernel_that_closes_frees_everything(num_steps: int, tmp_path: Path) -> None:
    @virtual
    async def closes() -> None:
        core = SlowCore()
        config = KernelConfig(drain_s=60, state=StateConfig(directory=str(tmp_path)))
        kernel = Kernel(config, cores=[core])
        await kernel.__aenter__()
        agent = kernel.spawn("a")
        await agent.memory.aalloc("note")
        call = asks(agent)
        await settled()
        closing = asyncio.ensure_future(kernel.aclose())
        await asyncio.sleep(1)

        end = await cancel_twice(closing, num_steps)

        assert isinstance(end, asyncio.CancelledError)
        assert isinstance(await error_of(call), KernelClosed)
        assert not core.is_up

    with nothing_left():
        closes()


@STEPS
def test_a_kernel_that_starts_closes_the_cores_that_are_up(num_steps: int) -> None:
    @virtual
    async def starts() -> None:
        cores = [SlowCore("one"), NeverUp("two")]
        starting = asyncio.ensure_future(Kernel(KernelConfig(), cores=cores).__aenter__())
        await until(lambda: all(core.is_up for core in cores))

        end = await cancel_twice(starting, num_steps)

        assert isinstance(end, asyncio.CancelledError)
        assert not any(core.is_up for core in cores)

    with nothing_left():
        starts()


# --- cores ----------------------------------------------------------------------------------------


class Connected(StreamingCore):
    """A core that connects, and then waits."""

    def __init__(self) -> None:
        super().__init__("connected", ["connected"], slots=1)
        self.num_open = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(context_window=100)

    def prepare(self, _: LLMGenerate) -> Prepared:
        return Prepared(1, 1)

    async def connect(self) -> None:
        self.num_open += 2
        await asyncio.Event().wait()

    async def disconnect(self) -> None:
        while self.num_open:
            await asyncio.sleep(0)
            self.num_open -= 1

    async def stream(self, _: LiveRun) -> AsyncGenerator[Item]:
        raise NotImplementedError
        yield


@STEPS
async def test_a_core_that_connects_disconnects(num_steps: int) -> None:
    core = Connected()
    starting = asyncio.ensure_future(core.start(lambda _: None))
    await until(lambda: core.num_open > 0)

    await cancel_twice(starting, num_steps)

    assert core.num_open == 0


# --- approvals and tools --------------------------------------------------------------------------


@STEPS
async def test_a_question_in_the_approval_queue_is_removed(num_steps: int, tmp_path: Path) -> None:
    approval_files = ApprovalFiles(tmp_path, NullCipher())
    asking = asyncio.ensure_future(QueueApprover(approval_files, lambda: 1.0).ask(question()))
    while not await asyncio.to_thread(approval_files.waiting, 1.0):
        pass  # the thread's turn is the wait

    await cancel_twice(asking, num_steps)

    assert approval_files.waiting(1.0) == []


@pytest.mark.parametrize("num_steps", range(0, 12, 3))
async def test_the_program_of_an_mcp_server_ends(num_steps: int) -> None:
    server = McpServer("cat", command="cat")
    is_connected = asyncio.Event()

    async def use() -> None:
        async with connect_stdio(server, StderrTail("cat"), max_bytes=1_000):
            is_connected.set()
            await asyncio.Event().wait()

    with nothing_left():
        using = asyncio.ensure_future(use())
        await is_connected.wait()
        await cancel_twice(using, num_steps)


# --- the kind -------------------------------------------------------------------------------------

#: Awaits in a cleanup that are shielded where they are defined, or that free nothing.
SHIELDED = ("finish_shielded", "process.close", "self._drop", "_take_back_cancellation")


def cleanups(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that run when an asynchronous function is cancelled."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            yield from node.finalbody
            for handler in node.handlers:
                caught = ast.unparse(handler.type) if handler.type else "BaseException"
                if "CancelledError" in caught or "BaseException" in caught:
                    yield from handler.body


def unshielded(file: Path) -> Iterator[str]:
    for statement in cleanups(ast.parse(file.read_text())):
        for node in ast.walk(statement):
            if isinstance(node, ast.Await) and not ast.unparse(node.value).startswith(SHIELDED):
                yield f"{file.relative_to(ROOT)}:{node.lineno}"


def test_every_await_of_a_cleanup_is_shielded() -> None:
    files = [
        file
        for folder in ("aios_core", "adapters", "plugins/aios_plugins")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if "tests" not in file.parts and file.name not in ("shielding.py", "core_contract.py")
    ]

    assert [place for file in files for place in unshielded(file)] == []
