"""`--json`: every command that prints a table has it, with stable keys."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from aios_core import Kernel, KernelConfig
from aios_core.access.approvals.approval import ApprovalRequest
from aios_core.access.approvals.files import ApprovalFiles
from aios_core.cli import COMMANDS, main, parser_of
from aios_core.cores.scripted import ScriptedCore
from aios_core.state import cipher_for

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory in which an agent has worked, named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", str(tmp_path / "state"))
    config = KernelConfig.load(access={"approver": "allow"})
    with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        alice = kernel.spawn("alice")
        alice.memory.write("notes", "hello")
        alice.memory.share("notes", "default/bob")
    return tmp_path / "state"


def printed(capsys: Capture, *arguments: str) -> tuple[int, Any]:
    """The exit status of a command, and the JSON that it printed."""
    capsys.readouterr()
    status = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, json.loads(captured.out)


@pytest.mark.usefixtures("directory")
def test_an_explanation_has_its_decision_and_all_that_was_considered(capsys: Capture) -> None:
    question = ["--action", "memory.read", "--resource", "memory:default/alice:notes"]

    status, told = printed(capsys, "access", "explain", "--agent", "default/bob", *question)
    refused, other = printed(capsys, "access", "explain", "--agent", "default/eve", *question)

    assert (status, told["effect"]) == (0, "allow")
    assert (refused, other["effect"]) == (1, "deny")
    assert told.keys() == {
        "effect", "why", "agent", "groups", "action", "right", "resource", "considered"
    }  # fmt: skip
    assert told["resource"] == "memory:default/alice:notes"
    assert told["right"] == "read"
    assert {tuple(one) for one in told["considered"]} == {("what", "fits", "result")}


def test_approvals_that_wait_are_a_list(directory: Path, capsys: Capture) -> None:
    assert printed(capsys, "approvals") == (0, [])
    request = ApprovalRequest(
        "3f9a", "0" * 64, 7, "default/bob", "tool.run", "tool::shell",
        {"command": "ls"}, "it runs code", time.time(), time.time() + 600,
    )  # fmt: skip
    ApprovalFiles(directory, cipher_for(None)).post(request, frozenset(), time.time())

    status, (told,) = printed(capsys, "approvals", "list")

    assert status == 0
    assert (told["id"], told["agent"], told["action"]) == ("3f9a", "default/bob", "tool.run")
    assert told["arguments"]["command"] == "ls"
    assert {"resource", "why", "asked_at", "expires_at", "pid", "digest"} <= told.keys()


def test_the_trail_is_verified_and_shown(directory: Path, capsys: Capture) -> None:
    status, told = printed(capsys, "audit", "verify")
    _, records = printed(capsys, "audit", "show")

    assert (status, told["intact"], told["faults"], told["notes"]) == (0, True, [], [])
    assert told["records"] == len(records) > 0
    assert all({"number", "agent", "action"} <= record.keys() for record in records)
    assert directory.is_dir()


def test_a_trail_without_a_head_is_not_intact(directory: Path, capsys: Capture) -> None:
    for head in directory.rglob("*head*"):
        head.unlink()

    status, told = printed(capsys, "audit", "verify")

    assert (status, told["intact"]) == (1, False)
    assert told["faults"]


def test_a_state_directory_is_checked_and_accepted(directory: Path, capsys: Capture) -> None:
    checked = {"directory": str(directory), "complete": True, "fault": None}
    assert printed(capsys, "state", "check") == (0, checked)

    status, told = printed(capsys, "state", "accept")

    assert (status, told["directory"]) == (0, str(directory))
    assert isinstance(told["changes"], list)


def test_a_tool_is_shown_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("doubling.py").write_text(
        "from aios_core import tool\n\n@tool(read_only=True)\ndef double(number: int) -> int:\n"
        '    """Double a number."""\n    return 2 * number\n'
    )
    monkeypatch.setenv("AIOS_TOOLS__LOAD", json.dumps(["doubling.py"]))

    _, told = printed(capsys, "tools", "show", "double")
    status, findings = printed(capsys, "tools", "check", "doubling.py")

    assert told.keys() == {
        "name", "version", "source", "description", "parameters", "declared", "example"
    }  # fmt: skip
    assert told["example"] == {"number": 1}
    assert status == 0
    assert [set(one) for one in findings] == [
        {"area", "name", "health", "message", "fix", "facts"}
    ] * len(findings)


def test_an_error_leaves_standard_output_empty(capsys: Capture) -> None:
    assert main(["audit", "verify", "--state-dir", "/nowhere", "--json"]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "/nowhere" in captured.err


def test_the_page_describes_the_json_of_every_command_that_has_it() -> None:
    _, commands = parser_of(tuple(COMMANDS), {})
    section = PAGE.read_text().partition("## JSON for programs")[2].partition("\n## ")[0]

    with_json = [
        f"`aios {name} {action}`" if action else f"`aios {name}`"
        for name, command in commands.items()
        for action, parser in _actions(command).items()
        if "--json" in parser.format_help()
    ]
    assert len(with_json) == 10
    assert [words for words in with_json if words not in section] == []


def _actions(command: Any) -> dict[str, Any]:
    """The parsers of a command's actions, or its own under an empty name."""
    found = [one.choices for one in command._actions if isinstance(one.choices, dict)]
    if not found:
        return {"": command}
    return {name: parser for name, parser in found[0].items() if name not in ("approve", "deny")}
