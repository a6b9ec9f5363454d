"""LlamaIndex's vector store on the AIOS kernel, where LlamaIndex looks for integrations.

`AIOSVectorStore` is implemented in `llama_index_aios.vector_store`.
"""

from llama_index_aios.vector_store import AIOSVectorStore

__all__ = ["AIOSVectorStore"]
