"""A vLLM server with dummy weights on the CPU, for benchmarks and tests that measure one.

vLLM lives in an environment of its own; `AIOS_VLLM_PYTHON` names its interpreter. The weights are
random, in one of two shapes; tokenizer and chat template are those of the bundled model.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.error import URLError
from urllib.request import Request, urlopen

from aios_core.guarded_program import Lifeline

PYTHON_VARIABLE: Final = "AIOS_VLLM_PYTHON"
MODEL: Final = "m"
UNLIMITED_ANSWER: Final = 48  # tokens of an answer to a call without a limit
_TINY: Final = Path(__file__).resolve().parent.parent / "models" / "tiny"
_PATIENCE_S: Final = 240.0  # for the start on a busy machine
_COUNTERS: Final = {
    "queried": "vllm:prefix_cache_queries_total",
    "hit": "vllm:prefix_cache_hits_total",
    "preempted": "vllm:num_preemptions_total",
    "generated": "vllm:generation_tokens_total",
}


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama model that gets random weights."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SHAPES: Final = {
    "tiny": Shape("tiny", hidden=192, intermediate=480, layers=6, heads=3, kv_heads=3),
    "19M": Shape("19M", hidden=512, intermediate=1_408, layers=6, heads=8, kv_heads=4),
}


@dataclass(frozen=True)
class ServerSettings:
    """The sizes of a server: its KV memory, its window, and the prompt tokens of one step."""

    shape: Shape
    num_blocks: int = 129  # vLLM keeps one of them for itself
    block_size: int = 32
    window: int = 4_096
    chunk: int = 512

    @property
    def kv_tokens(self) -> int:
        return (self.num_blocks - 1) * self.block_size


def vllm_python() -> str | None:
    """Return the interpreter of the environment with vLLM; None if none is named."""
    python = os.environ.get(PYTHON_VARIABLE)
    return python if python and Path(python).exists() else None


class MeasuredServer:
    """A running server: its address, its counters, and a way to empty its prefix cache."""

    def __init__(self, root: str, settings: ServerSettings) -> None:
        self.root = root
        self.settings = settings

    def __repr__(self) -> str:
        return f"<MeasuredServer {self.settings.shape.name} at {self.root}>"

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def counters(self) -> dict[str, float]:
        """Return the counters of the engine since it started, by our names for them."""
        with urlopen(f"{self.root}/metrics", timeout=20) as page:  # noqa: S310 - our own server
            lines = page.read().decode().splitlines()
        return {
            name: sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(theirs))
            for name, theirs in _COUNTERS.items()
        }

    def empty_prefix_cache(self) -> None:
        """Forget all cached prefixes. Nothing may run."""
        request = Request(f"{self.root}/reset_prefix_cache", method="POST")  # noqa: S310
        with urlopen(request, timeout=20) as answer:  # noqa: S310 - our own server
            answer.read()


@contextmanager
def vllm_server(settings: ServerSettings) -> Iterator[MeasuredServer]:
    """Run a server until the block ends. A `RuntimeError` has its log, if it does not start."""
    python = vllm_python()
    if python is None:
        raise RuntimeError(f"{PYTHON_VARIABLE} does not name the interpreter of a vLLM environment")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="vllm-") as folder:
        model = _write_model(settings, Path(folder) / "model")
        log = Path(folder) / "server.log"
        server = MeasuredServer(f"http://127.0.0.1:{port}", settings)
        with _Process([python, *_arguments(settings, model, port)], log) as process:
            process.wait_until_healthy(server.root)
            yield server


class _Process:
    """The server's process under a guardian, so that it ends with this program, even if killed."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._lifeline = Lifeline()
        self._command, self._log = self._lifeline.command(command), log

    def __enter__(self) -> Self:
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter that the caller named
                self._command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
                pass_fds=(self._lifeline.descriptor,),
            )
        self._lifeline.started()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
            self._lifeline.cut()
        except subprocess.TimeoutExpired:
            self._lifeline.cut()
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait_until_healthy(self, root: str) -> None:
        due = time.monotonic() + _PATIENCE_S
        while self._process.poll() is None and time.monotonic() < due:
            try:
                with urlopen(f"{root}/health", timeout=5) as answer:  # noqa: S310 - our own server
                    if answer.status == 200:
                        return
            except (URLError, OSError):
                time.sleep(0.5)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])
        raise RuntimeError(f"the vLLM server did not start:\n{tail}")


_ENVIRONMENT: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # the other core is for the agents
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # offers /reset_prefix_cache
}


def _arguments(settings: ServerSettings, model: Path, port: int) -> list[str]:
    return [
        *("-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(model), "--served-model-name", MODEL, "--load-format", "dummy"),
        *("--enforce-eager", "--dtype", "float32", "--seed", "1"),
        *("--scheduling-policy", "priority", "--max-num-seqs", "64"),
        *("--max-model-len", str(settings.window)),
        *("--max-num-batched-tokens", str(settings.chunk)),
        *("--block-size", str(settings.block_size)),
        *("--num-gpu-blocks-override", str(settings.num_blocks)),
        "--enable-prompt-tokens-details",
    ]


def _write_model(settings: ServerSettings, folder: Path) -> Path:
    """Write the configuration, tokenizer and chat template of a model without weights."""
    folder.mkdir()
    shape = settings.shape
    config = json.loads((_TINY / "config.json").read_text("utf-8"))
    config |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": 64,
        "max_position_embeddings": settings.window,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copyfile(_TINY / name, folder / name)
    # Random weights never end an answer: without a limit of its caller, the server ends it here.
    generation = json.loads((_TINY / "generation_config.json").read_text("utf-8"))
    generation["max_new_tokens"] = UNLIMITED_ANSWER
    (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    tokenizer = json.loads((_TINY / "tokenizer_config.json").read_text("utf-8"))
    tokenizer["model_max_length"] = settings.window
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder
