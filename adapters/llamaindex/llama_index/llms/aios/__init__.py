"""LlamaIndex's LLM on the AIOS kernel, where LlamaIndex looks for integrations.

`AIOSLLM` is implemented in `llama_index_aios.llm`.
"""

from llama_index_aios.llm import AIOSLLM

__all__ = ["AIOSLLM"]
