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
    from langchain_aios.tools import (
        AIOSMiddleware,
        AIOSTool,
        kernel_tools,
        tool_node_wrappers,
        wrap_tools,
    )

__all__ = [
    "AIOSCache",
    "AIOSChatMessageHistory",
    "AIOSGraphStore",
    "AIOSMiddleware",
    "AIOSSaver",
    "AIOSStore",
    "AIOSTool",
    "ChatAIOS",
    "kernel_tools",
    "tool_node_wrappers",
    "wrap_tools",
]

__getattr__ = lazy_names(
    {
        "AIOSCache": "langchain_aios.caches",
        "AIOSChatMessageHistory": "langchain_aios.histories",
        "AIOSGraphStore": "langchain_aios.graph_stores",
        "AIOSMiddleware": "langchain_aios.tools",
        "AIOSSaver": "langchain_aios.checkpoints",
        "AIOSStore": "langchain_aios.stores",
        "AIOSTool": "langchain_aios.tools",
        "ChatAIOS": "langchain_aios.chat_models",
        "kernel_tools": "langchain_aios.tools",
        "tool_node_wrappers": "langchain_aios.tools",
        "wrap_tools": "langchain_aios.tools",
    },
    install="langchain-aios langgraph",
)
