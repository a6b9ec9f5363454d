"""Translate requests into bodies of the OpenAI chat format.

Pure, without a client. Parameters that the request does not set are not sent.
`aios_core.cores.openai.chunks` reads the answers. Sources: OpenAI's API
reference (chat completions), and vLLM's documentation of its server's extra
parameters (`priority`, `return_token_ids`, `continue_final_message`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from aios_core.messages import GENERAL_CHOICES, Sampling
from aios_core.snapshot import Snapshot
from aios_core.syscalls import LLMGenerate

Flavor = Literal["openai", "vllm", "sglang"]

# Upper bounds of what a chat template adds, in tokens: for a message, and for the
# instructions on how to call tools.
_TOKENS_PER_MESSAGE = 16
_TOKENS_FOR_TOOLS = 1_024


def max_prompt_tokens(request: LLMGenerate) -> int:
    """Return an upper bound of the prompt's tokens: a tokenizer makes at most one a byte."""
    said = sum(len(_as_json(m.to_dict())) + _TOKENS_PER_MESSAGE for m in request.messages)
    if not request.tools:
        return said
    return said + _TOKENS_FOR_TOOLS + sum(len(_as_json(t.to_dict())) for t in request.tools)


def chat_body(
    request: LLMGenerate,
    model: str,
    *,
    flavor: Flavor,
    token_limit_key: str,
    token_limit: int | None = None,
    priority: int = 0,
    session: str | None = None,
) -> dict[str, Any]:
    """Build the body of a streaming chat completion.

    `token_limit` is that of a budget. `session` names the agent to a vLLM server that takes it.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": [message.to_dict() for message in request.messages],
        **_sampling(request.sampling, token_limit_key, token_limit),
        **_tools(request),
        **_stream_options(flavor),
    }
    if request.response_format is not None:
        body["response_format"] = request.response_format.to_dict()
    if flavor == "vllm":
        body |= _vllm(priority, session)
    return body | dict(request.extra)


def resume_body(
    body: Mapping[str, Any], snapshot: Snapshot, token_limit_key: str
) -> dict[str, Any]:
    """Build the body of a chat that continues its last, unfinished message (vLLM)."""
    turn = {"role": "assistant", "content": snapshot.text}
    return {
        **_less_tokens(body, snapshot, token_limit_key),
        "messages": [*body["messages"], turn],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def resume_ids_body(
    body: Mapping[str, Any], snapshot: Snapshot, token_limit_key: str
) -> dict[str, Any]:
    """Build the body of a plain completion that continues after a chat's token ids (vLLM).

    This is exact. A text prefix is not, since its text may be tokenized differently from
    the tokens that the model chose.
    """
    rest = _less_tokens(body, snapshot, token_limit_key)
    if token_limit_key in rest:  # plain completions accept only the old key
        rest["max_tokens"] = rest.pop(token_limit_key)
    for key in ("messages", "tools", "tool_choice", "parallel_tool_calls"):
        rest.pop(key, None)
    return {**rest, "prompt": [*snapshot.prompt_ids, *snapshot.output_ids]}


def _less_tokens(body: Mapping[str, Any], snapshot: Snapshot, key: str) -> dict[str, Any]:
    left = dict(body)
    if key in left:
        left[key] = max(1, left[key] - len(snapshot.output_ids))
    return left


def _sampling(sampling: Sampling, token_limit_key: str, token_limit: int | None) -> dict[str, Any]:
    out = sampling.to_dict()
    own = out.pop("max_tokens", None)
    if (limit := token_limit if own is None else own) is not None:
        out[token_limit_key] = limit
    return out


def _tools(request: LLMGenerate) -> dict[str, Any]:
    if not request.tools:
        return {}
    out: dict[str, Any] = {"tools": [tool.to_dict() for tool in request.tools]}
    if (choice := request.tool_choice) is not None:
        is_name = isinstance(choice, str) and choice not in GENERAL_CHOICES
        out["tool_choice"] = _tool_named(request, choice) if is_name else choice
    if request.parallel_tool_calls is not None:
        out["parallel_tool_calls"] = request.parallel_tool_calls
    return out


def _tool_named(request: LLMGenerate, name: Any) -> dict[str, Any]:
    kind = next((tool.kind for tool in request.tools if tool.name == name), "function")
    return {"type": kind, kind: {"name": name}}


def _stream_options(flavor: Flavor) -> dict[str, Any]:
    options = {"include_usage": True}
    if flavor == "vllm":
        options["continuous_usage_stats"] = True
    return {"stream": True, "stream_options": options}


def _vllm(priority: int, session: str | None) -> dict[str, Any]:
    out: dict[str, Any] = {"return_token_ids": True}
    if priority:  # smaller is more urgent, as in the kernel
        out["priority"] = priority
    if session is not None:
        out["session_id"] = session
    return out


def _as_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")
