"""Write the files of the demo: `demo.json`, `trace.json` and `timeline.png`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from langchain_aios.demo.records import Run, Score, lanes
from langchain_aios.demo.timeline import draw


def write(
    out: Path,
    runs: Sequence[Run],
    scores: Sequence[Score],
    alone: Mapping[str, Mapping[str, Run]],
    *,
    frameworks: Run | None = None,
    drawn: Sequence[tuple[Run, Score]] = (),
) -> list[Path]:
    """Write everything into a folder; `drawn` goes into the picture. Returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "demo.json", out / "trace.json"]
    rows = {
        "scores": [asdict(score) for score in scores],
        "alone_s": {
            kind: {group: run.makespan_s for group, run in groups.items()}
            for kind, groups in alone.items()
        },
        "tasks": {_name(run): [asdict(task) for task in run.tasks] for run in runs},
        "frameworks": None if frameworks is None else _shared(frameworks),
    }
    written[0].write_text(json.dumps(rows, indent=1), encoding="utf-8")
    written[1].write_text(json.dumps({"traceEvents": list(trace(runs))}), encoding="utf-8")
    try:
        written.append(draw([run for run, _ in drawn], [s for _, s in drawn], out / "timeline.png"))
    except ModuleNotFoundError as exc:
        if exc.name != "matplotlib":
            raise
    return written


def _name(run: Run) -> str:
    return run.system if run.round == 1 else f"{run.system}, round {run.round}"


def _shared(run: Run) -> dict[str, Any]:
    """Return the results of agents of several frameworks on one kernel."""
    requests: dict[str, dict[str, int]] = {}
    for (group, kind), number in sorted(run.requests.items()):
        requests.setdefault(group, {})[kind] = number
    return {
        "policy": run.system,
        "tasks": [asdict(task) for task in run.tasks],
        "llm_calls": Counter(call.group for call in run.calls),
        "requests": requests,
    }


def trace(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Chrome's trace events: a process for each system, a thread for each slot and each agent."""
    for pid, run in enumerate(runs, start=1):
        yield _named("process_name", pid, 0, _name(run))
        for slot in range(run.num_slots):
            yield _named("thread_name", pid, slot, f"slot {slot}")
        for slot, start, end, call in lanes(run.calls):
            yield _span(pid, slot, (start, end), name=call.agent, cat=call.group)
        agents = sorted({task.agent for task in run.tasks})
        for tid, agent in enumerate(agents, start=1000):
            yield _named("thread_name", pid, tid, f"tasks of {agent}")
        for task in run.tasks:
            tid = 1000 + agents.index(task.agent)
            name = task.kind if task.is_right else f"{task.kind} (wrong)"
            span = (task.started_at, task.ended_at)
            yield _span(pid, tid, span, name=name, cat=task.group)


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _span(pid: int, tid: int, span: tuple[float, float], **words: str) -> dict[str, Any]:
    start, end = span
    return {
        "ph": "X",
        "pid": pid,
        "tid": tid,
        "ts": start * 1e6,
        "dur": (end - start) * 1e6,
        **words,
    }
