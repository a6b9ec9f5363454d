"""A streamed call belongs to who asked for it: in every mode, wherever it is read."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from agent_framework import Agent, Message, WorkflowBuilder
from agent_framework.openai import OpenAIChatCompletionClient as FrameworkClient
from autogen import ConversableAgent, GroupChat, GroupChatManager, UserProxyAgent
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent, SocietyOfMindAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    RoundRobinGroupChat,
    SelectorGroupChat,
)
from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient

import aios_core
from aios_adapters import Caller
from aios_core import EventKind, Kernel
from aios_core.testing import EventWatcher
from aios_core.testing.stub_server import Answer, Refuse, StubServer
from autogen_aios import AIOSChatCompletionClient, callers, classic
from autogen_aios import agent_framework as framework
from autogen_aios.agent_framework import AIOSChatClient

HI = [UserMessage(content="hi", source="user")]
MODEL = "gpt-4o-2024-08-06"  # by its whole name, as AutoGen expects it in answers


class Clients:
    """Makes clients on the kernel, of one of the three kinds."""

    def __init__(self, mode: str, base_url: str) -> None:
        self._is_own = mode == "own"
        self._endpoint = {"base_url": base_url, "api_key": "k"}

    def autogen(self) -> ChatCompletionClient:
        if self._is_own:
            return AIOSChatCompletionClient()
        return OpenAIChatCompletionClient(model=MODEL, max_retries=0, **self._endpoint)

    def framework(self) -> Any:
        if self._is_own:
            return AIOSChatClient()
        return FrameworkClient(model=MODEL, **self._endpoint)

    def classic(self) -> Any:
        named = {"model_client_cls": "AIOSModelClient", "model": "scripted"}
        entry = named if self._is_own else {"model": MODEL, "max_retries": 0, **self._endpoint}
        return {"config_list": [{**entry, "stream": True}], "cache_seed": None}

    def assistant(self, name: str) -> AssistantAgent:
        return AssistantAgent(name, self.autogen(), description=name, model_client_stream=True)

    def conversable(self, name: str) -> ConversableAgent:
        return ConversableAgent(
            name, llm_config=self.classic(), system_message="", human_input_mode="NEVER"
        )


DIRECTORIES = (callers.directory, framework.directory, classic.directory)
_callers_before: set[Caller] = set()


@pytest.fixture(autouse=True)
def callers_of_other_tests() -> None:
    """Note who was there before: threads of other tests, and what their failures keep alive."""
    for directory in DIRECTORIES:
        for caller in directory.callers:
            directory.end(caller)
    _callers_before.clear()
    _callers_before.update(*(directory.callers for directory in DIRECTORIES))


@pytest.fixture
def server() -> Iterator[StubServer]:
    with StubServer(Answer("one two three"), models=[MODEL]) as running:
        yield running


@pytest.fixture(params=["own", "substitute", "passthrough"])
def clients(
    request: pytest.FixtureRequest, as_default: Kernel, server: StubServer
) -> Iterator[Clients]:
    del as_default
    if request.param == "own":
        classic.register()
    else:
        aios_core.install(["agent_framework", "autogen", "autogen_classic"], mode=request.param)
    yield Clients(request.param, server.base_url)
    classic.unregister()
    aios_core.uninstall()


async def read(stream: Any) -> None:
    async for _ in stream:
        pass


# --- what is run, and the names of the agents that it is the work of ----------------------------


async def assistant(clients: Clients) -> None:
    await read(clients.assistant("a").run_stream(task="hi"))


async def assistant_read_by_another_task(clients: Clients) -> None:
    await asyncio.create_task(read(clients.assistant("a").run_stream(task="hi")))


async def round_robin(clients: Clients) -> None:
    team = RoundRobinGroupChat([clients.assistant("a"), clients.assistant("b")], max_turns=3)
    await read(team.run_stream(task="hi"))


async def selector(clients: Clients) -> None:
    team = SelectorGroupChat(
        [clients.assistant("aa"), clients.assistant("bb")],
        clients.autogen(),
        max_turns=2,
        model_client_streaming=True,
    )
    await read(team.run_stream(task="hi"))


async def graph_with_branches(clients: Clients) -> None:
    first, left, right = map(clients.assistant, ("a", "b", "c"))
    graph = DiGraphBuilder().add_node(first).add_node(left).add_node(right)
    graph.add_edge(first, left).add_edge(first, right)
    await read(GraphFlow([first, left, right], graph.build()).run_stream(task="hi"))


async def society(clients: Clients) -> None:
    team = RoundRobinGroupChat([clients.assistant("a")], max_turns=1)
    await read(SocietyOfMindAgent("b", team, clients.autogen()).run_stream(task="hi"))


class Delegating(BaseChatAgent):
    """Asks for its streams, and lets tasks of their own read them."""

    produced_message_types = (TextMessage,)

    def __init__(self, client: ChatCompletionClient) -> None:
        super().__init__("a", "delegates")
        self._client = client

    async def on_messages(self, messages: Any, cancellation_token: CancellationToken) -> Response:
        del messages, cancellation_token
        streams = [self._client.create_stream(HI) for _ in range(3)]
        await asyncio.gather(*(read(stream) for stream in streams))
        return Response(chat_message=TextMessage(content="done", source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        pass


async def agent_that_delegates(clients: Clients) -> None:
    await Delegating(clients.autogen()).run(task="hi")


async def framework_agent(clients: Clients) -> None:
    await read(Agent(clients.framework(), name="a").run("hi", stream=True))


async def framework_agent_read_by_another_task(clients: Clients) -> None:
    stream = Agent(clients.framework(), name="a").run("hi", stream=True)
    await asyncio.create_task(read(stream))


async def framework_workflow(clients: Clients) -> None:
    first, second = (Agent(clients.framework(), name=name) for name in ("a", "b"))
    flow = WorkflowBuilder(start_executor=first).add_edge(first, second).build()
    await read(flow.run("hi", stream=True))


async def classic_chat(clients: Clients) -> None:
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
    user.initiate_chat(clients.conversable("a"), message="hi", max_turns=2, silent=True)


async def classic_chat_awaited(clients: Clients) -> None:
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
    await user.a_initiate_chat(clients.conversable("a"), message="hi", max_turns=2, silent=True)


async def classic_group(clients: Clients) -> None:
    first, second = clients.conversable("a"), clients.conversable("b")
    group = GroupChat([first, second], [], max_round=3, speaker_selection_method="round_robin")
    first.initiate_chat(GroupChatManager(group), message="hi", silent=True)


WORKS: dict[Callable[[Clients], Awaitable[None]], set[str]] = {
    assistant: {"a"},
    assistant_read_by_another_task: {"a"},
    round_robin: {"a", "b"},
    selector: {"SelectorGroupChatManager", "aa", "bb"},
    graph_with_branches: {"a", "b", "c"},
    society: {"a", "b"},
    agent_that_delegates: {"a"},
    framework_agent: {"a"},
    framework_agent_read_by_another_task: {"a"},
    framework_workflow: {"a", "b"},
    classic_chat: {"a"},
    classic_chat_awaited: {"a"},
    classic_group: {"a", "b"},
}


def run(work: Callable[[], Awaitable[Any]]) -> None:
    """In a thread and a loop of its own, as a program would."""
    failures: list[BaseException] = []

    def target() -> None:
        try:
            asyncio.run(work())  # type: ignore[arg-type] # a coroutine
        except BaseException as exc:  # noqa: BLE001 - raised again where it is awaited
            failures.append(exc)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def nothing_stays(kernel: Kernel, watch: EventWatcher) -> None:
    for _ in range(3):  # a finalizer may release more objects, which the next one finds
        gc.collect()
    for directory in DIRECTORIES:
        assert set(directory.callers) <= _callers_before
        directory.check()
    watch.wait(EventKind.AGENT_EXITED, watch.counts[EventKind.AGENT_SPAWNED])
    kernel.check()


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_each_agent_of_a_run_is_one_that_is_gone_afterwards(
    work: Callable[[Clients], Awaitable[None]],
    clients: Clients,
    as_default: Kernel,
    watch: EventWatcher,
) -> None:
    run(lambda: work(clients))

    assert {watch.names()[pid] for pid in watch.callers()} == WORKS[work]
    assert len(set(watch.callers())) == len(WORKS[work])
    nothing_stays(as_default, watch)


@pytest.mark.parametrize("clients", ["own", "passthrough"], indirect=True)
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_two_runs_at_once_are_agents_of_their_own(
    work: Callable[[Clients], Awaitable[None]],
    clients: Clients,
    as_default: Kernel,
    watch: EventWatcher,
) -> None:
    async def both() -> None:
        await asyncio.gather(work(clients), work(clients))

    run(both)

    assert len(set(watch.callers())) == 2 * len(WORKS[work])
    nothing_stays(as_default, watch)


async def two_streams_of_one_client(clients: Clients) -> None:
    client = clients.autogen()

    async def ask() -> None:
        await read(client.create_stream(HI))

    await asyncio.gather(ask(), ask())


async def two_streams_of_one_framework_client(clients: Clients) -> None:
    client = clients.framework()

    async def ask() -> None:
        await read(client.get_response([Message("user", ["hi"])], stream=True))

    await asyncio.gather(ask(), ask())


@pytest.mark.parametrize(
    "work",
    [two_streams_of_one_client, two_streams_of_one_framework_client],
    ids=lambda work: work.__name__,
)
def test_two_tasks_at_one_client_are_two_agents(
    work: Callable[[Clients], Awaitable[None]],
    clients: Clients,
    as_default: Kernel,
    watch: EventWatcher,
) -> None:
    run(lambda: work(clients))

    assert len(set(watch.callers())) == 2
    nothing_stays(as_default, watch)


async def assistant_left(clients: Clients) -> None:
    async for event in clients.assistant("a").run_stream(task="hi"):
        if getattr(event, "content", None) in {"one ", "You "}:
            break


async def client_left(clients: Clients) -> None:
    async for _ in clients.autogen().create_stream(HI):
        break


async def client_unread(clients: Clients) -> None:
    clients.autogen().create_stream(HI)


async def framework_agent_left(clients: Clients) -> None:
    async for _ in Agent(clients.framework(), name="a").run("hi", stream=True):
        break


async def framework_agent_unread(clients: Clients) -> None:
    Agent(clients.framework(), name="a").run("hi", stream=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # AutoGen's spans
@pytest.mark.parametrize(
    "work",
    [assistant_left, client_left, client_unread, framework_agent_left, framework_agent_unread],
    ids=lambda work: work.__name__,
)
def test_a_stream_that_is_left_leaves_no_agent(
    work: Callable[[Clients], Awaitable[None]],
    clients: Clients,
    as_default: Kernel,
    watch: EventWatcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It complains of AutoGen's spans, and pytest would keep its records and what they refer to.
    monkeypatch.setattr(logging.getLogger("opentelemetry.context"), "disabled", True)

    run(lambda: work(clients))

    nothing_stays(as_default, watch)


@pytest.mark.parametrize("clients", ["passthrough"], indirect=True)
@pytest.mark.parametrize("work", [assistant, framework_agent, classic_chat])
def test_a_stream_that_fails_leaves_no_agent(
    work: Callable[[Clients], Awaitable[None]],
    clients: Clients,
    as_default: Kernel,
    watch: EventWatcher,
) -> None:
    with StubServer(Refuse(400), models=[MODEL]) as server:
        failing = Clients("passthrough", server.base_url)
        with pytest.raises(Exception, match="the stub refuses"):
            run(lambda: work(failing))

    del clients
    nothing_stays(as_default, watch)
