"""Run LlamaIndex on the AIOS kernel.

    from llama_index.llms.aios import AIOSLLM

LlamaIndex finds integrations below `llama_index`; this package has their code.
"""
