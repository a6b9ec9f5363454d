"""The business trip of the tutorial runs: from its script, and on an unhelpful endpoint."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aios_core.messages import parse_messages
from aios_core.syscalls import LLMGenerate
from aios_core.testing.stub_server import Answer, StubServer

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ("langchain", "autogen_agentchat", "llama_index.core")
SHOWN = (
    "search_flights(SFO, JFK, 2027-03-01)",
    "booked 1 at a time",
    "room 1204",
    "room 1205",
    "agent 'lodging/desk' (pid 2) may not memory.read",
    "pay(airport train, 17)",
    "United Airlines, $412?",
    "back to version 1: the trip is on 20270301",
    "has spent 308 of 400 tokens",
    "both processes wrote the same text",
    "a second try is refused",
)


def run_trip(directory: Path, **environment: str) -> str:
    """Run the program in a terminal of 60 columns. Returns what it printed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIOS_")}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, str(ROOT / "examples" / "trip")],
        cwd=directory,
        env={**kept, "COLUMNS": "60", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the trip prints without a real model."""
    for name in FRAMEWORKS:
        pytest.importorskip(name)
    return run_trip(tmp_path_factory.mktemp("trip"))


@pytest.mark.timeout(300)
def test_the_trip_shows_every_step_and_fits_sixty_columns(scripted: str) -> None:
    text = " ".join(scripted.split())
    assert [part for part in SHOWN if part not in text] == []
    assert max(map(len, scripted.splitlines())) <= 60
    assert scripted.count("is asked by") == 1  # the small payment is approved by a rule


@pytest.mark.timeout(300)
def test_fair_lets_the_teams_wait_less_than_their_neighbors(scripted: str) -> None:
    waits = {
        cells[0]: (float(cells[1]), float(cells[3]))
        for cells in map(str.split, scripted.splitlines())
        if len(cells) == 5 and cells[2] == cells[4] == "s"
    }
    assert waits.keys() == {"travel", "lodging", "assistant", "research"}
    for team in ("travel", "lodging", "assistant"):
        fifo, fair = waits[team]
        assert fair < waits["research"][1] / 10
        assert fair < fifo / 10


@pytest.mark.timeout(300)
def test_a_real_endpoint_takes_the_place_of_the_script(tmp_path: Path) -> None:
    for name in FRAMEWORKS:
        pytest.importorskip(name)
    with StubServer(Answer("I would rather not."), models=["reluctant"]) as server:
        shown = run_trip(tmp_path, AIOS_BASE_URL=server.base_url, AIOS_MODEL="reluctant")

    assert "A real model answers" in shown
    assert shown.count("I would rather not.") > 3
    assert "no room was booked" in shown
    assert "the model changed nothing" in shown


@pytest.mark.timeout(300)
def test_a_capable_endpoint_plans_the_same_trip(tmp_path: Path) -> None:
    for name in FRAMEWORKS:
        pytest.importorskip(name)
    script = runpy.run_path(str(ROOT / "examples" / "trip" / "model.py"))["_answer"]

    def answer(body: dict[str, Any]) -> Answer:
        return Answer(message=script(LLMGenerate(parse_messages(body["messages"]))))

    with StubServer(answer, models=["capable"]) as server:
        shown = run_trip(tmp_path, AIOS_BASE_URL=server.base_url, AIOS_MODEL="capable")

    text = " ".join(shown.split())
    ends_first = "both processes wrote the same text"  # an endpoint is not interrupted
    assert [part for part in SHOWN if part not in text and part != ends_first] == []
    assert "this core ends an answer before it stops" in text
