"""LlamaIndex's LLM on the AIOS kernel."""

from llama_index_aios.llm import AIOSLLM

__all__ = ["AIOSLLM"]
