"""The demo checks real results, shows only measured numbers, and keeps complete runs."""

from __future__ import annotations

import asyncio
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from aios_core import AccessDenied, EventKind, Kernel, KernelConfig, KernelEvent, ToolCall
from aios_core.cores import ScriptedCore
from langchain_aios.demo import main, systems
from langchain_aios.demo.display import print_table, spreads, summary
from langchain_aios.demo.facts import STOCK, TOOLS, WEATHER, calculate
from langchain_aios.demo.kernel_agents import installed_frameworks, make_agent
from langchain_aios.demo.kernel_tools import PLUGINS, open_office
from langchain_aios.demo.native_agents import PlainDesk, make_tools
from langchain_aios.demo.output_files import trace
from langchain_aios.demo.records import (
    CallRecord,
    Run,
    Score,
    Spread,
    Stopwatch,
    TaskRecord,
    jain,
    lanes,
    percentile,
    score,
)
from langchain_aios.demo.systems import Recorder
from langchain_aios.demo.tasks import Fact, Note, Time, Worksheet, errand, worksheet
from langchain_aios.demo.verdict import busy_note, verdict
from langchain_aios.demo.workload import GROUPS, AgentPlan, Size, make_members, make_mixed_agents

SPREAD = Spread(98_765.43, 98_765.43, 98_765.43, 98_765.43)
OFFICE = KernelConfig(
    state={"directory": ":memory:"},  # type: ignore[arg-type]
    tools={"plugins": PLUGINS},  # type: ignore[arg-type]
    groups={"chat": {}},  # type: ignore[dict-item]
)

# --- tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 + 3", "5"), ("2 + 3 * 4", "14"), ("7 - 9", "-2"), ("12 *", ""), ("__import__('os')", "")],
)
def test_the_calculator_does_sums_and_nothing_else(expression: str, value: str) -> None:
    assert calculate(expression) == (value or f"error: not a sum: {expression}")


async def honest(question: str) -> str:
    """Answers a worksheet's question."""
    return f"The result is {calculate(question.removeprefix('what is ').rstrip('?'))}."


async def careless(question: str) -> str:
    """Is off by one."""
    return f"The result is {int(calculate(question.removeprefix('what is ').rstrip('?'))) + 1}."


async def test_a_worksheet_goes_on_from_its_own_answers() -> None:
    sheet = Worksheet(10, (("+", 5), ("*", 2)))

    assert sheet.truth == 30
    assert await sheet.perform(honest, PlainDesk())
    assert not await sheet.perform(careless, PlainDesk())


async def test_a_note_is_right_if_it_was_taken_and_not_if_it_was_promised() -> None:
    desk = PlainDesk()
    save_note = next(tool for tool in make_tools(desk) if tool.name == "save_note")

    async def promise(_: str) -> str:
        return "Noted: tuna 7."

    async def take(_: str) -> str:
        await save_note.ainvoke({"text": "tuna 7"})
        return "ok"

    assert not await Note("tuna 7").perform(promise, desk)
    assert await Note("tuna 7").perform(take, desk)


async def test_the_time_is_what_the_clock_says() -> None:
    async def guess(_: str) -> str:
        return "It is 12:30."

    assert not await Time(now=lambda: "09:15").perform(guess, PlainDesk())
    assert await Time(now=lambda: "12:30").perform(guess, PlainDesk())


async def test_on_the_kernel_notes_are_memory_and_facts_are_files() -> None:
    async with Kernel(OFFICE, cores=[ScriptedCore("ok")]) as kernel:
        await open_office(kernel, ["chat"])
        insider = await kernel.aspawn("ann", group="chat")
        stranger = await kernel.aspawn("eve", group="elsewhere")

        await insider.tools.arun("save_note", {"text": "tuna 7"})
        key, number = next(iter(STOCK.items()))

        assert {spec.name for spec in await insider.tools.aspecs()} == set(TOOLS)
        assert await insider.memory.aread("notes") == "tuna 7\n"
        assert await insider.tools.arun("lookup", {"key": key}) == number
        assert await insider.tools.arun("weather", {"city": "Oslo"}) == WEATHER["Oslo"]
        assert await insider.tools.arun("weather", {"city": "Atlantis"}) == (
            "error: no city Atlantis"
        )
        assert await insider.tools.arun("calculator", {"expression": "6 * 7"}) == "42"
        with pytest.raises(AccessDenied):
            await stranger.tools.arun("lookup", {"key": key})


async def test_a_note_on_the_kernel_is_right_if_its_memory_has_it() -> None:
    taken = ToolCall("1", "save_note", '{"text": "tuna 7"}')
    async with Kernel(OFFICE, cores=[ScriptedCore([taken, "ok"])]) as kernel:
        await open_office(kernel, ["chat"])
        post = await make_agent(AgentPlan("ann", "chat", ()), kernel)

        async def promise(_: str) -> str:
            return "Noted: tuna 7."

        assert not await Note("tuna 7").perform(promise, post.desk)
        assert await Note("tuna 7").perform(post.ask, post.desk)


async def test_a_fact_must_be_in_the_answer() -> None:
    async def answer(_: str) -> str:
        return f"In Oslo it is {WEATHER['Oslo']}."

    assert await Fact("?", WEATHER["Oslo"], "weather").perform(answer, PlainDesk())
    assert not await Fact("?", WEATHER["Lima"], "weather").perform(answer, PlainDesk())


def test_the_same_seed_gives_the_same_work() -> None:
    assert make_members(Size(), 7) == make_members(Size(), 7) != make_members(Size(), 8)


def test_there_are_24_agents_in_three_groups() -> None:
    members = make_members(Size(), 1)

    assert len(members) == 24
    assert {member.group for member in members} == set(GROUPS)


def test_a_crew_has_a_group_for_each_framework() -> None:
    crew = make_mixed_agents(["a", "b"], Size(num_each=3), 1)

    assert [member.group for member in crew] == ["a"] * 3 + ["b"] * 3
    assert all(len(member.work) == Size().num_errands for member in crew)


def test_random_tasks_are_such_that_the_model_can_do_them() -> None:
    rng = random.Random(3)

    assert all(0 < worksheet(rng, 5).truth < 10**6 for _ in range(200))
    kinds = {errand(rng).kind for _ in range(100)}
    assert kinds == {"sum", "weather", "look-up", "note", "clock"}


# --- records -------------------------------------------------------------------------------------


def test_percentiles_interpolate() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], p) for p in (0, 50, 100)] == [1.0, 2.5, 4.0]
    assert Spread.of([]) == Spread(0.0, 0.0, 0.0, 0.0)


def test_jains_index_is_one_for_equals_and_one_nth_for_a_monopoly() -> None:
    assert jain([0.5, 0.5, 0.5]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def call(group: str, submitted: float, *stretches: tuple[float, float]) -> CallRecord:
    return CallRecord("a", group, submitted, list(stretches), None, stretches[-1][1])


def test_waiting_is_the_time_without_a_slot() -> None:
    assert call("g", 1.0, (2.0, 3.0), (5.0, 6.0)).waited_s == 3.0


def test_overlapping_stretches_lie_in_different_lanes_and_lanes_are_used_again() -> None:
    calls = [call("g", 0, (0, 2)), call("g", 0, (1, 3)), call("g", 0, (2, 4))]

    assert [(lane, start) for lane, start, _, _ in lanes(calls)] == [(0, 0), (1, 1), (0, 2)]


def run_of(system: str, **ends: float) -> Run:
    tasks = [TaskRecord(g, g, "x", 0.0, end, is_right=True) for g, end in ends.items()]
    return Run(system, 1, len(tasks), tasks, [call("batch", 0, (0, 1))])


def test_a_score_compares_each_group_with_itself_alone() -> None:
    alone = {group: run_of("fifo", **{group: 2.0}) for group in GROUPS}

    equal = score(run_of("fair", batch=4.0, chat=4.0, desk=4.0), alone, ("chat", "desk"))
    unequal = score(run_of("fifo", batch=2.0, chat=8.0, desk=8.0), alone, ("chat", "desk"))

    assert (equal.slowdown, equal.jain) == (2.0, pytest.approx(1.0))
    assert unequal.slowdown == 4.0
    assert unequal.jain < 0.7
    assert (equal.num_right, equal.num_tasks, equal.makespan_s) == (3, 3, 4.0)


def test_kernel_events_become_calls_with_their_stretches() -> None:
    run = Run("fair", 1, 1)
    recorder = Recorder(run, Stopwatch(started_at=10.0))
    recorder(KernelEvent(9, EventKind.AGENT_SPAWNED, 1, facts={"name": "ann", "group": "chat"}))
    for at, kind in (
        (10, EventKind.SUBMITTED),
        (12, EventKind.DISPATCHED),
        (13, EventKind.PREEMPTED),
        (15, EventKind.DISPATCHED),
        (16, EventKind.DONE),
    ):
        recorder(KernelEvent(at, kind, 1, 7))

    (record,) = run.calls
    assert (record.agent, record.group) == ("ann", "chat")
    assert record.stretches == [(2, 3), (5, 6)]
    assert record.waited_s == 4


def test_a_trace_has_a_span_for_each_stretch_and_each_task() -> None:
    run = run_of("fair", chat=2.0)
    run.calls = [call("chat", 0.0, (0.5, 1.0), (1.5, 2.0))]

    spans = [event for event in trace([run]) if event["ph"] == "X"]

    assert [(span["ts"], span["dur"]) for span in spans] == [
        (0.5e6, 0.5e6),
        (1.5e6, 0.5e6),
        (0.0, 2e6),
    ]


# --- the verdict ---------------------------------------------------------------------------------


def numbers(system: str, *, slowdown: float, tasks_per_s: float) -> Score:
    none = Spread(0, 0, 0, 0)
    return Score(system, 1, 1, 1.0, tasks_per_s, none, none, slowdown, 1.0)


def round_of(native: tuple[float, float], fair: tuple[float, float]) -> dict[str, Score]:
    """A round, by slowdown and tasks a second."""
    return {
        "native": numbers("native", slowdown=native[0], tasks_per_s=native[1]),
        "fair": numbers("fair", slowdown=fair[0], tasks_per_s=fair[1]),
    }


def test_what_every_round_shows_is_claimed_with_its_range() -> None:
    fairness, throughput = verdict(
        [round_of((4.0, 1.0), (1.2, 2.0)), round_of((5.0, 1.0), (1.4, 2.5))], "native"
    )

    assert "4.0 to 5.0x as long as alone natively and 1.2 to 1.4x under fair" in fairness
    assert "finished 2.0 to 2.5x the tasks a second (in each of 2 rounds)" in throughput


def test_what_the_rounds_disagree_about_is_no_verdict() -> None:
    fairness, throughput = verdict(
        [round_of((4.0, 1.0), (1.2, 2.0)), round_of((1.2, 2.0), (4.0, 1.0))], "native"
    )

    assert fairness.startswith("No verdict on fairness")
    assert throughput.startswith("No verdict on throughput")


def test_a_kernel_that_does_worse_is_said_to() -> None:
    fairness, throughput = verdict([round_of((1.0, 2.0), (3.0, 1.0))] * 2, "native")

    assert fairness.startswith("Not fairer here")
    assert "was slower: 0.5x" in throughput


def test_without_a_complete_round_there_is_no_verdict() -> None:
    assert verdict([], "native")[0].startswith("No verdict")
    native = {"native": numbers("native", slowdown=1, tasks_per_s=1)}
    assert verdict([native], "native")[0].startswith("No verdict")


def test_a_busy_machine_is_noted_and_an_idle_one_is_not() -> None:
    assert "43%" in busy_note(0.43)
    assert busy_note(0.05) == busy_note(None) == ""


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_no_number_is_cut_however_narrow_the_terminal(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    score = Score("round_robin", 112, 1_120, 12_345.6, 1_234.56, SPREAD, SPREAD, 12_345.67, 0.987)

    print_table(console, summary([score]))
    print_table(console, spreads([score]))

    shown = console.export_text()
    for number in ("112/1120", "12345.6", "1234.56", "12345.67x", "0.987", "98765.43"):
        assert number in shown
    assert "\u2026" not in shown
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("option", ["--slots", "--rounds"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_no_slots_and_no_rounds_are_wrong_command_lines(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option, value])

    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err


# --- all of it ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # LlamaIndex's
def test_the_demo_runs_and_leaves_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["--quick", "--policies", "fair", "--out", str(tmp_path)])

    said = capsys.readouterr().out
    assert status == 0
    assert "fair: all together, round 1 of 2: 4 of 4 tasks right" in said
    assert "fair: all together, round 2 of 2: 4 of 4 tasks right" in said
    assert "light groups' tasks" in said
    assert "fair: every framework on one kernel: " in said
    written = json.loads((tmp_path / "demo.json").read_text())
    assert set(written["frameworks"]["llm_calls"]) == set(installed_frameworks())
    assert all(task["is_right"] for task in written["frameworks"]["tasks"])
    rows = written["scores"]
    assert [(row["system"], row["num_right"]) for row in rows] == [("native", 8), ("fair", 8)]
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


def then(works: Any, breaks: Any, times: int) -> Any:
    """Works so many times, and breaks after that."""
    calls = iter(range(times))

    async def call(*arguments: Any) -> None:
        await (works if next(calls, None) is not None else breaks)(*arguments)

    return call


def test_an_interrupted_demo_keeps_what_was_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(*_: Any) -> None:
        await asyncio.sleep(0)
        raise KeyboardInterrupt

    monkeypatch.setattr(systems, "run_on_kernel", then(systems.run_on_kernel, interrupt, 3))

    status = main(["--quick", "--out", str(tmp_path)])

    assert status == 130
    assert "Interrupted" in capsys.readouterr().out
    rows = json.loads((tmp_path / "demo.json").read_text())["scores"]
    assert [row["system"] for row in rows] == ["native"]
