"""Promises 6 and 7: nothing unchecked, nothing of another's without a grant."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    AccessDenied,
    Agent,
    ApprovalRefused,
    InvalidRequest,
    Kernel,
    KernelConfig,
    NoSuchObject,
)
from aios_core.access import ApprovalAnswer, ApprovalRequest, Effect
from aios_core.access.audit.trail import AuditTrail
from aios_core.access.policy.decision import decide
from aios_core.access.policy.rules import Policy
from aios_core.cores.scripted import ScriptedCore
from aios_core.memory.requests import MemoryOverwrite, MemoryWrite
from aios_core.permissions import Access, Resource, Right
from aios_core.syscalls import LLMGenerate, Request
from aios_core.tools import McpServer

Boot = Callable[..., Any]
ALICE, BOB = "default/alice", "default/bob"


class Asked:
    """An approver that gives scripted answers, and records the questions."""

    def __init__(self, *answers: bool) -> None:
        self.questions: list[ApprovalRequest] = []
        self._answers = list(answers)

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        self.questions.append(request)
        return ApprovalAnswer(self._answers.pop(0), by="ann")


@pytest.fixture
async def boot() -> AsyncIterator[Boot]:
    kernels: list[Kernel] = []

    async def start(approver: Any = None, directory: str = ":memory:", **access: Any) -> Kernel:
        config = KernelConfig.load(environ={}, state={"directory": directory}, access=access)
        kernel = Kernel(config, cores=[ScriptedCore("ok")], approver=approver)
        kernels.append(await kernel.__aenter__())
        return kernel

    yield start
    for kernel in kernels:
        await kernel.aclose(0)


@pytest.fixture
async def kernel(boot: Boot) -> Kernel:
    started: Kernel = await boot()
    return started


async def two(kernel: Kernel) -> tuple[Agent, Agent]:
    return await kernel.aspawn("alice"), await kernel.aspawn("bob")


# --- promise 7: nothing of another's --------------------------------------------------------------


def all_requests(kernel: Kernel) -> list[type[Request[Any]]]:
    return [kind for manager in kernel._inside.parts.traps.managers for kind in manager.requests]


class TestAcrossAgents:
    async def test_every_request_that_can_name_an_owner_is_refused_for_anothers(
        self, kernel: Kernel
    ) -> None:
        _, bob = await two(kernel)
        tried = []
        for kind in all_requests(kernel):
            names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
            if "owner" not in names:
                continue
            request = _some(kind, owner=ALICE)
            with pytest.raises(AccessDenied) as caught:
                await bob.port.acall(request)
            assert caught.value.pid == bob.pid
            assert caught.value.action == kind.kind
            assert ALICE in caught.value.target
            tried.append(kind.kind)

        assert len(tried) > 30
        for manager in ("memory.", "storage.", "collection."):
            assert any(name.startswith(manager) for name in tried), manager

    async def test_every_request_says_what_it_does_to_what(self, kernel: Kernel) -> None:
        for kind in (*all_requests(kernel), LLMGenerate):
            assert kind.access is not Request.access, f"{kind.__name__} has no access of its own"

    async def test_only_what_is_shared_is_read(self, kernel: Kernel) -> None:
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        await alice.memory.awrite("diary", "secret")

        await alice.memory.ashare("notes", BOB)

        assert await bob.memory.aread("notes", owner=ALICE) == "hello"
        for refused in (
            bob.memory.aread("diary", owner=ALICE),
            bob.memory.awrite("notes", "changed", owner=ALICE),
            bob.access.agrant(f"memory:{ALICE}:notes", "default/carol"),
        ):
            with pytest.raises(AccessDenied):
                await refused

    async def test_a_revoked_grant_refuses_the_very_next_read(self, kernel: Kernel) -> None:
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        await alice.memory.ashare("notes", BOB)
        await bob.memory.aread("notes", owner=ALICE)

        await alice.memory.aunshare("notes", BOB)

        with pytest.raises(AccessDenied):
            await bob.memory.aread("notes", owner=ALICE)
        with pytest.raises(NoSuchObject):
            await alice.memory.aunshare("notes", BOB)

    async def test_a_grant_expires(self, kernel: Kernel) -> None:
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        now = [1_000.0]
        kernel._inside.parts.access._now = kernel._inside.parts.access.privileges._now = lambda: (
            now[0]
        )  # type: ignore[method-assign]
        await alice.memory.ashare("notes", BOB, for_s=10)
        await bob.memory.aread("notes", owner=ALICE)

        now[0] += 11

        with pytest.raises(AccessDenied):
            await bob.memory.aread("notes", owner=ALICE)

    async def test_a_grant_to_a_group_is_its_members(self, kernel: Kernel) -> None:
        alice = await kernel.aspawn("alice")
        carol = await kernel.aspawn("carol", group="staff")
        outsider = await kernel.aspawn("dan", group="guests")
        await alice.memory.awrite("notes", "hello")
        await alice.memory.ashare("notes", "group:staff")

        assert await carol.memory.aread("notes", owner=ALICE) == "hello"
        with pytest.raises(AccessDenied):
            await outsider.memory.aread("notes", owner=ALICE)

    async def test_a_parent_reads_its_childrens_and_changes_nothing(self, kernel: Kernel) -> None:
        alice = await kernel.aspawn("alice")
        child = await alice.aspawn("helper")
        await child.memory.awrite("notes", "hello")

        assert await alice.memory.aread("notes", owner=child.identity) == "hello"
        with pytest.raises(AccessDenied):
            await alice.memory.awrite("notes", "x", owner=child.identity)
        with pytest.raises(AccessDenied):
            await child.memory.aread("notes", owner=alice.identity)

    async def test_no_agent_grants_a_right_that_it_does_not_have(self, kernel: Kernel) -> None:
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        await alice.access.agrant(f"memory:{ALICE}:notes", BOB, ["read", "share"])

        await bob.access.agrant(f"memory:{ALICE}:notes", "default/carol", ["read"])
        with pytest.raises(AccessDenied, match="no right to write itself"):
            await bob.access.agrant(f"memory:{ALICE}:notes", "default/carol", ["write"])

    async def test_grants_outlive_their_kernel(self, boot: Boot, tmp_path: Path) -> None:
        first = await boot(directory=str(tmp_path))
        alice, _ = await two(first)
        await alice.memory.awrite("notes", "hello")
        await alice.memory.ashare("notes", BOB)
        await first.aclose(0)

        second = await boot(directory=str(tmp_path))
        bob = await second.aspawn("bob")

        assert await bob.memory.aread("notes", owner=ALICE) == "hello"


# --- rules ---------------------------------------------------------------------------------------

POLICY = """
[groups.interns]
inherits = ["staff"]

[[rules]]
name = "no models for interns"
effect = "deny"
agents = ["group:interns"]
actions = ["llm.generate"]
reason = "ask a colleague"

[[rules]]
name = "untrusted origin"
effect = "deny"
actions = ["memory.write"]
labels = ["tool:web"]

[[rules]]
name = "the wiki"
effect = "allow"
rights = ["read"]
resources = ["memory:default/alice:wiki"]
"""


class TestRules:
    async def test_a_rule_denies_and_says_why(self, boot: Boot, tmp_path: Path) -> None:
        kernel = await boot(policy=_file(tmp_path, POLICY))
        intern = await kernel.aspawn("ian", group="interns")
        other = await kernel.aspawn("bob")

        with pytest.raises(AccessDenied, match="ask a colleague"):
            await intern.llm.agenerate("hi")
        assert (await other.llm.agenerate("hi")).text == "ok"

    async def test_a_rule_sees_the_labels_of_what_was_read(
        self, boot: Boot, tmp_path: Path
    ) -> None:
        kernel = await boot(policy=_file(tmp_path, POLICY))
        bob = await kernel.aspawn("bob")
        await bob.memory.awrite("notes", "fine")

        kernel.processes.get(bob.pid).labels.add("tool:web")

        with pytest.raises(AccessDenied, match="untrusted origin"):
            await bob.memory.awrite("notes", "tainted")

    async def test_a_rule_allows_what_nothing_granted(self, boot: Boot, tmp_path: Path) -> None:
        kernel = await boot(policy=_file(tmp_path, POLICY))
        alice, bob = await two(kernel)
        await alice.memory.awrite("wiki", "all may read this")

        assert await bob.memory.aread("wiki", owner=ALICE) == "all may read this"

    async def test_a_broken_file_changes_nothing(self, boot: Boot, tmp_path: Path) -> None:
        kernel = await boot(policy=_file(tmp_path, POLICY))
        intern = await kernel.aspawn("ian", group="interns")
        _file(tmp_path, POLICY.replace('"deny"', '"forbid"'))

        with pytest.raises(Exception, match=r"rules\[0\]\.effect.*line 5.*got 'forbid'"):
            await kernel._inside.parts.access.reload()
        with pytest.raises(AccessDenied):
            await intern.llm.agenerate("hi")

    async def test_a_changed_file_counts_from_the_next_request(
        self, boot: Boot, tmp_path: Path
    ) -> None:
        kernel = await boot(policy=_file(tmp_path, POLICY))
        intern = await kernel.aspawn("ian", group="interns")
        _file(tmp_path, "")

        await kernel._inside.parts.access.reload()

        assert (await intern.llm.agenerate("hi")).text == "ok"

    async def test_explain_names_all_that_was_considered(self, boot: Boot, tmp_path: Path) -> None:
        kernel = await boot(policy=_file(tmp_path, POLICY))
        access = Access("memory.read", Right.READ, Resource("memory", ALICE, "diary"))

        said = str(await kernel._inside.parts.access.explain(BOB, access))

        assert "not the agent's own: it belongs to default/alice" in said
        assert "the wiki" in said


# --- approvals -----------------------------------------------------------------------------------


class TestApprovals:
    async def test_an_irreversible_change_of_anothers_data_waits_for_approval(
        self, boot: Boot
    ) -> None:
        approver = Asked(False, True)
        kernel = await boot(approver=approver)
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        await alice.memory.ashare("notes", BOB, right="write")

        with pytest.raises(ApprovalRefused):
            await bob.memory.awrite("notes", "gone", owner=ALICE)
        assert await alice.memory.aread("notes") == "hello"
        await bob.memory.awrite("notes", "gone", owner=ALICE)

        assert await alice.memory.aread("notes") == "gone"
        assert [q.agent for q in approver.questions] == [BOB, BOB]

    async def test_an_answer_is_for_exactly_what_was_asked_and_only_once(self, boot: Boot) -> None:
        approver = Asked(True, True, True)
        kernel = await boot(approver=approver)
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        await alice.memory.ashare("notes", BOB, right="write")

        for text in ("a", "a", "b"):
            await bob.memory.awrite("notes", text, owner=ALICE)

        first, again, other = (question.digest for question in approver.questions)
        assert first == again
        assert first != other

    async def test_owners_are_not_asked_about_their_own_unless_they_share_with_everybody(
        self, boot: Boot
    ) -> None:
        approver = Asked(True)
        kernel = await boot(approver=approver)
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("notes", "hello")
        await alice.memory.awrite("diary", "secret")

        await alice.memory.aclear("diary")
        assert approver.questions == []
        await alice.memory.ashare("notes", "*")

        assert [question.action for question in approver.questions] == ["access.grant"]

    async def test_all_that_cannot_be_undone_is_asked_about_except_upkeep_of_ones_own(
        self, kernel: Kernel
    ) -> None:
        asked, spared = set(), set()
        alice = Policy().subject_named(ALICE)
        for kind in all_requests(kernel):
            for access in _own_accesses(kind):
                decision = decide(alice, access, frozenset(), Policy(), (), now=0.0)
                if access.irreversible:
                    (asked if decision.effect is Effect.ASK else spared).add(access.action)

        assert asked >= {"tool.load", "tool.unload", "tool.resolve", "access.grant", "access.ask"}
        assert spared == {
            *("memory.write", "memory.clear", "memory.clear_all", "memory.thread_clear"),
            *("memory.kv_clear", "collection.delete", "storage.purge", "storage.forget"),
        }

    @pytest.mark.parametrize("is_private", [False, True])
    async def test_code_is_not_loaded_into_the_kernel_unasked_not_even_for_oneself(
        self, boot: Boot, tmp_path: Path, is_private: bool
    ) -> None:
        (tmp_path / "evil.py").write_text("raise SystemExit\n", encoding="utf-8")
        approver = Asked(False, False)
        kernel = await boot(approver=approver)
        alice = await kernel.aspawn("alice")
        bring = alice.tools.aoffer if is_private else alice.tools.aload

        for source in (tmp_path / "evil.py", McpServer("evil", command="/bin/true")):
            with pytest.raises(ApprovalRefused):
                await bring(source)
        assert len(approver.questions) == 2

    async def test_resolving_ones_own_doubtful_call_needs_approval(self, boot: Boot) -> None:
        approver = Asked(False)
        kernel = await boot(approver=approver)
        alice = await kernel.aspawn("alice")

        with pytest.raises(ApprovalRefused):
            await alice.tools.aresolve("0123", took_effect=False)
        assert [question.action for question in approver.questions] == ["tool.resolve"]

    async def test_a_function_of_ones_own_is_offered_to_oneself_unasked(self, boot: Boot) -> None:
        approver = Asked()
        kernel = await boot(approver=approver)
        alice = await kernel.aspawn("alice")

        def double(number: int) -> int:
            return 2 * number

        await alice.tools.aoffer(double)

        assert approver.questions == []

    async def test_owners_are_asked_if_configured(self, boot: Boot) -> None:
        approver = Asked(False)
        kernel = await boot(approver=approver, confirm_own_irreversible=True)
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("diary", "secret")

        with pytest.raises(ApprovalRefused):
            await alice.memory.aclear("diary")
        assert await alice.memory.aread("diary") == "secret"

    async def test_owners_are_asked_before_memory_is_overwritten_if_configured(
        self, boot: Boot
    ) -> None:
        approver = Asked(False, False)
        kernel = await boot(approver=approver, confirm_own_irreversible=True)
        alice = await kernel.aspawn("alice")
        await alice.memory.awrite("diary", b"secret")  # nothing was there
        await alice.memory.aappend("diary", b"s")
        await alice.memory.awrite("diary", b"!", at=7)  # behind its end
        assert approver.questions == []

        with pytest.raises(ApprovalRefused):
            await alice.memory.awrite("diary", b"gone")
        with pytest.raises(ApprovalRefused):
            await alice.memory.awrite("diary", b"gone", at=0)
        assert len(approver.questions) == 2
        assert await alice.memory.aread("diary") == b"secrets!"

    async def test_overwriting_a_file_is_not_asked_about_since_its_versions_stay(
        self, boot: Boot
    ) -> None:
        approver = Asked(False)
        kernel = await boot(approver=approver, confirm_own_irreversible=True)
        alice, bob = await kernel.aspawn("alice"), await kernel.aspawn("bob")
        await alice.storage.awrite("a", "1")
        await alice.storage.ashare("a", bob.identity, ["write"])
        await bob.storage.awrite("a", "2", owner=alice.identity)
        await bob.storage.adelete("a", owner=alice.identity)

        await alice.storage.arollback("a", 1)
        assert await alice.storage.aread("a") == b"1"
        assert approver.questions == []

    @pytest.mark.parametrize("receiver", ["bob", "bob/", "/bob", "groups:staff"])
    async def test_a_receiver_that_is_no_identity_is_refused(
        self, boot: Boot, receiver: str
    ) -> None:
        kernel = await boot()
        alice = await kernel.aspawn("alice")

        with pytest.raises(InvalidRequest, match=r"allowed: an identity.*did you mean 'default/"):
            await alice.memory.ashare("plan", receiver)

    async def test_the_right_to_write_does_not_hold_that_to_read(self, boot: Boot) -> None:
        kernel = await boot()
        alice, bob = await kernel.aspawn("alice"), await kernel.aspawn("bob")
        await alice.memory.awrite("box", "")
        await alice.memory.ashare("box", bob.identity, right="write")
        await bob.memory.aappend("box", "a letter", owner=alice.identity)
        with pytest.raises(AccessDenied):
            await bob.memory.aread("box", owner=alice.identity)

        await alice.memory.ashare("box", bob.identity, right=["read", "write"])
        assert await bob.memory.aread("box", owner=alice.identity) == "a letter"

    async def test_without_an_approver_the_refusal_states_how_to_get_one(self, boot: Boot) -> None:
        kernel = await boot()
        alice = await kernel.aspawn("alice")

        with pytest.raises(ApprovalRefused, match="approver"):
            await alice.access.aask("send the letter")

    async def test_an_approver_that_fails_refuses(self, boot: Boot) -> None:
        class Broken:
            async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
                raise ZeroDivisionError(request.action)

        kernel = await boot(approver=Broken())
        alice = await kernel.aspawn("alice")

        with pytest.raises(ApprovalRefused, match="asking failed"):
            await alice.access.aask("send the letter")

    async def test_an_approval_does_not_override_a_newer_denial(self, boot: Boot) -> None:
        class TakesItBack:
            async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
                await alice.memory.aunshare("notes", request.agent)
                return ApprovalAnswer(True, by="ann")

        kernel = await boot(approver=TakesItBack())
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        await alice.memory.ashare("notes", BOB, right="write")

        with pytest.raises(AccessDenied):
            await bob.memory.awrite("notes", "gone", owner=ALICE)
        assert await alice.memory.aread("notes") == "hello"

    async def test_nothing_happens_before_its_approval_is_on_disk(
        self, boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reached, on_disk = asyncio.Event(), asyncio.Event()
        flushed = AuditTrail.flushed

        async def held(self: AuditTrail) -> None:
            reached.set()
            await on_disk.wait()
            await flushed(self)

        monkeypatch.setattr(AuditTrail, "flushed", held)
        kernel = await boot(approver=Asked(True), directory=str(tmp_path))
        alice, bob = await two(kernel)
        await alice.memory.awrite("notes", "hello")
        await alice.memory.ashare("notes", BOB, right="write")

        writing = asyncio.ensure_future(bob.memory.awrite("notes", "gone", owner=ALICE))
        await reached.wait()
        assert await alice.memory.aread("notes") == "hello"
        on_disk.set()
        await writing

        assert await alice.memory.aread("notes") == "gone"

    async def test_cancelling_a_request_withdraws_its_question(self, boot: Boot) -> None:
        asked, left = asyncio.Event(), asyncio.Event()

        class Slow:
            async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
                del request
                asked.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    left.set()
                raise AssertionError

        kernel = await boot(approver=Slow())
        alice = await kernel.aspawn("alice")
        task = asyncio.ensure_future(alice.access.aask("send the letter"))
        await asked.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert left.is_set()


def _file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return str(file)


# --- an instance of any request ------------------------------------------------------------------

_VALUES: dict[str, Any] = {
    "collection": "c",
    "path": "/a.txt",
    "target": "/b.txt",
    "to": "/b.txt",
    "block": "b",
    "name": "n",
    "thread": "t",
    "namespace": "n",
    "snapshot": "s",
    "value": "v",
    "content": b"v",
    "query": "q",
    "text": "v",
    "keys": ("k",),
    "messages": ({"role": "user"},),
    "version": 1,
    "source": "tools.py",
    "call_id": "0123",
    "took_effect": True,
    "reference": "result:0123",
    "operation": "order a book",
    "texts": ("t",),
    "resource": Resource("memory", ALICE, "b"),
    "wanted": Access("memory.read", Right.READ, Resource("memory", ALICE, "b")),
}


def _some(kind: type[Request[Any]], **given: Any) -> Request[Any]:
    """Build a request with plausible values; unknown fields keep their defaults."""
    names = {field.name for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    values = {name: value for name, value in _VALUES.items() if name in names}
    if kind.kind == "memory.kv_put":
        values["items"] = {"k": "v"}
    if kind.kind.startswith("access."):
        values["to"] = "*"
        values = {name: value for name, value in values.items() if name in names}
    return kind(**values, **given)


def _own_accesses(kind: type[Request[Any]]) -> list[Access]:
    """Return the accesses of a request about alice's own objects, as the gate may see them."""
    found = []
    every: tuple[dict[str, Any], ...] = ({}, {"is_private": True})
    for fields in every if kind.kind != "collection.delete" else ({"keys": None},):
        names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        if names.issuperset(fields):
            request = dataclasses.replace(_some(kind), **fields)
            checked = MemoryOverwrite(request) if isinstance(request, MemoryWrite) else request
            found.append(checked.access(ALICE))
    return found
