"""Build an adapter: what the bundled and third-party adapters of all frameworks share.

    callers             find the caller of a call: on the stack, in a task, on a thread
    runs                find the root of each run, and report when a root has ended
    agent_directory     map callers to agents: spawned at the first call, exited with the caller
    agent_ref           refer to an agent that is given, named, or found from the call
    shared_spawn        spawn once when the first calls of a caller come at the same time
    async_scope         hold an agent over the steps of a stream that may never be closed
    agent_store         run the operations of a framework's store as syscalls of one agent
    tool_bridge         run a framework's own tools through the kernel
    passthrough         schedule calls that a framework makes at its own provider
    request_options     split the options of a call into kernel, backend and connection
    answer_limits       read and write answer limits under the provider's names
    model_names         replace a model that no core serves by the kernel's default
    unserved            warn once of a provider's class that no patch covers
    error_mapping       raise kernel errors under a framework's names as well
    openai_format       translate OpenAI's chat format to the kernel and back
    openai_completions  translate OpenAI's prompts without roles
    openai_responses    translate options of OpenAI's Responses API
    openai_transport    serve OpenAI's own client from the kernel
    openai_errors       raise kernel errors as those of OpenAI's client
    anthropic_format    translate requests of Anthropic's Messages API to the kernel
    anthropic_answers   write the kernel's answers as messages of that API, whole or as events
    anthropic_transport serve Anthropic's own client from the kernel
    anthropic_errors    raise kernel errors as those of Anthropic's client
    joined_errors       make error classes that are the kernel's and a library's at once
    kernels             start the default kernel without blocking an event loop
    lazy_exports        import the names of a package on first use

An adapter translates its framework's own classes and leaves the rest to these modules; patches at
import are in `aios_core.launch`. Nothing here depends on a framework, and importing it starts
nothing.
"""

from typing import TYPE_CHECKING

from aios_adapters.agent_directory import AgentDirectory
from aios_adapters.agent_ref import AgentRef
from aios_adapters.agent_store import AgentStore, StoreOp, StoreProgram, User
from aios_adapters.answer_limits import limit_parameter, read_answer_limits
from aios_adapters.async_scope import AsyncScope, hold_agent
from aios_adapters.callers import (
    AgentSettings,
    Caller,
    CallerKind,
    current_caller,
    enclosing_instance,
)
from aios_adapters.error_mapping import ErrorMapping
from aios_adapters.kernels import adefault_kernel
from aios_adapters.lazy_exports import export_lazily
from aios_adapters.model_names import resolve_model
from aios_adapters.openai_completions import old_logprobs
from aios_adapters.openai_format import (
    ROLES,
    ChunkWriter,
    read_messages,
    read_options,
    read_parts,
    read_request,
    read_response_format,
    read_text,
    read_tool_choice,
    write_completion,
)
from aios_adapters.openai_responses import as_chat_options
from aios_adapters.passthrough import (
    PassthroughCall,
    ProviderStream,
    apassthrough_call,
    aregister_provider_model,
    passthrough_call,
    register_provider_model,
    to_kernel_messages,
)
from aios_adapters.request_options import RequestOptions, split_request_options
from aios_adapters.runs import RunHold, RunRoot, RunTree
from aios_adapters.tool_bridge import MODEL_VISIBLE_ERRORS, ToolBridge, ToolOffer
from aios_adapters.unserved import is_served, name_unserved
from aios_core.tools.handle import as_text

if TYPE_CHECKING:
    from aios_adapters.anthropic_transport import NO_ANTHROPIC_KEY, AnthropicTransport
    from aios_adapters.openai_errors import (
        as_both,
        as_openai_error,
        openai_kind_of,
        openai_named,
    )
    from aios_adapters.openai_transport import DEFAULT_MODEL, NO_KEY, KernelTransport

# These modules import a client's package, which is slow to import and may be missing.
if not TYPE_CHECKING:  # or type checkers would accept any name
    _of_anthropic = export_lazily(
        {
            "NO_ANTHROPIC_KEY": "aios_adapters.anthropic_transport",
            "AnthropicTransport": "aios_adapters.anthropic_transport",
        },
        install="anthropic",
    )
    _of_openai = export_lazily(
        {
            "DEFAULT_MODEL": "aios_adapters.openai_transport",
            "NO_KEY": "aios_adapters.openai_transport",
            "KernelTransport": "aios_adapters.openai_transport",
            "as_both": "aios_adapters.openai_errors",
            "as_openai_error": "aios_adapters.openai_errors",
            "openai_kind_of": "aios_adapters.openai_errors",
            "openai_named": "aios_adapters.openai_errors",
        },
        install="openai",
    )

    def __getattr__(name: str) -> object:
        """Import a name that needs a client's package on its first use."""
        return (_of_anthropic if "anthropic" in name.lower() else _of_openai)(name)


__all__ = [
    "DEFAULT_MODEL",
    "MODEL_VISIBLE_ERRORS",
    "NO_ANTHROPIC_KEY",
    "NO_KEY",
    "ROLES",
    "AgentDirectory",
    "AgentRef",
    "AgentSettings",
    "AgentStore",
    "AnthropicTransport",
    "AsyncScope",
    "Caller",
    "CallerKind",
    "ChunkWriter",
    "ErrorMapping",
    "KernelTransport",
    "PassthroughCall",
    "ProviderStream",
    "RequestOptions",
    "RunHold",
    "RunRoot",
    "RunTree",
    "StoreOp",
    "StoreProgram",
    "ToolBridge",
    "ToolOffer",
    "User",
    "adefault_kernel",
    "apassthrough_call",
    "aregister_provider_model",
    "as_both",
    "as_chat_options",
    "as_openai_error",
    "as_text",
    "current_caller",
    "enclosing_instance",
    "export_lazily",
    "hold_agent",
    "is_served",
    "limit_parameter",
    "name_unserved",
    "old_logprobs",
    "openai_kind_of",
    "openai_named",
    "passthrough_call",
    "read_answer_limits",
    "read_messages",
    "read_options",
    "read_parts",
    "read_request",
    "read_response_format",
    "read_text",
    "read_tool_choice",
    "register_provider_model",
    "resolve_model",
    "split_request_options",
    "to_kernel_messages",
    "write_completion",
]
