"""Find the agent of a call without the user's help.

It is the first of: the agent that is named (`extra_create_args={"aios": {"agent": ...}}`,
then on the client); the innermost AutoGen agent with a method on the stack of awaits (an
AgentChat agent, a team's manager, or an agent of `autogen_core`); the `AgentId` that
handles a message, where its handler has started a task of its own; the asyncio task or the
thread.

An agent object is one agent of the kernel in all its runs and teams, until it
is collected. Nothing is patched for this, and nothing has to be passed on.
"""

from __future__ import annotations

import re
import sys
from contextvars import ContextVar
from typing import Any, Final

from autogen_core import BaseAgent, MessageHandlerContext

from aios_adapters import (
    AgentDirectory,
    AgentRef,
    AgentSettings,
    Caller,
    CallerKind,
    current_caller,
    enclosing_instance,
)
from aios_core import Agent, Kernel

# The suffix that a team adds to the names of its agents.
_OF_A_TEAM: Final = re.compile(r"_[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


def find_caller() -> Caller:
    """Return the caller of the running call, if no agent is named."""
    if (owner := enclosing_instance(_agent_classes())) is not None:
        return Caller.of_object(owner, _name_of(owner))
    try:
        agent_id = MessageHandlerContext.agent_id()
    except RuntimeError:
        return current_caller()
    return Caller(CallerKind.CONVERSATION, str(agent_id), _short(agent_id.type))


def _agent_classes() -> tuple[type, ...]:
    """Return the classes of agents; AgentChat's only if the program has imported it."""
    chat: Any = sys.modules.get("autogen_agentchat.base")
    return (BaseAgent, chat.ChatAgent) if hasattr(chat, "ChatAgent") else (BaseAgent,)


def _name_of(owner: Any) -> str:
    return _short(owner.id.type) if isinstance(owner, BaseAgent) else str(owner.name)


def _short(kind: str) -> str:
    return _OF_A_TEAM.sub("", kind)


directory: Final[AgentDirectory] = AgentDirectory()

# AutoGen runs an agent's tools in tasks of their own, where the agent is not on the stack. They
# inherit the agent that was found last in the agent's own task.
_last_found: Final[ContextVar[Caller | None]] = ContextVar("aios_last_found", default=None)


def agent_ref(
    agent: str | Agent | None = None, group: str | None = None, kernel: Kernel | None = None
) -> AgentRef:
    """Refer to an agent that is given, named, or found from the agent that runs."""
    return AgentRef(directory, _find, agent, AgentSettings(group), kernel)


def _find(name: str | None, settings: AgentSettings) -> tuple[Caller, AgentSettings]:
    if name:
        return Caller.named(name, settings.group), settings
    caller = find_caller()
    if caller.kind is CallerKind.OBJECT:
        _last_found.set(caller)
        return caller, settings
    return _last_found.get() or caller, settings
