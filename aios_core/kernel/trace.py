"""A trace of a kernel for https://ui.perfetto.dev or chrome://tracing: who ran where, and when.

One track for each agent (its calls as spans: waiting, running, requests to managers), one for
each slot of each core. The observer only queues what happened; a thread of its own writes, so
that a slow disk never holds up the kernel. A file that was not closed is readable all the same:
the format's closing bracket is optional.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self

from aios_core.errors import ConfigError, InvalidRequest
from aios_core.events import EventKind, KernelEvent
from aios_core.private_files import open_private
from aios_core.untrusted.arguments import require_path

_AGENTS: Final = 1  # the trace's process for agents; cores follow
_OVER: Final = frozenset({EventKind.DONE, EventKind.FAILED, EventKind.CANCELLED})
_OFF_CORE: Final = frozenset({EventKind.PREEMPTED, EventKind.RETRIED, *_OVER})

Row = dict[str, Any]


@dataclass(slots=True)
class _OpenCall:
    """A call that has no answer yet."""

    pid: int
    name: str  # of what is asked: "LLM call", or the kind of the request
    since: float  # when the present span began, in seconds
    state: str = "waiting"
    core: str | None = None
    slot: int = 0


@dataclass(slots=True)
class TraceBuilder:
    """Turns kernel events into rows of the trace format. Pure; times are the kernel's clock."""

    _calls: dict[int, _OpenCall] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _cores: dict[str, list[bool]] = field(default_factory=dict)  # which slots are taken

    def rows(self, event: KernelEvent) -> Iterator[Row]:
        """Return the rows that an event completes."""
        if event.pid is not None and event.pid not in self._names:
            self._names[event.pid] = str(event.facts.get("name", f"agent {event.pid}"))
            yield _named("thread_name", _AGENTS, event.pid, f"{self._names[event.pid]} {event.pid}")
        if event.syscall_id is None:
            return
        if event.kind is EventKind.SUBMITTED and event.pid is not None:
            name = str(event.facts.get("request", "LLM call"))
            self._calls[event.syscall_id] = _OpenCall(event.pid, name, event.at)
        elif (call := self._calls.get(event.syscall_id)) is not None:
            yield from self._moved(call, event)

    def _moved(self, call: _OpenCall, event: KernelEvent) -> Iterator[Row]:
        if event.kind is EventKind.DISPATCHED:
            yield self._span(call, event)
            call.since, call.state = event.at, "running"
            if core := event.facts.get("core"):
                yield from self._take_slot(call, str(core))
        elif event.kind in _OFF_CORE:
            yield self._span(call, event)
            yield from self._leave_slot(call, event)
            call.since, call.state = event.at, "waiting"
            if event.kind in _OVER and event.syscall_id is not None:
                del self._calls[event.syscall_id]

    def _span(self, call: _OpenCall, event: KernelEvent) -> Row:
        is_request = call.name != "LLM call"
        name = call.name if is_request and call.state == "running" else f"{call.state}"
        facts = {"syscall": event.syscall_id, "of": call.name, "then": str(event.kind)}
        return _span_row(_AGENTS, call.pid, (call.since, event.at), name, facts | event.facts)

    def _take_slot(self, call: _OpenCall, core: str) -> Iterator[Row]:
        if core not in self._cores:
            self._cores[core] = []
            yield _named("process_name", self._process_of(core), 0, f"core {core}")
        slots = self._cores[core]
        call.core = core
        call.slot = slots.index(False) if False in slots else len(slots)
        if call.slot == len(slots):
            slots.append(True)
            yield _named("thread_name", self._process_of(core), call.slot, f"slot {call.slot}")
        slots[call.slot] = True

    def _leave_slot(self, call: _OpenCall, event: KernelEvent) -> Iterator[Row]:
        if call.core is None:
            return
        self._cores[call.core][call.slot] = False
        process, name = self._process_of(call.core), self._names[call.pid]
        facts = {"agent": call.pid, "syscall": event.syscall_id}
        yield _span_row(process, call.slot, (call.since, event.at), name, facts)
        call.core = None

    def _process_of(self, core: str) -> int:
        return _AGENTS + 1 + tuple(self._cores).index(core)


def _named(what: str, process: int, thread: int, name: str) -> Row:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _span_row(
    process: int, thread: int, span: tuple[float, float], name: str, facts: Mapping[str, Any]
) -> Row:
    begin, end = span  # in seconds
    plain = {key: _plain(value) for key, value in facts.items()}
    return {
        "ph": "X",
        "pid": process,
        "tid": thread,
        "ts": begin * 1e6,  # the format counts in microseconds
        "dur": (end - begin) * 1e6,
        "name": name,
        "args": plain,
    }


def _plain(value: object) -> object:
    return value if isinstance(value, int | float) else str(value)


_numbers: Counter[Path] = Counter()  # traces that this process opened at a path
_lock = threading.Lock()  # guards _numbers


def free_path(path: str | Path) -> Path:
    """Return a path, numbered if this process has opened it before: trace.json, trace-2.json."""
    wanted = Path(path).expanduser().absolute()
    with _lock:
        _numbers[wanted] += 1
        number = _numbers[wanted]
    return wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")


def require_trace_path(path: str | Path | None) -> None:
    """Raise `ConfigError` if a trace cannot be written at a path. None is allowed: no trace."""
    if path is None:
        return
    wanted = Path(path).expanduser().absolute()
    if wanted.is_dir() or not wanted.parent.is_dir():
        raise ConfigError("trace", str(path), "a path of a file in a folder that exists")
    if not os.access(wanted if wanted.exists() else wanted.parent, os.W_OK):
        raise ConfigError("trace", str(path), "a file that this process may write")


class Trace:
    """An observer that writes a trace file until it is closed. May be used as a context manager.

    Raises `InvalidRequest` if the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_path("trace", path)
        self._builder = TraceBuilder()
        self._queue: SimpleQueue[KernelEvent | None] = SimpleQueue()
        try:
            opened = open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            self._file = os.fdopen(opened, "w", encoding="utf-8")
        except OSError as exc:
            raise InvalidRequest(f"trace: {self.path} cannot be written: {exc.strerror}") from exc
        self._file.write("[\n" + json.dumps(_named("process_name", _AGENTS, 0, "agents")))
        self._thread = threading.Thread(target=self._write, name="aios-trace", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Trace {self.path}>"

    def __call__(self, event: KernelEvent) -> None:
        self._queue.put(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued, and end the file. Blocks until it is written. Idempotent."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        with self._file as file:
            while (event := self._queue.get()) is not None:
                for row in self._builder.rows(event):
                    file.write(",\n" + json.dumps(row))
            file.write("\n]\n")
