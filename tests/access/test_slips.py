"""Likely mistakes are reported: grants on missing objects or to unknown agents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aios_core import Agent, ConfigError, InvalidRequest, Kernel, KernelConfig
from aios_core.access import ShareWarning
from aios_core.access.policy.decision import OWN_UPKEEP
from aios_core.access.policy.explain import _FINAL, _FINAL_FOR_ALL
from aios_core.access.policy.file import parse_policy
from aios_core.access.policy.rules import Policy
from aios_core.cli import main
from aios_core.cores.scripted import ScriptedCore
from aios_core.permissions import Resource, Right
from aios_core.storage.collections.requests import CollectionItem

ALICE, BOB = "default/alice", "default/bob"
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    config = KernelConfig.load(
        environ={},
        state={"directory": ":memory:"},
        groups={"staff": {}},
        access={"approver": "allow"},
        tools={"plugins": ()},
    )
    async with Kernel(config, cores=[ScriptedCore("ok")]) as running:
        yield running


@pytest.fixture
async def alice(kernel: Kernel) -> Agent:
    agent = await kernel.aspawn("alice")
    await agent.memory.awrite("notes", "text")
    await agent.memory.awrite("plans/a", "text")
    await agent.memory.thread("chat").aappend([{"role": "user", "content": "hi"}])
    await agent.memory.kv("cache").aset("k", "v")
    await agent.storage.awrite("docs/a.txt", "text")
    return agent


@pytest.fixture
async def bob(kernel: Kernel) -> Agent:
    return await kernel.aspawn("bob")


# --- shares --------------------------------------------------------------------------------------

Share = Callable[[Agent, str], Awaitable[None]]


@pytest.mark.usefixtures("bob")
class TestShares:
    @pytest.mark.parametrize(
        "name", ["notes", "plans", "plans/", "plans/a", "thread:chat", "kv:cache", ""]
    )
    async def test_existing_memory_is_shared_without_a_warning(
        self, alice: Agent, name: str
    ) -> None:
        await alice.memory.ashare(name, BOB)

    @pytest.mark.parametrize(
        "name", ["ntoes", "note", "plan", "plans/b", "chat", "thread:cat", "kv:notes"]
    )
    async def test_sharing_missing_memory_warns(self, alice: Agent, name: str) -> None:
        with pytest.warns(ShareWarning, match=f"{name} does not exist"):
            await alice.memory.ashare(name, BOB)

    @pytest.mark.parametrize("path", ["docs/a.txt", "docs", "/docs/", "/"])
    async def test_existing_files_are_shared_without_a_warning(
        self, alice: Agent, path: str
    ) -> None:
        await alice.storage.ashare(path, BOB)

    @pytest.mark.parametrize("path", ["docs/b.txt", "doc", "docs/a.txt/b"])
    async def test_sharing_missing_files_warns(self, alice: Agent, path: str) -> None:
        with pytest.warns(ShareWarning, match="does not exist"):
            await alice.storage.ashare(path, BOB)

    async def test_a_deleted_file_is_not_there(self, alice: Agent) -> None:
        await alice.storage.adelete("docs/a.txt")
        with pytest.warns(ShareWarning, match="does not exist"):
            await alice.storage.ashare("docs/a.txt", BOB)

    @pytest.mark.parametrize("kind", ["collection", "tool"])
    async def test_collections_and_tools_are_looked_for_too(self, alice: Agent, kind: str) -> None:
        def note() -> str:
            """A tool."""
            return ""

        await alice.collections.aput("note", [CollectionItem("k", "text", {}, (1.0,))])
        await alice.tools.aoffer(note)
        await alice.access.agrant(Resource(kind, ALICE, "note"), BOB)
        await alice.access.agrant(Resource(kind, ALICE, ""), BOB)
        with pytest.warns(ShareWarning, match="does not exist"):
            await alice.access.agrant(Resource(kind, ALICE, "nope"), BOB)

    async def test_a_write_grant_on_a_missing_object_does_not_warn(self, alice: Agent) -> None:
        await alice.memory.ashare("inbox", BOB, right="write")
        await alice.storage.ashare("inbox", BOB, ["read", "write"])

    async def test_a_grant_that_warns_is_still_given(self, alice: Agent, bob: Agent) -> None:
        with pytest.warns(ShareWarning):
            await alice.memory.ashare("soon", BOB)
        await alice.memory.awrite("soon", "text")

        assert await bob.memory.aread("soon", owner=ALICE) == "text"

    @pytest.mark.parametrize("to", ["default/bbo", "group:stuff", "staff/bob", "default/bob/x"])
    async def test_an_unknown_receiver_is_warned_about(self, alice: Agent, to: str) -> None:
        with pytest.warns(ShareWarning, match="there is no agent|no agent is in group"):
            await alice.memory.ashare("notes", to)

    async def test_the_warning_about_a_group_lists_the_known_groups(self, alice: Agent) -> None:
        with pytest.warns(ShareWarning, match=r"group 'stuff'; have \['default', 'staff'\]"):
            await alice.storage.ashare("docs", "group:stuff")

    async def test_receivers_that_are_known_need_not_be_alive(
        self, kernel: Kernel, alice: Agent, bob: Agent
    ) -> None:
        await bob.memory.awrite("mine", "text")
        await kernel.aexit(bob.pid)

        for to in (BOB, "group:staff", "group:default", "*"):
            await alice.memory.ashare("notes", to)

    async def test_a_warning_points_at_its_caller(self, alice: Agent) -> None:
        with pytest.warns(ShareWarning) as caught:
            await alice.memory.ashare("ntoes", BOB)
        assert [Path(one.filename).name for one in caught] == ["test_slips.py"]

    def test_a_share_on_a_thread_warns_too(self) -> None:
        config = KernelConfig.load(environ={}, state={"directory": ":memory:"})
        with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
            agent = kernel.spawn("alice")
            for share in (agent.memory.share, agent.storage.share):
                with pytest.warns(ShareWarning) as caught:
                    share("ntoes", BOB)
                assert {Path(one.filename).name for one in caught} == {"test_slips.py"}

    async def test_an_owner_that_is_no_identity_is_refused(self, alice: Agent) -> None:
        with pytest.raises(
            InvalidRequest, match=r"got 'alice'; allowed: an identity.*default/alice"
        ):
            await alice.access.agrant(Resource("memory", "alice", "notes"), BOB)


# --- questions -----------------------------------------------------------------------------------


class TestQuestions:
    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            (("bob", "memory.read", "memory:default/alice:n"), "did you mean 'default/bob'"),
            ((BOB, "memory.raed", "memory:default/alice:n"), "did you mean 'memory.read'"),
            ((BOB, "fly", "memory:default/alice:n"), "allowed: access.ask, access.check,"),
            ((BOB, "memory.read", "memory:alice:n"), "did you mean 'default/alice'"),
            ((BOB, "memory.read", "memroy:default/alice:n"), "did you mean 'memory'"),
            ((BOB, "memory.read", "notes"), "kind:owner:name"),
        ],
    )
    async def test_a_question_about_nothing_says_what_there_is(
        self, kernel: Kernel, asked: tuple[str, str, str], told: str
    ) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await kernel.aexplain_access(*asked)
        assert told in str(caught.value)

    async def test_every_action_of_the_kernel_may_be_asked_about(self, kernel: Kernel) -> None:
        managers = kernel._inside.parts.traps.managers
        kinds = {kind.kind for one in managers for kind in one.requests} | {"llm.generate"}
        for kind in kinds:
            assert await kernel.aexplain_access(BOB, kind, "memory:default/alice:n")

    @pytest.mark.parametrize(
        ("asked", "effect"),
        [
            ((ALICE, "tool.resolve", f"tool_call:{ALICE}:0123"), "ask"),
            ((ALICE, "tool.load", "tool::tools.py"), "ask"),
            ((ALICE, "storage.delete", "file::/mnt/m/a"), "ask"),
            ((ALICE, "storage.delete", f"file:{ALICE}:/a"), "allow"),
            ((ALICE, "memory.clear", f"memory:{ALICE}:notes"), "allow"),
            ((ALICE, "storage.purge", f"file:{ALICE}:/a"), "allow"),
            ((ALICE, "memory.read", f"memory:{ALICE}:notes"), "allow"),
            ((BOB, "memory.clear", f"memory:{ALICE}:notes"), "ask"),
        ],
    )
    async def test_an_answer_says_what_asks_a_person(
        self, kernel: Kernel, alice: Agent, asked: tuple[str, str, str], effect: str
    ) -> None:
        await kernel.aspawn("bob")
        await alice.memory.ashare("notes", BOB, right="write")

        explanation = await kernel.aexplain_access(*asked)

        assert explanation.decision.effect == effect

    async def test_every_action_that_is_never_to_be_undone_is_known_as_such(
        self, kernel: Kernel
    ) -> None:
        managers = kernel._inside.parts.traps.managers
        kinds = {kind.kind for one in managers for kind in one.requests}
        assert {*_FINAL, *_FINAL_FOR_ALL} <= kinds
        assert _FINAL.keys() >= OWN_UPKEEP

    async def test_an_agents_own_question_is_checked_in_the_same_way(self, bob: Agent) -> None:
        with pytest.raises(InvalidRequest, match=r"did you mean 'memory.read'"):
            await bob.access.acheck("memory.raed", "read", "memory::notes")
        with pytest.raises(InvalidRequest, match=r"did you mean 'default/alice'"):
            await bob.access.acheck("memory.read", Right.READ, "memory:alice:notes")

    @pytest.mark.parametrize(
        ("agent", "action"), [("bob", "memory.read"), (BOB, "memory.raed")], ids=["agent", "action"]
    )
    def test_the_command_refuses_them_too(
        self,
        agent: str,
        action: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        what = ["--action", action, "--resource", "memory:default/alice:notes"]

        assert main(["access", "explain", "--agent", agent, *what]) == 1

        assert "did you mean" in capsys.readouterr().err


class TestPolicyFile:
    @pytest.mark.parametrize(
        ("part", "told"),
        [
            ({"agents": ["bob"]}, r"rules\[0\]\.agents.*'default/bob'"),
            ({"agents": ["groups:staff"]}, r"rules\[0\]\.agents"),
            ({"actions": ["tool.rnu"]}, r"rules\[0\]\.actions.*did you mean 'tool.run'"),
            ({"actions": ["tools.*"]}, r"rules\[0\]\.actions"),
        ],
    )
    def test_a_rule_that_can_never_match_is_refused(
        self, part: dict[str, list[str]], told: str
    ) -> None:
        with pytest.raises(ConfigError, match=told):
            parse_policy(_rule(**part), Policy())

    @pytest.mark.parametrize(
        "part",
        [
            {"agents": ["default/bob", "research/*", "*", "group:new", "default/[ab]*"]},
            {"actions": ["tool.*", "*", "llm.generate", "*.read", "memory.kv_?et"]},
        ],
    )
    def test_patterns_that_may_match_are_accepted(self, part: dict[str, list[str]]) -> None:
        parse_policy(_rule(**part), Policy())


def _rule(**parts: Any) -> str:
    lines = ["[[rules]]", 'effect = "deny"', *(f"{key} = {value}" for key, value in parts.items())]
    return "\n".join(lines)
