"""LlamaIndex's chat stores on the AIOS kernel, where LlamaIndex looks for integrations.

`AIOSChatStore` and `AIOSSimpleChatStore` are implemented in `llama_index_aios.chat_store`.
"""

from llama_index_aios.chat_store import AIOSChatStore, AIOSSimpleChatStore

__all__ = ["AIOSChatStore", "AIOSSimpleChatStore"]
