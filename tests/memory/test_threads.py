"""Threads and key-value namespaces in the memory of agents."""

from __future__ import annotations

from typing import Any

import pytest

from aios_core import (
    Agent,
    InvalidRequest,
    Message,
    NoSuchObject,
    QuotaExceeded,
)
from aios_core.memory import handle_kv, handle_thread, thread_requests

from .rig import kernel_on


def contents(entries: Any) -> list[Any]:
    return [entry.content for entry in entries]


class TestThreads:
    @pytest.fixture
    def thread(self, alice: Agent) -> handle_thread.Thread:
        thread = alice.memory.thread("t")
        assert thread.append(*range(10)) == tuple(range(10))
        return thread

    def test_messages_are_read_in_windows(self, thread: handle_thread.Thread) -> None:
        assert contents(thread.read()) == list(range(10))
        assert contents(thread.read(3, 2)) == [3, 4]
        assert contents(thread.read(8)) == [8, 9]
        assert contents(thread.read(last=3)) == [7, 8, 9]
        assert contents(thread.read(20, 5)) == []
        assert thread.count() == 10

    def test_messages_are_json_and_ours(self, alice: Agent) -> None:
        thread = alice.memory.thread("m")
        message = Message("user", "hello")
        thread.append(message, {"role": "assistant", "content": None}, "plain")

        assert contents(thread.read()) == [
            message.to_dict(),
            {"role": "assistant", "content": None},
            "plain",
        ]
        with pytest.raises(InvalidRequest, match="not JSON"):
            thread.append("fine", object())
        assert thread.count() == 3

    def test_messages_are_removed_by_number_position_and_end(
        self, thread: handle_thread.Thread
    ) -> None:
        assert contents(thread.remove(index=1)) == [1]
        assert contents(thread.remove(index=-1)) == [9]
        assert contents(thread.remove(first=2)) == [0, 2]
        assert contents(thread.remove(last=1)) == [8]
        assert contents(thread.remove(numbers=[5, 99])) == [5]
        assert contents(thread.read()) == [3, 4, 6, 7]
        assert contents(thread.remove(index=50)) == []
        with pytest.raises(InvalidRequest, match="exactly one"):
            thread.remove()

    def test_archived_messages_are_apart(self, thread: handle_thread.Thread) -> None:
        assert contents(thread.archive(first=3)) == [0, 1, 2]

        assert contents(thread.read(last=100)) == list(range(3, 10))
        assert contents(thread.read(status="archived")) == [0, 1, 2]
        assert (thread.count(), thread.count("archived"), thread.count("all")) == (7, 3, 10)
        with pytest.raises(InvalidRequest, match="status"):
            thread.count("lost")

    def test_replacing_gives_new_numbers(self, thread: handle_thread.Thread) -> None:
        thread.archive(first=3)

        assert thread.replace(["a", "b"]) == (10, 11)
        assert contents(thread.read(status="all")) == ["a", "b"]

    def test_what_is_nested_too_deeply_is_refused(self, thread: handle_thread.Thread) -> None:
        nested: list[Any] = []
        for _ in range(5_000):
            nested = [nested]
        with pytest.raises(InvalidRequest, match="is not JSON"):
            thread.append(nested)

    def test_threads_are_listed(self, alice: Agent) -> None:
        for name in ("b", "a/2", "a/1"):
            alice.memory.thread(name).append("x")

        assert alice.memory.threads() == ("a/1", "a/2", "b")
        assert alice.memory.threads("a/") == ("a/1", "a/2")
        assert alice.memory.thread("never").read() == ()

    def test_a_thread_is_cleared_with_its_name(self) -> None:
        with kernel_on(":memory:") as kernel:
            process = kernel.spawn("alice")._process
            manager = kernel._inside.parts.memory

            async def story() -> tuple[str, ...]:
                await manager.perform(process, thread_requests.ThreadAppend("t", ["x"]))
                await manager.perform(process, thread_requests.ThreadClear("t"))
                listed: tuple[str, ...] = await manager.perform(
                    process, thread_requests.ThreadList()
                )
                return listed

            assert kernel._loop.run(story()) == ()
            with pytest.raises(NoSuchObject, match="thread"):
                kernel._loop.run(manager.perform(process, thread_requests.ThreadClear("t")))


class TestKeyValues:
    @pytest.fixture
    def kv(self, alice: Agent) -> handle_kv.KeyValues:
        return alice.memory.kv("n")

    def test_keys_are_listed_in_order_and_by_prefix(self, kv: handle_kv.KeyValues) -> None:
        kv.put({"b/2": "2", "a": b"\0", "b/1": "1", "b/\U0010ffff": "last", "c": "3"})

        assert [one.key for one in kv.list()] == ["a", "b/1", "b/2", "b/\U0010ffff", "c"]
        assert [one.value for one in kv.list("b/")] == ["1", "2", "last"]
        assert [one.key for one in kv.list("b/", is_reversed=True, limit=2)] == [
            "b/\U0010ffff",
            "b/2",
        ]
        assert [one.key for one in kv.list(after="b/1", limit=2)] == ["b/2", "b/\U0010ffff"]
        assert [one.key for one in kv.list(after="b/1", is_reversed=True)] == ["a"]
        assert {one.value for one in kv.list(with_values=False)} == {None}

    def test_many_keys_change_at_once_or_not_at_all(self) -> None:
        with kernel_on(":memory:", quota_bytes=1_000) as kernel:
            kv = kernel.spawn("alice").memory.kv("n")
            kv.put({"a": "1", "b": "2"})
            kv.put({"a": None, "c": "3"})
            assert [one.key for one in kv.list()] == ["b", "c"]

            with pytest.raises(QuotaExceeded):
                kv.put({"b": None, "d": "4", "e": "x" * 2_000})
            assert [one.key for one in kv.list()] == ["b", "c"]

    def test_a_key_expires(self) -> None:
        now = [1_000.0]
        with kernel_on(":memory:") as kernel:
            memory = kernel.spawn("alice").memory
            memory.kv("n").set("warm up", "x")
            kernel._inside.parts.memory._tables._tables.kv._wall = lambda: now[0]
            memory.kv("n").put({"short": "1"}, ttl_s=10.0)
            assert memory.kv("n").get("short") == "1"
            assert memory.kv("n").get_many(["short"])[0].expires_at == 1_010.0

            now[0] = 1_010.0
            assert memory.kv("n").get("short") is None
            assert [one.key for one in memory.kv("n").list()] == ["warm up"]
            memory.kv("n").delete("warm up")
            assert memory.measure().used == 0
            assert memory.namespaces() == ()

    def test_only_touched_entries_last_longer(self) -> None:
        now = [1_000.0]
        with kernel_on(":memory:") as kernel:
            kv = kernel.spawn("alice").memory.kv("n")
            kv.set("ever", "x")
            kernel._inside.parts.memory._tables._tables.kv._wall = lambda: now[0]
            kv.put({"a/1": "1", "a/2": "2", "b": "3"}, ttl_s=10.0)

            now[0] = 1_005.0
            assert kv.touch(prefix="a/", ttl_s=10.0) == 2
            assert kv.touch(["b", "never", "ever"], ttl_s=7.0) == 1
            now[0] = 1_014.0
            assert [one.key for one in kv.list()] == ["a/1", "a/2", "ever"]
            assert kv.get_many(["ever"])[0].expires_at is None
            assert kv.sweep() == 1
            assert kv.sweep() == 0

    def test_expired_keys_make_room_before_anything_is_refused(self) -> None:
        now = [1_000.0]
        with kernel_on(":memory:", quota_bytes=100_000) as kernel:
            kv = kernel.spawn("alice").memory.kv("n")
            kv.set("warm up", "x")
            kernel._inside.parts.memory._tables._tables.kv._wall = lambda: now[0]
            kv.put({f"{number}": "x" * 100 for number in range(500)}, ttl_s=10.0)

            now[0] = 1_010.0
            kv.set("large", "x" * 90_000)

    def test_an_agent_has_a_quota_of_its_own(self) -> None:
        own = {"default/saver": 10_000}
        with kernel_on(":memory:", quota_bytes=1_000, agent_quotas=own) as kernel:
            saver = kernel.spawn("saver").memory
            saver.kv("n").set("key", "x" * 5_000)

            assert saver.measure().limit == 10_000
            with pytest.raises(QuotaExceeded, match="agent_quotas"):
                kernel.spawn("other").memory.kv("n").set("key", "x" * 5_000)

    def test_namespaces_are_apart_and_listed(self, alice: Agent) -> None:
        alice.memory.kv("one").set("key", "1")
        alice.memory.kv("two").set("key", "2")

        assert alice.memory.kv("one").get("key") == "1"
        assert alice.memory.namespaces() == ("one", "two")
        assert alice.memory.namespaces("t") == ("two",)

    def test_a_key_that_is_set_again_keeps_its_time_of_creation(
        self, kv: handle_kv.KeyValues
    ) -> None:
        kv.set("key", "1")
        (first,) = kv.get_many(["key"])
        kv.set("key", "2")
        (second,) = kv.get_many(["key", "never"])

        assert second.created_at == first.created_at
        assert second.updated_at >= first.updated_at
        assert second.value == "2"
