"""The in-process core keeps the contract of every core, on the model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios_core.core import Core
from aios_core.cores.transformers import TransformersCore
from aios_core.messages import Sampling, ToolSpec, parse_messages
from aios_core.syscalls import LLMGenerate
from aios_core.testing.core_contract import CoreContract

TINY = Path(__file__).parents[3] / "models" / "tiny"
ADD = ToolSpec(
    "add",
    "do math",
    {
        "type": "object",
        "properties": {"expression": {"type": "string"}},
        "required": ["expression"],
    },
)


class TestContract(CoreContract):
    def make_core(self) -> Core:
        return TransformersCore(TINY, num_threads=1)

    def request(self, max_tokens: int | None = 24) -> LLMGenerate:
        messages = parse_messages("what is 12 plus 5?")
        return LLMGenerate(messages, sampling=Sampling(max_tokens=max_tokens))

    def tool_request(self) -> LLMGenerate | None:
        messages = parse_messages("what is 12 plus 5?")
        return LLMGenerate(messages, tools=(ADD,), tool_choice="required")


@pytest.mark.slow
class TestContractWithContexts(TestContract):
    def make_core(self) -> Core:
        return TransformersCore(TINY, num_threads=1, keep_contexts=True, dtype="bfloat16")
