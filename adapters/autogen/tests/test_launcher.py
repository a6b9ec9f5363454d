"""`aios run` and `install()`: what is written for OpenAI runs on the kernel, without a key."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient
from agent_framework.openai import OpenAIChatCompletionClient as AgentFrameworkClient
from autogen import AssistantAgent as ClassicAgent
from autogen import OpenAIWrapper, UserProxyAgent
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ChatCompletionClient, CreateResult, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from autogen_ext.models.openai._openai_client import BaseOpenAIChatCompletionClient
from pydantic import BaseModel

import aios_core
from aios_core import Kernel
from aios_core.testing import EventWatcher
from autogen_aios.classic import AIOSModelClient

EXAMPLES = Path(__file__).parents[3] / "examples" / "autogen"
HI = [UserMessage(content="hi", source="user")]


@pytest.fixture(autouse=True)
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installed, in an environment that knows no key."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    aios_core.install(["agent_framework", "autogen", "autogen_classic"])
    yield
    aios_core.uninstall()


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


async def test_a_client_of_openai_is_answered_by_the_kernel(
    as_default: Kernel, watch: EventWatcher
) -> None:
    client = OpenAIChatCompletionClient(model="gpt-4o-mini", temperature=0.5)
    agent = AssistantAgent("writer", client, tools=[add], reflect_on_tool_use=True)

    result = await agent.run(task="add 3 and 4")

    assert result.messages[-1].to_text() == "The tool said: 7"  # type: ignore[union-attr]
    assert list(watch.names().values()) == ["writer"]
    (core,) = as_default.pool
    assert core.requests[-1].sampling.temperature == 0.5  # type: ignore[attr-defined]


class Joke(BaseModel):
    setup: str
    punchline: str


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # AutoGen logs an object so
@pytest.mark.usefixtures("as_default")
async def test_streams_structure_usage_and_counts_are_served() -> None:
    client = OpenAIChatCompletionClient(model="gpt-4o-mini")

    *pieces, last = [item async for item in client.create_stream(HI, include_usage=True)]
    joke = await client.create(HI, json_output=Joke)

    assert isinstance(last, CreateResult)
    assert "".join(map(str, pieces)) == last.content == "You said: hi"
    assert Joke.model_validate_json(str(joke.content))
    assert client.total_usage().prompt_tokens == 2
    assert client.count_tokens(HI) == 1
    assert client.remaining_tokens(HI) == 128_000 - 1


@pytest.mark.usefixtures("as_default")
async def test_a_client_of_a_configuration_file_is_served() -> None:
    client = ChatCompletionClient.load_component(
        {"provider": "OpenAIChatCompletionClient", "config": {"model": "gpt-4o-mini"}}
    )

    assert (await client.create(HI)).content == "You said: hi"


@pytest.mark.usefixtures("as_default")
async def test_a_strange_model_is_answered_by_the_default_one_which_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = OpenAIChatCompletionClient(model="gpt-4o-mini")

    for _ in range(2):
        await client.create(HI)

    assert capsys.readouterr().err.count("no core serves 'gpt-4o-mini'") == 1


@pytest.mark.usefixtures("as_default")
def test_classic_agents_of_any_provider_are_served(watch: EventWatcher) -> None:
    entry = {"model": "gpt-4o", "api_key": "sk-x", "base_url": "https://nowhere.example/v1"}
    bot = ClassicAgent("bot", llm_config={"config_list": [entry]}, system_message="")
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)

    assert user.initiate_chat(bot, message="hi", max_turns=1).summary == "You said: hi"
    assert list(watch.names().values()) == ["bot"]


@pytest.mark.usefixtures("as_default")
@pytest.mark.parametrize("kind", [OpenAIChatClient, AgentFrameworkClient])
async def test_agents_of_agent_framework_are_served(kind: Any, watch: EventWatcher) -> None:
    agent = Agent(kind(model="gpt-4o"), name="writer", tools=[add])

    whole = await agent.run("add 3 and 4")
    stream = agent.run("add 3 and 4", stream=True)
    streamed = await stream.get_final_response()

    assert whole.text == "The tool said: 7"
    assert streamed.text.endswith("The tool said: 7")
    assert list(watch.names().values()) == ["writer"]


def test_a_programs_own_classic_client_stays_its_own() -> None:
    (client,) = OpenAIWrapper(config_list=[{"model": "m", "model_client_cls": "Mine"}])._clients

    assert not isinstance(client, AIOSModelClient)


def test_uninstalling_gives_everything_back() -> None:
    aios_core.uninstall()
    before = (
        BaseOpenAIChatCompletionClient.create,
        BaseOpenAIChatCompletionClient.count_tokens,
        OpenAIChatCompletionClient.__init__,
        OpenAIWrapper._register_default_client,
    )

    aios_core.install()
    assert BaseOpenAIChatCompletionClient.create is not before[0]
    aios_core.uninstall()

    assert before == (
        BaseOpenAIChatCompletionClient.create,
        BaseOpenAIChatCompletionClient.count_tokens,
        OpenAIChatCompletionClient.__init__,
        OpenAIWrapper._register_default_client,
    )


def python(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return subprocess.run(  # noqa: S603 - our own words
        [sys.executable, *arguments],
        env=environ | {"AIOS_QUIET": "1"},
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


def test_installing_imports_no_framework() -> None:
    done = python(
        "-c",
        "import sys, aios_core; aios_core.install(['autogen', 'autogen_classic'])\n"
        "print(sorted({'autogen', 'autogen_core', 'openai', 'pydantic'} & set(sys.modules)))",
    )

    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        (["hello.py"], "north: In Oslo it is 4 degrees, snow."),
        (["hello.py"], "south: In Rome it is 22 degrees, sunny."),
        (["-m", "aios_core.cli", "run", "openai_agent.py"], "The result is 168."),
        (["-m", "aios_core.cli", "run", "classic_agents.py"], "answer: The result is 168."),
        (["-m", "aios_core.cli", "run", "agent_framework_agent.py"], "answer: The result is 168."),
    ],
)
def test_the_examples_run_on_the_tiny_model(script: list[str], answer: str) -> None:
    done = python(*script, cwd=EXAMPLES)

    assert done.returncode == 0, done.stderr
    assert answer in done.stdout
