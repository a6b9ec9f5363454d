"""LlamaIndex on the AIOS kernel.

    from llama_index.llms.aios import AIOSLLM

LlamaIndex finds integrations below `llama_index`; what they are is written here.
"""
