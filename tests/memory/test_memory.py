"""Blocks of agents' memory, through the kernel: storing, sharing, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aios_core import (
    AccessDenied,
    Agent,
    Conflict,
    InvalidRequest,
    Kernel,
    KernelConfig,
    NoSuchObject,
    QuotaExceeded,
    StateError,
)
from aios_core.cores.scripted import ScriptedCore
from aios_core.memory import kv_requests, requests, thread_requests
from aios_core.memory.kv import KeyRange
from aios_core.memory.requests import MemoryRead, MemoryWrite
from aios_core.memory.threads import Window
from aios_core.syscalls import Request

from .rig import kernel_on

KEY = bytes(range(32)).hex()


class TestBlocks:
    def test_a_block_is_read_as_it_was_written(self, alice: Agent) -> None:
        alice.memory.write("notes", "Grüße " * 100)
        alice.memory.write("image", b"\0\1" * 100)

        assert alice.memory.read("notes") == "Grüße " * 100
        assert alice.memory.read("image") == b"\0\1" * 100
        assert alice.memory.read("notes", 6, 11) == "Grüße"
        assert alice.memory.read("image", 63, 66) == b"\1\0\1"

    def test_a_block_is_appended_to_and_overwritten_in_part(self, alice: Agent) -> None:
        alice.memory.append("log", b"a" * 63)
        assert alice.memory.append("log", b"b" * 70) == 133
        alice.memory.write("log", b"XY", at=62)

        assert alice.memory.read("log") == b"a" * 62 + b"XY" + b"b" * 69

    def test_it_is_listed_with_its_pages(self, alice: Agent) -> None:
        alice.memory.alloc("empty")
        alice.memory.write("full", b"x" * 130)

        empty, full = alice.memory.list()
        assert (empty.name, empty.size, empty.is_text, empty.num_pages) == ("empty", 0, True, 0)
        assert (full.name, full.num_pages, full.num_resident, full.is_pinned) == (
            "full",
            3,
            3,
            False,
        )

    def test_an_unknown_block_is_refused_with_the_names_of_known_ones(self, alice: Agent) -> None:
        alice.memory.write("notes", "x")

        with pytest.raises(NoSuchObject, match=r"no block 'nots'; have \['notes'\]"):
            alice.memory.read("nots")
        with pytest.raises(Conflict, match="already"):
            alice.memory.alloc("notes")

    @pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 600, "thread:t", "kv:n", 7])
    def test_an_invalid_name_is_refused(self, alice: Agent, name: Any) -> None:
        with pytest.raises(InvalidRequest, match="block"):
            alice.memory.write(name, "x")

    def test_a_text_and_bytes_are_not_mixed(self, alice: Agent) -> None:
        alice.memory.write("text", "x")

        with pytest.raises(InvalidRequest, match="block 'text' holds a text"):
            alice.memory.append("text", b"x")
        with pytest.raises(InvalidRequest, match="only blocks of bytes"):
            alice.memory.write("text", "x", at=0)
        with pytest.raises(InvalidRequest, match="not valid Unicode"):
            alice.memory.write("text", "\ud800")

    def test_a_resident_read_needs_no_thread(self, kernel: Kernel, alice: Agent) -> None:
        alice.memory.write("notes", "x" * 1_000)
        manager = kernel._inside.parts.memory

        def step() -> Any:
            reading = manager.perform(alice._process, MemoryRead("notes"))
            try:
                reading.send(None)
            except StopIteration as done:
                return done.value
            raise AssertionError("it waits")

        assert kernel._loop.call(step) == "x" * 1_000

    def test_concurrent_changes_are_all_made(self, kernel: Kernel) -> None:
        async def append_all() -> None:
            agent = await kernel.aspawn("alice")
            await agent.memory.awrite("log", "")
            async with asyncio.TaskGroup() as tasks:
                for _ in range(100):
                    tasks.create_task(agent.memory.aappend("log", "0123456789"))
                    tasks.create_task(agent.memory.aread("log"))
            assert await agent.memory.aread("log") == "0123456789" * 100

        asyncio.run(append_all())


class TestResidence:
    def test_an_evicted_page_comes_back(self) -> None:
        with kernel_on(":memory:", page_bytes=64, resident_bytes=640, correlated_s=0) as kernel:
            alice = kernel.spawn("alice")
            for number in range(20):
                alice.memory.write(f"block {number}", bytes([number]) * 64)

            assert alice.memory.measure().resident <= 512  # the watermark
            assert [one.num_resident for one in alice.memory.list()].count(0) == 12
            for number in range(20):
                assert alice.memory.read(f"block {number}") == bytes([number]) * 64
            kernel.check()

    def test_pinned_pages_stay(self) -> None:
        with kernel_on(":memory:", page_bytes=64, resident_bytes=640, correlated_s=0) as kernel:
            alice = kernel.spawn("alice")
            alice.memory.write("pinned", b"p" * 256)
            alice.memory.pin("pinned")
            for number in range(50):
                alice.memory.write(f"block {number}", b"x" * 64)
            (pinned,) = alice.memory.list("pinned")
            assert (pinned.is_pinned, pinned.num_resident) == (True, 4)

            alice.memory.unpin("pinned")
            for number in range(50):
                alice.memory.write(f"block {number}", b"x" * 64)
            (unpinned,) = alice.memory.list("pinned")
            assert (unpinned.is_pinned, unpinned.num_resident) == (False, 0)

    def test_more_than_fits_cannot_be_pinned(self) -> None:
        with kernel_on(":memory:", page_bytes=64, resident_bytes=640) as kernel:
            alice = kernel.spawn("alice")
            alice.memory.write("large", b"x" * 600)

            with pytest.raises(QuotaExceeded) as caught:
                alice.memory.pin("large")
            assert (caught.value.used, caught.value.requested) == (0, 600)
            assert "unpin" not in caught.value.hint
            assert alice.memory.read("large") == b"x" * 600

    def test_a_refusal_to_pin_names_what_is_pinned(self) -> None:
        with kernel_on(":memory:", page_bytes=64, resident_bytes=640) as kernel:
            alice = kernel.spawn("alice")
            for name in ("first", "second"):
                alice.memory.write(name, b"x" * 300)
            alice.memory.pin("first")

            with pytest.raises(QuotaExceeded, match=r"unpin one of: first \(300") as caught:
                alice.memory.pin("second")
            assert (caught.value.used, caught.value.requested) == (300, 300)

    def test_a_block_larger_than_the_limit_is_read_and_written(self) -> None:
        with kernel_on(":memory:", page_bytes=64, resident_bytes=640) as kernel:
            alice = kernel.spawn("alice")
            large = bytes(range(256)) * 1_000

            alice.memory.write("large", large)

            assert alice.memory.read("large") == large
            assert alice.memory.measure().resident <= 640
            kernel.check()

    def test_all_agents_together_have_a_limit(self) -> None:
        with kernel_on(":memory:", page_bytes=64, total_resident_bytes=640) as kernel:
            agents = [kernel.spawn(f"agent {number}") for number in range(20)]
            for agent in agents:
                agent.memory.write("block", b"x" * 64)

            assert kernel._inside.parts.memory._residents.resident_bytes == 640
            assert [agent.memory.measure().resident for agent in agents] == [0] * 10 + [64] * 10
            assert agents[0].memory.read("block") == b"x" * 64
            kernel.check()

    def test_an_agent_that_exits_leaves_nothing_in_ram(self, kernel: Kernel) -> None:
        with kernel.spawn("bob") as bob:
            bob.memory.write("notes", "kept")

        assert kernel._inside.parts.memory._residents.resident_bytes == 0
        assert kernel.spawn("bob").memory.read("notes") == "kept"


class TestDurability:
    def test_everything_survives_a_restart_of_the_kernel(self, tmp_path: Path) -> None:
        with kernel_on(tmp_path) as kernel:
            alice = kernel.spawn("alice")
            alice.memory.write("notes", "kept " * 10_000)
            alice.memory.pin("notes")
            alice.memory.thread("t").append("hello")
            alice.memory.kv("n").set("key", b"value")

        with kernel_on(tmp_path) as kernel:
            alice = kernel.spawn("alice")
            assert alice.memory.read("notes") == "kept " * 10_000
            (notes,) = alice.memory.list()
            assert notes.num_resident == notes.num_pages
            assert [one.content for one in alice.memory.thread("t").read()] == ["hello"]
            assert alice.memory.kv("n").get("key") == b"value"

    def test_nothing_of_a_value_is_on_an_encrypted_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MEMORY_KEY", KEY)
        state = {"directory": str(tmp_path), "encryption_key": "env:MEMORY_KEY"}
        config = KernelConfig(state=state, drain_s=1.0)
        with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
            memory = kernel.spawn("alice").memory
            memory.write("notes", "the secret")
            memory.thread("t").append("the secret")
            memory.kv("n").set("key", "the secret")
            memory.search("secret")

        stored = b"".join(file.read_bytes() for file in tmp_path.glob("state.db*"))
        assert b"the secret" not in stored
        with Kernel(config, cores=[ScriptedCore("ok")]) as kernel:
            assert kernel.spawn("alice").memory.read("notes") == "the secret"

    def test_a_page_that_was_altered_is_refused(self, tmp_path: Path) -> None:
        with kernel_on(tmp_path) as kernel:
            alice = kernel.spawn("alice")
            alice.memory.write("notes", "x" * 1_000)
            database = kernel._inside.parts.memory._tables._tables.state.database
            database.write(lambda c: c.execute("UPDATE memory_pages SET content = x'01ff'"))
            kernel._loop.call(lambda: kernel._inside.parts.memory.forget(alice._process))

            with pytest.raises(StateError, match="damaged; restore it from a backup"):
                alice.memory.read("notes")

    def test_a_refused_change_leaves_nothing(self, tmp_path: Path) -> None:
        with kernel_on(tmp_path, quota_bytes=1_000) as kernel:
            alice = kernel.spawn("alice")
            alice.memory.write("notes", "before")
            with pytest.raises(QuotaExceeded):
                alice.memory.append("notes", "x" * 2_000)
            assert alice.memory.read("notes") == "before"

    def test_a_cancelled_write_is_done_or_not_and_ram_knows(self, tmp_path: Path) -> None:
        async def cancel_some(kernel: Kernel) -> None:
            alice = await kernel.aspawn("alice")
            await alice.memory.awrite("notes", "0")
            for number in range(1, 50):
                task = asyncio.create_task(alice.memory.awrite("notes", str(number)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait({task})
            await alice.memory.aappend("notes", "!")
            seen = await alice.memory.aread("notes")
            kernel._inside.parts.memory.forget(alice._process)
            assert await alice.memory.aread("notes") == seen

        async def main() -> None:
            async with kernel_on(tmp_path) as kernel:
                await cancel_some(kernel)
                kernel.check()

        asyncio.run(main())


class TestQuotas:
    def test_a_refusal_says_which_how_much_and_what_would_free_some(self) -> None:
        with kernel_on(":memory:", quota_bytes=1_000) as kernel:
            alice = kernel.spawn("alice")
            alice.memory.write("large", "x" * 700)

            with pytest.raises(QuotaExceeded) as caught:
                alice.memory.kv("n").set("key", "x" * 500)

            error = caught.value
            assert (error.owner, error.limit, error.used) == ("default/alice", 1_000, 769)
            assert error.requested == 567
            assert "block large (700 bytes)" in error.hint
            alice.memory.write("large", "")
            alice.memory.kv("n").set("key", "x" * 500)

    def test_a_refusal_does_not_name_what_was_not_stored(self) -> None:
        with kernel_on(":memory:", quota_bytes=1_000) as kernel:
            kv = kernel.spawn("alice").memory.kv("n")

            with pytest.raises(QuotaExceeded) as caught:
                kv.set("key", "x" * 5_000)
            assert caught.value.used == 0
            assert "namespace n" not in str(caught.value)

    def test_a_group_has_one_too(self) -> None:
        with kernel_on(":memory:", group_quotas={"small": 1_000}) as kernel:
            first, second = (kernel.spawn(name, group="small") for name in ("a", "b"))
            first.memory.write("notes", "x" * 600)

            with pytest.raises(QuotaExceeded, match="group 'small'"):
                second.memory.thread("t").append("x" * 600)
            kernel.spawn("other").memory.write("notes", "x" * 600)

    def test_what_is_removed_is_free_again(self, alice: Agent) -> None:
        memory = alice.memory
        memory.thread("t").append("a", "b", "c")
        memory.kv("n").put({"a": "1", "b": "2"})
        assert memory.measure().used > 0

        memory.thread("t").remove(first=3)
        memory.kv("n").delete("a", "b", "never")

        assert memory.measure().used == 0
        assert memory.measure().group_used == 0


class TestLabels:
    def test_what_is_stored_keeps_where_it_came_from(self, kernel: Kernel, alice: Agent) -> None:
        alice._process.labels.add("web")
        alice.memory.write("page", "from the web")
        alice.memory.thread("t").append("from the web")
        alice.memory.kv("n").set("key", "from the web")
        alice.exit()

        for read in (
            lambda memory: memory.read("page"),
            lambda memory: memory.thread("t").read(),
            lambda memory: memory.kv("n").get("key"),
            lambda memory: memory.search("web"),
        ):
            with kernel.spawn("alice") as again:
                assert again._process.labels == set()
                read(again.memory)
                assert again._process.labels == {"web"}

    def test_what_is_added_adds_its_labels(self, alice: Agent) -> None:
        alice.memory.write("notes", "clean")
        alice._process.labels.add("web")
        alice.memory.append("notes", "dirty")

        assert alice.memory.list()[0].labels == {"web"}


def every_request(owner: str) -> list[Request[Any]]:
    """Build one of each request that can name an owner."""
    return [
        requests.MemoryAlloc("new", owner=owner),
        MemoryRead("notes", owner=owner),
        MemoryWrite("notes", "mine", owner=owner),
        requests.MemoryAppend("notes", "mine", owner=owner),
        requests.MemoryPin("notes", owner=owner),
        requests.MemoryClear("notes", owner=owner),
        requests.MemoryList(owner=owner),
        requests.MemoryClearAll(owner=owner),
        requests.MemorySearch("", "secret", owner=owner),
        thread_requests.ThreadAppend("t", ["mine"], owner=owner),
        thread_requests.ThreadReplace("t", ["mine"], owner=owner),
        thread_requests.ThreadRead("t", owner=owner),
        thread_requests.ThreadRemove("t", None, Window(), owner=owner),
        thread_requests.ThreadArchive("t", None, Window(), owner=owner),
        thread_requests.ThreadCount("t", owner=owner),
        thread_requests.ThreadClear("t", owner=owner),
        thread_requests.ThreadList(owner=owner),
        kv_requests.KeyValueGet("n", ("key",), owner=owner),
        kv_requests.KeyValuePut("n", {"key": "mine"}, owner=owner),
        kv_requests.KeyValueList("n", KeyRange(), owner=owner),
        kv_requests.KeyValueClear("n", owner=owner),
        kv_requests.KeyValueTouch("n", ("key",), ttl_s=1.0, owner=owner),
        kv_requests.KeyValueSweep("n", owner=owner),
        kv_requests.KeyValueNamespaces(owner=owner),
    ]


class TestOthers:
    def test_every_request_that_exists_is_tried_below(self, kernel: Kernel) -> None:
        tried = {type(request) for request in every_request("x")}

        memory = kernel._inside.parts.memory
        assert set(memory.requests) - tried == {requests.MemoryMeasure}  # takes no owner

    @pytest.mark.parametrize("request_", every_request("default/alice"), ids=lambda one: one.kind)
    def test_no_request_reaches_anothers_memory(
        self, kernel: Kernel, alice: Agent, request_: Request[Any]
    ) -> None:
        alice.memory.write("notes", "secret")

        with pytest.raises(AccessDenied):
            kernel.spawn("bob").port.call(request_)
        assert alice.memory.read("notes") == "secret"

    def test_agents_do_not_see_each_other(self, kernel: Kernel, alice: Agent) -> None:
        bob = kernel.spawn("bob")
        alice.memory.write("notes", "alice's")
        bob.memory.write("notes", "bob's")

        assert (alice.memory.read("notes"), bob.memory.read("notes")) == ("alice's", "bob's")

    def test_a_grant_shares_one_block_until_it_is_revoked(
        self, kernel: Kernel, alice: Agent
    ) -> None:
        bob = kernel.spawn("bob")
        alice.memory.write("notes", "shared")
        alice.memory.write("diary", "private")

        alice.memory.share("notes", bob.identity)
        assert bob.memory.read("notes", owner=alice.identity) == "shared"
        with pytest.raises(AccessDenied):
            bob.memory.append("notes", "x", owner=alice.identity)
        with pytest.raises(AccessDenied):
            bob.memory.read("diary", owner=alice.identity)

        alice.memory.share("notes", bob.identity, right="write")
        bob.memory.append("notes", " and grown", owner=alice.identity)
        assert alice.memory.read("notes") == "shared and grown"

        alice.memory.unshare("notes", bob.identity)
        with pytest.raises(AccessDenied):
            bob.memory.read("notes", owner=alice.identity)

    def test_an_error_names_nothing_else_that_the_owner_has(
        self, kernel: Kernel, alice: Agent
    ) -> None:
        bob = kernel.spawn("bob")
        alice.memory.write("salaries/bob", "x")
        alice.memory.write("notes", "shared")
        alice.memory.share("notes", bob.identity)
        alice.memory.clear("notes")

        with pytest.raises(NoSuchObject) as caught:
            bob.memory.read("notes", owner=alice.identity)
        assert (str(caught.value), caught.value.known) == ("no block 'notes'", ())

    def test_a_non_owner_does_not_learn_what_fills_the_memory(self) -> None:
        with kernel_on(":memory:", quota_bytes=1_000) as kernel:
            alice, bob = kernel.spawn("alice"), kernel.spawn("bob")
            alice.memory.write("salaries/bob", "x" * 700)
            alice.memory.share("notes", bob.identity, right="write")

            with pytest.raises(QuotaExceeded) as caught:
                bob.memory.append("notes", "x" * 500, owner=alice.identity)
            assert "salaries" not in str(caught.value)
            assert "its owner has to free some of it" in str(caught.value)

    def test_what_a_non_owner_adds_counts_against_the_owner(
        self, kernel: Kernel, alice: Agent
    ) -> None:
        bob = kernel.spawn("bob", group="others")
        alice.memory.write("notes", "x")
        alice.memory.share("notes", bob.identity, right="write")
        before = alice.memory.measure()
        bob.memory.append("notes", "12345", owner=alice.identity)

        assert alice.memory.measure().used == before.used + 5
        assert alice.memory.measure().group_used == before.group_used + 5
        assert bob.memory.measure().used == 0
