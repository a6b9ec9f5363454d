"""Its model through the kernel: text, streams, cancellation, books, errors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import litellm
import pytest
from interpreter import OpenInterpreter

from aios_core import Budget, Delta, EventKind, Kernel, ToolCall
from aios_core.errors import (
    AuthenticationFailed,
    BudgetExceeded,
    ContentFiltered,
    ContextOverflow,
    CoreError,
    CoreUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    KernelClosed,
    KernelError,
    ModelNotFound,
    PermissionRefused,
    RateLimited,
    SyscallCancelled,
)
from aios_core.testing import EventWatcher
from aios_core.testing.event_watcher import FOREVER_S, TIMEOUT_S
from open_interpreter_aios import attach, detach
from open_interpreter_aios.errors import as_litellm_error

from .conftest import Boot, Runner
from .programs import told

ANSWER = [("assistant", "message", "You said: hi")]


def echo(request: Any) -> str:
    return f"You said: {request.messages[-1].content}"


def chat(interpreter: Any, said: str = "hi") -> list[tuple[str, str, str]]:
    return told(interpreter.chat(said, display=False))


def test_a_chat_is_answered_by_the_kernel(boot: Boot, interpreter: Any) -> None:
    kernel = boot(echo)
    attach(interpreter, agent="ann", kernel=kernel)

    assert chat(interpreter) == ANSWER


def test_a_stream_comes_in_the_models_own_pieces(boot: Boot, interpreter: Any) -> None:
    kernel = boot([[Delta("one "), Delta("two "), Delta("three")]], token_s=0.0001)
    attach(interpreter, kernel=kernel)

    pieces = [
        chunk["content"]
        for chunk in interpreter.chat("hi", display=False, stream=True)
        if "content" in chunk
    ]

    assert pieces == ["one ", "two ", "three"]


def test_what_is_displayed_is_answered_too(
    boot: Boot, interpreter: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    attach(interpreter, kernel=boot(echo))
    interpreter.plain_text_display = True

    interpreter.chat("hi")

    assert "You said: hi" in capsys.readouterr().out


def test_the_agent_has_the_name_and_rank_that_the_user_gives(
    boot: Boot, interpreter: Any, watch: EventWatcher
) -> None:
    attach(interpreter, agent="ann", group="research", priority=3, kernel=boot(echo))

    chat(interpreter)

    (spawned,) = [one for one in watch.events if one.kind is EventKind.AGENT_SPAWNED]
    assert (spawned.facts["name"], spawned.facts["group"]) == ("ann", "research")
    assert set(watch.callers()) == {spawned.pid}


def test_an_agent_of_the_kernel_can_be_given(boot: Boot, interpreter: Any) -> None:
    agent = boot(echo).spawn("ann")
    attach(interpreter, agent=agent)

    assert chat(interpreter) == ANSWER
    assert agent.accounting.num_calls == 1


def test_each_interpreter_without_a_name_is_an_agent_of_its_own(
    boot: Boot, watch: EventWatcher
) -> None:
    kernel = boot(echo)
    interpreters = [OpenInterpreter(system_message="") for _ in range(2)]
    for interpreter in interpreters:
        attach(interpreter, kernel=kernel)

    for interpreter in interpreters * 2:
        chat(interpreter)

    assert len(watch.names()) == 2
    assert set(watch.callers()) == set(watch.names())


def test_usage_is_counted_once(boot: Boot, interpreter: Any) -> None:
    kernel = boot(echo)
    agent = kernel.spawn("ann")
    attach(interpreter, agent=agent)

    chat(interpreter, "four words of mine")

    usage = agent.accounting.usage
    (core,) = kernel.pool
    asked = core.requests[-1]  # type: ignore[attr-defined]
    assert usage.input_tokens == sum(len(one.content.split()) for one in asked.messages)
    assert usage.output_tokens == 6


def test_settings_of_the_interpreter_reach_the_core(boot: Boot, interpreter: Any) -> None:
    kernel = boot(echo)
    attach(interpreter, kernel=kernel)
    interpreter.llm.temperature, interpreter.llm.max_tokens = 0.5, 7

    chat(interpreter)

    (core,) = kernel.pool
    sampling = core.requests[-1].sampling  # type: ignore[attr-defined]
    assert (sampling.temperature, sampling.max_tokens) == (0.5, 7)


def test_the_model_that_the_program_names_later_is_asked(boot: Boot, interpreter: Any) -> None:
    kernel = boot(echo, models=("small", "large"))
    attach(interpreter, kernel=kernel)
    interpreter.llm.model = "large"

    chat(interpreter)

    (core,) = kernel.pool
    assert core.requests[-1].model == "large"  # type: ignore[attr-defined]


def test_without_functions_code_is_read_from_the_text(
    boot: Boot, interpreter: Any, runner: Runner
) -> None:
    answers = ["Look:\n```python\nprint(6 * 7)\n```\n", "It is 42."]
    attach(interpreter, kernel=boot(answers))
    interpreter.llm.supports_functions = False

    said = chat(interpreter, "what is 6 times 7?")

    assert said[1:] == [
        ("assistant", "code", "print(6 * 7)"),
        ("computer", "console", "42"),
        ("assistant", "message", "It is 42."),
    ]
    assert len(runner.ran) == 1


def test_the_oldest_turns_are_left_out_where_the_window_is_full(
    boot: Boot, interpreter: Any
) -> None:
    kernel = boot("ok", context_window=23)
    attach(interpreter, kernel=kernel)
    interpreter.computer.languages = interpreter.computer.languages[1:]  # no hint on Python

    for turn in range(5):
        chat(interpreter, f"turn {turn} has these words here")

    (core,) = kernel.pool
    sent = [message.content for message in core.requests[-1].messages]  # type: ignore[attr-defined]
    assert sent[1:] == ["turn 3 has these words here", "ok", "turn 4 has these words here"]
    assert len(interpreter.messages) == 10  # nothing is forgotten


IMAGE = {"role": "user", "type": "image", "format": "base64.png", "content": "aGk="}


def images_of(request: Any) -> list[str]:
    """The addresses of the images that a core is asked about."""
    parts = [part for message in request.messages for part in message.parts]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def test_an_image_reaches_a_core_that_takes_images(boot: Boot, interpreter: Any) -> None:
    kernel = boot(["a picture"])
    attach(interpreter, kernel=kernel)

    assert told(interpreter.chat(IMAGE, display=False)) == [("assistant", "message", "a picture")]
    (core,) = kernel.pool
    assert images_of(core.requests[-1]) == ["data:image/png;base64,aGk="]  # type: ignore[attr-defined]


def test_an_image_in_a_file_goes_with_its_path(
    boot: Boot, interpreter: Any, tmp_path: Path
) -> None:
    kernel = boot(["a picture"])
    attach(interpreter, kernel=kernel)
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"hi")

    interpreter.chat({**IMAGE, "format": "path", "content": str(file)}, display=False)

    (core,) = kernel.pool
    request = core.requests[-1]  # type: ignore[attr-defined]
    assert images_of(request) == ["data:image/jpg;base64,aGk="]
    assert str(file) in request.messages[-1].content


def test_of_many_images_the_first_and_the_last_two_are_sent(boot: Boot, interpreter: Any) -> None:
    kernel = boot(["some pictures"])
    attach(interpreter, kernel=kernel)

    interpreter.chat([{**IMAGE, "content": f"{number}AAA"} for number in range(5)], display=False)

    (core,) = kernel.pool
    sent = [url[-4:] for url in images_of(core.requests[-1])]  # type: ignore[attr-defined]
    assert sent == ["0AAA", "3AAA", "4AAA"]


def test_a_program_that_wants_no_vision_is_asked_for_a_description(
    boot: Boot, interpreter: Any
) -> None:
    attach(interpreter, kernel=boot(echo))
    interpreter.llm.supports_vision = False

    with pytest.raises(InvalidRequest, match="supports_vision"):
        interpreter.chat(IMAGE, display=False)


@pytest.mark.parametrize(
    ("error", "theirs"),
    [
        (AuthenticationFailed("core", "no key"), "AuthenticationError"),
        (PermissionRefused("core", "not for you"), "PermissionDeniedError"),
        (ModelNotFound("core", "gpt-9", ["m"]), "NotFoundError"),
        (RateLimited("too often", 7.0), "RateLimitError"),
        (ContextOverflow(9, 8, "m"), "ContextWindowExceededError"),
        (ContentFiltered("core", "not that"), "ContentPolicyViolationError"),
        (CoreUnavailable("gone", 1.0), "APIConnectionError"),
        (DeadlineExceeded(3.0, "it waited"), "Timeout"),
        (CoreError("core", "odd"), "InternalServerError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_is_also_the_one_that_litellm_raises(error: KernelError, theirs: str) -> None:
    given = as_litellm_error(error)

    assert isinstance(given, type(error))
    assert isinstance(given, getattr(litellm.exceptions, theirs))
    assert str(given) == str(error)


def test_a_chat_raises_litellms_kind(boot: Boot, interpreter: Any) -> None:
    def refuse(_: Any) -> str:
        raise AuthenticationFailed("core", "the api key is wrong")

    attach(interpreter, kernel=boot(refuse))

    with pytest.raises(litellm.AuthenticationError, match=r"the api key is wrong") as caught:
        chat(interpreter)
    assert isinstance(caught.value, AuthenticationFailed)


def test_a_context_window_that_the_program_sets_is_kept(boot: Boot, interpreter: Any) -> None:
    kernel = boot(["ok"] * 5)
    attach(interpreter, kernel=kernel)
    interpreter.computer.languages = interpreter.computer.languages[1:]  # no hint on Python
    interpreter.llm.context_window = 20

    for turn in range(5):
        chat(interpreter, f"turn {turn} has these words here")

    (core,) = kernel.pool
    sent = [message.content for message in core.requests[-1].messages]  # type: ignore[attr-defined]
    assert "turn 0 has these words here" not in sent
    assert sent[-1] == "turn 4 has these words here"


def test_a_model_that_the_program_asks_by_itself_is_named_once(
    boot: Boot, interpreter: Any, caplog: pytest.LogCaptureFixture
) -> None:
    attach(interpreter, kernel=boot(echo))
    interpreter.llm.completions = lambda **_: iter([{"choices": [{"delta": {"content": "mine"}}]}])

    chat(interpreter)
    chat(interpreter)

    named = [one for one in caplog.messages if "interpreter.llm.completions" in one]
    assert len(named) == 1


def test_closing_a_stream_frees_the_cores_slot_at_once(
    boot: Boot, interpreter: Any, watch: EventWatcher
) -> None:
    kernel = boot(["word " * 1_000_000, "free"], token_s=0.001, slots=1)
    attach(interpreter, kernel=kernel)
    stream = interpreter.chat("hi", display=False, stream=True)
    next(stream)

    stream.close()

    watch.wait(EventKind.CANCELLED)
    assert chat(interpreter) == [("assistant", "message", "free")]  # there was but one slot


def test_another_thread_can_stop_a_call_that_has_said_nothing_yet(
    boot: Boot, interpreter: Any, watch: EventWatcher
) -> None:
    attachment = attach(interpreter, kernel=boot("never", latency_s=FOREVER_S))
    raised: list[BaseException] = []

    def talk() -> None:
        try:
            interpreter.chat("hi", display=False)
        except SyscallCancelled as exc:
            raised.append(exc)

    thread = threading.Thread(target=talk)
    thread.start()
    watch.wait(EventKind.DISPATCHED)
    attachment.stop()
    thread.join(TIMEOUT_S)

    assert len(raised) == 1


def test_a_closed_kernel_refuses_clearly(boot: Boot, interpreter: Any) -> None:
    kernel = boot(echo)
    attach(interpreter, agent="ann", kernel=kernel)
    kernel.close(0)

    with pytest.raises(KernelClosed):
        chat(interpreter)


def test_an_agent_without_budget_stops_with_that_reason(boot: Boot, interpreter: Any) -> None:
    attach(interpreter, budget=Budget(calls=1), kernel=boot(echo))
    chat(interpreter)

    with pytest.raises(BudgetExceeded):
        chat(interpreter)


def test_an_agent_that_was_killed_stays_dead(boot: Boot, interpreter: Any) -> None:
    agent = boot(echo).spawn("ann")
    attach(interpreter, agent=agent)
    agent.exit()

    with pytest.raises(SyscallCancelled):
        chat(interpreter)


def test_an_error_of_the_core_stays_the_kernels_whatever_it_says(
    boot: Boot, interpreter: Any
) -> None:
    error = CoreError("tiny", "no auth: the api key does not exist; you do not have access")
    attach(interpreter, kernel=boot([error] * 9))

    with pytest.raises(CoreError, match="no auth"):
        chat(interpreter)


def test_of_parallel_calls_none_is_lost_since_one_is_asked_for(
    boot: Boot, interpreter: Any
) -> None:
    kernel = boot(echo)
    attach(interpreter, kernel=kernel)

    chat(interpreter)

    (core,) = kernel.pool
    assert core.requests[-1].parallel_tool_calls is False  # type: ignore[attr-defined]


def test_fragments_of_a_call_are_put_together(boot: Boot, interpreter: Any, runner: Runner) -> None:
    call = ToolCall("c", "execute", '{"language": "shell", "code": "echo a; echo b"}')
    attach(interpreter, kernel=boot([call, "done"], token_s=0.0001))

    said = chat(interpreter, "go")

    assert said[0] == ("assistant", "code", "echo a; echo b")
    assert runner.ran[0][1] == "shell"


def test_detaching_gives_everything_back(kernel: Kernel, interpreter: Any) -> None:
    before = dict(vars(interpreter))
    of_parts = [dict(vars(interpreter.llm)), dict(vars(interpreter.computer))]

    attach(interpreter, kernel=kernel)
    attach(interpreter, kernel=kernel, agent="ann")
    assert interpreter.aios.conversation
    detach(interpreter)
    detach(interpreter)

    assert vars(interpreter) == before
    assert [vars(interpreter.llm), vars(interpreter.computer)] == of_parts


def test_telemetry_and_lookups_are_off(
    boot: Boot, interpreter: Any, no_network: list[object]
) -> None:
    attach(interpreter, kernel=boot(echo))

    chat(interpreter)

    assert no_network == []
    assert not interpreter.anonymous_telemetry
    assert not interpreter.will_contribute
    assert interpreter.computer.offline


def test_an_interpreter_that_is_not_attached_would_look_into_the_network(
    interpreter: Any, no_network: list[object]
) -> None:
    interpreter.llm.completions = lambda **_: iter(())

    interpreter.chat("hi", display=False)

    assert no_network
