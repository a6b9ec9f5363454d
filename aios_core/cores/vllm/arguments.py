"""The command line of a vLLM server for agents. Pure.

Agents send long prompts that share their start with the one before, so the server caches
prefixes and reports the cached tokens of each prompt. The kernel's priorities order its queue.

Source: vLLM's engine arguments, version 0.32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

# Flags that the kernel sets itself, and the option that replaces each.
_OWN_FLAGS: Final[Mapping[str, str]] = {
    "--model": "the key 'path'",
    "--served-model-name": "the key 'models'",
    "--host": "nothing; the server listens on this machine alone",
    "--port": "nothing; the core chooses a free port",
    "--uds": "nothing; the core chooses a free port",
    "--api-key": "nothing; the core makes one",
    "--tensor-parallel-size": "the option 'tensor_parallel'",
    "-tp": "the option 'tensor_parallel'",
    "--max-model-len": "the option 'context_window'",
    "--max-num-seqs": "the option 'slots'",
}
_KV_METRICS_SINCE: Final = (0, 13)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of a server, with the names that `VLLMCore` explains."""

    model: str
    names: Sequence[str]
    slots: int
    context_window: int | None = None
    tensor_parallel: int = 1
    gpus: Sequence[int] = ()
    kv_offload_gib: float | None = None
    tool_parser: str | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def require_free(args: Iterable[str]) -> None:
    """Raise `ValueError` for an argument that the core sets itself."""
    for argument in args:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag in _OWN_FLAGS:
            raise ValueError(f"args: {flag} is set by the core; use {_OWN_FLAGS[flag]} instead")


def server_command(
    settings: ServerSettings, python: str, version: tuple[int, int], port: int
) -> list[str]:
    """Return the command that starts a server. Extra arguments come last, so they win."""
    return [
        *(python, "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--model", settings.model, "--served-model-name", *settings.names),
        *("--max-num-seqs", str(settings.slots)),
        *("--scheduling-policy", "priority"),
        "--enable-prefix-caching",
        "--enable-prompt-tokens-details",
        *(["--kv-cache-metrics"] if version >= _KV_METRICS_SINCE else []),
        *_optional("--max-model-len", settings.context_window),
        *_optional("--kv-offloading-size", settings.kv_offload_gib),
        *(
            ["--tensor-parallel-size", str(settings.tensor_parallel)]
            if settings.tensor_parallel > 1
            else []
        ),
        *(
            ["--enable-auto-tool-choice", "--tool-call-parser", settings.tool_parser]
            if settings.tool_parser
            else []
        ),
        *settings.args,
    ]


def _optional(flag: str, value: float | None) -> list[str]:
    return [] if value is None else [flag, f"{value:g}" if isinstance(value, float) else str(value)]


def server_environment(
    settings: ServerSettings, inherited: Mapping[str, str], key: str
) -> dict[str, str]:
    """Return the environment of a server.

    The key is there and not on the command line, which every user of the machine can read.
    """
    gpus = ",".join(map(str, settings.gpus))
    return {
        "VLLM_NO_USAGE_STATS": "1",
        **inherited,
        **({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}),
        **settings.env,
        "PYTHONUNBUFFERED": "1",
        "VLLM_API_KEY": key,
    }
