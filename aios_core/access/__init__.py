"""Access: rules and grants, approvals by people, and the audit trail.

`gate` checks every request. `policy` and `decision` hold the rules, `grant_book` the grants,
`approval` and its approvers ask people, and `trail` records decisions and outcomes.
"""

from aios_core.access.approvals.approval import (
    ApprovalAnswer,
    ApprovalRequest,
    Approver,
    FixedApprover,
)
from aios_core.access.approvals.callback import Callback, CallbackApprover
from aios_core.access.approvals.terminal import TerminalApprover
from aios_core.access.handle import AccessHandle
from aios_core.access.manager import AccessManager, explain_in_words
from aios_core.access.policy.decision import Decision
from aios_core.access.policy.explain import ExplainOptions, Explanation, parse_resource
from aios_core.access.policy.rules import Effect
from aios_core.access.requests import AccessAsk, AccessCheck, AccessList
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
    "explain_in_words",
    "parse_resource",
]
