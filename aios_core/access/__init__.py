"""Check every request against rights, ask people for approvals, and keep the audit trail.

    gate       check each syscall before it runs: allow it, ask a person, or deny it
    manager    serve the access syscalls, and reload the policy file when it changes
    handle     `agent.access`: share resources, check access, ask for approvals
    requests   the access syscalls
    policy     rules, grants, and the decision itself
    approvals  the ways to ask a person
    audit      the record of decisions and effects

Names of resources and rights are in `aios_core.permissions`; the syscalls that grant and revoke
rights are in `aios_core.grants`.
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
