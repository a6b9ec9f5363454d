"""Run Open Interpreter's agents for `interpreter_client`, in an environment of their own.

Reads one JSON object a line from standard input, and writes such lines to what was its
standard output:

    do {id, says, system, agent, where}  ->  done {id, answers, calls}, broken {id, why} prose: ok
    say {id, agent, where}                  ->  done {id}  prose: ok
    drop {id}                               stop it: its result is not needed
    delta {call, delta}, end {call, completion}, failed {call, why}
                                            the outcome of an `ask`
    ask {id, call, request}                 a call of a model, to the kernel over there
    cancel {id, call}                       its answer is not needed

`where` is {base_url, api_key, model, max_tokens}: natively, with LiteLLM; or {max_tokens}: on
a kernel of this process with its own sandbox and memory; its one core passes each call on to
the kernel over there. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any, Final, TextIO

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or importing it fetches one

from interpreter import OpenInterpreter

from aios_core import Kernel, KernelConfig
from aios_core.core import Capabilities, Prepared
from aios_core.cores import StreamingCore
from aios_core.cores.answer_format import decode_completion, decode_delta
from aios_core.cores.streaming import Item, LiveRun
from aios_core.errors import CoreError
from aios_core.syscalls import LLMGenerate
from open_interpreter_aios import Attachment, attach

MANY: Final = 256  # agents at once
WINDOW: Final = 1 << 20  # tokens; the kernel over there knows better, and refuses

Line = dict[str, Any]


class Parent:
    """The way to the other side. Any thread may write; `_lock` guards the writing."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def send(self, what: str, **facts: Any) -> None:
        line = json.dumps({"what": what, **facts}, ensure_ascii=False)
        with self._lock:
            self._out.write(f"{line}\n")
            self._out.flush()


class ParentCore(StreamingCore):
    """A core that passes calls to the kernel of the parent. `tasks`: ids of tasks by pid."""

    def __init__(self, parent: Parent) -> None:
        super().__init__("parent", ("parent",), slots=MANY)
        self.tasks: dict[int, int] = {}
        self._parent = parent
        self._calls = count(1)
        self._replies: dict[int, asyncio.Queue[Line]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(context_window=WINDOW)

    def prepare(self, request: LLMGenerate) -> Prepared:
        """Count words; the kernel over there counts tokens."""
        num_words = sum(len(message.content.split()) for message in request.messages)
        return Prepared(num_words, request.sampling.max_tokens or WINDOW - num_words)

    async def connect(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def stream(self, live: LiveRun) -> AsyncGenerator[Item]:
        call, heard = next(self._calls), asyncio.Queue[Line]()
        task = self.tasks[live.run.pid]
        self._replies[call] = heard
        is_over = False
        try:
            self._parent.send("ask", id=task, call=call, request=live.run.request.to_dict())
            while True:
                line = await heard.get()
                is_over = line["what"] != "delta"
                if line["what"] == "failed":
                    raise CoreError("parent", line["why"])
                if is_over:
                    yield decode_completion(line["completion"])
                    return
                yield decode_delta(line["delta"])
        finally:
            del self._replies[call]
            if not is_over:
                self._parent.send("cancel", id=task, call=call)

    def receive(self, line: Line) -> None:
        """Something came of a call; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._put, line)

    def _put(self, line: Line) -> None:
        if (heard := self._replies.get(line["call"])) is not None:
            heard.put_nowait(line)


class Worker:
    """Carries out the lines from the parent, each on a thread of its own."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._core = ParentCore(parent)
        self._threads = ThreadPoolExecutor(MANY, "worker")
        self._attached: dict[int, Attachment] = {}  # by task
        self._kept: dict[str, list[Any]] = {}  # interpreters that `say` uses again, by where
        self._kernel = cache(self._start)

    def run(self, lines: TextIO) -> None:
        for raw in lines:
            line = json.loads(raw)
            match line["what"]:
                case "do" | "say":
                    self._threads.submit(self._carry_out, line)
                case "drop" if (attached := self._attached.get(line["id"])) is not None:
                    attached.stop()
                case "delta" | "end" | "failed":
                    self._core.receive(line)
        if self._kernel.cache_info().currsize:
            self._kernel().close(0)
        os._exit(0)  # natively Open Interpreter leaves threads behind

    def _start(self) -> Kernel:
        config = KernelConfig.load(
            state={"directory": ":memory:"},
            access={"approver": "allow"},
            guard={"max_calls": "none", "max_repeats": "none"},
        )
        return Kernel(config, cores=[self._core]).start()

    def _carry_out(self, line: Line) -> None:
        try:
            done = self._do(line) if line["what"] == "do" else self._say(line)
            self._parent.send("done", id=line["id"], **done)
        except BaseException as exc:  # noqa: BLE001 - the parent gets it
            self._parent.send("broken", id=line["id"], why=f"{type(exc).__name__}: {exc}")

    def _do(self, line: Line) -> Line:
        """Let a new agent do a task."""
        interpreter = _interpreter(line["where"], line["system"])
        answers, calls = [], []
        with self._on_its_model(interpreter, line):
            for said in line["says"]:
                new = interpreter.chat(said, display=False)
                calls += [_call(one) for one in new if one["type"] == "code"]
                answers.append(_answer(new))
        return {"answers": answers, "calls": calls}

    def _say(self, line: Line) -> Line:
        """One call of the model, without tools, by an interpreter that is there already."""
        kept = self._kept.setdefault(json.dumps(line["where"]), [])
        interpreter = kept.pop() if kept else _interpreter(line["where"], "")
        interpreter.llm.supports_functions = False
        said = (("system", ""), ("user", "hi"))
        messages = [{"role": role, "type": "message", "content": text} for role, text in said]
        with self._on_its_model(interpreter, line):
            for _ in interpreter.llm.run(messages):
                pass
        kept.append(interpreter)
        return {}

    @contextmanager
    def _on_its_model(self, interpreter: Any, line: Line) -> Iterator[None]:
        if "base_url" in line["where"]:
            try:
                yield
            finally:
                interpreter.computer.terminate()
            return
        with self._kernel().spawn(line["agent"]) as agent:
            self._core.tasks[agent.pid] = line["id"]
            self._attached[line["id"]] = attach(interpreter, agent=agent)
            interpreter.computer.languages = _python_of(interpreter)
            try:
                yield
            finally:
                del self._attached[line["id"]], self._core.tasks[agent.pid]


def _interpreter(where: Mapping[str, Any], system: str) -> Any:
    interpreter = OpenInterpreter(system_message=system)
    interpreter.auto_run = interpreter.offline = interpreter.disable_telemetry = True
    interpreter.conversation_history = False
    interpreter.computer.languages = _python_of(interpreter)
    llm = interpreter.llm
    llm.supports_functions, llm.max_tokens = True, where["max_tokens"]
    if "base_url" in where:  # as Open Interpreter's own pages point it at a local server
        llm.model = f"openai/{where['model']}"
        llm.api_base, llm.api_key = where["base_url"], where["api_key"]
        llm.supports_vision, llm.context_window = False, WINDOW
    return interpreter


def _python_of(interpreter: Any) -> list[Any]:
    return [one for one in interpreter.computer.languages if one.name == "Python"]


def _call(message: Line) -> list[Any]:
    return ["execute", {"language": message["format"], "code": message["content"]}]


def _answer(messages: list[Line]) -> str:
    """Return the model's last message to the user."""
    said = [one for one in messages if (one["role"], one["type"]) == ("assistant", "message")]
    return str(said[-1]["content"]) if said else ""


def main() -> None:
    # Open Interpreter prints to standard output too, which is not for the parent.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parent = Parent(out)
    parent.send("ready")
    Worker(parent).run(sys.stdin)


if __name__ == "__main__":
    main()
