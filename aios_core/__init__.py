"""AIOS: an operating system for LLM agents.

    with Kernel() as kernel:
        agent = kernel.spawn("reader", group="research")
        print(agent.llm.generate("hello").text)

Importing starts nothing; a kernel starts when it is told to.
"""

from aios_core.adapting.launching import install, uninstall
from aios_core.agent import LLM, Agent, request
from aios_core.bridge import AsyncStream, Stream
from aios_core.budget import Budget, Price
from aios_core.config import KernelConfig
from aios_core.core import PromptSize
from aios_core.embedded import default_kernel, set_default_kernel
from aios_core.errors import (
    AccessDenied,
    ApprovalRefused,
    BackendError,
    BudgetExceeded,
    ConfigError,
    Conflict,
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
    NoSuchObject,
    OutOfMemory,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    RetryLater,
    RunawayStopped,
    SandboxUnavailable,
    SnapshotError,
    StateError,
    SyscallCancelled,
    ToolError,
    ToolInDoubt,
    ToolUnavailable,
    WouldBlock,
)
from aios_core.events import EventKind, Journal, KernelEvent
from aios_core.kernel import Kernel
from aios_core.messages import (
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
from aios_core.process import Accounting, ProcessState
from aios_core.tiny import tiny_model_path

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AccessDenied",
    "Accounting",
    "Agent",
    "ApprovalRefused",
    "AsyncStream",
    "BackendError",
    "Budget",
    "BudgetExceeded",
    "Completion",
    "ConfigError",
    "Conflict",
    "ContextOverflow",
    "CoreError",
    "CoreUnavailable",
    "DeadlineExceeded",
    "Delta",
    "EventKind",
    "FinishReason",
    "Interrupted",
    "InvalidArguments",
    "InvalidPath",
    "InvalidRequest",
    "Journal",
    "Kernel",
    "KernelBug",
    "KernelClosed",
    "KernelConfig",
    "KernelError",
    "KernelEvent",
    "LimitReached",
    "Message",
    "ModelLoadError",
    "NoSuchObject",
    "OutOfMemory",
    "Overloaded",
    "Price",
    "ProcessState",
    "PromptSize",
    "QuotaExceeded",
    "RateLimited",
    "ResponseFormat",
    "RetryLater",
    "RunawayStopped",
    "Sampling",
    "SandboxUnavailable",
    "SnapshotError",
    "StateError",
    "Stream",
    "SyscallCancelled",
    "ToolCall",
    "ToolCallDelta",
    "ToolError",
    "ToolInDoubt",
    "ToolSpec",
    "ToolUnavailable",
    "Usage",
    "WouldBlock",
    "default_kernel",
    "install",
    "request",
    "set_default_kernel",
    "tiny_model_path",
    "uninstall",
]
