"""No secret is shown: not in an error, an event, a log, a traceback or a `repr`."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest

from aios_core import ConfigError, Kernel, KernelConfig, KernelError, tool
from aios_core.config import CoreConfig, McpServerConfig, StateConfig, ToolsConfig
from aios_core.cores.openai.core import OpenAICore
from aios_core.cores.scripted import ScriptedCore
from aios_core.errors import CoreError
from aios_core.events import EventKind, EventStream, KernelEvent
from aios_core.redaction import REDACTED, is_secret, learn, redact, scrub, shown_setting
from aios_core.state import read_key
from aios_core.testing.stub_server import Refuse, StubServer

SECRET = "s3cr3t-of-the-test-0123456789"  # noqa: S105 - of this test alone


def shown(exc: BaseException) -> str:
    """All that a program or a person may see of an exception."""
    return "\n".join([str(exc), repr(exc), *traceback.format_exception(exc), repr(exc.__dict__)])


class TestTexts:
    @pytest.mark.parametrize(
        "text",
        [
            "wrong key s3cr3t-of-the-test-0123456789!",
            "https://user:hunter22@host/v1 refused",
            "Authorization: Bearer abcdef0123456789abcdef",
            "key=sk-proj-0123456789abcdefghijklmn is unknown",
        ],
    )
    def test_a_secret_is_taken_out(self, text: str) -> None:
        learn(SECRET)

        assert REDACTED in redact(text)
        assert not any(part in redact(text) for part in (SECRET, "hunter22", "abcdef0123", "sk-pr"))

    @pytest.mark.parametrize(
        "text",
        [
            "http://localhost:8000/v1/x@y",
            "basic arithmetic and the Bearer of news",
            "/sk-learn/a-long-name-of-a-folder",
            "max_tokens must be at least 1",
            "",
        ],
    )
    def test_nothing_else_is(self, text: str) -> None:
        assert redact(text) == text

    def test_a_short_or_missing_secret_is_no_reason_to_take_texts_apart(self) -> None:
        learn("abc", "", None)

        assert redact("abcdef") == "abcdef"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            *((one, True) for one in ("api_key", "AIOS_API_KEY", "X-Api-Key", "Authorization")),
            *((one, True) for one in ("token", "GITHUB_TOKEN", "password", "client_secret")),
            *((one, False) for one in ("max_tokens", "tokens", "keys", "tokenizer", "author")),
        ],
    )
    def test_secrets_are_known_by_their_names(self, name: str, *, expected: bool) -> None:
        assert is_secret(name) is expected

    def test_references_and_paths_are_shown(self) -> None:
        assert shown_setting("encryption_key", "env:KEY") == "env:KEY"
        assert shown_setting("encryption_key", "/etc/aios/key") == "/etc/aios/key"
        assert shown_setting("encryption_key", "ab" * 32) == REDACTED


class TestErrors:
    def test_no_error_of_the_kernel_holds_one(self) -> None:
        learn(SECRET)
        error = CoreError("a", f"refused {SECRET}")
        error.add_note(f"it was {SECRET}")

        assert SECRET not in shown(error)

    def test_a_foreign_exception_is_scrubbed_with_its_causes(self) -> None:
        learn(SECRET)
        cause = ValueError("inner", f"with {SECRET}")
        foreign = RuntimeError(f"outer {SECRET}")
        foreign.body = {"error": {"message": [SECRET]}}  # type: ignore[attr-defined]
        foreign.__cause__ = cause

        assert SECRET not in shown(scrub(foreign))

    def test_a_key_that_was_set_where_its_name_belongs_is_not_told(self) -> None:
        for setting in ("ab" * 32, "A" * 43 + "=", "ab" * 33):
            with pytest.raises(ConfigError) as caught:
                read_key(setting, {})
            assert setting not in shown(caught.value)

    def test_a_variable_with_a_slip_in_its_name_is_not_told(self) -> None:
        environ = {"AIOS_STATE__ENCRYPTION_KEYS": SECRET, "AIOS_STATE__ENCRYPTION_KEY": "x" * 40}
        with pytest.raises(ConfigError) as caught:
            KernelConfig.load(environ=environ)
        assert "x" * 40 not in shown(caught.value)


async def test_a_server_that_echoes_its_key_tells_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[KernelEvent] = []
    echo = Refuse(400, f"bad request with the key {SECRET} of Bearer {SECRET}")
    with StubServer([echo] * 3, api_key=SECRET) as server:
        core = OpenAICore(server.base_url, ["stub"], api_key=SECRET)
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        async with Kernel(config, cores=[core], observers=[events.append]) as kernel:
            agent = await kernel.aspawn("a")
            with pytest.raises(KernelError) as caught:
                await agent.llm.agenerate("hi")
            assert SECRET not in repr(kernel) + repr(core) + repr(config)

    assert REDACTED in str(caught.value)
    assert SECRET not in shown(caught.value)
    assert SECRET not in "".join(map(str, events))
    assert SECRET not in caplog.text


async def test_a_tool_that_raises_with_a_secret_tells_nobody() -> None:
    learn(SECRET)

    @tool
    def leak() -> str:
        """Raise with a secret."""
        raise ValueError(f"no access with {SECRET}")

    config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
    async with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
        await kernel.aload_tools(leak)
        agent = await kernel.aspawn("a")
        with pytest.raises(KernelError) as caught:
            await agent.tools.arun("leak")

    assert SECRET not in shown(caught.value)


def test_events_are_told_without_secrets() -> None:
    learn(SECRET)
    events: list[KernelEvent] = []
    stream = EventStream([events.append])

    stream.emit(KernelEvent(0.0, EventKind.FAILED, facts={"error": f"x {SECRET}", "n": 3}))

    assert events[0].facts == {"error": f"x {REDACTED}", "n": 3}


def test_configurations_are_shown_without_secrets() -> None:
    core = CoreConfig(
        "openai",
        models=("m",),
        base_url="http://u:pass-word-1@host/v1",
        options={"api_key": SECRET, "slots": 3},
    )
    mcp = McpServerConfig(
        url="http://x",
        headers={"Authorization": SECRET, "X-Ref": "env:TOKEN"},
        env={"T_TOKEN": SECRET},
    )
    tools = ToolsConfig(mcp={"m": mcp}, settings={"mail": {"password": SECRET, "host": "h"}})
    state = StateConfig(encryption_key=SECRET + "0" * 3)
    config = KernelConfig(cores=(core,), tools=tools, state=state)

    for one in (core, mcp, tools, state, config):
        assert SECRET not in repr(one)
        assert "pass-word-1" not in repr(one)
    assert "'slots': 3" in repr(core)
    assert "env:TOKEN" in repr(mcp)
    assert json.dumps(repr(config))


def test_a_refused_option_is_told_without_the_secrets_beside_it() -> None:
    options: dict[str, Any] = {"api_key": SECRET, "slots": "many"}
    core = {"kind": "openai", "models": ["m"], "base_url": "http://x/v1", "options": options}
    config = KernelConfig.load(environ={}, cores=[core])
    with pytest.raises(ConfigError) as caught:
        Kernel(config).start()

    assert SECRET not in shown(caught.value)
