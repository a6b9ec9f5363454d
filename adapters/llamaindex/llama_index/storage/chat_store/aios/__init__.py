"""LlamaIndex's chat stores on the AIOS kernel."""

from llama_index_aios.chat_store import AIOSChatStore, AIOSSimpleChatStore

__all__ = ["AIOSChatStore", "AIOSSimpleChatStore"]
