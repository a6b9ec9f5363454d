"""The types of a conversation with a model, as frozen dataclasses that check their fields.

    conversation  messages, tool calls, deltas, completions, usage
    sampling      sampling settings: how the next token is chosen, and when generation stops
    schemas       the tools that are offered, and the form of the answer

The shapes follow OpenAI's chat format, which most frameworks and servers use. They depend on no
model and no framework.
"""

from aios_core.messages.conversation import (
    ROLES,
    Choice,
    Completion,
    Delta,
    FinishReason,
    Message,
    Role,
    ToolCall,
    ToolCallDelta,
    Usage,
    kind_of_part,
    parse_messages,
    text_of_part,
)
from aios_core.messages.sampling import Sampling
from aios_core.messages.schemas import (
    GENERAL_CHOICES,
    ResponseFormat,
    ToolChoice,
    ToolSpec,
    is_strict,
    parse_tools,
)
from aios_core.untrusted.arguments import (
    require_integer,
    require_items,
    require_number,
    require_sendable,
    require_unicode,
)

__all__ = [
    "GENERAL_CHOICES",
    "ROLES",
    "Choice",
    "Completion",
    "Delta",
    "FinishReason",
    "Message",
    "ResponseFormat",
    "Role",
    "Sampling",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "ToolSpec",
    "Usage",
    "is_strict",
    "kind_of_part",
    "parse_messages",
    "parse_tools",
    "require_integer",
    "require_items",
    "require_number",
    "require_sendable",
    "require_unicode",
    "text_of_part",
]
