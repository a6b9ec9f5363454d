"""The page about LlamaIndex is true: its programs run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from llama_index.storage.chat_store import aios as chat_stores

import aios_core
from aios_adapters import write_completion
from aios_core import Completion, EventKind, FinishReason, Message, Usage
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Raw, StubServer

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "llamaindex.md").read_text("utf-8")
WHOLE = write_completion(
    Completion(Message("assistant", "native"), FinishReason.STOP, Usage(7, 3), "gpt-4o-mini")
)


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    yield
    aios_core.uninstall()


@pytest.mark.usefixtures("as_default")
def test_the_snippet_of_passthrough_runs(watch: EventWatcher) -> None:
    (after,) = re.findall(r"```python\n(# after: .*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"key": "secret"}

    exec(compile(after, "docs/how-to/llamaindex.md", "exec"), names)  # noqa: S102 - our own page

    provider = Raw(json.dumps(WHOLE).encode(), "application/json")
    with StubServer(provider, models=["gpt-4o-mini"], api_key="secret") as server:
        llm: OpenAI = names["llm"]
        llm.api_base = server.base_url
        assert llm.complete("hi").text == "native"
    assert watch.counts[EventKind.DONE] == 1


@pytest.mark.usefixtures("as_default")
def test_the_snippet_of_retrieval_and_tools_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = re.findall(r"```python\n(from llama_index.core import.*?)```", PAGE, re.DOTALL)

    exec(compile(shown, "docs/how-to/llamaindex.md", "exec"), {})  # noqa: S102 - our own page

    assert capsys.readouterr().out.split("\n")[:2] == ["The harbour opens at nine.", "42"]


@pytest.mark.usefixtures("as_default")
def test_the_snippet_of_memory_runs() -> None:
    (shown,) = re.findall(r"```python\n(from llama_index.core.memory.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}

    exec(compile(shown, "docs/how-to/llamaindex.md", "exec"), names)  # noqa: S102 - our own page

    said = ChatMessage(role="user", content="hi")
    for memory in (names["memory"], names["buffer"]):
        memory.put(said)
        assert memory.get_all() == [said]


def test_every_class_that_the_stores_offer_is_on_the_page() -> None:
    assert [name for name in chat_stores.__all__ if f"{name}()" not in PAGE] == []
