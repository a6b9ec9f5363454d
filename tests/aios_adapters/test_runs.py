"""Runs that know only their parent are traced to their root."""

from __future__ import annotations

from aios_adapters import RunRoot, RunTree


def test_a_run_belongs_to_the_root_of_its_parents() -> None:
    ended: list[RunRoot] = []
    runs = RunTree(ended.append)
    runs.begin("root", None, "chain")
    runs.begin("child", "root", None)
    runs.begin("grandchild", "child", None)

    root = runs.root_of("grandchild")

    assert root is not None
    assert (root.run_id, root.name) == ("root", "chain")


def test_a_root_takes_its_descendants_along_and_is_told_once() -> None:
    ended: list[RunRoot] = []
    runs = RunTree(ended.append)
    runs.begin("root", None, "chain")
    runs.begin("child", "root", None)

    runs.end("root")
    runs.end("root")

    assert [root.run_id for root in ended] == ["root"]
    assert (runs.num_runs, runs.is_live("child")) == (0, False)


def test_a_run_that_is_no_root_ends_alone() -> None:
    ended: list[RunRoot] = []
    runs = RunTree(ended.append)
    runs.begin("root", None, "chain")
    runs.begin("child", "root", None)

    runs.end("child")

    assert not ended
    assert runs.is_live("root")


def test_a_run_of_an_unknown_parent_is_a_root() -> None:
    runs = RunTree(lambda _: None)
    runs.begin("child", "gone", None)

    assert (root := runs.root_of("child")) is not None
    assert root.run_id == "child"


def test_a_run_of_another_conversation_is_a_root_that_ends_with_the_one_around_it() -> None:
    ended: list[RunRoot] = []
    runs = RunTree(ended.append)
    runs.begin("root", None, "chain")
    runs.begin("inner", "root", "graph", "a")
    runs.begin("deeper", "inner", "node", "a")
    runs.begin("done", "root", "graph", "b")

    assert [runs.root_of(name).run_id for name in ("inner", "deeper")] == ["inner", "inner"]  # type: ignore[union-attr]
    runs.end("done")
    runs.end("root")

    assert [root.run_id for root in ended] == ["done", "root", "inner"]
    assert runs.num_runs == 0


def test_a_root_that_waits_ends_with_the_last_of_its_descendants() -> None:
    ended: list[RunRoot] = []
    runs = RunTree(ended.append, waits_for_descendants=True)
    runs.begin("root", None, "chain")
    runs.begin("child", "root", None)

    runs.end("root")
    assert not ended
    runs.begin("grandchild", "child", None)
    runs.end("child")
    assert (root := runs.root_of("grandchild")) is not None
    assert root.run_id == "root"
    runs.end("grandchild")

    assert [root.run_id for root in ended] == ["root"]
    assert runs.num_runs == 0


def test_a_run_that_is_held_is_over_when_its_stream_is_released_or_dropped() -> None:
    ended: list[RunRoot] = []
    runs = RunTree(ended.append, waits_for_descendants=True)
    runs.begin("root", None, "query")
    released, dropped = runs.hold("root"), runs.hold("root")

    runs.end("root")
    released.release()
    released.release()
    assert not ended
    del dropped

    assert [root.run_id for root in ended] == ["root"]
    assert runs.num_runs == 0


def test_a_run_that_is_not_known_is_held_in_vain() -> None:
    ended: list[RunRoot] = []
    runs = RunTree(ended.append, waits_for_descendants=True)

    with runs.hold("gone"), runs.hold(None):
        assert runs.num_runs == 0

    assert not ended
