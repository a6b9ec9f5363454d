"""The stub server's answers in the format of OpenAI's Responses API.

Pure functions of an answer and of the request's body. A reasoning item contains the message's
thoughts; words of the text, and of arguments, are one event each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aios_core.cores.deltas import assemble, to_deltas
from aios_core.messages import Delta
from aios_core.testing.stub_answers import Answer, prompt_ids


def events(answer: Answer, body: Mapping[str, Any], said: Sequence[Delta]) -> list[dict[str, Any]]:
    """Return the events from the start of a response to the last fragment of its content."""
    out = [{"type": "response.created", "response": _response(body, "in_progress", [])}]
    for delta in said:
        out += _events_of(delta, answer)
    return out


def last_events(
    answer: Answer, body: Mapping[str, Any], said: Sequence[Delta]
) -> Iterator[dict[str, Any]]:
    """Yield the ends of the items, and of the response."""
    whole = document(answer, body, said)
    for index, item in enumerate(whole["output"]):
        if item["type"] != "reasoning":  # sent whole, where it stands
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
    kind = "incomplete" if whole["incomplete_details"] else "completed"
    yield {"type": f"response.{kind}", "response": whole}


def document(answer: Answer, body: Mapping[str, Any], said: Sequence[Delta]) -> dict[str, Any]:
    """Return the response as one document."""
    message = assemble(said).message()
    items: list[dict[str, Any]] = [dict(block) for block in message.thinking]
    content: list[dict[str, Any]] = []
    if message.content:
        content.append({"type": "output_text", "text": message.content, "annotations": []})
    if message.refusal:
        content.append({"type": "refusal", "refusal": message.refusal})
    if content:
        items.append({"type": "message", "id": "msg_1", "role": "assistant", "content": content})
    items += [
        {"type": "function_call", "call_id": c.id, "name": c.name, "arguments": c.arguments}
        for c in message.tool_calls
    ]
    is_cut = message != assemble(to_deltas(answer.said)).message()
    out = _response(body, "incomplete" if is_cut else "completed", items)
    if is_cut or answer.finish_reason:
        reason = answer.finish_reason or "max_output_tokens"
        out |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
    if answer.has_usage:
        out["usage"] = {**_usage(body, len(said)), **answer.usage}
    return {**out, **answer.extra}


def _events_of(delta: Delta, answer: Answer) -> Iterator[dict[str, Any]]:
    """Yield the events of one fragment: thoughts are item 0, text comes next, then calls."""
    num_thoughts = len(answer.said.thinking)
    first_call = num_thoughts + bool(answer.said.content or answer.said.refusal)
    if delta.reasoning:
        yield _fragment("reasoning_summary_text", 0, delta.reasoning)
    for block in delta.thinking:
        place = list(answer.said.thinking).index(block)
        yield {"type": "response.output_item.done", "output_index": place, "item": dict(block)}
    if delta.text:
        yield _fragment("output_text", num_thoughts, delta.text)
    if delta.refusal:
        yield _fragment("refusal", num_thoughts, delta.refusal)
    for call in delta.tool_calls:
        index = first_call + call.index
        if call.name:
            item = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": ""}
            yield {"type": "response.output_item.added", "output_index": index, "item": item}
        if call.arguments:
            yield _fragment("function_call_arguments", index, call.arguments)


def _fragment(what: str, index: int, text: str) -> dict[str, Any]:
    return {"type": f"response.{what}.delta", "output_index": index, "delta": text}


def _response(
    body: Mapping[str, Any], status: str, output: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "id": "resp_stub_1",
        "object": "response",
        "created_at": 0,
        "model": body["model"],
        "status": status,
        "incomplete_details": None,
        "output": list(output),
    }


def _usage(body: Mapping[str, Any], num_tokens: int) -> dict[str, Any]:
    num_prompt = len(prompt_ids(body))
    return {
        "input_tokens": num_prompt,
        "output_tokens": num_tokens,
        "total_tokens": num_prompt + num_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
