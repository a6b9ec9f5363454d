"""AIOS: an operating system for LLM agents.

    with Kernel() as kernel:
        agent = kernel.spawn("reader", group="research")
        print(agent.llm.generate("hello").text)

Folders, each described in its own docstring:

    kernel      `Kernel`, `Agent`, and the wiring of all components
    messages    messages, tools and answers of a conversation with a model
    scheduler   which LLM call runs next, on which core; `queueing` has the scheduling policies
    cores       what generates: endpoints, models in this process, scripts
    context     snapshots of interrupted generations, and where their KV images are kept
    memory      blocks, conversations and key-value namespaces of agents
    storage     versioned files of agents; `state` is the directory that everything durable is in
    retrieval   semantic search, for memory and storage
    tools       functions that agents may call, and the sandbox for code
    access      rights, approvals and the audit trail
    launch      run programs of agent frameworks on the kernel, unchanged
    cli         the `aios` command
    untrusted   handling of values and code that may be wrong, slow or hostile
    testing     fakes and fixtures for tests of agents and kernels

The modules of this folder are the vocabulary that all of them share: `syscalls`, `process`,
`errors`, `events`, `budget`, `config`, `core` (the contract of a core), `manager` (the contract of
a manager) and others.

Importing this package starts nothing and loads nothing: the module behind a name is imported when
the name is first used. That keeps the command line quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    # These let type checkers know the folders as attributes too, as in `aios_core.cores`.
    import aios_core.access
    import aios_core.cores
    import aios_core.memory
    import aios_core.retrieval
    import aios_core.scheduler
    import aios_core.storage  # noqa: F401 - stands for all six
    from aios_core.accounting import Accounting, BudgetStatus, GroupStatus
    from aios_core.budget import Budget, Price
    from aios_core.bundled_model import tiny_model_path
    from aios_core.config import KernelConfig
    from aios_core.core import PromptSize
    from aios_core.errors import (
        AccessDenied,
        AnswerLost,
        ApprovalRefused,
        AuthenticationFailed,
        BackendError,
        BudgetExceeded,
        ConfigError,
        Conflict,
        ContentFiltered,
        ContextOverflow,
        CoreError,
        CoreUnavailable,
        DeadlineExceeded,
        Interrupted,
        InvalidArguments,
        InvalidPath,
        InvalidRequest,
        KernelBug,
        KernelClosed,
        KernelError,
        LimitReached,
        ModelLoadError,
        ModelNotFound,
        NoSuchObject,
        OutOfMemory,
        Overloaded,
        PermissionRefused,
        ProviderReply,
        QuotaExceeded,
        RateLimited,
        RequestRefused,
        RetryLater,
        RunawayStopped,
        SandboxUnavailable,
        SchedulingPolicyError,
        SnapshotError,
        StateError,
        SyscallCancelled,
        ToolError,
        ToolInDoubt,
        ToolUnavailable,
        WouldBlock,
    )
    from aios_core.events import EventKind, EventLog, KernelEvent
    from aios_core.kernel.agent import Agent
    from aios_core.kernel.default import default_kernel, set_default_kernel
    from aios_core.kernel.kernel import Kernel
    from aios_core.kernel.llm import build_llm_request
    from aios_core.kernel.streams import AsyncStream, Stream
    from aios_core.launch.launcher import install, uninstall
    from aios_core.messages import (
        Choice,
        Completion,
        Delta,
        FinishReason,
        Message,
        ResponseFormat,
        Sampling,
        ToolCall,
        ToolCallDelta,
        ToolSpec,
        Usage,
    )
    from aios_core.process import ProcessState
    from aios_core.queueing.policy import Policy
    from aios_core.storage.collections import CollectionItem
    from aios_core.tools import (
        McpServer,
        Rate,
        Tool,
        ToolContext,
        hookimpl,
        tool,
    )

__version__ = "0.1.0"

# The module of every public name, for `__getattr__`; type checkers read the imports above.
_NAMES: Final = {
    "accounting": (
        "Accounting",
        "BudgetStatus",
        "GroupStatus",
    ),
    "launch.launcher": (
        "install",
        "uninstall",
    ),
    "kernel.agent": ("Agent",),
    "kernel.llm": ("build_llm_request",),
    "kernel.streams": (
        "AsyncStream",
        "Stream",
    ),
    "budget": (
        "Budget",
        "Price",
    ),
    "config": ("KernelConfig",),
    "core": ("PromptSize",),
    "kernel.default": (
        "default_kernel",
        "set_default_kernel",
    ),
    "queueing.policy": ("Policy",),
    "errors": (
        "AccessDenied",
        "AnswerLost",
        "ApprovalRefused",
        "AuthenticationFailed",
        "BackendError",
        "BudgetExceeded",
        "ConfigError",
        "Conflict",
        "ContentFiltered",
        "ContextOverflow",
        "CoreError",
        "CoreUnavailable",
        "DeadlineExceeded",
        "Interrupted",
        "InvalidArguments",
        "InvalidPath",
        "InvalidRequest",
        "KernelBug",
        "KernelClosed",
        "KernelError",
        "LimitReached",
        "ModelLoadError",
        "ModelNotFound",
        "NoSuchObject",
        "OutOfMemory",
        "Overloaded",
        "PermissionRefused",
        "ProviderReply",
        "QuotaExceeded",
        "RateLimited",
        "RequestRefused",
        "RetryLater",
        "RunawayStopped",
        "SandboxUnavailable",
        "SchedulingPolicyError",
        "SnapshotError",
        "StateError",
        "SyscallCancelled",
        "ToolError",
        "ToolInDoubt",
        "ToolUnavailable",
        "WouldBlock",
    ),
    "events": (
        "EventKind",
        "EventLog",
        "KernelEvent",
    ),
    "kernel.kernel": ("Kernel",),
    "messages": (
        "Choice",
        "Completion",
        "Delta",
        "FinishReason",
        "Message",
        "ResponseFormat",
        "Sampling",
        "ToolCall",
        "ToolCallDelta",
        "ToolSpec",
        "Usage",
    ),
    "process": ("ProcessState",),
    "storage.collections": ("CollectionItem",),
    "bundled_model": ("tiny_model_path",),
    "tools": (
        "McpServer",
        "Rate",
        "Tool",
        "ToolContext",
        "hookimpl",
        "tool",
    ),
}
# Folders that offer further names.
_NAMESPACES: Final = ("access", "cores", "memory", "retrieval", "scheduler", "storage", "tools")
_MODULES: Final = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AccessDenied",
    "Accounting",
    "Agent",
    "AnswerLost",
    "ApprovalRefused",
    "AsyncStream",
    "AuthenticationFailed",
    "BackendError",
    "Budget",
    "BudgetExceeded",
    "BudgetStatus",
    "Choice",
    "CollectionItem",
    "Completion",
    "ConfigError",
    "Conflict",
    "ContentFiltered",
    "ContextOverflow",
    "CoreError",
    "CoreUnavailable",
    "DeadlineExceeded",
    "Delta",
    "EventKind",
    "EventLog",
    "FinishReason",
    "GroupStatus",
    "Interrupted",
    "InvalidArguments",
    "InvalidPath",
    "InvalidRequest",
    "Kernel",
    "KernelBug",
    "KernelClosed",
    "KernelConfig",
    "KernelError",
    "KernelEvent",
    "LimitReached",
    "McpServer",
    "Message",
    "ModelLoadError",
    "ModelNotFound",
    "NoSuchObject",
    "OutOfMemory",
    "Overloaded",
    "PermissionRefused",
    "Policy",
    "Price",
    "ProcessState",
    "PromptSize",
    "ProviderReply",
    "QuotaExceeded",
    "Rate",
    "RateLimited",
    "RequestRefused",
    "ResponseFormat",
    "RetryLater",
    "RunawayStopped",
    "Sampling",
    "SandboxUnavailable",
    "SchedulingPolicyError",
    "SnapshotError",
    "StateError",
    "Stream",
    "SyscallCancelled",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolContext",
    "ToolError",
    "ToolInDoubt",
    "ToolSpec",
    "ToolUnavailable",
    "Usage",
    "WouldBlock",
    "build_llm_request",
    "default_kernel",
    "hookimpl",
    "install",
    "set_default_kernel",
    "tiny_model_path",
    "tool",
    "uninstall",
]


if not TYPE_CHECKING:  # or type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module that has public names, when it is first used."""
        if name in _MODULES:
            value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        elif name in _NAMESPACES or name in {module.partition(".")[0] for module in _NAMES}:
            value = import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
