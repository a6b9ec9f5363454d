"""The trace of a kernel, and the story that a journal prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from aios_core import EventLog, InvalidRequest, Kernel, KernelConfig
from aios_core.cores import ScriptedCore
from aios_core.events import EventKind, KernelEvent
from aios_core.kernel.trace import TraceBuilder, free_path


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def spans(rows: list[dict[str, Any]], process: str) -> list[tuple[str, str]]:
    """The spans of a process, as its thread's name and the span's own."""
    processes = {row["pid"]: row["args"]["name"] for row in rows if row["name"] == "process_name"}
    threads = {
        (row["pid"], row["tid"]): row["args"]["name"]
        for row in rows
        if row["name"] == "thread_name"
    }
    return [
        (threads[row["pid"], row["tid"]], row["name"])
        for row in rows
        if row["ph"] == "X" and processes[row["pid"]] == process
    ]


def test_any_program_gets_a_trace_of_its_agents_and_slots(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"

    with Kernel(KernelConfig(), cores=[ScriptedCore("hello")]) as kernel:
        kernel.trace(file)
        agent = kernel.spawn("reader")
        agent.llm.generate("hi")
        agent.memory.write("note", "x")

    rows = rows_of(file)
    assert spans(rows, "agents") == [
        ("reader 1", "waiting"),
        ("reader 1", "running"),
        ("reader 1", "waiting"),
        ("reader 1", "memory.write"),
    ]
    assert spans(rows, "core scripted") == [("slot 0", "reader")]
    assert all(row["dur"] >= 0 for row in rows if row["ph"] == "X")


def test_a_trace_can_be_configured_and_a_second_kernel_gets_a_file_of_its_own(
    tmp_path: Path,
) -> None:
    config = KernelConfig(trace=str(tmp_path / "t.json"))

    for _ in range(2):
        with Kernel(config, cores=[ScriptedCore("hello")]) as kernel:
            kernel.spawn("a").llm.generate("hi")

    assert spans(rows_of(tmp_path / "t.json"), "core scripted") == [("slot 0", "a")]
    assert spans(rows_of(tmp_path / "t-2.json"), "core scripted") == [("slot 0", "a")]
    assert free_path(tmp_path / "t.json").name == "t-3.json"


def test_a_file_that_cannot_be_written_is_refused_by_its_name(tmp_path: Path) -> None:
    with (
        Kernel(KernelConfig(), cores=[ScriptedCore("hello")]) as kernel,
        pytest.raises(InvalidRequest, match=r"nowhere/t\.json cannot be written"),
    ):
        kernel.trace(tmp_path / "nowhere" / "t.json")


def test_two_calls_at_once_have_a_slot_each_and_a_free_one_is_taken_again() -> None:
    builder = TraceBuilder()
    slots: list[tuple[int, float, float]] = []
    for at, kind, call in [
        (0, EventKind.SUBMITTED, 1),
        (0, EventKind.SUBMITTED, 2),
        (1, EventKind.DISPATCHED, 1),
        (2, EventKind.DISPATCHED, 2),
        (3, EventKind.PREEMPTED, 1),
        (4, EventKind.DISPATCHED, 1),
        (5, EventKind.DONE, 1),
        (6, EventKind.DONE, 2),
    ]:
        facts = {"core": "gpu"} if kind is EventKind.DISPATCHED else {}
        slots += [
            (row["tid"], row["ts"] / 1e6, row["dur"] / 1e6)
            for row in builder.rows(KernelEvent(float(at), kind, call, call, facts))
            if row["ph"] == "X" and row["pid"] == 2
        ]

    assert slots == [(0, 1, 2), (0, 4, 1), (1, 2, 4)]


def test_a_story_has_the_time_of_day_and_the_agents_name() -> None:
    journal = EventLog()
    with Kernel(KernelConfig(), cores=[ScriptedCore("hello")], observers=[journal]) as kernel:
        agent = kernel.spawn("reader")
        agent.llm.generate("hi")
        story = journal.format(pid=agent.pid)

    lines = story.splitlines()
    assert len(lines) >= 4
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} reader \d", line) for line in lines)
    assert lines[-1].endswith("done") or " call.done " in lines[-1]
