"""A real vLLM server for the session, with the bundled model, on the CPU.

vLLM lives in an environment of its own; `AIOS_VLLM_PYTHON` names its interpreter.
While working on these tests, start a server by hand and name it in `AIOS_VLLM_URL`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

TINY = Path(__file__).parents[2] / "models" / "tiny"
PATIENCE_S = 240.0  # compiling and loading take half a minute on two idle cores


@dataclass(frozen=True)
class VLLMServer:
    """The address of the server, and its metrics."""

    root: str

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric over its labels, or over those with one of them."""
        with urlopen(f"{self.root}/metrics", timeout=10) as page:  # noqa: S310 - http, and ours
            lines = page.read().decode().splitlines()
        matching = [line for line in lines if line.startswith(name + "{") and label in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in matching)


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    if running := os.environ.get("AIOS_VLLM_URL"):
        yield VLLMServer(running.rstrip("/").removesuffix("/v1"))
        return
    yield from serve(tmp_path_factory.mktemp("vllm"))


def serve(folder: Path, more: Sequence[str] = ()) -> Iterator[VLLMServer]:
    """Run a server with further arguments, until the iterator is closed."""
    python = os.environ.get("AIOS_VLLM_PYTHON")
    if not python or not Path(python).exists():
        pytest.skip("AIOS_VLLM_PYTHON does not name the interpreter of an environment with vLLM")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "server.log"
    server = VLLMServer(f"http://127.0.0.1:{port}")
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - the interpreter that the caller named
            [python, *_arguments(port), *more],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,  # so that its workers end with it
        )
    try:
        _wait_until_ready(server, process, log)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _arguments(port: int) -> list[str]:
    return [
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(TINY), "--served-model-name", "tiny"),
        "--enforce-eager",
        "--enable-auto-tool-choice",
        *("--tool-call-parser", "hermes"),
        *("--scheduling-policy", "priority"),
        *("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "16"),
    ]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_NO_USAGE_STATS": "1",
    }


def _wait_until_ready(server: VLLMServer, process: subprocess.Popen[bytes], log: Path) -> None:
    due = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < due:
        try:
            with urlopen(f"{server.root}/health", timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.5)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    raise AssertionError(f"the vLLM server did not start:\n{tail}")
