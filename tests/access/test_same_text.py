"""A text that a program passes on word for word labels the agent that gets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aios_core import AccessDenied, Agent, Kernel, KernelConfig
from aios_core.cores.scripted import ScriptedCore
from aios_core.kernel.provenance import MAX_TEXTS, LabelledTexts, texts_in
from aios_core.tools.handle import as_text

from .label_rig import (
    WEB,
    Store,
    kernel,
    labels_of,
    take,
    tool,
)

__all__ = ["kernel"]  # a fixture

PAGE = "the page says that all accounts are to be closed"


class TestTheSameTextAgain:
    """The kernel recognizes a text that the program passes on word for word."""

    async def reader(self, kernel: Kernel, text: Any = PAGE) -> tuple[Agent, Any]:
        """An agent that was given a text by a tool that is not trusted, and that text."""
        reader = await kernel.aspawn("reader")
        await reader.tools.aoffer(tool("fetch", lambda: text, trusted=False))
        return reader, await reader.tools.arun("fetch")

    @pytest.mark.parametrize(
        "bring",
        [
            lambda agent, text: agent.llm.agenerate(text),
            lambda agent, text: agent.llm.agenerate(
                [{"role": "system", "content": "You sum up."}, {"role": "user", "content": text}]
            ),
            lambda agent, text: agent.llm.agenerate(
                [{"role": "user", "content": [{"type": "text", "text": text}]}]
            ),
            lambda agent, text: agent.llm.agenerate(f"\n {text} \n"),
            lambda agent, text: agent.memory.awrite("notes", text),
            lambda agent, text: agent.memory.kv("notes").aset("k", text),
            lambda agent, text: agent.memory.thread("t").aappend(
                [{"role": "user", "content": text}]
            ),
            lambda agent, text: agent.storage.awrite("notes.txt", text),
            lambda agent, text: agent.tools.arun("echo", {"body": {"text": [text]}}),
        ],
    )
    async def test_an_agent_that_brings_a_text_gets_its_labels(
        self, kernel: Kernel, bring: Callable[[Agent, str], Any]
    ) -> None:
        await kernel.aload_tools(tool("echo", lambda **given: str(given)))
        _, text = await self.reader(kernel)
        other = await kernel.aspawn("other")

        await bring(other, text)

        assert labels_of(kernel, other) == {"tool:fetch"}

    async def test_its_labels_apply_to_the_request_that_brings_it(self, kernel: Kernel) -> None:
        reader = await kernel.aspawn("reader")
        await reader.memory.awrite("page", "")
        take(kernel, reader)
        await reader.memory.awrite("page", PAGE)
        await reader.memory.aread("page")
        other = await kernel.aspawn("other")

        with pytest.raises(AccessDenied, match="nothing from the web goes out"):
            await other.tools.arun("send", {"body": PAGE})

    async def test_what_a_labelled_agent_says_is_passed_on_with_its_labels(
        self, tmp_path: Path
    ) -> None:
        del tmp_path
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        said = "I have read it, and would close the accounts."
        async with Kernel(config, cores=[ScriptedCore(said)]) as kernel:
            reader, other = await kernel.aspawn("reader"), await kernel.aspawn("other")
            clean = await kernel.aspawn("clean")
            answer = await clean.llm.agenerate("What do you say?")
            await other.llm.agenerate(answer.text)
            assert labels_of(kernel, other) == set()
            take(kernel, reader)

            answer = await reader.llm.agenerate("What do you say?")
            await other.llm.agenerate(answer.text)

            assert labels_of(kernel, other) == WEB

    async def test_a_result_is_known_in_the_forms_that_frameworks_show(
        self, kernel: Kernel
    ) -> None:
        _, result = await self.reader(kernel, {"title": "Ä", "page": PAGE, "links": [1, 2]})
        for number, form in enumerate((as_text(result), str(result), result["page"])):
            other = await kernel.aspawn(f"other {number}")
            await other.llm.agenerate([{"role": "user", "content": form}])
            assert labels_of(kernel, other) == {"tool:fetch"}, form

    async def test_a_short_text_counts_as_a_message_of_the_agent_that_said_it(
        self, kernel: Kernel
    ) -> None:
        await self.reader(kernel, "4711")
        for name, role, expected in (
            ("reader", "user", {"tool:fetch"}),
            ("reader", "assistant", {"tool:fetch"}),
            ("writer", "user", set()),
        ):
            other = await kernel.aspawn("other")
            await other.llm.agenerate(
                [{"role": "user", "content": "hi"}, {"role": role, "content": "4711", "name": name}]
            )
            assert labels_of(kernel, other) == expected, (name, role)

    async def test_short_texts_and_names_are_not_recognized(self, kernel: Kernel) -> None:
        await self.reader(kernel, "ok")
        alice = await kernel.aspawn("alice")
        take(kernel, alice)
        name = "a-name-that-is-long-enough-to-be-kept"
        await alice.memory.awrite(name, "text")
        await alice.memory.alist()
        other = await kernel.aspawn("other")

        await other.llm.agenerate("ok")
        await other.memory.awrite(name, "mine")

        assert labels_of(kernel, other) == set()

    def test_vectors_and_classes_are_not_scanned(self) -> None:
        assert [*texts_in([[0.5] * 3, {"k": (1, 2)}, Store, ("a", b"b")])] == ["a", "b"]

    async def test_what_is_kept_is_bounded(self) -> None:
        texts = LabelledTexts()
        for number in range(MAX_TEXTS + 10):
            texts.remember(f"a text of some length, number {number}", WEB, "alice")
        assert len(texts) == MAX_TEXTS
