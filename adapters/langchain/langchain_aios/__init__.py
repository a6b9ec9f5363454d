"""Run LangChain and LangGraph on the AIOS kernel.

    from langchain_aios import ChatAIOS

    agent = create_agent(ChatAIOS(), tools=[...])

Every LLM call is a syscall: scheduled among all agents, accounted, checked and
cancellable. Importing this package starts nothing.
"""

from typing import TYPE_CHECKING

from aios_adapters import export_lazily

if TYPE_CHECKING:
    from langchain_aios.caches import AIOSCache
    from langchain_aios.chat_models import ChatAIOS
    from langchain_aios.checkpoints import AIOSSaver
    from langchain_aios.embeddings import AIOSEmbeddings
    from langchain_aios.graph_stores import AIOSGraphStore
    from langchain_aios.histories import AIOSChatMessageHistory
    from langchain_aios.stores import AIOSStore
    from langchain_aios.tools import (
        AIOSMiddleware,
        AIOSTool,
        akernel_tools,
        kernel_tools,
        tool_node_wrappers,
        wrap_tools,
    )
    from langchain_aios.vector_stores import AIOSVectorStore

__all__ = [
    "AIOSCache",
    "AIOSChatMessageHistory",
    "AIOSEmbeddings",
    "AIOSGraphStore",
    "AIOSMiddleware",
    "AIOSSaver",
    "AIOSStore",
    "AIOSTool",
    "AIOSVectorStore",
    "ChatAIOS",
    "akernel_tools",
    "kernel_tools",
    "tool_node_wrappers",
    "wrap_tools",
]

if not TYPE_CHECKING:  # or type checkers would accept any name
    __getattr__ = export_lazily(
        {
            "AIOSCache": "langchain_aios.caches",
            "AIOSChatMessageHistory": "langchain_aios.histories",
            "AIOSEmbeddings": "langchain_aios.embeddings",
            "AIOSGraphStore": "langchain_aios.graph_stores",
            "AIOSMiddleware": "langchain_aios.tools",
            "AIOSSaver": "langchain_aios.checkpoints",
            "AIOSStore": "langchain_aios.stores",
            "AIOSTool": "langchain_aios.tools",
            "AIOSVectorStore": "langchain_aios.vector_stores",
            "ChatAIOS": "langchain_aios.chat_models",
            "akernel_tools": "langchain_aios.tools",
            "kernel_tools": "langchain_aios.tools",
            "tool_node_wrappers": "langchain_aios.tools",
            "wrap_tools": "langchain_aios.tools",
        },
        install="langchain-aios langgraph",
    )
