"""LlamaIndex's embeddings on the AIOS kernel, where LlamaIndex looks for integrations.

`AIOSEmbedding` is implemented in `llama_index_aios.embeddings`.
"""

from llama_index_aios.embeddings import AIOSEmbedding

__all__ = ["AIOSEmbedding"]
