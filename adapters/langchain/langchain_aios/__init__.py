"""LangChain and LangGraph on the AIOS kernel.

    from langchain_aios import ChatAIOS

    agent = create_agent(ChatAIOS(), tools=[...])

Every call of the model is a syscall: scheduled among all agents, accounted,
checked, cancellable. Importing this starts nothing.
"""

from typing import TYPE_CHECKING

from aios_core.adapting import lazy_names

if TYPE_CHECKING:
    from langchain_aios.caches import AIOSCache
    from langchain_aios.chat_models import ChatAIOS
    from langchain_aios.checkpoints import AIOSSaver
    from langchain_aios.graph_stores import AIOSGraphStore
    from langchain_aios.histories import AIOSChatMessageHistory
    from langchain_aios.stores import AIOSStore

__all__ = [
    "AIOSCache",
    "AIOSChatMessageHistory",
    "AIOSGraphStore",
    "AIOSSaver",
    "AIOSStore",
    "ChatAIOS",
]

__getattr__ = lazy_names(
    {
        "AIOSCache": "langchain_aios.caches",
        "AIOSChatMessageHistory": "langchain_aios.histories",
        "AIOSGraphStore": "langchain_aios.graph_stores",
        "AIOSSaver": "langchain_aios.checkpoints",
        "AIOSStore": "langchain_aios.stores",
        "ChatAIOS": "langchain_aios.chat_models",
    },
    install="langchain-aios langgraph",
)
