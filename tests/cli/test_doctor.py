from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from aios_core.cli import doctor_checks, main
from aios_core.core import Core
from aios_core.cores import ScriptedCore
from aios_core.errors import ConfigError, CoreError, ModelLoadError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the configuration of the user who runs the tests, and do not load torch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(
        doctor_checks,
        "_gpu",
        lambda: doctor_checks.Finding("here", "gpu", doctor_checks.Health.MISSING, "none"),
    )


def cores(monkeypatch: pytest.MonkeyPatch, *made: Core | Exception) -> None:
    """Let these come of the tables of the configuration, in their order."""
    left = list(made)

    def build(*_: object, **__: object) -> Core:
        core = left.pop(0)
        if isinstance(core, Exception):
            raise core
        return core

    monkeypatch.setattr(doctor_checks, "build_core", build)


def examine(capsys: Capture, *arguments: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    """The exit status, and the findings by area and name."""
    status = main(["doctor", "--json", *arguments])
    findings = json.loads(capsys.readouterr().out)
    return status, {(finding["area"], finding["name"]): finding for finding in findings}


def test_a_healthy_core_is_described_with_its_latency(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cores(monkeypatch, ScriptedCore("hello", name="tiny", models=("tiny",), slots=3))

    status, found = examine(capsys)

    assert status == 0
    core = found["core", "tiny"]
    assert core["health"] == "ok"
    assert core["facts"]["latency_s"] >= 0
    assert core["facts"]["slots"] == 3
    assert core["facts"]["notes"] == ["answers from a script; one word is one token"]
    assert found["configuration", "default model"]["message"] == "tiny"


def test_the_tiny_model_for_want_of_another_is_doubtful_and_not_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cores(monkeypatch, ScriptedCore("hello"))

    status, found = examine(capsys)

    assert status == 0
    assert found["configuration", "cores"]["health"] == "warning"
    assert "AIOS_MODEL" in found["configuration", "cores"]["fix"]


def test_a_bad_configuration_is_broken_and_says_what_is_allowed(capsys: Capture) -> None:
    Path("aios.toml").write_text("[scheduler]\nquantum = 0\n")

    status, found = examine(capsys)

    assert status == 1
    finding = found["configuration", "scheduler.quantum"]
    assert finding["health"] == "error"
    assert finding["facts"]["allowed"] == "a whole number, at least 1"
    assert finding["facts"]["source"] == "aios.toml"


def test_an_unknown_policy_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    Path("aios.toml").write_text("scheduler.policy = 'fare'")
    cores(monkeypatch, ScriptedCore("hello"))

    status, found = examine(capsys)

    assert status == 1
    finding = found["configuration", "scheduler.policy"]
    assert "las" in finding["fix"]
    assert finding["facts"]["source"] == "aios.toml"


def test_a_file_that_cannot_be_read_is_not_shown_as_in_force(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("aios.toml").write_text("[[cores]\n")
    cores(monkeypatch, ScriptedCore("hello"))

    status, found = examine(capsys)

    assert status == 1
    assert found["configuration", "aios.toml"]["health"] == "error"
    assert ("configuration", "file") not in found


def test_one_broken_core_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("aios.toml").write_text("[[cores]]\nkind = 'tiny'\n" * 4)
    cores(
        monkeypatch,
        ModelLoadError("core 'tiny' needs torch"),
        ConfigError("cores[1].options.slot", 3, "no such option"),
        ScriptedCore([CoreError("tiny-3", "it fell over")] * 9, name="tiny-3"),
        ScriptedCore("hello", name="tiny-4"),
    )

    status, found = examine(capsys)

    assert status == 1
    assert found["core", "tiny"]["message"] == "core 'tiny' needs torch"
    assert found["configuration", "cores[1].options.slot"]["health"] == "error"
    assert "it fell over" in found["core", "tiny-3"]["message"]
    assert found["core", "tiny-4"]["health"] == "ok"


def test_a_python_without_vllm_is_broken_and_says_what_installs_it(capsys: Capture) -> None:
    Path("aios.toml").write_text(
        "[[cores]]\nkind = 'vllm'\npath = 'some/model'\n"
        f"options = {{python = '{sys.executable}', replicas = 2}}\n"
    )

    status, found = examine(capsys)

    assert status == 1
    for name in ("vllm-0", "vllm-1"):
        assert found["core", name]["health"] == "error"
        assert f"{sys.executable} -m pip install vllm" in found["core", name]["message"]


def test_wrong_replicas_are_a_finding(capsys: Capture) -> None:
    Path("aios.toml").write_text("[[cores]]\nkind = 'vllm'\npath = 'm'\noptions = {replicas = 0}\n")

    assert examine(capsys)[1]["configuration", "cores[0].options.replicas"]["health"] == "error"


def test_a_default_model_that_no_core_serves_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("aios.toml").write_text("default_model = 'big'\n[prices.old]\n[[cores]]\nkind = 'tiny'\n")
    cores(monkeypatch, ScriptedCore("hello", models=("small",)))

    status, found = examine(capsys)

    assert status == 1
    assert any("small" in f["fix"] for f in found.values() if f["health"] == "error")


def test_a_price_of_a_model_that_no_core_serves_is_doubtful(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("aios.toml").write_text("[prices.old]\ninput_per_million = 1\n")
    cores(monkeypatch, ScriptedCore("hello"))

    status, found = examine(capsys)

    assert status == 0
    assert found["configuration", "prices.old"]["health"] == "warning"


def test_a_library_that_is_not_installed_is_absent_and_says_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cores(monkeypatch, ScriptedCore("hello"))
    monkeypatch.setattr(doctor_checks, "LIBRARIES", {"no-such-library": "pip install it"})

    status, found = examine(capsys)

    assert status == 0
    assert found["library", "no-such-library"]["fix"] == "pip install it"


def test_a_launcher_that_cannot_be_loaded_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cores(monkeypatch, ScriptedCore("hello"))
    entries = [
        EntryPoint("good", "json:dumps", "aios.launchers"),
        EntryPoint("bad", "no_such_module:launch", "aios.launchers"),
    ]
    monkeypatch.setattr(
        doctor_checks, "entry_points", lambda group: entries if group == "aios.launchers" else []
    )

    status, found = examine(capsys)

    assert status == 1
    assert found["launcher", "good"]["health"] == "ok"
    assert "No module named 'no_such_module'" in found["launcher", "bad"]["message"]


def test_a_recording_is_started_and_not_called(capsys: Capture) -> None:
    header = {"format": 1, "models": ["recorded"], "context_window": 100}
    Path("tape.jsonl").write_text(json.dumps(header))
    Path("other.toml").write_text("cores = [{kind = 'replay', path = 'tape.jsonl'}]")

    status, found = examine(capsys, "--config", "other.toml")

    assert status == 0
    assert found["core", "replay"]["facts"]["latency_s"] is None


@pytest.mark.parametrize("timeout", ["-1", "0", "nan", "inf", "soon"])
def test_a_timeout_that_is_not_above_zero_is_a_wrong_command_line(
    timeout: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--timeout", timeout])

    assert ended.value.code == 2
    assert f"got '{timeout}'; allowed: seconds above 0" in capsys.readouterr().err


def test_every_area_has_one_heading(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    cores(monkeypatch, ScriptedCore("hello", name="tiny"))

    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    headings = [line.split()[0] for line in out.splitlines() if "──" in line]
    assert "configuration" in headings
    assert len(headings) == len(set(headings))


def test_for_people_there_is_a_table(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    cores(monkeypatch, ScriptedCore("hello", name="tiny"))

    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "scripted" in out
    assert "Nothing is broken." in out


def test_a_trace_that_cannot_be_written_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cores(monkeypatch, ScriptedCore("hello", name="tiny", models=("tiny",)))
    monkeypatch.setenv("AIOS_TRACE", "/nowhere/trace.json")

    status, found = examine(capsys)

    assert status == 1
    assert found["configuration", "trace"]["health"] == "error"


def test_every_mistake_of_the_configuration_is_a_finding_and_the_rest_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("aios.toml").write_text(
        "drain_s = -1\n[scheduler]\nquantum = 0\npolcy = 'fair'\n"
        "[[cores]]\nkind = 'tony'\n[[cores]]\nkind = 'tiny'\n"
    )
    monkeypatch.setenv("AIOS_GUARD__MAX_DEPTH", "deep")
    cores(monkeypatch, ScriptedCore("hello", name="tiny", models=("tiny",)))

    status, found = examine(capsys)

    broken = {name for (_, name), finding in found.items() if finding["health"] == "error"}
    assert status == 1
    assert broken == {
        "cores[0].kind",
        "drain_s",
        "guard.max_depth",
        "scheduler.polcy",
        "scheduler.quantum",
    }
    assert found["core", "tiny"]["health"] == "ok"


def test_a_state_directory_that_cannot_be_used_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("state").write_text("no directory")
    monkeypatch.setenv("AIOS_STATE__DIRECTORY", "state")
    cores(monkeypatch, ScriptedCore("hello"))

    status, found = examine(capsys)

    assert status == 1
    assert found["state", "directory"]["health"] == "error"


def test_without_a_setting_the_state_directory_is_the_one_that_a_kernel_would_use(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "states"))
    cores(monkeypatch, ScriptedCore("hello"))

    _, found = examine(capsys)

    assert found["state", "directory"]["message"].startswith(f"{tmp_path}/states/aios,")


def test_a_key_that_is_not_there_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("AIOS_STATE__ENCRYPTION_KEY", "env:NO_SUCH_KEY")
    cores(monkeypatch, ScriptedCore("hello"))

    status, found = examine(capsys)

    assert status == 1
    assert "NO_SUCH_KEY is not set" in found["configuration", "state.encryption_key"]["fix"]


@pytest.mark.parametrize("columns", [60, 80])
def test_no_word_is_broken_and_no_line_too_long(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    Path("aios.toml").write_text("[scheduler]\nmax_waiting_per_agents = 3\n")
    cores(monkeypatch, ScriptedCore("hello"))

    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    words = {word.strip(",") for word in out.split()}
    assert max(map(len, out.splitlines())) <= columns
    assert {"max_waiting_per_agent", "default_timeout_s"} <= words
