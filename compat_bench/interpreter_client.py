"""Open Interpreter's driver: its agents run in an environment of its own, which is spoken to.

Its requirements fit no other framework's, so a worker (`interpreter_worker`) runs under the Python
that `AIOS_INTERPRETER_PYTHON` names, or else `.venv-interpreter/bin/python`, which `make
test-interpreter` makes. Each line that passes is a JSON object; see there.

Natively the worker's agents ask the endpoint with LiteLLM, and run code as Open Interpreter
does. On the kernel they are attached to a kernel in the worker; its core passes every
call on to the kernel here, as a call of an agent of the same name: it is scheduled among
those of all frameworks. The sandbox and the memory are those of the worker's kernel.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final

from aios_core import Agent
from aios_core.cores.answer_format import encode_completion, encode_delta
from aios_core.errors import KernelError
from compat_bench.backends import Endpoint, KernelSource, Source
from compat_bench.tasks import CODE_EXECUTION, PLAIN_TALK, Outcome, SeenCall, Task

PYTHON: Final = "AIOS_INTERPRETER_PYTHON"  # the environment variable that names it
ROOT: Final = Path(__file__).resolve().parent.parent
WORKER: Final = Path(__file__).with_name("interpreter_worker.py")
END_S: Final = 10.0  # for a worker to end by itself
MAX_QUOTED: Final = 500  # characters of a worker's last output in an error

Line = dict[str, Any]


class WorkerGone(Exception):
    """The worker ended while its agents were running; the message quotes its last output."""


class RemoteFailure(Exception):
    """An agent failed over there, with that exception."""


def find_python() -> Path:
    """The Python of Open Interpreter's environment. Raises `ImportError` if there is none."""
    named = os.environ.get(PYTHON)
    python = Path(named) if named else ROOT / ".venv-interpreter" / "bin" / "python"
    if not python.exists():
        raise ImportError(
            f"Open Interpreter has an environment of its own, and there is no {python}; "
            f"make it with `make test-interpreter`, or name its Python in {PYTHON}"
        )
    return python


class Worker:
    """A process, and those here who wait for lines of it. Any thread may use it.

    `_lock` guards `_inboxes`, `_is_over` and the writing.
    """

    def __init__(self, command: list[str]) -> None:
        self._directory = tempfile.TemporaryDirectory()  # where code runs natively
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=self._directory.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            encoding="utf-8",
        )
        self._lock = threading.Lock()
        self._inboxes: dict[int, Callable[[Line], object]] = {}
        self._is_over = False  # it sends nothing more
        self._thread = threading.Thread(target=self._read, name="compat-worker", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return not self._is_over

    def expect(self, number: int, put: Callable[[Line], object]) -> None:
        """Give lines of that task to `put`, on the reading thread. Raises `WorkerGone`."""
        with self._lock:
            if not self._is_over:
                self._inboxes[number] = put
                return
        raise WorkerGone(self.last_words())

    def forget(self, number: int) -> None:
        with self._lock:
            self._inboxes.pop(number, None)

    def send(self, what: str, **facts: Any) -> None:
        """Raises `WorkerGone`."""
        line = json.dumps({"what": what, **facts}, ensure_ascii=False)
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        try:
            with self._lock:
                self._process.stdin.write(f"{line}\n")
                self._process.stdin.flush()
        except (OSError, ValueError) as exc:
            raise WorkerGone(self.last_words()) from exc

    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        if self._said.closed:
            return "it was closed"
        self._said.seek(0)
        return (
            self._said.read().decode(errors="replace")[-MAX_QUOTED:].strip() or "it printed nothing"
        )

    def close(self) -> None:
        """End it. Idempotent."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(END_S)
        self._said.close()
        self._directory.cleanup()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        try:
            with self._process.stdout as lines:
                for raw in lines:
                    self._hand_over(json.loads(raw))
        finally:
            with self._lock:
                self._is_over = True
                waiting = list(self._inboxes.values())
            for put in waiting:
                put({"what": "gone"})

    def _hand_over(self, line: Line) -> None:
        with self._lock:
            put = self._inboxes.get(line.get("id", 0))
        if put is not None:
            put(line)


class OpenInterpreterDriver:
    """See `Driver`. The worker is started when it is needed first, and ends with the driver."""

    name = "Open Interpreter"
    #: It knows one tool, `execute(language, code)`; the other kinds have others.
    kinds: ClassVar[frozenset[str]] = frozenset({CODE_EXECUTION, PLAIN_TALK})

    def __init__(self, command: list[str] | None = None) -> None:
        """`command` starts the worker. Raises `ImportError` if None is given and none can be."""
        self._command = command or [str(find_python()), "-P", "-W", "ignore", str(WORKER)]
        self._worker: Worker | None = None
        self._starting = threading.Lock()  # guards _worker
        self._numbers = count(1)

    async def perform(self, source: Source, task: Task, agent: str) -> Outcome:
        said = {"says": list(task.says), "system": task.system}
        done = await self._carry_out(source, "do", agent, said)
        calls = [SeenCall(name, arguments) for name, arguments in done["calls"]]
        return Outcome(list(done["answers"]), calls)

    async def say(self, source: Source, agent: str) -> None:
        await self._carry_out(source, "say", agent, {})

    def close(self) -> None:
        """End the worker. Idempotent."""
        with self._starting:
            self._end()

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None

    async def _carry_out(
        self, source: Source, what: str, agent: str, facts: Mapping[str, Any]
    ) -> Line:
        worker, number = await asyncio.to_thread(self._started), next(self._numbers)
        loop, lines = asyncio.get_running_loop(), asyncio.Queue[Line]()

        def put(line: Line) -> None:
            with suppress(RuntimeError):  # the loop has ended, and no task waits
                loop.call_soon_threadsafe(lines.put_nowait, line)

        worker.expect(number, put)
        try:
            async with _speaker(source, agent) as speaker:
                worker.send(what, id=number, agent=agent, where=_where(source), **facts)
                return await _Exchange(worker, speaker).until_done(lines)
        except asyncio.CancelledError:
            with suppress(WorkerGone):
                worker.send("drop", id=number)
            raise
        finally:
            worker.forget(number)

    def _started(self) -> Worker:
        with self._starting:
            if self._worker is None or not self._worker.is_alive:
                self._end()
                self._worker = Worker(self._command)
                weakref.finalize(self, self._worker.close)
            return self._worker


class _Exchange:
    """One task's lines: the model's calls that it asks for are answered meanwhile."""

    def __init__(self, worker: Worker, speaker: Agent | None) -> None:
        self._worker = worker
        self._speaker = speaker
        self._calls: dict[int, asyncio.Task[None]] = {}

    async def until_done(self, lines: asyncio.Queue[Line]) -> Line:
        try:
            while True:
                line = await lines.get()
                match line["what"]:
                    case "done":
                        return line
                    case "broken":
                        raise RemoteFailure(line["why"])
                    case "gone":
                        raise WorkerGone(self._worker.last_words())
                    case "ask":
                        work = self._answer(line["call"], line["request"])
                        self._calls[line["call"]] = asyncio.create_task(work)
                    case "cancel" if (call := self._calls.get(line["call"])) is not None:
                        call.cancel()
        finally:
            for call in self._calls.values():
                call.cancel()
            await asyncio.gather(*self._calls.values(), return_exceptions=True)

    async def _answer(self, call: int, request: Mapping[str, Any]) -> None:
        """Make the call as a call of the agent here, and send its outcome."""
        assert self._speaker is not None, "only agents on the kernel ask"  # noqa: S101
        options = {key: value for key, value in request.items() if key not in ("messages", "model")}
        options |= options.pop("sampling")
        try:
            async with self._speaker.llm.astream(request["messages"], **options) as stream:
                async for delta in stream:
                    self._worker.send("delta", call=call, delta=encode_delta(delta))
                end = encode_completion(stream.completion)
        except KernelError as exc:
            self._worker.send("failed", call=call, why=f"{type(exc).__name__}: {exc}")
        else:
            self._worker.send("end", call=call, completion=end)


@asynccontextmanager
async def _speaker(source: Source, agent: str) -> AsyncIterator[Agent | None]:
    """The agent here that makes the calls of the one over there; natively none."""
    if not isinstance(source, KernelSource):
        yield None
        return
    async with await source.kernel.aspawn(agent) as spawned:
        yield spawned


def _where(source: Source) -> Line:
    if isinstance(source, Endpoint):
        server = source.server
        return {
            "base_url": server.base_url,
            "api_key": server.api_key,
            "model": server.model,
            "max_tokens": source.max_tokens,
        }
    return {"max_tokens": source.max_tokens}
