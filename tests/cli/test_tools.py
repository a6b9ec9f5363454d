"""`aios tools`, as a person uses it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aios_core.cli import main
from aios_core.cli.tools import _example

pytest.importorskip("aios_plugins")

PLUGIN = '''
from typing import Literal
from aios_core import Rate, ToolContext, tool

@tool(version="2.1", irreversible="sends it", parallel=2, rate=Rate(5, 60), exclusive=("post",))
def send(to: str, kind: Literal["letter", "parcel"], times: int = 1) -> dict[str, str]:
    """Send something.

    Args:
        to: who gets it.
        kind: what is sent.
        times: how often.
    """
    return {"sent": kind, "to": to}

@tool(read_only=True, retries=3, timeout_s=7, runs_code=True)
def fail() -> None:
    """Fail."""
    raise OSError("no network")

@tool(read_only=True, trusted=True, isolation="process")
def many(number: int) -> str:
    """Say much."""
    return "é" * number

@tool(read_only=True)
def shout(fails: bool = False) -> str:
    """Shout."""
    if fails:
        raise ValueError("\\x9b2J")
    return "one\\n\\x1b[2J two"

@tool(read_only=True)
def wait(context: ToolContext) -> None:
    """Wait for the end."""
    print("waits", flush=True)
    context.cancellation.wait(30)
'''


BAD_SCHEMAS = """
from aios_core import tool

@tool(parameters={"properties": {"a": {"type": "text"}}})
def f(a) -> None: "Do."

@tool(parameters={"required": "a"})
def g(a) -> None: "Do."
"""


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plug-in that the configuration names, in an empty folder."""
    file = tmp_path / "post.py"
    file.write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("AIOS_TOOLS__LOAD", json.dumps([str(file)]))
    monkeypatch.setenv("AIOS_ACCESS__APPROVER", "deny")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return file


Captured = pytest.CaptureFixture[str]


class TestList:
    def test_it_says_name_version_source_limits_and_what_is_asked_about(
        self, capsys: Captured, plugin: Path
    ) -> None:
        assert main(["tools", "list"]) == 0

        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert "plug-in calculator of aios-plugins" in lines["calculator@1"]
        assert f"file {plugin}" in lines["send@2.1"]
        said = "has effects; asks first: sends it; marks its reader; 2 at once; 5 calls in 60 s; "
        assert lines["send@2.1"].endswith(f"{said}alone with post")
        assert "needs a sandbox" in lines["fail@1"]
        assert lines["fail@1"].endswith("marks its reader; 7 s; 3 retries")
        assert lines["many@1"].endswith("changes nothing; in a process of its own")
        assert "needs a sandbox" in lines["python@1"]

    def test_on_a_terminal_of_80_columns_no_line_is_longer(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("NO_COLOR", "1")
        assert main(["tools", "list"]) == 0
        lines = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out).splitlines()
        assert max(map(len, lines)) <= 80
        assert any("send@2.1" in line for line in lines)

    def test_programs_get_json(self, capsys: Captured) -> None:
        assert main(["tools", "list", "--json"]) == 0
        send = next(one for one in json.loads(capsys.readouterr().out) if one["name"] == "send")
        assert send["version"] == "2.1"
        assert send["declared"]["rate"] == {"calls": 5, "per_s": 60}
        assert send["parameters"]["required"] == ["to", "kind"]

    def test_what_cannot_be_loaded_is_told_once_beside_the_rest(
        self, capsys: Captured, plugin: Path
    ) -> None:
        plugin.write_text("raise RuntimeError('no \x1b[2Jlicence')")
        assert main(["tools", "list"]) == 1
        out, err = capsys.readouterr()
        assert "calculator@1" in out
        assert err.count("is not loaded") == 1
        assert "no licence" not in err
        assert "\x1b" not in err

    def test_without_tools_it_says_what_brings_some(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIOS_TOOLS__LOAD", "[]")
        monkeypatch.setenv("AIOS_TOOLS__PLUGINS", "[]")
        assert main(["tools", "list"]) == 0
        assert "pip install ./plugins" in capsys.readouterr().out


class TestShow:
    def test_it_shows_the_schema_the_limits_and_an_example_that_runs(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert main(["tools", "show", "send"]) == 0

        out = capsys.readouterr().out
        assert out.startswith("send@2.1, from file ")
        assert "Send something." in out
        assert "asks first: sends it" in out
        assert '"description": "who gets it."' in out
        example = shlex.split(out.splitlines()[-1])
        assert json.loads(example[-1]) == {"to": "...", "kind": "letter"}
        monkeypatch.setenv("AIOS_ACCESS__APPROVER", "allow")
        assert main(example[1:]) == 0

    @pytest.mark.parametrize(
        ("schema", "value"),
        [
            ({}, "..."),
            (True, "..."),
            ({"const": 3}, 3),
            ({"type": "integer", "minimum": 5}, 5),
            ({"type": ["number", "null"]}, 1),
            ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
            ({"type": "string", "examples": ["a"]}, "a"),
            ({"type": "array", "items": {"type": "null"}}, [None]),
            ({"type": "object", "required": ["x"], "properties": {"x": {"default": 2}}}, {"x": 2}),
        ],
    )
    def test_an_example_has_the_plainest_value_of_its_type(self, schema: Any, value: Any) -> None:
        assert _example(schema) == value

    def test_an_unknown_name_is_refused_with_the_known_ones(self, capsys: Captured) -> None:
        assert main(["tools", "show", "sned"]) == 1
        err = capsys.readouterr().err
        assert err.startswith("aios: no tool 'sned'; have [")
        assert "'send'" in err


class TestRun:
    def test_it_prints_text_as_text_and_values_as_json(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert main(["tools", "run", "calculator", '{"expression": "6 * 7"}']) == 0
        assert capsys.readouterr().out == "42\n"
        monkeypatch.setenv("AIOS_ACCESS__APPROVER", "allow")
        assert main(["tools", "run", "send", '{"to": "é", "kind": "letter"}']) == 0
        assert json.loads(capsys.readouterr().out) == {"sent": "letter", "to": "é"}

    def test_arguments_may_come_on_standard_input(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "in").write_text('{"expression": "1 + 1"}')
        with (tmp_path / "in").open() as given:
            monkeypatch.setattr(sys, "stdin", given)
            assert main(["tools", "run", "calculator", "-"]) == 0
        assert capsys.readouterr().out == "2\n"

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["calculater"], "no tool 'calculater'; have ["),
            (["calculator@9"], "no tool 'calculator@9'"),
            (["calculator", "{"], "arguments: not JSON"),
            (["calculator", "[1]"], "expected an object"),
            (["calculator", "{}"], "expression: is missing"),
            (["calculator", '{"expresion": "1"}'], "did you mean 'expression'?"),
            (["calculator", '{"expression": "import os"}'], "is not arithmetic"),
            (["fail"], "tool 'fail': raised OSError: no network"),
            (["send", '{"to": "a", "kind": "bomb"}'], "one of"),
            (["send", '{"to": "a", "kind": "letter"}'], "access.approver is 'deny'"),
            (["calculator", "{}", "--timeout", "-1"], "timeout_s: got -1.0"),
        ],
    )
    def test_what_goes_wrong_is_one_line_and_status_1(
        self, capsys: Captured, words: list[str], told: str
    ) -> None:
        assert main(["tools", "run", *words]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert told in err
        assert err.startswith("aios: ")
        assert len(err.splitlines()) == 1

    def test_a_policy_that_denies_is_heeded(
        self, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "policy.toml").write_text(
            '[[rules]]\neffect = "deny"\nactions = ["tool.run"]\nresources = ["tool::calculator"]\n'
            'because = "no sums today"\n'
        )
        monkeypatch.setenv("AIOS_ACCESS__POLICY", str(tmp_path / "policy.toml"))
        assert main(["tools", "run", "calculator", '{"expression": "1"}']) == 1
        assert "no sums today" in capsys.readouterr().err

    def test_a_large_result_is_printed_whole(self, capsys: Captured) -> None:
        assert main(["tools", "run", "many", '{"number": 200000}']) == 0
        assert capsys.readouterr().out == "é" * 200_000 + "\n"

    def test_what_an_agent_of_that_name_owns_is_used(self, capsys: Captured) -> None:
        note = '{"path": "a.txt", "text": "mine"}'
        assert main(["tools", "run", "write_file", note, "--agent", "ann"]) == 0
        assert main(["tools", "run", "read_file", '{"path": "a.txt"}', "--agent", "ann"]) == 0
        assert capsys.readouterr().out.endswith("mine\n")
        assert main(["tools", "run", "read_file", '{"path": "a.txt"}']) == 1

    def test_no_core_is_started_for_it(self, capsys: Captured, tmp_path: Path) -> None:
        (tmp_path / "aios.toml").write_text(
            'default_model = "m"\n[[cores]]\nkind = "replay"\npath = "none.jsonl"\n'
        )
        assert main(["tools", "run", "calculator", '{"expression": "1"}']) == 0
        assert capsys.readouterr().out == "1\n"

    def test_nothing_that_a_tool_says_moves_the_cursor(
        self, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert main(["tools", "run", "shout", "{}"]) == 0
        assert main(["tools", "run", "shout", '{"fails": true}']) == 1
        out, err = capsys.readouterr()
        assert out == "one\n\\x1b[2J two\n"
        assert err == "aios: tool 'shout': raised ValueError: \\x9b2J\n"

    def test_ctrl_c_ends_it_with_one_line(self) -> None:
        with started("run", "wait") as running:
            assert running.stdout is not None
            assert running.stdout.readline() == "waits\n"
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=60)
        assert running.returncode == 130
        assert err == "aios: interrupted\n"


class TestCheck:
    def test_a_sound_plug_in_is_said_to_be_sound(
        self, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIOS_TOOLS__LOAD", "[]")
        assert main(["tools", "check", str(tmp_path / "post.py")]) == 0
        out = capsys.readouterr().out
        assert "send@2.1: can be called" in out
        assert "many@1: does not describe number" in out
        assert out.endswith("A kernel would load it.\n")

    @pytest.mark.parametrize(
        ("source", "told"),
        [
            ("import no_such_module_at_all", ["no_such_module_at_all", "plug.py, line 1"]),
            ("x = 1\ndef broken(:", ["SyntaxError", "plug.py, line 2"]),
            ("x = 1\nx / 0", ["ZeroDivisionError", "plug.py, line 2"]),
            ("raise SystemExit(0)", ["SystemExit: 0"]),
            ("x = 1", ["it has no `aios_tools` hook and no @tool"]),
            ("def aios_tools(): return []", ["is not marked with @hookimpl"]),
            (
                "from aios_core import hookimpl\n@hookimpl\ndef aios_tools(): return []",
                ["its `aios_tools` returns none"],
            ),
            ("from aios_core import hookimpl\n@hookimpl\ndef aios_toolz(): ...", ["aios_toolz"]),
            (
                "from aios_core import hookimpl\n@hookimpl\ndef aios_tools(): return [1]",
                ["offers 1, which is not a Tool"],
            ),
            (
                "from aios_core import tool\n@tool\ndef f(x: set[int]) -> None: 'Do.'",
                ["has no counterpart in JSON", "plug.py, line "],
            ),
            (BAD_SCHEMAS, ["f@1: ", "g@1: ", "2 broken"]),
            (
                "from aios_core import tool\n@tool\ndef calculator() -> int: 'Do.'\n",
                ["'calculator@1' is offered by plug-in calculator of aios-plugins"],
            ),
            (
                "from aios_core import tool\n@tool(retries=2)\ndef f() -> None: 'Do.'\n",
                ["allowed only with read_only or idempotent"],
            ),
        ],
    )
    def test_what_is_wrong_is_said_with_where_it_is(
        self, capsys: Captured, tmp_path: Path, source: str, told: list[str]
    ) -> None:
        (tmp_path / "plug.py").write_text(source)
        assert main(["tools", "check", "plug.py"]) == 1
        out = capsys.readouterr().out
        assert all(one in out for one in told), out
        assert "Traceback" not in out

    def test_a_module_of_this_folder_is_found(self, capsys: Captured, tmp_path: Path) -> None:
        (tmp_path / "my_plugin_here.py").write_text(
            "from aios_core import tool\n@tool\ndef f(x: int) -> int: return x\n"
        )
        try:
            assert main(["tools", "check", "my_plugin_here"]) == 0
        finally:
            sys.modules.pop("my_plugin_here", None)
        out = capsys.readouterr().out
        assert "f@1: has no description" in out
        assert "f@1: does not describe x" in out

    def test_an_installed_plug_in_does_not_clash_with_itself(self, capsys: Captured) -> None:
        assert main(["tools", "check", "calculator"]) == 0
        assert "calculator@1: can be called" in capsys.readouterr().out

    @pytest.mark.parametrize("source", ["no/such/file.py", "no_such_module_at_all"])
    def test_what_is_not_there_is_said_to_be_not_there(self, capsys: Captured, source: str) -> None:
        assert main(["tools", "check", source]) == 1
        assert "no file" in (out := capsys.readouterr().out) or "no module" in out


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show", "send"]])
def test_a_closed_pipe_is_no_traceback(words: list[str]) -> None:
    with started(*words) as running:
        assert running.stdout is not None
        running.stdout.close()  # as `head` does once it has read enough
        assert running.stderr is not None
        err = running.stderr.read()
        running.wait(60)
    assert err == ""
    assert running.returncode == 141


def started(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "aios_core.cli", "tools", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
