"""An OpenAI-compatible server answers Open Interpreter, in the environment that it has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from aios_core.testing.stub_server import StubServer

SCRIPT = """\
from interpreter import interpreter

for message in interpreter.chat("hello", display=False):
    print(message["role"], "says", message["content"])
"""


def test_a_script_is_answered_by_the_server_that_the_environment_names(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    with StubServer() as server:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "aios_core.cli", "run", "script.py"],
            env=os.environ
            | {"AIOS_QUIET": "1", "AIOS_STATE__DIRECTORY": ":memory:"}
            | {"AIOS_BASE_URL": server.base_url, "AIOS_MODEL": "stub"},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 0, done.stderr
    assert "assistant says" in done.stdout
    (exchange,) = server.exchanges
    assert exchange.body["messages"][-1] == {"role": "user", "content": "hello"}
