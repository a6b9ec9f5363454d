"""The command line and the environment of a vLLM server."""

from __future__ import annotations

from typing import Any

import pytest

from aios_core.cores.vllm.arguments import (
    ServerSettings,
    require_free,
    server_command,
    server_environment,
)
from aios_core.cores.vllm.installation import NEWEST, parse_version
from aios_core.cores.vllm.server import stage_of


def command(version: tuple[int, int] = (0, 32), **fields: Any) -> list[str]:
    settings = ServerSettings("some/model", ("tiny", "small"), 8, **fields)
    return server_command(settings, "python", version, 1_234)


def test_a_server_listens_on_this_machine_alone_under_the_models_names() -> None:
    text = " ".join(command())

    assert text.startswith(
        "python -m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port 1234"
    )
    assert "--model some/model --served-model-name tiny small --max-num-seqs 8" in text


def test_agents_get_prefix_caching_priorities_and_cached_tokens() -> None:
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(command())
    assert "--scheduling-policy priority" in " ".join(command())


def test_a_flag_that_an_older_version_does_not_know_is_left_out() -> None:
    assert "--kv-cache-metrics" in command((0, 32))
    assert "--kv-cache-metrics" not in command((0, 11))


def test_options_become_flags_and_extra_arguments_come_last() -> None:
    text = " ".join(
        command(
            context_window=4_096,
            tensor_parallel=2,
            kv_offload_gib=8.0,
            tool_parser="hermes",
            args=("--dtype", "float32"),
        )
    )

    for part in (
        "--max-model-len 4096",
        "--tensor-parallel-size 2",
        "--kv-offloading-size 8",
        "--enable-auto-tool-choice --tool-call-parser hermes",
    ):
        assert part in text
    assert text.endswith("--dtype float32")


@pytest.mark.parametrize("argument", ["--port", "--port=1", "--served_model_name", "-tp"])
def test_a_flag_of_the_core_is_refused_with_the_option_to_use(argument: str) -> None:
    with pytest.raises(ValueError, match="use"):
        require_free([argument, "1"])


def test_the_key_is_in_the_environment_and_not_on_the_command_line() -> None:
    settings = ServerSettings("m", ("m",), 8, gpus=(2, 3), env={"A": "1"})
    environment = server_environment(settings, {"PATH": "/bin", "A": "0"}, "secret")

    assert environment["VLLM_API_KEY"] == "secret"
    assert (environment["PATH"], environment["A"]) == ("/bin", "1")
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert "secret" not in " ".join(command())


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('__version__ = version = "0.32.0"', (0, 32)),
        ("__version__ = version = '0.11.2+cpu'", (0, 11)),
        ("version = '0.1.dev1+g1234'", NEWEST),
        ("", NEWEST),
    ],
)
def test_the_version_is_read_from_the_installed_package(
    text: str, version: tuple[int, int]
) -> None:
    assert parse_version(text) == version


def test_lines_of_the_log_show_the_stage_of_the_start() -> None:
    assert stage_of("INFO Starting to load model Qwen/Qwen3-4B...") == "loading the weights"
    assert stage_of("Loading safetensors checkpoint shards: 50%") == "loading the weights"
    assert stage_of("INFO GPU KV cache size: 4,096 tokens") == "allocating KV memory"
    assert stage_of("INFO Started server process") is None
