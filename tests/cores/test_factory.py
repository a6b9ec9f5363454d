from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from aios_core import bundled_model
from aios_core.config import CoreConfig
from aios_core.cores import OpenAICore
from aios_core.cores.endpoint.time_limits import TimeLimits
from aios_core.cores.factory import announce_default_core, build_cores, core_names
from aios_core.cores.transformers import TransformersCore
from aios_core.errors import ConfigError, ModelLoadError


def openai(**settings: Any) -> CoreConfig:
    return CoreConfig(
        "openai", **{"models": ("m",), "base_url": "http://localhost:9/v1"} | settings
    )


@pytest.fixture
def recording(tmp_path: Path) -> CoreConfig:
    file = tmp_path / "tape.jsonl"
    file.write_text(json.dumps({"format": 1, "models": ["recorded"], "context_window": 100}))
    return CoreConfig("replay", path=str(file))


def test_without_configuration_the_tiny_model_is_the_core() -> None:
    (core,) = build_cores((), environ={})

    assert isinstance(core, TransformersCore)
    assert (core.name, tuple(core.models)) == ("tiny", ("tiny",))


def test_an_endpoint_gets_its_models_and_its_options() -> None:
    (core,) = build_cores([openai(models=("a", "b"), options={"slots": 3})], environ={})

    assert isinstance(core, OpenAICore)
    assert tuple(core.models) == ("a", "b")
    assert core.load().slots == 3


def test_a_table_among_the_options_becomes_what_the_constructor_asks_for() -> None:
    (core,) = build_cores([openai(options={"time_limits": {"connect_s": 1}})], environ={})

    assert core._limits == TimeLimits(connect_s=1.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "model"),
    [("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"), ("/models/qwen3", "qwen3"), ("./qwen3/", "qwen3")],
)
def test_a_model_is_called_by_its_hub_name_or_its_folder(path: str, model: str) -> None:
    (core,) = build_cores([CoreConfig("transformers", path=path)], environ={})

    assert tuple(core.models) == (model,)


def test_a_recording_is_replayed_from_its_file(recording: CoreConfig) -> None:
    (core,) = build_cores([recording], environ={})

    assert (core.name, tuple(core.models)) == ("replay", ("recorded",))


def test_cores_without_a_name_are_numbered_around_those_that_have_one() -> None:
    configs = [openai(), openai(name="openai-2"), openai(), CoreConfig("tiny")]

    assert core_names(configs) == ["openai", "openai-2", "openai-3", "tiny"]


def test_the_key_is_read_from_the_variable_that_is_named() -> None:
    (core,) = build_cores([openai(api_key_env="MY_KEY")], environ={"MY_KEY": "sk-1"})

    assert core._api_key == "sk-1"  # type: ignore[attr-defined]


def test_openai_itself_takes_its_usual_variable() -> None:
    (core,) = build_cores([openai(base_url=None)], environ={"OPENAI_API_KEY": "sk-2"})

    assert core._api_key == "sk-2"  # type: ignore[attr-defined]


def test_a_key_that_is_not_there_is_refused_by_the_name_of_its_variable() -> None:
    with pytest.raises(ConfigError, match=r"cores\[1\]\.api_key_env: got 'MY_KEY'"):
        build_cores([openai(), openai(api_key_env="MY_KEY")], environ={})


def test_an_unknown_option_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'slots'\?") as caught:
        build_cores([openai(options={"slot": 3})], environ={})

    assert caught.value.key == "cores[0].options.slot"
    assert "models" not in caught.value.allowed  # has a key of its own


def test_an_option_inside_a_table_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"cores\[0\]\.options\.time_limits\.connect: got 1"):
        build_cores([openai(options={"time_limits": {"connect": 1}})], environ={})


def test_an_option_that_the_constructor_refuses_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        build_cores([openai(options={"omit": 3})], environ={})

    assert caught.value.key == "cores[0].options"


def test_a_library_that_is_missing_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def import_without_torch(name: str) -> object:
        raise ModuleNotFoundError(f"No module named 'torch' for {name}", name="torch")

    monkeypatch.setattr("aios_core.cores.factory.import_module", import_without_torch)

    with pytest.raises(ModelLoadError, match=r"needs torch.*aios-kernel\[transformers\]"):
        build_cores((), environ={})


def test_a_library_that_is_too_new_is_named_with_what_installs_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aios_core.cores.factory.version", lambda _: "3.57.0")
    config = CoreConfig("openai", base_url="http://127.0.0.1:1/v1", models=("stub",))

    with pytest.raises(
        ModelLoadError, match=r"needs openai 2, and openai 3\.57\.0 .*aios-kernel\[openai\]"
    ):
        build_cores([config], environ={})


def test_a_core_builds_without_the_libraries_of_the_others(
    recording: CoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[str] = []

    def note(name: str) -> object:
        imported.append(name)
        return importlib.import_module(name)

    monkeypatch.setattr("aios_core.cores.factory.import_module", note)

    build_cores([recording], environ={})

    assert imported == ["aios_core.cores.replay"]


def test_the_tiny_model_is_found_in_a_wheel_before_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, checkout = tmp_path / "wheel", tmp_path / "checkout"
    monkeypatch.setattr(bundled_model, "_PLACES", (wheel, checkout))
    with pytest.raises(ModelLoadError, match="AIOS_MODEL"):
        bundled_model.tiny_model_path()

    for place in (checkout, wheel):
        place.mkdir()
        (place / "config.json").touch()
        assert bundled_model.tiny_model_path() == place


@pytest.mark.parametrize(("environ", "num_lines"), [({}, 1), ({"AIOS_QUIET": "1"}, 0)])
def test_the_default_core_is_announced_in_one_line_or_not_at_all(
    environ: dict[str, str], num_lines: int
) -> None:
    stream = io.StringIO()

    announce_default_core(stream, environ=environ)

    assert len(stream.getvalue().splitlines()) == num_lines
    assert ("AIOS_MODEL=" in stream.getvalue()) == bool(num_lines)
