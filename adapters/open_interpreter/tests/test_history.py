"""Its history in the kernel's memory: a thread for each conversation."""

from __future__ import annotations

from typing import Any

import pytest
from interpreter import OpenInterpreter

from aios_core.errors import InvalidRequest
from open_interpreter_aios import attach

from .conftest import Boot, Runner
from .programs import coder


def another() -> Any:
    return OpenInterpreter(system_message="")


def test_a_second_interpreter_goes_on_where_the_first_one_was(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    kernel = boot(coder("print(1)"))
    attach(interpreter, agent="ann", conversation="sums", kernel=kernel)
    interpreter.chat("go", display=False)
    assert len(runner.ran) == 1

    second = another()
    attach(second, agent="ann", conversation="sums", kernel=kernel)

    assert second.messages == interpreter.messages
    assert [one["type"] for one in second.messages] == ["message", "code", "console", "message"]
    new = second.chat("again", display=False)
    assert [one["type"] for one in new] == ["code", "console", "message"]
    (core,) = kernel.pool
    assert core.requests[-1].messages[1].content == "go"  # type: ignore[attr-defined]


def test_another_agent_does_not_see_it(boot: Boot, interpreter: Any) -> None:
    kernel = boot("ok")
    attach(interpreter, agent="ann", conversation="sums", kernel=kernel)
    interpreter.chat("go", display=False)

    other = another()
    attach(other, agent="bob", conversation="sums", kernel=kernel)

    assert other.messages == []


def test_a_conversation_without_a_name_gets_one(boot: Boot, interpreter: Any) -> None:
    kernel = boot("ok")
    agent = kernel.spawn("ann")
    attachment = attach(interpreter, agent=agent)
    interpreter.chat("go", display=False)

    second = another()
    attach(second, agent=agent, conversation=attachment.conversation)

    assert second.messages == interpreter.messages
    assert agent.memory.threads("open_interpreter/") == (
        f"open_interpreter/{attachment.conversation}",
    )


def test_a_reset_begins_the_thread_anew(boot: Boot, interpreter: Any) -> None:
    agent = boot("ok").spawn("ann")
    attach(interpreter, agent=agent, conversation="c")
    interpreter.chat("one", display=False)
    interpreter.reset()
    interpreter.chat("two", display=False)

    entries = agent.memory.thread("open_interpreter/c").read()

    assert [entry.content["content"] for entry in entries] == ["two", "ok"]


def test_what_is_new_is_appended(boot: Boot, interpreter: Any) -> None:
    agent = boot("ok").spawn("ann")
    attach(interpreter, agent=agent, conversation="c")
    for said in ("one", "two"):
        interpreter.chat(said, display=False)

    entries = agent.memory.thread("open_interpreter/c").read()

    assert [entry.content["content"] for entry in entries] == ["one", "ok", "two", "ok"]
    assert [entry.number for entry in entries] == [0, 1, 2, 3]  # nothing was written twice


def test_what_was_said_before_a_stream_was_closed_is_kept(boot: Boot, interpreter: Any) -> None:
    agent = boot("one two three").spawn("ann")
    attach(interpreter, agent=agent, conversation="c")
    stream = interpreter.chat("go", display=False, stream=True)
    while "content" not in next(stream):
        pass

    stream.close()

    entries = agent.memory.thread("open_interpreter/c").read()
    assert entries[0].content["content"] == "go"
    assert entries[1].content["role"] == "assistant"


def test_two_histories_are_not_mixed(boot: Boot, interpreter: Any) -> None:
    kernel = boot("ok")
    attach(interpreter, agent="ann", conversation="c", kernel=kernel)
    interpreter.chat("go", display=False)
    second = another()
    second.messages = [{"role": "user", "type": "message", "content": "mine"}]

    with pytest.raises(InvalidRequest, match="'c' has 2 messages"):
        attach(second, agent="ann", conversation="c", kernel=kernel)

    assert not hasattr(second, "aios")


def test_nothing_is_written_into_open_interpreters_own_folder(
    boot: Boot, interpreter: Any, tmp_path: Any
) -> None:
    interpreter.conversation_history_path = str(tmp_path / "conversations")
    attach(interpreter, kernel=boot("ok"))

    interpreter.chat("go", display=False)

    assert not (tmp_path / "conversations").exists()
