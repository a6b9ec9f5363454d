"""Privileges: who may do what to what, who was asked, and what became of it."""

from aios_core.access.approval import ApprovalAnswer, ApprovalRequest, Approver, FixedApprover
from aios_core.access.callback import Callback, CallbackApprover
from aios_core.access.decision import Decision
from aios_core.access.explain import ExplainOptions, Explanation, parse_resource
from aios_core.access.handle import AccessHandle
from aios_core.access.manager import AccessManager, explained
from aios_core.access.policy import Effect
from aios_core.access.requests import AccessAsk, AccessCheck, AccessList
from aios_core.access.terminal import TerminalApprover
from aios_core.grants import ShareWarning

__all__ = [
    "AccessAsk",
    "AccessCheck",
    "AccessHandle",
    "AccessList",
    "AccessManager",
    "ApprovalAnswer",
    "ApprovalRequest",
    "Approver",
    "Callback",
    "CallbackApprover",
    "Decision",
    "Effect",
    "ExplainOptions",
    "Explanation",
    "FixedApprover",
    "ShareWarning",
    "TerminalApprover",
    "explained",
    "parse_resource",
]
