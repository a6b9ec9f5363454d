"""Place the breakpoints of Anthropic's prompt cache in a request.

A breakpoint (`cache_control`) makes the provider keep the prompt up to there. Reading a kept
prompt costs a tenth of computing it, and keeping one costs a quarter more, so a breakpoint pays
off from the second call on. The stable prefix of an agent is: its tools, its system prompt, and
the conversation so far.

Tools and system prompt are shared by all calls of an agent, and by agents of one kind: they
always get a breakpoint. The end of the conversation gets one if the conversation continues: if
there are tools, or an earlier answer. A caller that sets breakpoints of its own gets no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

CacheTime = Literal["5m", "1h"]

_KEY: Final = "cache_control"
_NOT_MARKED: Final = ("thinking", "redacted_thinking")


def place_breakpoints(body: Mapping[str, Any], cache_time: CacheTime, *, goes_on: bool) -> None:
    """Add breakpoints to the tools and the system prompt of a body, in place.

    The turns get one if the conversation `goes_on`.
    """
    if any(_marks(body)):
        return
    mark: dict[str, str] = {"type": "ephemeral"}
    if cache_time != "5m":  # the API's default
        mark["ttl"] = cache_time
    for blocks in (body.get("tools", []), body.get("system", [])):
        _mark_last(blocks, mark)
    if goes_on:
        _mark_end(body["messages"], mark)


def _marks(value: Any) -> Iterator[bool]:
    """Yield True for each breakpoint that the caller set."""
    if isinstance(value, Mapping):
        if value.get(_KEY):
            yield True
        for one in value.values():
            yield from _marks(one)
    elif isinstance(value, list):
        for one in value:
            yield from _marks(one)


def _mark_last(blocks: list[dict[str, Any]], mark: dict[str, str]) -> bool:
    for block in reversed(blocks):
        if block.get("type") not in _NOT_MARKED:
            block[_KEY] = dict(mark)
            return True
    return False


def _mark_end(turns: list[dict[str, Any]], mark: dict[str, str]) -> None:
    for turn in reversed(turns):
        if _mark_last(turn["content"], mark):
            return
