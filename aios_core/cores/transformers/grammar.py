"""Constrain a model's output: JSON of a schema, or calls of the offered tools.

Built on `llguidance`. Its state depends only on the tokens that it accepted, so a resumed
sequence restores it by accepting its tokens again.
JSON is written on one line with a space after commas and colons, as models and
`json.dumps` write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance import hf as llguidance_hf
from torch import Tensor

from aios_core.cores.hermes import CLOSE, OPEN
from aios_core.errors import InvalidRequest, SnapshotError
from aios_core.messages import ToolSpec
from aios_core.syscalls import LLMGenerate
from aios_core.untrusted.schema_cost import require_bounded

_STYLE: Final = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Grammar:
    """A grammar at one position of its text. Used by one thread."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_done(self) -> bool:
        """True once the text is complete and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def restrict(self, logits: Tensor) -> None:
        """Set the logits [vocabulary] of forbidden tokens to minus infinity, in place."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].astype(bool)
        forbidden = torch.ones(len(logits), dtype=torch.bool)
        forbidden[: len(allowed)] = torch.from_numpy(~allowed)
        logits.masked_fill_(forbidden.to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        """Advance by `token`, which must be allowed here."""
        self._matcher.consume_token(token)


class GrammarCompiler:
    """Compiles grammars for one tokenizer."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self._hf_tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = list(eos_ids)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        """Build llguidance's tokenizer when first needed; up to a second for a big vocabulary."""
        return llguidance_hf.from_tokenizer(
            self._hf_tokenizer, n_vocab=self._vocab_size, eos_token=self._eos_ids or None
        )

    def describe(self, request: LLMGenerate) -> str | None:
        """Return the source of the grammar for a request; None if its answer is unconstrained.

        Raises `InvalidRequest` for a broken schema, or for a choice of an unknown tool.
        """
        rules = self._rules(request)
        if rules is None:
            return None
        if problem := LLMatcher.validate_grammar(rules, self._tokenizer):
            reason = problem.strip().splitlines()[0]
            raise InvalidRequest(f"cannot constrain the answer: {reason:.300}")
        return rules

    def compile(self, rules: str, accepted: Sequence[int] = ()) -> Grammar:
        """Compile what `describe` returned, advanced by the tokens in `accepted`.

        Raises `SnapshotError` if the grammar does not allow these tokens.
        """
        matcher = LLMatcher(self._tokenizer, rules)
        if accepted and not matcher.consume_tokens(list(accepted)):
            raise SnapshotError("the tokens of the snapshot do not fit the request's grammar")
        return Grammar(matcher)

    def _rules(self, request: LLMGenerate) -> str | None:
        must_call = forced_tools(request)
        wanted = request.response_format
        is_parallel = request.parallel_tool_calls is not False
        if must_call:
            return self._call_rules(must_call, is_parallel)
        if wanted is None or not wanted.is_constraint:
            return None
        if wanted.kind not in ("json_schema", "json_object"):
            raise InvalidRequest(
                f"response_format: got type {wanted.kind!r}; "
                "an in-process core allows 'json_schema', 'json_object' and 'text'"
            )
        require_bounded("response_format", wanted.schema)
        answer = f"answer: {_json_rule(wanted.schema or {'type': 'object'})}\n"
        if request.tools and request.chosen_tool == "auto":
            calls = self._call_rules(request.tools, is_parallel)
            return calls.replace("start: ", "start: answer | ", 1) + answer
        return "start: answer\n" + answer

    def _call_rules(self, tools: Sequence[ToolSpec], is_parallel: bool) -> str:
        more = ' ("\\n"? call)*' if is_parallel and len(tools) > 0 else ""
        rules = [f"start: call{more}", f"call: {self._marker(OPEN)} body {self._marker(CLOSE)}"]
        rules.append(f"body: {' | '.join(f'body_{i}' for i in range(len(tools)))}")
        for i, tool in enumerate(tools):
            head = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
            rules.append(f'body_{i}: "\\n"? {head} arguments_{i} "}}" "\\n"?')
            rules.append(f"arguments_{i}: {_json_rule(_closed(tool.parameters))}")
        return "\n".join(rules) + "\n"

    def _marker(self, text: str) -> str:
        """Write a marker in grammar syntax: by its id if it is one special token, else as text."""
        tokenizer = self._hf_tokenizer
        token = tokenizer.convert_tokens_to_ids(text)
        is_token = isinstance(token, int) and tokenizer.convert_ids_to_tokens(token) == text
        if is_token and self._tokenizer.is_special_token(token):
            return f"<[{token}]>"
        return json.dumps(text)


def forced_tools(request: LLMGenerate) -> tuple[ToolSpec, ...]:
    """Return the tools of which one must be called; empty if the model may answer instead.

    Raises `InvalidRequest` if the choice names a tool that is not offered.
    """
    choice, tools = request.chosen_tool, request.tools
    if choice in ("auto", "none"):
        return ()
    chosen = tools if choice == "required" else tuple(t for t in tools if t.name == choice)
    if not chosen:
        have = [tool.name for tool in tools]
        raise InvalidRequest(f"tool_choice: got {choice!r}; allowed: one of the tools {have}")
    return chosen


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Forbid arguments that the tool does not list, unless its schema decides about them."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema


def _json_rule(schema: Mapping[str, Any]) -> str:
    return "%json " + json.dumps({"x-guidance": _STYLE, **schema})
