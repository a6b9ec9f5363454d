"""The snippets on the page about AutoGen run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_framework import Agent
from agent_framework.openai import RawOpenAIChatCompletionClient
from autogen.oai.client import OpenAIWrapper

import aios_core
import autogen_aios
from autogen_aios.classic import AIOSModelClient, unregister

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "autogen.md").read_text("utf-8")


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    yield
    unregister()


def test_the_snippets_of_ours_run() -> None:
    names: dict[str, object] = {"Agent": Agent, "add": lambda: "1"}
    snippets = re.findall(r"```python\n(# after\n.*?)```", PAGE, re.DOTALL)

    for snippet in snippets:
        exec(compile(snippet, "docs/how-to/autogen.md", "exec"), names)  # noqa: S102 - our own page

    assert len(snippets) == 3
    (client,) = OpenAIWrapper(**names["llm_config"])._clients  # type: ignore[arg-type]
    assert isinstance(client, AIOSModelClient)


def test_the_snippet_of_passthrough_runs() -> None:
    (after,) = re.findall(r"```python\n(# after: .*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"Agent": Agent, "key": "secret"}
    native = RawOpenAIChatCompletionClient._inner_get_response

    try:
        exec(compile(after, "docs/how-to/autogen.md", "exec"), names)  # noqa: S102 - our own page

        assert names["agent"].client._inner_get_response.__func__ is not native
    finally:
        aios_core.uninstall()
    assert names["agent"].client._inner_get_response.__func__ is native


def test_every_name_that_the_package_offers_is_on_the_page() -> None:
    assert [name for name in autogen_aios.__all__ if f"`{name}" not in PAGE] == []
    assert all(getattr(autogen_aios, name) for name in autogen_aios.__all__)
