"""A vLLM server that the kernel runs, as a core.

Promises: the server starts with the core and stops with it, and with the kernel's process, even
after kill -9. A start that fails raises an error with the last lines of the server's log. A server
that crashes takes the core down (`CoreDown`), and the next `start` starts another server. A core
that goes down while its server runs on keeps the server: loading a model takes minutes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import httpx

from aios_core.config_decoder import Range
from aios_core.core import Starting
from aios_core.cores.endpoint.time_limits import TimeLimits
from aios_core.cores.openai.core import OpenAICore
from aios_core.cores.vllm.arguments import (
    ServerSettings,
    require_free,
    server_command,
    server_environment,
)
from aios_core.cores.vllm.installation import find_installation
from aios_core.cores.vllm.server import ServerProcess, free_port, stage_of
from aios_core.errors import CoreError
from aios_core.redaction import learn, redact
from aios_core.shielding import finish_shielded

_ASK_EVERY_S: Final = 0.2  # whether the server is ready


class VLLMCore(OpenAICore):
    """A core with a vLLM server of its own.

    Args:
        model: a directory or a hub name.
        models: the names under which agents ask for it.
        python: the interpreter of an environment that has vLLM.
        context_window: tokens; None: the model's own.
        slots: sequences that the server runs at once.
        tensor_parallel: GPUs that share the model.
        gpus: numbers of the GPUs to use; (): all that vLLM finds.
        kv_offload_gib: memory of the host for KV blocks that leave the GPU, in GiB.
        tool_parser: how the model writes tool calls, as vLLM names it (`hermes`, `llama3_json`).
        args: further arguments of the server.
        env: further environment variables of the server.
        start_s: how long the server may take until it serves.
        stop_s: how long it may take to end before it is killed.
        num_ahead: as of `OpenAICore`.
        kv_tokens: as of `OpenAICore`.
        time_limits: as of `OpenAICore`.
        omit: as of `OpenAICore`.
    """

    def __init__(
        self,
        model: str,
        models: Sequence[str],
        *,
        name: str = "vllm",
        python: str = ".venv-vllm/bin/python",
        context_window: Annotated[int, Range(1)] | None = None,
        slots: int = 64,
        tensor_parallel: Annotated[int, Range(1)] = 1,
        gpus: tuple[int, ...] = (),
        kv_offload_gib: float | None = None,
        tool_parser: str | None = None,
        args: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        start_s: Annotated[float, Range(0, is_open=True)] = 900.0,
        stop_s: float = 15.0,
        num_ahead: int = 1,
        kv_tokens: Annotated[int, Range(1)] | None = None,
        time_limits: TimeLimits | None = None,
        omit: Collection[str] = (),
    ) -> None:
        require_free(args)
        key = secrets.token_urlsafe(32)
        learn(key)
        super().__init__(
            "http://127.0.0.1/v1",  # `connect` chooses the port
            models,
            api_key=key,
            name=name,
            flavor="vllm",
            context_window=context_window,
            slots=slots,
            time_limits=time_limits,
            omit=omit,
            api="chat",
            num_ahead=num_ahead,
            kv_tokens=kv_tokens,
        )
        self._key = key
        self._python = _expanded(python)
        self._settings = ServerSettings(
            model=model,
            names=tuple(models),
            slots=slots,
            context_window=context_window,
            tensor_parallel=tensor_parallel,
            gpus=gpus,
            kv_offload_gib=kv_offload_gib,
            tool_parser=tool_parser,
            args=args,
            env=dict(env or {}),
        )
        self._start_s = start_s
        self._stop_s = stop_s
        self._server: ServerProcess | None = None
        self._stage = ""

    async def connect(self) -> None:
        """Start the server, unless it runs, and wait until it serves.

        Raises `CoreError` and `ModelLoadError`; no server is left then.
        """
        try:
            async with asyncio.timeout(self._start_s):
                await self._serve()
            await super().connect()
        except TimeoutError:
            error = self._failure(f"the server was not ready within {self._start_s:g} s")
            await finish_shielded(self._stop())
            raise error from None
        except BaseException:
            await finish_shielded(self._stop())
            raise
        self._reached("ready")

    async def close(self) -> None:
        """Stop all runs and the server. Idempotent."""
        try:
            await super().close()
        finally:
            await finish_shielded(self._stop())

    # --- the server ---------------------------------------------------------------------------

    async def _serve(self) -> None:
        """Return once a server answers."""
        server = self._server
        if server is None or not server.is_running:
            server = await self._start_server()
        async with httpx.AsyncClient(trust_env=False) as http:  # no proxy to this machine
            while not await self._is_ready(http):
                if not server.is_running:
                    raise self._failure(_ended(server))
                await asyncio.sleep(_ASK_EVERY_S)

    async def _start_server(self) -> ServerProcess:
        self._reached("starting the server")
        environment = server_environment(self._settings, os.environ, self._key)
        installed = await find_installation(self._python, environment)
        port = free_port()
        self.move_to(f"http://127.0.0.1:{port}/v1")
        command = server_command(self._settings, installed.python, installed.version, port)
        server = ServerProcess(self._name, on_line=self._on_line, on_exit=self._on_exit)
        self._server = server
        try:
            await server.start(command, environment)
        except OSError as exc:
            raise self.error(f"cannot start {self._python}: {exc.strerror}", exc) from exc
        return server

    async def _is_ready(self, http: httpx.AsyncClient) -> bool:
        try:
            answer = await http.get(f"{self._server_root}/health", timeout=self._limits.probe_s)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK

    async def _stop(self) -> None:
        if (server := self._server) is not None:
            self._server = None
            await server.stop(self._stop_s)

    def _on_line(self, line: str) -> None:
        if not self._is_up and (stage := stage_of(line)) is not None:
            self._reached(stage)

    def _on_exit(self) -> None:
        """Take the core down if its server ended while the core was up."""
        if self._is_up and self._server is not None and self._sink is not None:
            self.report_down(self._with_log(_ended(self._server)))

    def _reached(self, stage: str) -> None:
        """Report a stage of the start, once."""
        if stage != self._stage and self._sink is not None:
            self._stage = stage
            self.report(Starting(stage))

    def _failure(self, what: str) -> CoreError:
        return self.error(self._with_log(what), is_retryable=True)

    def _with_log(self, what: str) -> str:
        tail = redact(self._server.tail) if self._server is not None else ""
        return f"{what}; the end of its log:\n{tail}" if tail else f"{what}; it logged nothing"


def _ended(server: ServerProcess) -> str:
    status = server.exit_status
    if status is not None and status < 0:
        return f"the server was ended by signal {-status}"
    return f"the server ended with status {status}"


def _expanded(python: str) -> str:
    """Return the interpreter as an absolute path; a bare name is searched in PATH."""
    path = Path(python).expanduser()
    return str(path.absolute()) if len(path.parts) > 1 else python
