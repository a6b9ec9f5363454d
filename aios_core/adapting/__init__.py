"""What every framework's adapter needs: for the bundled adapters and third-party ones.

    callers.py        the caller behind a call: found on the stack, in a task, on a thread
    runs.py           runs that know only their parent, and their roots
    directory.py      the agent of a caller: spawned at its first call, exited with its end
    holding.py        the same over the steps of a stream, which nobody may close in time
    openai_format.py  OpenAI's dictionaries, which every framework speaks, to the kernel and back
    errors.py         the kernel's errors under a framework's names as well
    escorts.py        a framework's own tools through the kernel
    home.py           the agent that what a framework's store keeps belongs to
    models.py         models that no core serves, and who answers in their place
    notices.py        notices to the person who runs a program, given once
    unserved.py       clients of a provider that no patch serves, named once
    openai_transport.py   OpenAI's own client with the kernel in its endpoint's place
    openai_completions.py  OpenAI's prompts without roles, as conversations
    openai_responses.py  options of OpenAI's Responses API, as those of chat completions
    openai_errors.py  the kernel's errors as those of OpenAI's client
    admission.py      calls that a framework makes itself, when the kernel schedules them
    patching.py       attributes of a framework's classes replaced, and given back
    launching.py      `install()`: every installed adapter's patches, at once or at import

An adapter translates its framework's own classes and leaves the rest to these.
Nothing here knows a framework, and importing it starts nothing.
"""

from typing import TYPE_CHECKING

from aios_core.adapting.admission import (
    Slot,
    aadmit_model,
    aadmitted,
    admit_model,
    admitted,
    told,
)
from aios_core.adapting.answer_limits import limit_parameter, said_limits
from aios_core.adapting.callers import AgentSettings, Caller, CallerKind, current_caller, enclosing
from aios_core.adapting.directory import AgentDirectory
from aios_core.adapting.errors import ErrorNames
from aios_core.adapting.escorts import FOR_THE_MODEL, Escorts, Offered
from aios_core.adapting.holding import Entering, ahold
from aios_core.adapting.home import Ask, Home, Script, User
from aios_core.adapting.kernels import adefault_kernel
from aios_core.adapting.launching import Launcher, Mode, install, uninstall
from aios_core.adapting.lazy import lazy_names
from aios_core.adapting.models import served_model
from aios_core.adapting.notices import give_notice
from aios_core.adapting.openai_completions import old_logprobs
from aios_core.adapting.openai_format import (
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
from aios_core.adapting.openai_responses import as_chat_options
from aios_core.adapting.options import RequestOptions, split_request_options
from aios_core.adapting.patching import Patches
from aios_core.adapting.runs import Root, RunHold, RunTree
from aios_core.adapting.unserved import is_served, name_unserved
from aios_core.tools.handle import as_text

if TYPE_CHECKING:
    from aios_core.adapting.openai_errors import (
        as_both,
        as_openai_error,
        openai_kind_of,
        openai_named,
    )
    from aios_core.adapting.openai_transport import DEFAULT_MODEL, NO_KEY, KernelTransport

# What needs the package `openai`, which is imported with it.
__getattr__ = lazy_names(
    {
        "DEFAULT_MODEL": "aios_core.adapting.openai_transport",
        "NO_KEY": "aios_core.adapting.openai_transport",
        "KernelTransport": "aios_core.adapting.openai_transport",
        "as_both": "aios_core.adapting.openai_errors",
        "as_openai_error": "aios_core.adapting.openai_errors",
        "openai_kind_of": "aios_core.adapting.openai_errors",
        "openai_named": "aios_core.adapting.openai_errors",
    },
    install="openai",
)

__all__ = [
    "DEFAULT_MODEL",
    "FOR_THE_MODEL",
    "NO_KEY",
    "ROLES",
    "AgentDirectory",
    "AgentSettings",
    "Ask",
    "Caller",
    "CallerKind",
    "ChunkWriter",
    "Entering",
    "ErrorNames",
    "Escorts",
    "Home",
    "KernelTransport",
    "Launcher",
    "Mode",
    "Offered",
    "Patches",
    "RequestOptions",
    "Root",
    "RunHold",
    "RunTree",
    "Script",
    "Slot",
    "User",
    "aadmit_model",
    "aadmitted",
    "adefault_kernel",
    "admit_model",
    "admitted",
    "ahold",
    "as_both",
    "as_chat_options",
    "as_openai_error",
    "as_text",
    "current_caller",
    "enclosing",
    "give_notice",
    "install",
    "is_served",
    "lazy_names",
    "limit_parameter",
    "name_unserved",
    "old_logprobs",
    "openai_kind_of",
    "openai_named",
    "read_messages",
    "read_options",
    "read_parts",
    "read_request",
    "read_response_format",
    "read_text",
    "read_tool_choice",
    "said_limits",
    "served_model",
    "split_request_options",
    "told",
    "uninstall",
    "write_completion",
]
