"""Approvals: what is asked about, by whom, and what an answer allows."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    AccessDenied,
    ApprovalRefused,
    InvalidRequest,
    Kernel,
)
from aios_core.access import ApprovalAnswer, ApprovalRequest, Effect
from aios_core.access.audit.trail import AuditTrail
from aios_core.access.policy.decision import decide
from aios_core.access.policy.rules import Policy
from aios_core.memory.requests import MemoryOverwrite, MemoryWrite
from aios_core.permissions import Access
from aios_core.syscalls import Request
from aios_core.tools import McpServer

from .rig import ALICE, BOB, Boot, all_requests, some_request, two


class Asked:
    """An approver that gives scripted answers, and records the questions."""

    def __init__(self, *answers: bool) -> None:
        self.questions: list[ApprovalRequest] = []
        self._answers = list(answers)

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        self.questions.append(request)
        return ApprovalAnswer(self._answers.pop(0), by="ann")


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


def _own_accesses(kind: type[Request[Any]]) -> list[Access]:
    """Return the accesses of a request about alice's own objects, as the gate may see them."""
    found = []
    every: tuple[dict[str, Any], ...] = ({}, {"is_private": True})
    for fields in every if kind.kind != "collection.delete" else ({"keys": None},):
        names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        if names.issuperset(fields):
            request = dataclasses.replace(some_request(kind), **fields)
            checked = MemoryOverwrite(request) if isinstance(request, MemoryWrite) else request
            found.append(checked.access(ALICE))
    return found
