"""Results that are too large for an answer."""

from __future__ import annotations

import pytest

from aios_core import InvalidRequest, NoSuchObject, QuotaExceeded
from aios_core.messages import ToolCall
from aios_core.tools import StoredResult

from .rig import make, quiet_kernel

TEXT = "".join(f"line {number} é\n" for number in range(2_000))


def test_a_large_result_is_handed_over_as_a_reference_and_its_beginning() -> None:
    with quiet_kernel(tools={"max_inline_bytes": 1_000}) as kernel:
        kernel.load_tools(make("big", lambda: TEXT))
        agent = kernel.spawn("alice")

        stored = agent.tools.run("big")

        assert isinstance(stored, StoredResult)
        assert stored.num_bytes == len(TEXT.encode())
        assert TEXT.startswith(stored.head)
        assert agent.tools.read(stored, 5_000, 100) == TEXT[5_000:5_100]
        assert agent.tools.read(stored.reference, len(TEXT)) == ""


def test_a_model_is_told_where_the_rest_is() -> None:
    with quiet_kernel(tools={"max_inline_bytes": 1_000}) as kernel:
        kernel.load_tools(make("big", lambda: TEXT))
        agent = kernel.spawn("alice")
        [message] = agent.tools.run_calls([ToolCall("1", "big", "{}")])
        assert "stored as result:" in message.content
        assert "line 0" in message.content
        assert len(message.content) < 3_000


def test_a_large_structure_is_stored_as_its_json() -> None:
    with quiet_kernel(tools={"max_inline_bytes": 10}) as kernel:
        kernel.load_tools(make("big", lambda: {"a": list(range(10))}))
        agent = kernel.spawn("alice")
        assert agent.tools.read(agent.tools.run("big")) == '{"a":[0,1,2,3,4,5,6,7,8,9]}'


@pytest.mark.parametrize(("offset", "length"), [(-1, 10), (0, -1), ("0", 10)])
def test_a_place_before_the_beginning_is_refused(offset: int, length: int) -> None:
    with quiet_kernel() as kernel, pytest.raises(InvalidRequest, match="a whole number"):
        kernel.spawn("alice").tools.read("result:x", offset, length)


def test_nobody_reads_anothers_result() -> None:
    with quiet_kernel(tools={"max_inline_bytes": 10}) as kernel:
        kernel.load_tools(make("big", lambda: TEXT))
        stored = kernel.spawn("alice").tools.run("big")
        with pytest.raises(NoSuchObject):
            kernel.spawn("bob").tools.read(stored)


def test_the_oldest_go_when_there_is_no_room() -> None:
    size = len(TEXT.encode())
    with quiet_kernel(tools={"max_inline_bytes": 10, "max_stored_bytes": 2 * size}) as kernel:
        kernel.load_tools(make("big", lambda: TEXT))
        agent = kernel.spawn("alice")
        first, second, third = (agent.tools.run("big") for _ in range(3))
        with pytest.raises(NoSuchObject, match="stored result"):
            agent.tools.read(first)
        assert agent.tools.read(second, 0, 6) == agent.tools.read(third, 0, 6) == "line 0"


def test_a_result_beyond_the_quota_is_refused_with_the_key_to_turn() -> None:
    with quiet_kernel(tools={"max_inline_bytes": 10, "max_stored_bytes": 100}) as kernel:
        kernel.load_tools(make("big", lambda: TEXT))
        with pytest.raises(QuotaExceeded, match=r"tools\.max_stored_bytes"):
            kernel.spawn("alice").tools.run("big")


def test_reading_a_stored_result_brings_its_labels_back() -> None:
    with quiet_kernel(tools={"max_inline_bytes": 10}) as kernel:
        kernel.load_tools(make("web", lambda: TEXT, trusted=False))
        agent = kernel.spawn("alice")
        stored = agent.tools.run("web")
        process = kernel.processes.get(agent.pid)
        process.labels.clear()
        agent.tools.read(stored)
        assert process.labels == {"tool:web"}
