"""Run programs that use Open Interpreter on the kernel, unmodified.

Every interpreter is attached when it is made, including the one that importing
`interpreter` makes; an existing one is attached when it chats. A program that attaches
an interpreter itself overrides this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final
from weakref import WeakSet

from aios_adapters import AgentSettings
from aios_core.launch import Mode, Patches
from open_interpreter_aios.attachment import Attachment, attachment_of
from open_interpreter_aios.interpreter_agent import InterpreterAgent

_attachments: Final[WeakSet[Attachment]] = WeakSet()


def patch_substitute(module: ModuleType, patches: Patches) -> None:
    """Attach the interpreters of `interpreter.core.core`; the kernel's cores answer."""
    _attach_all(module, patches, "substitute")


def patch_passthrough(module: ModuleType, patches: Patches) -> None:
    """Attach the interpreters; the kernel schedules the calls at their own providers."""
    _attach_all(module, patches, "passthrough")


def detach_all() -> None:
    """Restore the interpreters that were attached here."""
    while _attachments:
        _attachments.pop().undo()


def _attach_all(module: ModuleType, patches: Patches, mode: Mode) -> None:
    kind = module.OpenInterpreter
    init: Callable[..., None] = kind.__init__
    chat: Callable[..., Any] = kind.chat

    def ensure(interpreter: Any) -> None:
        if attachment_of(interpreter) is None:
            agent = InterpreterAgent(interpreter, None, AgentSettings(), None)
            attachment = Attachment(interpreter, agent)
            attachment.apply(mode, model=None, is_substitute=True)
            _attachments.add(attachment)

    def attached_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        ensure(self)

    def attached_chat(self: Any, *args: Any, **kwargs: Any) -> Any:
        ensure(self)
        return chat(self, *args, **kwargs)

    patches.replace(kind, "__init__", attached_init)
    patches.replace(kind, "chat", attached_chat)
    if (one := getattr(sys.modules.get("interpreter"), "interpreter", None)) is not None:
        ensure(one)
