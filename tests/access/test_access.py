"""Agents reach nothing of another agent without a grant; rules decide the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from aios_core import (
    AccessDenied,
    Kernel,
    NoSuchObject,
)
from aios_core.permissions import Access, Resource, Right
from aios_core.syscalls import LLMGenerate, Request

from .rig import ALICE, BOB, Boot, all_requests, some_request, two

# --- promise 7: nothing of another's --------------------------------------------------------------


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
            request = some_request(kind, owner=ALICE)
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


# --- rules ----------------------------------------------------------------------------------------


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


# --- approvals ------------------------------------------------------------------------------------


def _file(tmp_path: Path, text: str) -> str:
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return str(file)
