"""Classic agents (`autogen`) on the kernel: by name in the `config_list`, wherever it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from autogen import (
    AssistantAgent,
    ConversableAgent,
    GroupChat,
    GroupChatManager,
    OpenAIWrapper,
    UserProxyAgent,
    register_function,
)
from autogen.io.base import IOStream
from pydantic import BaseModel

from aios_core import EventKind, Kernel, Message, ToolCall, set_default_kernel
from aios_core.errors import BudgetExceeded, InvalidRequest, NoSuchObject
from aios_core.testing import EventWatcher, cooperative_script
from autogen_aios.classic import AIOSModelClient, register, unregister

from .conftest import Boot

OURS = {"model": "scripted", "model_client_cls": "AIOSModelClient"}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register()
    yield
    unregister()


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def bot(name: str = "bot", **entry: Any) -> AssistantAgent:
    return AssistantAgent(name, llm_config={"config_list": [{**OURS, **entry}]}, system_message="")


def user(**settings: Any) -> UserProxyAgent:
    settings = {"human_input_mode": "NEVER", "code_execution_config": False, **settings}
    return UserProxyAgent("user", **settings)


# --- agents --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_default")
def test_an_agent_answers(watch: EventWatcher) -> None:
    result = user().initiate_chat(bot(), message="hi", max_turns=1)

    assert result.summary == "You said: hi"
    assert watch.names() == {watch.callers()[0]: "bot"}


@pytest.mark.usefixtures("as_default")
def test_registering_a_tool_does_not_lose_the_client(watch: EventWatcher) -> None:
    assistant, executor = bot(), user()
    register_function(add, caller=assistant, executor=executor, description="Add two numbers.")

    result = executor.initiate_chat(assistant, message="add 3 and 4", max_turns=2)

    assert result.summary == "The tool said: 7"
    assert len(set(watch.callers())) == 1, "and it is the same agent as before"


def test_parallel_calls_are_all_executed(boot: Boot) -> None:
    calls = [ToolCall("c1", "add", '{"a": 1, "b": 2}'), ToolCall("c2", "add", '{"a": 3, "b": 4}')]
    former = set_default_kernel(boot([calls, "done"]))
    assistant, executor = bot(), user()
    register_function(add, caller=assistant, executor=executor, description="Add two numbers.")

    result = executor.initiate_chat(assistant, message="add", max_turns=2)

    set_default_kernel(former)
    assert result.summary == "done"
    answers = result.chat_history[2]["tool_responses"]
    assert [answer["content"] for answer in answers] == ["3", "7"]


def naming(*names: str) -> Any:
    """Picks the speakers in turn, and is cooperative_script to everything else."""
    turns = iter(names)

    def script(request: Any) -> Message:
        if "role play game" in request.messages[0].content:
            return Message("assistant", next(turns))
        return cooperative_script(request)

    return script


def test_a_group_chat_picks_its_speakers_as_its_manager(boot: Boot, watch: EventWatcher) -> None:
    former = set_default_kernel(boot(naming("bob", "ann")))
    agents = [bot("ann"), bot("bob"), bot("eve")]
    chat = GroupChat(agents, messages=[], max_round=3)
    manager = GroupChatManager(chat, llm_config={"config_list": [OURS]})

    user().initiate_chat(manager, message="hi")

    set_default_kernel(former)
    assert [message["name"] for message in chat.messages] == ["user", "bob", "ann"]
    names = watch.names()
    assert [names[pid] for pid in watch.callers()] == ["chat_manager", "bob", "chat_manager", "ann"]
    assert len(names) == 3


@pytest.mark.usefixtures("as_default")
def test_an_asynchronous_chat_is_served_too(watch: EventWatcher) -> None:
    result = asyncio.run(user().a_initiate_chat(bot(), message="hi", max_turns=1))

    assert result.summary == "You said: hi"
    assert list(watch.names().values()) == ["bot"]


@pytest.mark.usefixtures("as_default")
def test_usage_is_added_up_by_the_framework() -> None:
    assistant = bot(price=[1.0, 2.0])

    result = user().initiate_chat(assistant, message="hi", max_turns=1)

    usage = result.cost["usage_including_cached_inference"]
    assert usage["scripted"]["prompt_tokens"] == 1
    assert usage["scripted"]["completion_tokens"] == 3
    assert usage["total_cost"] == pytest.approx((1 * 1.0 + 3 * 2.0) / 1000)


def test_an_entry_says_who_calls_and_what_it_may_spend(as_default: Kernel) -> None:
    said = {"agent": "ann", "group": "ops", "priority": 3, "budget": {"calls": 1}}
    assistant = bot(aios=said)
    user().initiate_chat(assistant, message="one", max_turns=1)

    with pytest.raises(BudgetExceeded, match="ann"):
        user().initiate_chat(assistant, message="two", max_turns=1)

    (ann,) = as_default.processes
    assert (ann.name, ann.group.name, ann.priority) == ("ann", "ops", 3)


class Joke(BaseModel):
    setup: str
    punchline: str

    def format(self) -> str:
        return f"{self.setup} ... {self.punchline}"


@pytest.mark.usefixtures("as_default")
def test_an_answer_fits_the_entrys_response_format_and_is_formatted_by_it() -> None:
    result = user().initiate_chat(bot(response_format=Joke), message="a joke", max_turns=1)

    assert result.summary == "setup of: a joke ... punchline of: a joke"


# --- the client itself ---------------------------------------------------------------------------


class Collector:
    """Classic's output, kept."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def print(self, *objects: Any, **_: Any) -> None:
        """Drop the event."""

    def send(self, message: Any) -> None:
        if message.type == "stream":
            self.said.append(message.content.content)

    def input(self, *_: Any, **__: Any) -> str:
        return ""


def test_a_stream_is_told_to_classics_output_and_comes_whole(boot: Boot) -> None:
    client = AIOSModelClient(OURS, kernel=boot(token_s=0.001))
    out = Collector()

    with IOStream.set_default(out):
        answer = client.create(
            {"messages": [{"role": "user", "content": "a b"}], "model": "scripted", "stream": True}
        )

    assert len(out.said) > 1
    assert "".join(out.said) == "You said: a b"
    assert client.message_retrieval(answer) == ["You said: a b"]
    assert client.get_usage(answer)["total_tokens"] == 6


def test_a_message_with_calls_is_retrieved_as_openais_own_class(boot: Boot) -> None:
    client = AIOSModelClient(OURS, kernel=boot([ToolCall("c1", "add", "{}")]))

    (message,) = client.message_retrieval(client.create({"messages": [{"content": "hi"}]}))

    assert not isinstance(message, str)
    assert message.tool_calls is not None
    assert message.tool_calls[0].id == "c1"


def test_options_of_the_call_reach_the_core_and_those_of_the_provider_do_not(
    kernel: Kernel,
) -> None:
    client = AIOSModelClient({**OURS, "timeout": 60}, kernel=kernel)

    client.create(
        {**OURS, "prompt": "hi", "temperature": 0.5, "api_key": "x", "tools": None, "top_a": 1}
    )

    (core,) = kernel.pool
    asked = core.requests[-1]  # type: ignore[attr-defined]
    assert (asked.sampling.temperature, asked.extra) == (0.5, {"top_a": 1})
    assert asked.messages == (Message("user", "hi"),)


def test_a_bare_schema_is_a_response_format(kernel: Kernel) -> None:
    client = AIOSModelClient({**OURS, "response_format": Joke.model_json_schema()}, kernel=kernel)

    (text,) = client.message_retrieval(client.create({"messages": [{"content": "a joke"}]}))

    assert isinstance(text, str)
    assert Joke.model_validate_json(text)


def test_bad_metadata_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="aios: got 'ann'"):
        AIOSModelClient({**OURS, "aios": "ann"})
    with pytest.raises(InvalidRequest, match="buget"):
        AIOSModelClient({**OURS, "aios": {"agent": "ann", "buget": {"calls": 1}}})


@pytest.mark.usefixtures("as_default")
def test_a_model_that_no_core_serves_is_refused_with_those_that_are() -> None:
    with pytest.raises(NoSuchObject, match=r"no model 'gpt-4o'; have \['scripted'\]"):
        user().initiate_chat(bot(model="gpt-4o"), message="hi", max_turns=1)


# --- registration --------------------------------------------------------------------------------


def test_other_entries_stay_theirs_and_unregistering_gives_everything_back() -> None:
    theirs = {"model": "gpt-4o", "api_key": "sk-x"}
    clients = OpenAIWrapper(config_list=[OURS, theirs])._clients
    assert [isinstance(client, AIOSModelClient) for client in clients] == [True, False]

    register()
    unregister()
    unregister()

    (client,) = OpenAIWrapper(config_list=[OURS])._clients
    assert type(client).__name__ == "PlaceHolderClient"


def test_classics_own_way_to_register_works_as_well(kernel: Kernel) -> None:
    unregister()
    assistant = ConversableAgent("bot", llm_config={"config_list": [OURS]})
    assistant.register_model_client(AIOSModelClient, kernel=kernel)

    result = user().initiate_chat(assistant, message="hi", max_turns=1)

    assert result.summary == "You said: hi"


def test_two_agents_of_one_name_are_two_agents_of_the_kernel(
    as_default: Kernel, watch: EventWatcher
) -> None:
    for _ in range(2):
        user().initiate_chat(bot(), message="hi", max_turns=1)

    assert as_default is not None
    assert watch.counts[EventKind.AGENT_SPAWNED] == 2
